"""The generators of the paper by name: configurations A to F (table 1) at every resolution, and two smaller ones."""

from __future__ import annotations

import re
from typing import Any

from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.core.errors import UnknownNameError
from phidet.core.structs import replace

_RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)
# Without what the style-based generator has and the progressive GAN lacks.
_TRADITIONAL: dict[str, Any] = {
    "styles": False,
    "constant_input": False,
    "noise": False,
    "mapping_layers": 0,
    "style_mixing": 0.0,
}
_SMALL_MAPPING = {"latent_size": 128, "style_size": 128, "mapping_layers": 4, "mapping_width": 128}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "a": {**_TRADITIONAL, "blur": False},
    "b": _TRADITIONAL,
    "c": {"constant_input": False, "noise": False, "style_mixing": 0.0},
    "d": {"noise": False, "style_mixing": 0.0},
    "e": {"style_mixing": 0.0},
    "f": {},
    "small": {**_SMALL_MAPPING, "channels_base": 1024, "channels_limit": 128},
    "tiny": {**_SMALL_MAPPING, "channels_base": 512, "channels_limit": 64},
}
"""What each changes of F: A is the progressive GAN, B scales bilinearly, C adds mapping and styles, D the constant
input, E noise, F mixed styles. "small" is ours, for small images and short trainings; so is "tiny", for those on a CPU,
a quarter of the work."""
STYLEGAN_NAMES = tuple(
    f"stylegan-{resolution}{'' if letter == 'f' else f'-{letter}'}"
    for letter in ("f", *(letter for letter in CONFIGURATIONS if letter != "f"))
    for resolution in _RESOLUTIONS
)
_NAME = re.compile(r"stylegan-(\d+)(?:-(\w+))?")


def stylegan_config(name: str, class_names: tuple[str, ...] | None = None) -> StyleGanConfig:
    """The config of that name; with more than one class the networks take labels.

    Raises:
        UnknownNameError: there is none.
    """
    match = _NAME.fullmatch(name)
    if name not in STYLEGAN_NAMES or match is None:
        raise UnknownNameError("generator", name, STYLEGAN_NAMES)
    config = StyleGanConfig(name=name, resolution=int(match[1]), class_names=class_names or ("image",))
    return replace(config, CONFIGURATIONS[match[2] or "f"])
