"""Tells twistd that there is a `llamagw`. What it does is in llamagw.tap."""

from twisted.application.service import ServiceMaker

llamagw = ServiceMaker(
    "llamagw",
    "llamagw.tap",
    "An OpenAI-compatible gateway in front of many llama-server models.",
    "llamagw",
)
