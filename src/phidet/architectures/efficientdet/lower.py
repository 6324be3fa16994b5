"""A trained EfficientDet as operations for other runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from phidet.architectures.backbones.lower import lower_backbone
from phidet.architectures.config import Activation
from phidet.architectures.efficientdet.lower_arrays import lower_head, lower_heads
from phidet.architectures.efficientdet.mask_head import LEVELS, Prototypes
from phidet.architectures.efficientdet.semantic_head import SemanticHead
from phidet.architectures.module_arrays import ModuleArrays
from phidet.architectures.program import Beside, Program, ProgramWriter, Upsample
from phidet.architectures.weights import Weights

if TYPE_CHECKING:  # circular: that module imports this one
    from phidet.architectures.efficientdet.network import EfficientDet


@torch.no_grad()
def compile_program(model: EfficientDet) -> Program:
    """The program of ``model`` as it is now, for evaluation."""
    writer, config, act = ProgramWriter(), model.config, model.config.activation
    weights = Weights(ModuleArrays(model))
    maps = lower_backbone(writer, weights.part("backbone"), config.backbone)
    levels, outputs = lower_heads(writer, weights, config, maps)
    if config.masks is not None and model.prototypes is not None:
        shape = config.masks.layers, config.masks.prototypes
        outputs["mask_coefficients"] = lower_head(writer, weights.part("mask_head"), levels, shape, act)
        outputs["prototypes"] = _prototypes(writer, model.prototypes, maps[2], levels, act)
    if model.semantic is not None:
        outputs["semantic_logits"] = _semantic(writer, model.semantic, levels, maps[2], act)
    return Program(writer.operations, outputs)


def _semantic(w: ProgramWriter, head: SemanticHead, maps: list[int], level2: int, act: Activation) -> int:
    x = maps[-1]
    for conv, norm, finer in zip(head.convs, head.norms, reversed(maps[:-1]), strict=True):
        assert isinstance(norm, nn.BatchNorm2d)
        x = w.add(Beside((w.transposed(x, finer, conv, norm, act), finer)))
    return w.transposed(x, level2, head.predict, None)


def _prototypes(w: ProgramWriter, head: Prototypes, level2: int, maps: list[int], act: Activation) -> int:
    # As Prototypes.forward, where enlarging is an operation of its own.
    x = w.sum(maps[0], *(w.add(Upsample(coarser, maps[0])) for coarser in maps[1:LEVELS]))
    x = w.conv(w.conv(x, head.coarse.depthwise, None), head.coarse.pointwise, head.coarse_bn, act)
    x = w.sum(w.add(Upsample(x, level2)), w.conv(level2, head.lateral, head.lateral_bn), act=act)
    x = w.conv(w.conv(x, head.fine.depthwise, None), head.fine.pointwise, head.fine_bn, act)
    return w.conv(x, head.predict, None)
