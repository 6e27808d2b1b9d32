"""
What is told of requests: the record of each, its line in the log, its spans, and the gateway's
counters.

Listens only; other rooms make records, and none of them knows who hears of them.
"""

from llamagw.observe.access import HERE, log
from llamagw.observe.activity import Activity, beginning, entry
from llamagw.observe.capture import Capture, Captured
from llamagw.observe.counts import MOST_MODELS, Counts, Gauge
from llamagw.observe.export import Export, Names
from llamagw.observe.families import Family, families
from llamagw.observe.history import STEP, History
from llamagw.observe.ids import request_id
from llamagw.observe.record import Outcome, Record
from llamagw.observe.scrape import exposition, only
from llamagw.observe.telemetry import Telemetry, telemetry
from llamagw.observe.trace import Begin, Trace
from llamagw.observe.usage import Usage, reason_of, usage_of

__all__ = [
    "HERE",
    "MOST_MODELS",
    "STEP",
    "Activity",
    "Begin",
    "Capture",
    "Captured",
    "Counts",
    "Export",
    "Family",
    "Gauge",
    "History",
    "Names",
    "Outcome",
    "Record",
    "Telemetry",
    "Trace",
    "Usage",
    "beginning",
    "entry",
    "exposition",
    "families",
    "log",
    "only",
    "reason_of",
    "request_id",
    "telemetry",
    "usage_of",
]
