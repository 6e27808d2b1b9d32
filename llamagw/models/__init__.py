"""What the files of a model reveal without running it. Knows no configuration, starts nothing."""

from llamagw.models import gguf as gguf
from llamagw.models.files import size as file_size

__all__ = ["file_size", "gguf"]
