"""What the network sees of detections: numbers for each node and each edge; NumPy only.

Everything is relative: to the image, or of one box to another, so that the size of the image does not matter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.architectures.relations.config import RelationsConfig
from phidet.core.errors import InputError
from phidet.detections.boxes import elementwise_iou, xyxy_to_cxcywh
from phidet.detections.graphs.graph import DetectionGraph

Floats = npt.NDArray[np.float32]
NODE_PLACE = 6  # numbers of a node besides class, score and fields
EDGE_FEATURES = 10
_LARGEST_LOGIT = 9.0  # of a score: 0.9999


class GraphInputs(NamedTuple):
    """A graph as a network sees it.

    Attributes:
        nodes: (N, F) float32: class as one of C, logit of the score, place and size in the image, the config's fields.
        edges: (2, E) int64: source and target.
        edge_features: (E, 10) float32: where the source lies, seen from the target.
    """

    nodes: Floats
    edges: npt.NDArray[np.int64]
    edge_features: Floats


def node_width(config: RelationsConfig) -> int:
    """Numbers of each node, F."""
    return config.num_classes + 1 + NODE_PLACE + sum(config.fields.values())


def graph_inputs(config: RelationsConfig, graph: DetectionGraph) -> GraphInputs:
    """The network's inputs for a graph of detections.

    Raises:
        InputError: detections of other classes, of an image of unknown size, or without a field that the config names.
    """
    found = graph.detections
    if found.image_size_hw is None:
        raise InputError("expected detections with image_size_hw, which their places are relative to")
    if found.names and found.names != config.class_names:
        raise InputError(
            f"expected detections of {', '.join(config.class_names[:5])} …, got {', '.join(found.names[:5])} …: the "
            "network was trained for another detector"
        )
    if len(found) and found.class_ids.max() >= config.num_classes:
        raise InputError(f"expected classes 0…{config.num_classes - 1}, got {found.class_ids.max()}")
    # In fp64, as offsets between neighbours are small differences of large numbers.
    boxes = found.boxes_xyxy.astype(np.float64)
    places = _centres_and_sides(boxes)
    nodes = [
        np.eye(config.num_classes)[found.class_ids],
        score_logits(found.scores)[:, None],
        _in_image(places, found.image_size_hw),
        *(_field(graph, name, width) for name, width in config.fields.items()),
    ]
    source, target = graph.edges
    overlaps = elementwise_iou(boxes[source], boxes[target], "iou")
    same = found.class_ids[source] == found.class_ids[target]
    seen = _seen_from(places[source], places[target], found.image_size_hw)
    edge_features = np.concatenate((seen, overlaps[:, None], same[:, None]), axis=1)
    return GraphInputs(np.concatenate(nodes, axis=1).astype(np.float32), graph.edges, edge_features.astype(np.float32))


def score_logits(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """ln(s / (1 − s)), within ±9."""
    # Scores of exactly 0 or 1, which files of detections may have, would be infinite.
    least = 1 / (1 + np.exp(_LARGEST_LOGIT))
    clipped = np.clip(scores.astype(np.float64), least, 1 - least)
    logits: npt.NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits


def _centres_and_sides(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 4) boxes as centre, width and height; a box without area counts as a thousandth of a pixel wide."""
    places: npt.NDArray[np.float64] = xyxy_to_cxcywh(boxes)
    places[:, 2:] = np.maximum(places[:, 2:], 1e-3)
    return places


def _in_image(places: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(N, 6): centre, −1…1 in the image; logarithms of both sides, in the image's diagonals, and of the aspect; the
    distance from the border."""
    height, width = size_hw
    x, y, w, h = places.T
    diagonal = float(np.hypot(height, width))
    margin = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)) / diagonal
    columns = (2 * x / width - 1, 2 * y / height - 1, np.log(w / diagonal), np.log(h / diagonal), np.log(w / h), margin)
    return np.stack(columns, axis=1)


def _seen_from(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64], size_hw: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """(E, 8): the offset in sides of the target and diagonals of the image; the distance in both; ratios of sides."""
    diagonal = float(np.hypot(*size_hw))
    offset = source[:, :2] - target[:, :2]
    side = np.sqrt(target[:, 2:].prod(axis=1))
    distance = np.hypot(*offset.T)
    columns = (
        *np.arcsinh(offset / side[:, None]).T,  # like a logarithm for far ones, and linear near 0
        *(offset / diagonal).T,
        np.log1p(distance / side),
        distance / diagonal,
        *np.log(source[:, 2:] / target[:, 2:]).T,
    )
    return np.stack(columns, axis=1)


def _field(graph: DetectionGraph, name: str, width: int) -> npt.NDArray[np.float64]:
    """(N, width) a field of the detections."""
    count, fields = len(graph), graph.detections.fields
    if not count:
        return np.zeros((0, width))  # detectors that find nothing leave fields out
    if name not in fields:
        raise InputError(f"expected detections with the field {name!r}, which the network was trained with")
    given = fields[name]
    values = given.reshape(count, -1) if isinstance(given, np.ndarray) and given.dtype.kind in "iufb" else None
    if values is None or values.shape[1] != width:
        got = type(given).__name__ if values is None else f"{values.shape[1]} numbers"
        raise InputError(f"expected the field {name!r} as {width} numbers, got {got}")
    return values.astype(np.float64)
