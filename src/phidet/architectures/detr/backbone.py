"""What DETR changes in a backbone: batch norms that never learn, and a last stage of stride 16."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from phidet.architectures.backbones.resnet import ResNet


def freeze_batch_norms(module: nn.Module) -> None:
    """Replaces every batch norm by one whose factors and statistics are constants (arXiv 2005.12872, A.4).

    Batches of a few large images are too small to estimate statistics from.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            freeze_batch_norms(child)


def dilate_last_stage(backbone: ResNet) -> None:
    """Takes the stride out of the last stage, and dilates its kernels behind the first block instead (DC5).

    The first block keeps kernels without dilation, as torchvision has it and as the weights were trained.
    """
    for i, block in enumerate(backbone.layer4):
        for conv in block.modules():
            if isinstance(conv, nn.Conv2d):
                # Of the shortcut as well, which has the same stride.
                conv.stride = (1, 1)
                if i > 0 and conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (2, 2)


def fold_frozen_norms(module: nn.Module) -> None:
    """Takes every frozen batch norm into the convolution in front of it; the answers are equal up to rounding.

    Convolutions that pad by themselves have no place for a bias, and keep their norm.
    """
    children = list(module.named_children())
    for (_, conv), (name, norm) in pairwise(children):
        if type(conv) is nn.Conv2d and isinstance(norm, FrozenBatchNorm2d):
            # In fp64: the error of folding would add to that of every layer behind.
            scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
            bias = norm.bias.double() - norm.running_mean.double() * scale
            if conv.bias is not None:
                bias = bias + conv.bias.double() * scale
            weight = conv.weight.double() * scale.reshape(-1, 1, 1, 1)
            conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
            conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
            setattr(module, name, nn.Identity())
    for _, child in children:
        fold_frozen_norms(child)
