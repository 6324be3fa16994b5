"""Colour for terminals, and for nothing else: pipes, files and people who do not want it get plain text."""

from __future__ import annotations

import os
from typing import Literal, TextIO

Style = Literal["bold", "red", "green", "yellow"]
_CODES: dict[Style, str] = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}


def wants_colour(stream: TextIO | None) -> bool:
    """Whether colour may be written to ``stream``: a terminal that is not dumb, and NO_COLOR (no-color.org) not set.

    FORCE_COLOR asks for it in pipes as well.
    """
    # Whoever wants none goes before whoever asks for it: a pipeline sets one of them for all its programs.
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style, stream: TextIO | None) -> str:
    """``text`` in a style, where ``stream`` takes it."""
    return f"\033[{_CODES[style]}m{text}\033[0m" if wants_colour(stream) else text
