"""
What runs: how the instances of a model are launched, watched and ended.

Local processes and remote servers implement the same `Launcher` and `Run`; code above this package
does not distinguish them. Nothing here knows requests or queues. Import its names from here; its
modules are private.
"""

from llamagw.launch.advice import Note
from llamagw.launch.base import ENGINE, Exit, Launcher, Memory, Need, Reading, Run, Watch
from llamagw.launch.durations import Durations
from llamagw.launch.httpprobe import HttpProbe
from llamagw.launch.known import Known
from llamagw.launch.launchers import Launchers
from llamagw.launch.leftovers import Leftovers, default_folder
from llamagw.launch.lifecycle import Lifecycle, make_lifecycle
from llamagw.launch.output import Log
from llamagw.launch.probes import Asks, Health, Probe
from llamagw.launch.processes import Processes
from llamagw.launch.together import Together, budgets, part_of, taken, where

__all__ = [
    "ENGINE",
    "Asks",
    "Durations",
    "Exit",
    "Health",
    "HttpProbe",
    "Known",
    "Launcher",
    "Launchers",
    "Leftovers",
    "Lifecycle",
    "Log",
    "Memory",
    "Need",
    "Note",
    "Probe",
    "Processes",
    "Reading",
    "Run",
    "Together",
    "Watch",
    "budgets",
    "default_folder",
    "make_lifecycle",
    "part_of",
    "taken",
    "where",
]
