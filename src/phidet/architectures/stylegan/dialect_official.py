"""Weights under the names of the official TensorFlow networks (facts: names and shapes only).

Its files are pickles of Python objects, which phidet does not open; the tensors of one, saved as safetensors under
their own names, are read. Its fused convolutions need ``fused_scale`` as it was in training ("auto").
"""

from __future__ import annotations

from collections.abc import Iterable

from phidet.architectures.dialect import Config, Dialect, Layout, Slot
from phidet.architectures.stylegan.config import StyleGanConfig


def generator_slot(name: str, config: Config) -> Slot | None:
    """The official place of one of the generator's tensors."""
    if not isinstance(config, StyleGanConfig):
        return None
    if name == "style_average":
        return Slot(("dlatent_avg",))
    part, kind, *path = name.split(".")
    return _mapping(kind, path) if part == "mapping" else _synthesis(kind, path, config)


def discriminator_slot(name: str, config: StyleGanConfig) -> Slot:
    """The official place of one of the discriminator's tensors."""
    part, *path = name.split(".")
    if part == "from_rgb":
        return Slot((f"FromRGB_lod{_level(path[0], config)}/{path[1]}",), _layout(path[1]))
    if part == "blocks":
        side = config.resolutions[int(path[0]) + 1]
        layer = {"convolution": "Conv0", "down": "Conv1_down"}[path[1]]
        return Slot((f"{side}x{side}/{layer}/{path[2]}",), _layout(path[2]))
    if part == "last":
        return Slot((f"4x4/Conv/{path[0]}",), _layout(path[0]))
    dense = {"hidden": "Dense0", "score": "Dense1"}[part]
    return Slot((f"4x4/{dense}/{path[0]}",), "io" if path[0] == "weight" else "same")


def _mapping(kind: str, path: list[str]) -> Slot:
    if kind == "label":
        return Slot(("G_mapping/LabelConcat/weight",))
    return Slot((f"G_mapping/Dense{path[0]}/{path[1]}",), "io" if path[1] == "weight" else "same")


def _synthesis(kind: str, path: list[str], config: StyleGanConfig) -> Slot:
    if kind == "constant":
        return Slot(("G_synthesis/4x4/Const/const",))
    if kind == "dense":
        return Slot(("G_synthesis/4x4/Dense/weight",), "io")
    if kind == "to_rgb":
        return Slot((f"G_synthesis/ToRGB_lod{_level(path[0], config)}/{path[1]}",), _layout(path[1]))
    if kind == "layers":
        return _layer(int(path[0]), path[1:], config)
    return Slot((f"G_synthesis/{kind}",))  # noise


def _layer(index: int, path: list[str], config: StyleGanConfig) -> Slot:
    side = config.resolutions[index // 2]
    if index == 0:
        layer = "4x4/Const" if config.constant_input else "4x4/Dense"
    elif index == 1:
        layer = "4x4/Conv"
    else:
        layer = f"{side}x{side}/{'Conv1' if index % 2 else 'Conv0_up'}"
    key = f"G_synthesis/{layer}"
    if path[0] == "convolution":
        return Slot((f"{key}/weight",), "hwio")
    if path[0] == "noise_strength":
        return Slot((f"{key}/Noise/weight",))
    if path[0] == "style":
        return Slot((f"{key}/StyleMod/{path[1]}",), "io" if path[1] == "weight" else "same")
    return Slot((f"{key}/bias",))


def _level(index: str, config: StyleGanConfig) -> int:
    return len(config.resolutions) - 1 - int(index)


def _layout(leaf: str) -> Layout:
    return "hwio" if leaf == "weight" else "same"


def _recognise(keys: Iterable[str]) -> bool:
    return any(key.startswith("G_synthesis/") for key in keys)


def _canonical(key: str) -> str | None:
    # The level of detail at which training stopped: it is 0 in finished networks, and no weight.
    return None if key == "lod" or key.endswith("/lod") else key.removesuffix(":0")


OFFICIAL = Dialect("official StyleGAN", _recognise, generator_slot, _canonical)
