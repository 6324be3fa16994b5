"""The blocks of every backbone at any width and depth; what builds and what lowers a network reads them here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.scaling import round_channels, round_repeats


class Stage(NamedTuple):
    """A row of table 1: blocks that share kernel, expansion and width; the first one has the stride."""

    expand: int
    channels: int
    repeats: int
    stride: int
    kernel: int


# EfficientNet, arXiv 1905.11946, table 1
B0_STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
STEM_CHANNELS = 32

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # expansion, channels, repeats, stride (arXiv 1801.04381, table 2)
RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
"""Whether a block is a bottleneck, and the blocks of each stage (arXiv 1512.03385, table 1)."""


class Block(NamedTuple):
    """The sizes of one inverted residual block; ``stage`` and ``repeat`` are its position in the table."""

    stage: int
    repeat: int
    in_channels: int
    out_channels: int
    expand: int
    kernel: int
    stride: int
    drop_path: float


def plan_blocks(config: BackboneConfig) -> tuple[int, list[Block]]:
    """Stem channels and every block of the scaled network, in order.

    Lite keeps stem and the depth of the first and last stage at their B0 size, whatever the multipliers.
    """
    lite = config.architecture == "efficientnet-lite"
    stem = STEM_CHANNELS if lite else round_channels(STEM_CHANNELS * config.width)
    sized: list[tuple[Stage, int, int]] = []
    for i, stage in enumerate(B0_STAGES):
        # Lite keeps the stem, and the depth of the first and the last stage, at every size.
        fixed = lite and i in (0, len(B0_STAGES) - 1)
        repeats = stage.repeats if fixed else round_repeats(stage.repeats * config.depth)
        sized.append((stage, round_channels(stage.channels * config.width), repeats))
    total = sum(repeats for _, _, repeats in sized)
    blocks: list[Block] = []
    channels = stem
    for s, (stage, out, repeats) in enumerate(sized):
        for r in range(repeats):
            stride = stage.stride if r == 0 else 1
            drop_path = config.drop_path * len(blocks) / total  # linear with depth, 0 at the first block
            blocks.append(Block(s, r, channels, out, stage.expand, stage.kernel, stride, drop_path))
            channels = out
    return stem, blocks


def level_ends(strides: Sequence[int]) -> dict[int, int]:
    """Index of the block that makes each level's map, the last one before the next stride → the level, from 1 on."""
    ends = [i - 1 for i, stride in enumerate(strides) if stride == 2] + [len(strides) - 1]
    return {end: level for level, end in enumerate(ends, start=1)}


def mobilenet_rows(config: BackboneConfig) -> list[list[int]]:
    """Rows of the table at the config's depth: expansion, channels, repeats, stride."""
    return [[t, c, round_repeats(n * config.depth), s] for t, c, n, s in MOBILENET_V2_STAGES]


def mobilenet_blocks(config: BackboneConfig) -> list[tuple[int, int]]:
    """Expansion and stride of every block, in order."""
    return [(t, s if r == 0 else 1) for t, _, n, s in mobilenet_rows(config) for r in range(n)]


def mobilenet_level_ends(config: BackboneConfig) -> dict[int, int]:
    """Index in torchvision's ``features``, where the stem comes before the blocks → the level that ends there."""
    ends = level_ends([stride for _, stride in mobilenet_blocks(config)])
    return {end + 1: level for end, level in ends.items()}


def resnet_stages(config: BackboneConfig) -> tuple[bool, list[int]]:
    """Whether a ResNet's blocks are bottlenecks, and how many each stage has."""
    bottleneck, blocks = RESNETS[config.architecture]
    return bottleneck, [round_repeats(n * config.depth) for n in blocks]
