"""What the files of a model reveal without running it. Knows no configuration, starts nothing."""

from llamagw.models import gguf as gguf
from llamagw.models.facts import Facts, kind, kv_token, look_at, no_model
from llamagw.models.files import absent, stamp
from llamagw.models.files import size as file_size

__all__ = [
    "Facts",
    "absent",
    "file_size",
    "gguf",
    "kind",
    "kv_token",
    "look_at",
    "no_model",
    "stamp",
]
