"""
Who runs: which requests wait for which instance, what is started, stopped and evicted for whom.

Knows instances by what their launchers say of them; knows no HTTP request, no process and no
socket. Import its names from here; its files are its own.
"""

from llamagw.fleet.dispatch import Dispatcher
from llamagw.fleet.lease import Lease
from llamagw.fleet.report import Change, ModelReport, ReplicaReport

__all__ = ["Change", "Dispatcher", "Lease", "ModelReport", "ReplicaReport"]
