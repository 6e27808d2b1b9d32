"""
Whether an engine ended for want of memory, as far as can be seen.

Its own words say so while it loads; after that its output may have text of clients. The kernel
kills without a word: then its count of such kills has risen. A driver or an allocator may fail
without one too, by a signal, where as much is wanted as there was left.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable

from llamagw.launch.base import Need
from llamagw.models import HOST
from llamagw.system import memory_in_use, oom_kills

#: What engines, their drivers and the C++ library say: of ggml's CPU and GPU backends, CUDA, HIP,
#: Vulkan, Metal, SYCL, and of a failed `mmap` or `new`.
_WORDS = re.compile(
    r"out of (device |host |gpu )?memory|failed to allocate|unable to allocate|malloc failed|"
    r"OutOf(Device|Host)?Memory|cannot allocate memory|bad_alloc|insufficient memory|"
    r"not enough (memory|space)",
    re.IGNORECASE,
)

#: Of memory that could not be locked; the engine goes on without.
_LOCK = "mlock"

#: How the kernel ends a process for want of memory.
_KILLED = "was killed by SIGKILL"

#: How an engine ends that was not given the memory that it asked for, and did not look.
_SILENT = (
    "was killed by SIGSEGV",
    "was killed by SIGABRT",
    "was killed by SIGBUS",
    _KILLED,
)

#: Of what was left when it began: a load that was to take more than this part of it may have
#: failed for want of it.
_NEAR = 0.7


class Wants:
    """
    Looks for the signs, from the start of a run to its end.

    :param need: what it was to take; None if that is not known
    """

    def __init__(self, need: Need | None) -> None:
        self._kills = oom_kills()
        self._is_near = need is not None and _is_near(need)

    def __repr__(self) -> str:
        return f"<Wants: {self._kills} kills before{', near the limit' if self._is_near else ''}>"

    def why(self, how: str, lines: Iterable[str], loading: bool) -> str | None:
        """
        Why a run that ended unasked is held to have ended for want of memory.

        :param how: it ended, in words
        :param lines: its last lines of output
        :param loading: whether it was loading, and no client had reached it
        :return: to follow those words; "" if its own output says enough; None if there is no sign
        """
        if how == _KILLED and oom_kills() > self._kills:
            return ": the kernel ran out of memory"
        if not loading:
            return None
        if any(_WORDS.search(line) and _LOCK not in line for line in lines):
            return ""
        if how in _SILENT and self._is_near:
            return ", most likely for want of memory"
        return None


def _is_near(need: Need) -> bool:
    """Whether a run is to take most of what is left of memory, or of the address space."""
    total, used = memory_in_use()
    left = [total - used]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        left.append(soft)
    wanted = need.devices.get(HOST, 0) + sum(need.files.values())
    return wanted > _NEAR * min(left)
