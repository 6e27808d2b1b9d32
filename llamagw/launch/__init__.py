"""
What runs: how the instances of a model are launched, watched and ended.

Local processes and remote servers are launchers of one kind; above this room nobody asks which. It
knows no request, no queue and no other model. Import its names from here; its files are its own.
"""

from llamagw.launch.base import ENGINE, Exit, Launcher, Run, Watch
from llamagw.launch.launchers import Launchers
from llamagw.launch.leftovers import Leftovers, default_folder
from llamagw.launch.lifecycle import Lifecycle, make_lifecycle
from llamagw.launch.local import Processes
from llamagw.launch.output import Log
from llamagw.launch.probes import Asks, Health, HttpProbe, Probe

__all__ = [
    "ENGINE",
    "Asks",
    "Exit",
    "Health",
    "HttpProbe",
    "Launcher",
    "Launchers",
    "Leftovers",
    "Lifecycle",
    "Log",
    "Probe",
    "Processes",
    "Run",
    "Watch",
    "default_folder",
    "make_lifecycle",
]
