"""
What is told of requests: the record of each, its line in the log, and the gateway's counters.

Listens only; other rooms make records, and none of them knows who hears of them.
"""

from llamagw.observe.access import HERE, log
from llamagw.observe.activity import Activity, beginning, entry
from llamagw.observe.capture import Capture, Captured
from llamagw.observe.counts import MOST_MODELS, Counts, Gauge
from llamagw.observe.history import STEP, History
from llamagw.observe.ids import request_id
from llamagw.observe.record import Outcome, Record
from llamagw.observe.scrape import exposition
from llamagw.observe.usage import Usage, reason_of, usage_of

__all__ = [
    "HERE",
    "MOST_MODELS",
    "STEP",
    "Activity",
    "Capture",
    "Captured",
    "Counts",
    "Gauge",
    "History",
    "Outcome",
    "Record",
    "Usage",
    "beginning",
    "entry",
    "exposition",
    "log",
    "reason_of",
    "request_id",
    "usage_of",
]
