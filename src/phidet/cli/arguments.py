"""Options that several commands share: one name, one meaning, everywhere.

The grammar of all commands: what a command works on stands alone (``detect SOURCE``, ``eval DATA``, ``explain IMAGE``,
``train DATA``, ``export MODEL``); a model that is used on it is given as ``-m MODEL``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from phidet.core.errors import ConfigError

Parser: TypeAlias = argparse.ArgumentParser | argparse._ArgumentGroup
RUNTIMES = ("auto", "onnxruntime", "openvino", "litert", "torch")


def add_model(parser: Parser, text: str, *, default: str | None = None) -> None:
    """Adds ``-m``, ``--model``."""
    parser.add_argument("-m", "--model", default=default, metavar="MODEL", help=text)


def add_detector(parser: Parser) -> None:
    """Adds ``-m``, ``--model`` of commands that find people unless they are told otherwise."""
    text = "person (bundled), an export (.onnx, .xml, .tflite), a run's folder, a published name (person)"
    add_model(parser, text, default="person")


def add_score(parser: Parser, text: str = "lowest score, 0…1") -> None:
    """Adds ``--score``: a number, or what the model stores."""
    text = f"{text}, or auto: the model's own (0.3)"
    parser.add_argument("--score", type=share_or_auto, default=0.3, metavar="S", help=text)


def add_wanted(parser: Parser) -> None:
    """Adds ``--classes``, ``--max``, ``--tile`` and ``--batch``, of commands that detect in many images."""
    parser.add_argument("--classes", action="append", metavar="A,B", help="only these, by name (all)")
    parser.add_argument("--max", type=positive, default=100, metavar="N", help="limit of objects in an image (100)")
    text = "also detect on overlapping tiles of N pixels, for small objects"
    parser.add_argument("--tile", type=positive, metavar="N", help=text)
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images, or tiles, at once (1)")


def add_out(parser: Parser, metavar: str, text: str) -> None:
    """Adds ``-o``, ``--out``: where to write."""
    parser.add_argument("-o", "--out", type=Path, metavar=metavar, help=text)


def add_layout(parser: Parser) -> None:
    """Adds ``--layout``, of every command that reads labelled data."""
    from phidet.data.data_folder import Layout  # imports NumPy and Pillow, which the other options can do without

    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        help="layout of the data, where they match several (recognised by content)",
    )


def add_split(parser: Parser, of: str = "") -> None:
    """Adds ``--split``; ``of`` names the option that has the data, where that is not the command's own argument."""
    text = f"the split of {of} (the validation split)" if of else "which split (the validation split)"
    parser.add_argument("--split", metavar="NAME", help=text)


def add_image_size(parser: Parser) -> None:
    """Adds ``--image-size``."""
    parser.add_argument("--image-size", type=image_size, metavar="N|HxW", help="input in pixels (the model's own)")


def add_runtime(parser: Parser, others: tuple[str, ...] = RUNTIMES) -> None:
    """Adds ``--runtime``; the first of ``others`` is the default."""
    parser.add_argument("--runtime", default=others[0], choices=others, help=f"what runs the model ({others[0]})")


def add_exact(parser: Parser) -> None:
    """Adds ``--exact``."""
    text = "decode all pixels of large JPEGs; otherwise as many as the network sees, several times as fast"
    parser.add_argument("--exact", action="store_true", help=text)


def add_arithmetic(parser: Parser) -> None:
    """Adds ``--precision`` and ``--device``: in which numbers a network computes, and where."""
    text = "file: as the file; bf16: in bfloat16, in OpenVINO (what 'bench --best --keep' chose, else file)"
    parser.add_argument("--precision", choices=("auto", "file", "bf16"), default="auto", help=text)
    text = "cuda or tensorrt (fp16): on an NVIDIA GPU, where the runtime reaches one (cpu)"
    parser.add_argument("--device", choices=("cpu", "cuda", "tensorrt"), default="cpu", help=text)


def add_limit(parser: Parser, default: int, text: str) -> None:
    """Adds ``--limit``, and ``--most``, its name of before, which scripts may use."""
    parser.add_argument("--limit", type=int, default=default, metavar="N", help=f"{text} ({default})")
    parser.add_argument("--most", type=int, dest="limit", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_json(parser: Parser, what: str = "the results") -> None:
    """Adds ``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def image_size(text: str) -> tuple[int, int]:
    """ "512" or "384x640" (height × width) as (height, width)."""
    # The typographic × is accepted as well, because phidet's own output prints sizes with it.
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected pixels as N or HEIGHTxWIDTH, got {text!r}")
    return int(sides[0]), int(sides[-1])


def words_of(text: str) -> list[str]:
    """Names separated by commas.

    Raises:
        ConfigError: there is none.
    """
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise ConfigError(f"expected names separated by commas, got {text!r}")
    return found


def words(text: str) -> list[str]:
    """:func:`words_of` as the type of an option."""
    try:
        return words_of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def class_words(given: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes: a word of the command line is one that the model knows, or several separated by commas.

    Raises:
        UnknownNameError: the model has no class of that name.
    """
    from phidet.detections.settings import class_ids_of

    # The whole word goes first: the name of a class may have a comma in it.
    wanted = tuple(name for text in given for name in ([text] if text in names else words_of(text)))
    class_ids_of(wanted, tuple(names))
    return wanted


def number(text: str, expected: str, accepts: Callable[[float], bool]) -> float:
    """A number that ``accepts`` takes; ``expected`` says which these are."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # which no comparison accepts
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def whole_number(text: str, expected: str, accepts: Callable[[int], bool]) -> int:
    """A whole number ≥ 0 that ``accepts`` takes; ``expected`` says which these are."""
    if not (text.isascii() and text.isdigit() and accepts(int(text))):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number in 0…1."""
    return number(text, "a number in 0…1", lambda value: 0 <= value <= 1)


def share_or_auto(text: str) -> float | Literal["auto"]:
    """A number in 0…1, or "auto" for the thresholds that the model stores."""
    return "auto" if text == "auto" else share(text)


def seed_number(text: str) -> int:
    """A whole number in 0…2³² − 1, from which chance begins."""
    return whole_number(text, "a whole number from 0 to 2³² − 1", lambda value: value < 2**32)


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    return number(text, "a number", math.isfinite)


def positive(text: str) -> int:
    """A whole number ≥ 1."""
    return whole_number(text, "a whole number ≥ 1", lambda value: value > 0)
