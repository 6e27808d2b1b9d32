"""
The pages for browsers: the dashboard at ``/ui/``, and an offer in place of the page of an engine
that is not loaded.

Static files, which use the public endpoints only; when a page is sent is decided by
`llamagw.api`. Other packages import the names below, never from the modules.
"""

from llamagw.web.pages import asset, dashboard, moved, offer, wanted

__all__ = ["asset", "dashboard", "moved", "offer", "wanted"]
