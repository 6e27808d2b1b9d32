"""
Which lines of an engine that runs at ``-lv 4`` are for people: those that it prints at ``-lv 3``.

The gateway asks for ``-lv 4`` itself, to hear of memory (told.py). The engine marks the lines of
both levels with the same I, so they are told apart by who says what, as build 10068 has it
(tools/server/ and common/ of llama.cpp). Among those of level 4 are the last characters of API
keys, the ``conv_id`` of a request, and the model's chat template; no prompts, and no answers, were
found in them. None of it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

#: By which flags a level is asked for, and that which the gateway asks for.
_TRACE = "4"
_VERBOSITY = {"-lv", "--verbosity", "--log-verbosity", "-v", "--verbose", "--log-verbose"}

#: A marked line: with the group if level 3 has it. Names of functions are cut to 12 characters.
_LINE = re.compile(
    rb"[\d.]+ (?:([WE] |I (?:"
    rb"slot +(?:get_avail|release|launch_s\S* id +\d+ \| task +-?\d+ \| processing task"
    rb"|print_tim\S* id +\d+ \| task +-?\d+ \|(?! +acc per pos))"
    rb"|srv +(?:llama_server: (?!n_parallel)"
    rb"|load_model: (?:loading model|initializing|loaded multimodal)"
    rb"|init: (?:The UI|Use --ui|chat template supports)"
    rb"|operator\(\): (?:operator\(\): cleaning|EOF|exit|child)"
    rb"|handle_sleep|\w+: (?:download|loading image))"
    rb"|que "
    rb"|cmn +common_param\w*: common_params_print_info: verbosity"
    rb"))|[DI] )"
)

#: What is in a line that goes on in lines without a mark; a very long one comes in parts.
_PARAMETERS, _TEMPLATE = b"sampler params: ", b"example_format: '"
_LONG = 4096


def is_wanted(command: Sequence[str], own: Sequence[str]) -> bool:
    """
    Whether an engine runs at ``-lv 4`` only because the gateway wants to hear of memory.

    :param command: the engine's
    :param own: the part of it from the model's own settings: what they ask for is shown
    """
    ours = any(flag in _VERBOSITY and level == _TRACE for flag, level in pairwise(command))
    told = {word.partition("=")[0].replace("_", "-") for word in own if word.startswith("-")}
    return ours and not told & _VERBOSITY


class Quiet:
    """Leaves out what level 3 does not have, from the output of one engine."""

    def __init__(self) -> None:
        #: The last line was left out, and goes on in lines without a mark.
        self._inside = False

    def of(self, lines: list[bytes]) -> list[bytes]:
        """
        Those of some lines that are for people.

        :param lines: in the order in which they were printed
        """
        shown, inside = [], self._inside
        for line in lines:
            marked = _LINE.match(line)
            if marked is None:
                # What an engine says as it dies has no mark.
                if not inside:
                    shown.append(line)
            elif marked[1]:
                inside = False
                shown.append(line)
            else:
                inside = _PARAMETERS in line or _TEMPLATE in line or len(line) > _LONG
        self._inside = inside
        return shown
