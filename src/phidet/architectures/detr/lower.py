"""A trained DETR as operations for other runtimes, from arrays; see :mod:`phidet.architectures.program`.

Of images of any size and padding, which the network is told of (``docs/decisions/0017-padding-is-an-input.md``).
"""

from __future__ import annotations

from phidet.architectures.backbones.lower import lower_backbone
from phidet.architectures.detr.config import LEVEL, DetrConfig
from phidet.architectures.detr.graph import BoxLayers, DecoderPart, EncoderPart, LinearPart
from phidet.architectures.detr.graph_cells import ImageCells, LearnedPart, SinePart
from phidet.architectures.detr.graph_masks import MaskPart
from phidet.architectures.program import Own, Program, ProgramWriter
from phidet.architectures.weights import Weights


def lower_detector(weights: Weights, config: DetrConfig) -> Program:
    """The program of a detector of either form; its graph's second input is "valid_hw"."""
    w, demo, size = ProgramWriter(), config.form == "demo", config.transformer
    maps = lower_backbone(w, weights.part("backbone"), config.backbone, config.dilation)
    projected = w.folded(maps[LEVEL], weights.part("projection"), None)
    attended = w.add(Own((projected,), ImageCells()))
    if config.position == "learned":
        places = w.add(Own((projected,), LearnedPart(weights.part("positions"))))
    else:
        places = w.add(Own((projected,), SinePart(size.width // 2)))
    encoder = EncoderPart(weights.part("encoder"), config)
    memory = w.add(Own((projected, places, attended), encoder))
    known = w.add(Own((memory, places, attended), DecoderPart(weights, config)))
    outputs = {"class_logits": w.add(Own((known,), LinearPart(weights.part("class_head"))))}
    boxes = BoxLayers(weights.part("box_head"), demo)
    outputs["boxes_cxcywh"] = w.add(Own((known,), boxes))
    if config.masks is not None:
        lateral = tuple(maps[level] for level in (4, 3, 2))
        inputs = known, memory, attended, projected, *lateral
        outputs["mask_logits"] = w.add(Own(inputs, MaskPart(weights, config.queries)))
    return Program(w.operations, outputs)
