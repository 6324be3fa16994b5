"""What a set predictor looks at: the points that an object's query reads, and the encoder's attention from a point."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.evidence import ActivationMap, check_point, heat_map
from phidet.architectures.prepared import Placement, Prepared
from phidet.architectures.setdet.attention import SampledAttention, SelfAttention, sampling_points
from phidet.architectures.setdet.decode import SetDecoding
from phidet.architectures.setdet.decoder import Predictions
from phidet.architectures.setdet.network import SetDet
from phidet.core.errors import ConfigError
from phidet.core.numbers import sigmoid
from phidet.detections.boxes import clip
from phidet.images.prepare import prepare, scaled_size

_SPREAD = 1 / 40
"""Deviation of the spot that a point leaves on the map, in shares of the input's longer side."""


class Watched(NamedTuple):
    """A forward, and what went into one of its modules.

    Attributes:
        prepared: the image as input.
        outputs: of the network.
        inputs: of the module.
    """

    prepared: Prepared
    outputs: Predictions
    inputs: tuple[Any, ...]


@torch.no_grad()
def object_maps(model: SetDet, image: npt.NDArray[np.uint8], class_id: int | None, limit: int) -> list[ActivationMap]:
    """Where the last decoder layer reads for the best queries, best first; only those of ``class_id`` if given."""
    layer: Any = model.decoder.layers[-1]
    watched = _watch(model, image, layer.sampling)
    queries, boxes, _ = watched.inputs
    points_xy, weights = sampling_points(layer.sampling, queries, boxes)  # (1, Q, heads, levels, points, …)
    config, image_hw = model.config, (image.shape[0], image.shape[1])
    logits, answers = (values[0].numpy() for values in watched.outputs)
    decoding, scores = SetDecoding(config), sigmoid(logits)
    scores = scores.max(1) if class_id is None else scores[:, class_id]
    maps: list[ActivationMap] = []
    for query in np.argsort(-scores, kind="stable")[:limit]:
        best = int(logits[query].argmax()) if class_id is None else class_id
        placed = decoding.pixels(answers[[query]], watched.prepared.placement)
        x1, y1, x2, y2 = clip(placed, image_hw)[0].tolist()
        spots = _spots(points_xy[0, query].reshape(-1, 2), weights[0, query].flatten(), config.image_size_hw)
        height, width = scaled_size(image_hw, watched.prepared.placement.scale)
        heat = heat_map(spots[:height, :width], image_hw)
        maps.append(ActivationMap(heat, config.class_names[best], float(scores[query]), (x1, y1, x2, y2)))
    return maps


def point_map(model: SetDet, image: npt.NDArray[np.uint8], point_xy: tuple[float, float]) -> ActivationMap:
    """The last encoder layer's attention from the cell at a point, in pixels of the image, to all others.

    The score is the largest weight.

    Raises:
        ConfigError: the point is outside the image, or the network has no encoder layer.
    """
    check_point(point_xy, image)
    height, width = image.shape[:2]
    x, y = point_xy
    if not len(model.encoder.layers):
        raise ConfigError(f"{model.config.name} has no encoder layer, so nothing attends from a point")
    layer: Any = model.encoder.layers[-1]
    watched = _watch(model, image, layer.attention)
    weights = attention_weights(layer.attention, *watched.inputs[:2])[0].mean(0)  # (N, N)
    size_hw, scale = model.config.image_size_hw, watched.prepared.placement.scale
    # The map of level 5, in which the encoder attends.
    rows, columns = -(-size_hw[0] // 32), -(-size_hw[1] // 32)
    row, column = int(y * scale / size_hw[0] * rows), int(x * scale / size_hw[1] * columns)
    seen = weights[row * columns + column].reshape(1, 1, rows, columns)
    inner_hw = scaled_size((height, width), scale)
    evidence = F.interpolate(seen, size_hw, mode="bilinear")[0, 0, : inner_hw[0], : inner_hw[1]]
    return ActivationMap(heat_map(evidence, (height, width)), f"from {x:g},{y:g}", float(seen.max()))


@torch.no_grad()
def attention_weights(attention: SelfAttention, x: Tensor, positions: Tensor) -> Tensor:
    """(B, heads, N, N), how much each row attends to each column."""
    q, k = attention.split(attention.query_key(x + positions), 2 * attention.heads).chunk(2, 1)
    weights: Tensor = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)
    return weights


@torch.no_grad()
def _watch(model: SetDet, image: npt.NDArray[np.uint8], module: SampledAttention | SelfAttention) -> Watched:
    array, scale = prepare(image, model.config.image_size_hw, model.config.preprocess)
    seen: list[tuple[Any, ...]] = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
    try:
        outputs = model(torch.from_numpy(array)[None].to(next(model.parameters()).device))
    finally:
        handle.remove()
    prepared = Prepared(array, Placement(scale, (image.shape[0], image.shape[1])))
    assert isinstance(outputs, Predictions)
    return Watched(prepared, Predictions(*(values.float().cpu() for values in outputs)), seen[0])


def _spots(points_xy: Tensor, weights: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Points in 0…1 of the input as spots as bright as their weights: (H, W)."""
    height, width = size_hw
    deviation = _SPREAD * max(size_hw)
    x, y = (torch.arange(side) + 0.5 for side in (width, height))
    across = torch.exp(-(((x - points_xy[:, :1].cpu() * width) / deviation) ** 2) / 2)  # (P, W)
    down = torch.exp(-(((y - points_xy[:, 1:].cpu() * height) / deviation) ** 2) / 2) * weights.cpu()[:, None]
    # Gaussians are separable: one product of matrices sums the spots of all points.
    return down.T @ across
