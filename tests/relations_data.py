"""Detections, graphs and small networks for tests of relations."""

from __future__ import annotations

import numpy as np
import torch

from phidet.architectures.relations.architecture import RELATIONS
from phidet.architectures.relations.config import ANSWERS, Layer, RelationsConfig
from phidet.architectures.relations.network import Relations
from phidet.data.dataset import Annotations
from phidet.detections.detections import Detections
from phidet.detections.graphs.edges import EdgeRule
from phidet.detections.graphs.graph import DetectionGraph

NAMES = ("bolt", "nut", "washer")
SIZE_HW = (300, 400)


def config(layer: Layer = "attention", **changes: object) -> RelationsConfig:
    """A small network that gives every answer."""
    settings: dict[str, object] = {"answers": ANSWERS, "width": 8, "depth": 2, "heads": 2} | changes
    return RelationsConfig(
        name=f"relations-{layer}", class_names=NAMES, layer=layer, edges=EdgeRule(neighbours=3), **settings
    )


def network(layer: Layer = "attention", seed: int = 0, **changes: object) -> Relations:
    """Such a network in fp64 with random weights everywhere, also in the last layers, which start at zero."""
    torch.manual_seed(seed)
    model = Relations(config(layer, **changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def detections(count: int, seed: int) -> Detections:
    """Boxes at random places."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, (340, 240), (count, 2))
    boxes = np.concatenate((places, places + rng.uniform(10, 60, (count, 2))), axis=1)
    return Detections(boxes, rng.uniform(0.1, 0.95, count), rng.integers(0, 3, count), NAMES, SIZE_HW)


def graph(count: int, seed: int) -> DetectionGraph:
    """Such detections, each joined to the three nearest."""
    return RELATIONS.relating(config()).graph(detections(count, seed))


def objects(
    boxes: list[list[float]], class_ids: list[int], crowd: tuple[int, ...] = (), **fields: list[int]
) -> Annotations:
    """The truth of an image."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    crowds = np.isin(np.arange(len(array)), crowd)
    columns = {name: np.array(values) for name, values in fields.items()}
    areas = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    return Annotations(array, np.array(class_ids, np.int64), areas, crowds, np.zeros(len(array), np.bool_), columns)


def answers_of(model: Relations, found: DetectionGraph) -> dict[str, np.ndarray]:
    """What the network says of one graph, in its own precision."""
    dtype = next(model.parameters()).dtype
    inputs = RELATIONS.relating(model.config).inputs(found)
    tensors = {
        name: torch.from_numpy(values).to(dtype) if name != "edges" else torch.from_numpy(values)
        for name, values in inputs.items()
    }
    with torch.no_grad():
        return {name: values.numpy() for name, values in model(**tensors).items()}
