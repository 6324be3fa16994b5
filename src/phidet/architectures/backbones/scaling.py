"""Compound scaling: all sizes of a model from one coefficient φ.

EfficientNet (arXiv 1905.11946, eq. 3) multiplies depth by α^φ, width by β^φ and resolution by γ^φ,
with α·β²·γ² ≈ 2, so that cost grows as 2^φ. EfficientDet (arXiv 1911.09070, section 4.2, eq. 1–3) adds
the feature network, the heads and the input size:

    W = 64 · 1.35^φ     D = 3 + φ     heads = 3 + ⌊φ/3⌋     input = 512 + 128·φ

Rounding of real numbers to sizes, for any real φ:

    channels of the backbone        nearest multiple of 8, never below 90 % (:func:`round_channels`)
    blocks of a backbone stage      up                                      (:func:`round_repeats`)
    W, channels of the features     nearest multiple of 8
    D, cells of the feature network nearest whole number, halves up, at least 1
    heads, layers                   3 + ⌊φ/3⌋, at least 1
    input, pixels                   nearest multiple of 32 (the backbone's coarsest stride)
    input of a classifier, pixels   nearest multiple of 4

All of them are monotone in φ. The published models are these laws rounded and capped manually; they are
listed in :mod:`phidet.architectures.efficientdet.published` and reached by name. At φ = 0 law and published model
agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import require

FamilyT = TypeVar("FamilyT")
PHI_RANGE = (-2.0, 10.0)


def round_half_up(value: float) -> int:
    """The nearest whole number; unlike :func:`round`, halves always go up, so the law stays monotone."""
    return math.floor(value + 0.5)


def round_to_multiple(value: float, multiple: int) -> int:
    """The nearest positive multiple of ``multiple``."""
    return max(multiple, round_half_up(value / multiple) * multiple)


def round_channels(channels: float, divisor: int = 8) -> int:
    """A backbone width as EfficientNet rounds it: nearest multiple of ``divisor``, never losing more than 10 %."""
    rounded = round_to_multiple(channels, divisor)
    # The official rule: rounding down must not cost a narrow layer more than a tenth of its channels.
    return rounded + divisor if rounded < 0.9 * channels else rounded


def round_repeats(repeats: float) -> int:
    """The number of blocks of a stage as EfficientNet rounds it: up."""
    return math.ceil(repeats)


def check_phi(phi: float) -> float:
    """``phi`` as a float.

    Raises:
        ConfigError: not a finite number inside ``PHI_RANGE``.
    """
    low, high = PHI_RANGE
    if isinstance(phi, bool) or not isinstance(phi, int | float) or not low <= phi <= high:
        raise ConfigError(
            f"phi must be a number from {low:g} to {high:g}, got {phi!r}: "
            "0 is EfficientDet-D0, each step of 1 costs two to three times as much"
        )
    return float(phi)


def family_named(family: object, families: Mapping[str, FamilyT], usual: str) -> FamilyT:
    """The family of that name; ``None`` stands for the ``usual`` one, and one of another kind than names for itself.

    Raises:
        UnknownNameError: a name that none has.
    """
    if isinstance(family, type(families[usual])):
        return family
    name = usual if family is None else str(family)
    if name not in families:
        raise UnknownNameError("family", name, families)
    return families[name]


class CompoundScaling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """α, β, γ of EfficientNet's eq. 3: how depth, width and resolution share the cost."""

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            require(1 <= value < math.inf, f"{name} must be a number ≥ 1 (EfficientNet, eq. 3), got {value!r}")

    def depth(self, phi: float) -> float:
        """Multiplier of the number of blocks, α^φ."""
        return float(self.alpha**phi)

    def width(self, phi: float) -> float:
        """Multiplier of the number of channels, β^φ."""
        return float(self.beta**phi)

    def resolution(self, phi: float) -> float:
        """Multiplier of the input side, γ^φ."""
        return float(self.gamma**phi)

    def cost(self, phi: float = 1.0) -> float:
        """Multiplier of the multiply-adds that the law predicts, (α·β²·γ²)^φ."""
        return float((self.alpha * self.beta**2 * self.gamma**2) ** phi)
