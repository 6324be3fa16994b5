"""Every error that phidet raises on purpose.

    PhidetError                 exit code 1, HTTP 500
    ├── ConfigError             exit code 2, HTTP 400: an invalid setting (also a ValueError)
    │   └── UnknownNameError    a name that is not in the list, with the nearest ones
    ├── InputError              exit code 3, HTTP 400: data that cannot be used (also a ValueError)
    ├── CheckpointError         exit code 4, HTTP 500: a weight file that cannot be used
    ├── DownloadError           exit code 5, HTTP 500: a file that could not be fetched
    ├── MissingExtraError       exit code 6, HTTP 500: an optional part of phidet that is not installed
    ├── ExportError             exit code 7, HTTP 500: an export that differs from its model, or cannot be written
    ├── NotRightError           exit code 8, HTTP 500: an image that was judged shows a fault
    ├── NoPoseError             exit code 9, HTTP 500: an image that could not be judged
    ├── TrainingDivergedError   exit code 1, HTTP 500: weights or losses became NaN or infinite
    └── RefusedError            a request to the server, with a status of its own: phidet.serve.refusals

A message says what was expected, what came, and what to do. The command line prints the message
alone and ends with the exit code; a stack trace means a bug in phidet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from phidet.core.words import few

MOST_NAMES = 24
"""How many known names a message lists."""


class PhidetError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1
    http_status = 500

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class: many make their message of other arguments, and another process would wait for ever.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[PhidetError], args: tuple[Any, ...], state: dict[str, Any]) -> PhidetError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConfigError(PhidetError, ValueError):
    """A setting is out of range, contradicts another one, or is not known."""

    exit_code = 2
    http_status = 400


class UnknownNameError(ConfigError):
    """A name is not in the list of known names.

    Args:
        kind: what the name stands for, as it appears in the message ("model", "graph", "config key").
        name: the name that was given.
        known: the accepted names.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        import difflib  # noqa: PLC0415 - every start would import it

        known = list(known)
        likeness = {k: difflib.SequenceMatcher(None, str(name).lower(), k).ratio() for k in known}
        # The sort is stable, so ties keep the given order: a model family lists its smallest member first.
        near = [k for k in sorted(known, key=lambda k: -likeness[k]) if likeness[k] >= 0.5][:3]
        hint = f"Did you mean {_one_of(near)}?" if near else f"Known: {few(known, MOST_NAMES)}."
        super().__init__(f"unknown {kind} {name!r}. {hint}")
        self.name = name
        self.near = near


def _one_of(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


class InputError(PhidetError, ValueError):
    """An image, a tensor or a data set cannot be used as it is."""

    exit_code = 3
    http_status = 400


class CheckpointError(PhidetError):
    """A weight file is damaged, of an unknown kind, unsafe, or does not fit the model."""

    exit_code = 4


class DownloadError(PhidetError):
    """A published file could not be fetched."""

    exit_code = 5


class MissingExtraError(PhidetError):
    """A part of phidet was used whose packages are not installed."""

    exit_code = 6

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'phidet[{extra}]'")
        self.extra = extra


class TrainingDivergedError(PhidetError):
    """The loss, or a weight, became NaN or infinite."""


class ExportError(PhidetError):
    """An exported file's outputs differ from those of its model, or it cannot be written."""

    exit_code = 7


class NotRightError(PhidetError):
    """An image was compared with what should be on it, and something is not right."""

    exit_code = 8


class NoPoseError(PhidetError):
    """An image could not be compared with what should be on it: where that lies in the image was not found."""

    exit_code = 9
