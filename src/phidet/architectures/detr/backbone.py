"""What DETR changes in a backbone: batch norms that never learn, and a last stage of stride 16."""

from __future__ import annotations

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
                conv.stride = (1, 1)
                if i > 0 and conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (2, 2)
