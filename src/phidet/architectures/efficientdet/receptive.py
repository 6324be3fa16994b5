"""The theoretical receptive field of each level's cells, in pixels of the input.

A convolution with kernel k over cells that are j pixels apart widens the field by (k − 1)·j. Squeeze-excite, where a
backbone has it, makes every cell depend on the mean of the whole image, too; it is not counted.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from phidet.architectures.costs import build_on_meta
from phidet.architectures.efficientdet.config import ModelConfig


def backbone_fields(backbone: nn.Module) -> dict[int, int]:
    """Receptive field in pixels of the backbone's map at each level, from the modules on its longest path."""
    field, jump = 1, 1
    fields: dict[int, int] = {}
    for name, module in backbone.named_modules():
        # Modules come in the order in which they run, but for the shortcuts of ResNets.
        if "downsample" in name or not isinstance(module, nn.Conv2d | nn.MaxPool2d):
            continue  # the 1×1 shortcut of a ResNet runs beside the path, not on it
        kernel, stride = _one_number(module.kernel_size), _one_number(module.stride)
        # A kernel of k cells that are jump pixels apart adds (k − 1) · jump pixels.
        field += (kernel - 1) * jump
        jump *= stride
        # jump is 2^level; a level is overwritten until the last layer that has its stride.
        fields[jump.bit_length() - 1] = field
    return fields


def receptive_fields(config: ModelConfig) -> dict[int, tuple[int | None, int]]:
    """For each level, the field of the backbone's map (``None`` where it has none) and of the heads' outputs.

    Where paths of different strides meet, their windows may be off-centre by up to a cell; the widest one counts.
    """
    network = config.feature_network
    backbone = backbone_fields(cast("nn.Module", build_on_meta(config).backbone))
    graph = network.resolved_graph
    fields: list[int] = []
    for level in network.levels:
        # Coarser levels are pooled from the one before, by a kernel of three with stride two.
        fields.append(backbone[level] if level in backbone else fields[-1] + 2 * 2 ** (level - 1))
    for _ in range(network.repeats):
        known = list(fields)
        for node in graph.nodes:
            incoming = [_resampled(known[i], graph.level_of(i), node.level) for i in node.inputs]
            # The 3×3 convolution of the node itself adds two cells of its level.
            known.append(max(incoming) + 2 * 2**node.level)
        fields = [known[i] for i in graph.outputs]
    # Each layer of a head, and its predictor, is a 3×3 convolution as well.
    heads = 2 * (config.head_layers + 1)
    return {
        level: (backbone.get(level), field + heads * 2**level)
        for level, field in zip(network.levels, fields, strict=True)
    }


def _resampled(field: int, level: int, target: int) -> int:
    """Pooling by s = 2^(target − level) has a kernel of s + 1; nearest upsampling keeps the field of its source."""
    return field + 2 ** (target - level) * 2**level if target > level else field


def _one_number(sides: int | tuple[int, ...]) -> int:
    """A size that is the same in both directions."""
    return sides if isinstance(sides, int) else sides[0]
