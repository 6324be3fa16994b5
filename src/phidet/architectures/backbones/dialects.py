"""Backbones and classifiers in PyTorch files: timm's, lukemelas', torchvision's.

EfficientNet has two naming schemes: timm counts (stage, repeat) and names a convolution by its role in the block,
lukemelas (and zylo117 after him, one ``.conv`` deeper) counts blocks. torchvision's ResNet and MobileNetV2 keep their
own names inside phidet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.plan import Block, plan_blocks
from phidet.architectures.dialect import Config, Dialect, Slot, drop_wrappers, having, parse


@lru_cache(maxsize=64)
def blocks_of(config: BackboneConfig) -> tuple[Block, ...]:
    """The blocks of an EfficientNet, in order; none of another architecture."""
    return tuple(plan_blocks(config)[1]) if config.architecture.startswith("efficientnet") else ()


def timm_backbone(path: list[str], config: BackboneConfig) -> str | None:
    """timm's name of an EfficientNet tensor, ``None`` for another architecture."""
    if path[0] == "stem":
        return ".".join(["conv_stem" if path[1] == "conv" else "bn1", *path[2:]])
    blocks = blocks_of(config)
    if path[0] != "blocks" or not blocks:
        return None
    # timm counts stages and repeats, we count blocks: the plan of the network says which is which.
    block = blocks[int(path[1])]
    if path[2] == "se":
        leaf = f"se.conv_{path[3]}"
    # Blocks without expansion are another class in timm, whose numbering of norms starts one layer later.
    elif block.expand == 1:
        leaf = {"depthwise.conv": "conv_dw", "depthwise.bn": "bn1", "project.conv": "conv_pw", "project.bn": "bn2"}[
            f"{path[2]}.{path[3]}"
        ]
    else:
        leaf = {
            "expand.conv": "conv_pw",
            "expand.bn": "bn1",
            "depthwise.conv": "conv_dw",
            "depthwise.bn": "bn2",
            "project.conv": "conv_pwl",
            "project.bn": "bn3",
        }[f"{path[2]}.{path[3]}"]
    return f"blocks.{block.stage}.{block.repeat}.{leaf}.{path[4]}"


def lukemelas_backbone(path: list[str], config: BackboneConfig, wrapped: str = "") -> str | None:
    """lukemelas' name of an EfficientNet tensor; ``wrapped`` is a suffix of derived projects after convolutions."""
    if path[0] == "stem":
        return ".".join([f"_conv_stem{wrapped}" if path[1] == "conv" else "_bn0", *path[2:]])
    if path[0] != "blocks" or not blocks_of(config):
        return None
    if path[2] == "se":
        leaf = f"_se_{path[3]}{wrapped}"
    elif path[3] == "conv":
        leaf = f"_{path[2]}_conv{wrapped}"
    else:
        # Norms keep their number in blocks without expansion, whose first is then left out.
        leaf = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[path[2]]
    return f"_blocks.{path[1]}.{leaf}.{path[4]}"


def _classifier_slots(
    backbone: Callable[[list[str], BackboneConfig], str | None], head: dict[str, str], linear: str
) -> Callable[[str, Config], Slot | None]:
    """Slots by a scheme's names of a backbone's tensors, of the head's convolution and norm, and of the last layer."""

    def slot(name: str, config: Config) -> Slot | None:
        part, path = parse(name)
        key: str | None = None
        if part == "backbone":
            key = backbone(path, config.backbone)
        elif part == "head":
            key = ".".join([head[path[0]], *path[1:]])
        elif part == "linear":
            key = f"{linear}.{path[0]}"
        return Slot((key,)) if key else None

    return slot


def _torchvision_slot(name: str, config: Config) -> Slot | None:
    part, path = parse(name)
    resnet = config.backbone.architecture.startswith("resnet")
    if config.backbone.architecture.startswith("efficientnet"):
        return None
    key: str | None = None
    if part == "backbone":
        key = ".".join(path)
    elif part == "head":
        # Only MobileNetV2 has a convolution in its head: the 19th entry of torchvision's features.
        key = ".".join(["features.18", "0" if path[0] == "conv" else "1", *path[1:]])
    elif part == "linear":
        key = f"fc.{path[0]}" if resnet else f"classifier.1.{path[0]}"
    return Slot((key,)) if key else None


def _is_torchvision(keys: Iterable[str]) -> bool:
    return "layer1.0.conv1.weight" in keys or "features.0.0.weight" in keys


_TIMM = _classifier_slots(timm_backbone, {"conv": "conv_head", "bn": "bn2"}, "classifier")
_LUKEMELAS = _classifier_slots(lukemelas_backbone, {"conv": "_conv_head", "bn": "_bn1"}, "_fc")
TIMM = Dialect("timm", having("conv_stem.weight"), _TIMM, drop_wrappers)
LUKEMELAS = Dialect("lukemelas", having("_conv_stem.weight"), _LUKEMELAS, drop_wrappers)
TORCHVISION = Dialect("torchvision", _is_torchvision, _torchvision_slot, drop_wrappers)
