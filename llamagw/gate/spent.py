"""
How many tokens a request takes: estimated when it arrives, and as told when it has ended.

What answers tell is read by `llamagw.observe`; an estimate counts where one tells nothing, so that
who leaves before the end of a stream does not get it for nothing.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from llamagw.dialects import LONGEST, TEXTS
from llamagw.observe import Record

#: Bytes of a body for each token of its prompt, by rule of thumb.
BYTES_A_TOKEN = 4

#: Bytes of a stream for each token of its answer: an event with one takes some 130 (Anthropic's) to
#: 240 (OpenAI's), and may have several.
STREAM_BYTES_A_TOKEN = 100


def spent(record: Record) -> tuple[int, int]:
    """
    What a request has used.

    :param record: of one that has ended
    :return: tokens of its prompt and of its answer; none if no model has answered it, or only with
        an error
    """
    if record.admitted is None or record.status >= 400:
        return 0, 0
    usage = record.usage
    # As the tree has decoded it.
    path = unquote_to_bytes(record.path) if b"%" in record.path else record.path
    prompt = None if usage is None else usage.prompt
    answer = None if usage is None else usage.completion
    if prompt is None:
        prompt = record.bytes_in // BYTES_A_TOKEN if path in TEXTS else 0
    if answer is None:
        a_token = STREAM_BYTES_A_TOKEN if record.stream else BYTES_A_TOKEN
        answer = record.bytes_out // a_token if path in LONGEST else 0
    elif usage is not None and usage.completion_sec is not None:
        # llama-server, as these are its own, counts the first of several answers only.
        answer *= record.answers
    return prompt, answer
