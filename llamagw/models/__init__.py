"""What the files of a model reveal without running it. Knows no configuration, starts nothing."""

from llamagw.models import gguf as gguf
from llamagw.models.estimate import (
    CACHE_TYPES,
    HOST,
    Estimate,
    Flags,
    Parts,
    beside,
    draft,
    estimate,
)
from llamagw.models.facts import Facts, kind, look_at, no_model
from llamagw.models.files import absent, stamp
from llamagw.models.files import size as file_size
from llamagw.models.learned import MOST, Figure, Held, Learned
from llamagw.models.shape import Shape, shape

__all__ = [
    "CACHE_TYPES",
    "HOST",
    "MOST",
    "Estimate",
    "Facts",
    "Figure",
    "Flags",
    "Held",
    "Learned",
    "Parts",
    "Shape",
    "absent",
    "beside",
    "draft",
    "estimate",
    "file_size",
    "gguf",
    "kind",
    "look_at",
    "no_model",
    "shape",
    "stamp",
]
