"""Attention maps: what the decoder looks at for each object, and the encoder from a point (arXiv 2005.12872, 4.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.detr.decode import answers_of
from phidet.architectures.detr.prepare import prepare_image
from phidet.architectures.detr.transformer import Attention
from phidet.architectures.evidence import ActivationMap, check_point, heat_map
from phidet.architectures.model import Model
from phidet.architectures.prepared import Prepared
from phidet.core.errors import ConfigError
from phidet.detections.boxes import FloatArray, clip


class Watched(NamedTuple):
    """A forward, and what one attention saw in it.

    Attributes:
        prepared: the image as input.
        class_logits, boxes_cxcywh: what the queries answered, (Q, C + 1) and (Q, 4).
        weights: (N, M), the mean over heads of how much each query attends to each key.
    """

    prepared: Prepared
    class_logits: FloatArray
    boxes_cxcywh: FloatArray
    weights: Tensor


def object_maps(model: Model, image: npt.NDArray[np.uint8], class_id: int | None, limit: int) -> list[ActivationMap]:
    """The last decoder layer's attention of the best queries, best first; only those of ``class_id`` if given."""
    layer: Any = model.get_submodule("decoder.layers")[-1]  # type: ignore[index]
    watched = _watch(model, image, layer.cross_attention)
    config, image_hw = model.config, (image.shape[0], image.shape[1])
    found = answers_of(watched.class_logits, watched.boxes_cxcywh, image_hw)
    # Without a threshold: what nearly became an object can be explained, too.
    order = [int(i) for i in np.argsort(-found.scores, kind="stable")]
    chosen = [i for i in order if class_id is None or found.class_ids[i] == class_id][:limit]
    maps: list[ActivationMap] = []
    for query in chosen:
        x1, y1, x2, y2 = clip(found.boxes_xyxy[query], image_hw).tolist()
        label, score = config.class_names[found.class_ids[query]], float(found.scores[query])
        heat = _heat(watched.weights[query], watched.prepared, config.stride, image_hw)
        maps.append(ActivationMap(heat, label, score, (x1, y1, x2, y2)))
    return maps


def point_map(model: Model, image: npt.NDArray[np.uint8], point_xy: tuple[float, float]) -> ActivationMap:
    """The last encoder layer's attention from the feature cell at a point, in pixels of the image, to all others.

    The score is the largest weight.

    Raises:
        ConfigError: the point is outside the image, or the network has no encoder layer.
    """
    check_point(point_xy, image)
    height, width = image.shape[:2]
    x, y = point_xy
    layers: Any = model.get_submodule("encoder.layers")
    if not len(layers):
        raise ConfigError(f"{model.config.name} has no encoder layer, so nothing attends from a point")
    watched = _watch(model, image, layers[-1].self_attention)
    stride, prepared = model.config.stride, watched.prepared
    assert prepared.valid_hw is not None
    # The cell under the point: the image without its padding fills the first cells of each direction.
    row, column = (
        int(at / side * cells / stride)
        for at, side, cells in zip((y, x), (height, width), prepared.valid_hw, strict=True)
    )
    columns = -(-prepared.image.shape[2] // stride)
    weights = watched.weights[row * columns + column]
    return ActivationMap(_heat(weights, prepared, stride, (height, width)), f"from {x:g},{y:g}", float(weights.max()))


@torch.no_grad()
def _watch(model: Model, image: npt.NDArray[np.uint8], attention: Attention) -> Watched:
    prepared = prepare_image(image, model.config)
    device = next(model.parameters()).device
    seen: list[tuple[Any, ...]] = []
    # Fused attention does not give its weights: its inputs are noted, from which they are computed again.
    handle = attention.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
    try:
        outputs = model(
            torch.from_numpy(prepared.image)[None].to(device), torch.tensor([prepared.valid_hw], device=device)
        )
    finally:
        handle.remove()
    # The last argument is left out where nothing is padding.
    query, key, _, attended = (*seen[0], None)[:4]
    weights = attention.weights(query, key, attended)[0].mean(0)
    logits, boxes = (values[0].float().cpu().numpy() for values in (outputs.class_logits, outputs.boxes_cxcywh))
    return Watched(prepared, logits, boxes, weights.float().cpu())


def _heat(weights: Tensor, prepared: Prepared, stride: int, image_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Weights of all feature cells as a heat map of the image."""
    size_hw = prepared.image.shape[1], prepared.image.shape[2]
    assert prepared.valid_hw is not None
    height, width = prepared.valid_hw
    cells = weights.reshape(1, 1, -(-size_hw[0] // stride), -(-size_hw[1] // stride))
    # Over the whole input, whose padding is then cut off.
    evidence = F.interpolate(cells, size_hw, mode="bilinear")[0, 0, :height, :width]
    return heat_map(evidence, image_hw)
