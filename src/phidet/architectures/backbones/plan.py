"""The blocks of EfficientNet and EfficientNet-Lite (arXiv 1905.11946, table 1), at any width and depth."""

from __future__ import annotations

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


def level_ends(blocks: list[Block]) -> dict[int, int]:
    """Index of the block that makes each level's map, the last one before the next stride → the level, from 1 on."""
    ends = [i - 1 for i, block in enumerate(blocks) if block.stride == 2] + [len(blocks) - 1]
    return {end: level for level, end in enumerate(ends, start=1)}
