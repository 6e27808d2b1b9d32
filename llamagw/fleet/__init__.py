"""
Scheduling: which requests wait for which instance, and what is started, stopped and evicted.

Instances are reached through their launchers; there is no HTTP request, process or socket here.
Other packages import the names below, never from the modules.
"""

from llamagw.fleet.catalogue import Catalogue
from llamagw.fleet.dispatch import Dispatcher
from llamagw.fleet.lease import Lease
from llamagw.fleet.queue import ALIKE, LOWEST, Share
from llamagw.fleet.report import Change, ModelReport, ReplicaReport
from llamagw.fleet.standing import Progress, Standing
from llamagw.fleet.totals import Totals
from llamagw.fleet.turns import LOADS, UNLOADS, Turn

__all__ = [
    "ALIKE",
    "LOADS",
    "LOWEST",
    "UNLOADS",
    "Catalogue",
    "Change",
    "Dispatcher",
    "Lease",
    "ModelReport",
    "Progress",
    "ReplicaReport",
    "Share",
    "Standing",
    "Totals",
    "Turn",
]
