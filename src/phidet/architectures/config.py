"""Configuration shared by all models: activations and class names.

A config holds every setting that decides what a network computes and how its input and output are interpreted.
It is stored inside the model file, which is therefore self-contained.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal

from phidet.core.errors import ConfigError
from phidet.core.structs import require

Activation = Literal["silu", "relu6", "relu"]


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` as a tuple.

    Raises:
        ConfigError: none, an empty one, or one that occurs twice.
    """
    require(isinstance(names, list | tuple), f"class_names must be a list of names, got {_kind(names)} {names!r}")
    require(len(names) >= 1, "a model needs at least one class, got none")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        require(isinstance(name, str) and bool(name.strip()), f"class name {i} must be non-empty text, got {name!r}")
        require(name not in seen, f"class names must differ: {name!r} is both {seen.get(name)} and {i}")
        seen[name] = i
    return tuple(names)


def _kind(value: object) -> str:
    return "one string" if isinstance(value, str) else f"a {type(value).__name__}"


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Names for a bare class count: class-0, class-1, ….

    Raises:
        ConfigError: ``num_classes`` is not a whole number ≥ 1.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 1:
        raise ConfigError(
            f"num_classes must be a whole number ≥ 1, got {num_classes!r}: count real classes only, "
            "there is no background class"
        )
    return tuple(f"class-{i}" for i in range(int(num_classes)))
