"""
The gateway's HTTP interface: the resource tree, and the gateway's own answers.

Requests for a model are passed to `llamagw.proxy`. Other packages import the names below, never
from the modules.
"""

from llamagw.api.charts import Charts
from llamagw.api.config import Configuration
from llamagw.api.devices import Devices
from llamagw.api.live import Live
from llamagw.api.metrics import Metrics
from llamagw.api.tree import Api

__all__ = ["Api", "Charts", "Configuration", "Devices", "Live", "Metrics"]
