"""Graph networks on detections behind the interface of architectures."""

# What needs PyTorch is imported when it is called.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phidet.architectures.base import Architecture, Decoder, Loss
from phidet.architectures.prepared import Prepared
from phidet.architectures.relations.config import (
    LOSS_SETTINGS,
    RELATIONS_NAMES,
    Answer,
    RelationsConfig,
    relations_config,
)
from phidet.architectures.relations.decode import relate
from phidet.architectures.relations.features import EDGE_FEATURES, GraphInputs, graph_inputs, node_width
from phidet.architectures.relations.targets import GraphTargets, graph_targets
from phidet.core.errors import ConfigError
from phidet.core.structs import replace
from phidet.data.dataset import Annotations
from phidet.detections.boxes import FloatArray
from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import FRAME
from phidet.detections.graphs.graph import DetectionGraph, detection_graph
from phidet.detections.graphs.related import Related

if TYPE_CHECKING:
    from phidet.architectures.relations.batch import RelationsBatch
    from phidet.architectures.relations.network import Relations


class Relating:
    """Detections as the inputs of a network of ``config``, and its outputs as what they mean."""

    def __init__(self, config: RelationsConfig) -> None:
        self.config = config

    @property
    def score(self) -> float:
        """The config's."""
        return self.config.score

    def graph(self, detections: Detections) -> DetectionGraph:
        """The detections from the config's score on, joined by its rule."""
        return detection_graph(detections.filter(self.config.score), self.config.edges)

    def random_graph(self, count: int, seed: int) -> DetectionGraph:
        """The graph of so many detections at random."""
        rng, config = np.random.default_rng(seed), self.config
        places = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate((places, places + rng.uniform(10, 80, (count, 2))), axis=1).astype(np.float32)
        scores = rng.uniform(config.score, 1, count).astype(np.float32)
        class_ids = rng.integers(config.num_classes, size=count)
        fields = {name: rng.standard_normal((count, width)) for name, width in config.fields.items()}
        return self.graph(Detections(boxes, scores, class_ids, config.class_names, (480, 480), fields))

    def inputs(self, graph: DetectionGraph) -> dict[str, npt.NDArray[Any]]:
        """``nodes``, ``edges`` and ``edge_features``, as in :mod:`phidet.architectures.relations.features`.

        Raises:
            InputError: detections that the network was not trained for.
        """
        return graph_inputs(self.config, graph)._asdict()

    def example(
        self, graph: DetectionGraph, truth: Annotations, right: bool | None
    ) -> tuple[GraphInputs, GraphTargets]:
        """What is learned from ``graph``; without the answer "label", a wrong label is a false detection."""
        by_class = "label" not in self.config.answers
        return graph_inputs(self.config, graph), graph_targets(graph, truth, right, by_class)

    def collate(self, examples: Sequence[tuple[GraphInputs, GraphTargets]]) -> RelationsBatch:
        """Examples as a batch."""
        from phidet.architectures.relations.batch import collate

        return collate(examples)

    def decode(self, graph: DetectionGraph, outputs: Mapping[str, FloatArray]) -> Related:
        """What the network's outputs for ``graph`` mean.

        Raises:
            CheckpointError: an output is not finite.
        """
        return relate(graph, outputs)


class RelationsArchitecture(Architecture[RelationsConfig]):
    """Layers of PyTorch Geometric on the detections of an image."""

    name = "relations"
    config_type = RelationsConfig
    says = frozenset({"relations"})
    published_names = RELATIONS_NAMES
    loss_settings = LOSS_SETTINGS
    takes_foreign_backbones = False

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> RelationsConfig:
        return relations_config(name, class_names)

    def output_shapes(self, config: RelationsConfig) -> dict[str, tuple[int, ...]]:
        """Of the config's answers; the first dimension, which is left out, is the nodes, the edges or the graphs."""
        shapes: dict[Answer, tuple[str, tuple[int, ...]]] = {
            "label": ("label_logits", (config.num_classes,)),
            "score": ("score_logits", ()),
            "place": ("box_deltas", (4,)),
            "together": ("together_logits", ()),
            "right": ("right_logits", ()),
        }
        return dict(shapes[answer] for answer in config.answers)

    def prepare(self, config: RelationsConfig, image: npt.NDArray[np.uint8]) -> Prepared:
        raise _no_image(config)

    def decoder(self, config: RelationsConfig) -> Decoder:
        raise _no_image(config)

    def resized(self, config: RelationsConfig, size_hw: tuple[int, int]) -> RelationsConfig:
        raise _no_image(config)

    def recipe_fields(self, name: str, num_images: int) -> Mapping[str, Any]:
        """About 30,000 graphs in all, between 10 and 100 epochs; a network of this size needs no more."""
        fields = {"batch_size": 16, "learning_rate": 8e-3, "weight_decay": 0.01, "ema_decay": 0.999}
        return fields | {"epochs": min(max(round(30_000 / num_images), 10), 100)} if name == "auto" else {}

    def with_answers(self, config: RelationsConfig, grouped: bool, judged: bool) -> RelationsConfig:
        """``config`` with the answers "together" and "right" where the data have their truth, and not otherwise."""
        # An answer whose truth the data do not have would stay as it was drawn.
        kept = [answer for answer in config.answers if answer not in ("together", "right")]
        answers = (*kept, *(["together"] if grouped else []), *(["right"] if judged else []))
        return replace(config, {"answers": answers})

    def with_fields(self, config: RelationsConfig, fields: Mapping[str, int]) -> RelationsConfig:
        """``config`` with these fields; of two frames with twice the neighbours, as half of them are of its own."""
        changes: dict[str, Any] = {"fields": {**config.fields, **fields}}
        if FRAME in fields and FRAME not in config.fields:
            changes["edges"] = replace(config.edges, {"neighbours": 2 * config.edges.neighbours})
        return replace(config, changes)

    def smallest_map_hw(self, config: RelationsConfig) -> tuple[int, int]:
        """There are no maps, nor batch norms."""
        return 2, 2

    def relating(self, config: RelationsConfig) -> Relating:
        return Relating(config)

    def summary(self, config: RelationsConfig) -> list[tuple[str, str]]:
        joined = config.edges.kind if config.edges.kind != "nearest" else f"{config.edges.neighbours} nearest"
        return [
            ("layers", f"{config.depth} × {config.layer}, {config.width} channels"),
            ("edges", joined),
            ("answers", ", ".join(config.answers)),
            ("sees", f"{node_width(config)} numbers of a detection, {EDGE_FEATURES} of an edge"),
        ]

    def build(self, config: RelationsConfig) -> Relations:
        from phidet.architectures.relations.network import Relations

        return Relations(config)

    def loss(self, config: RelationsConfig, settings: Mapping[str, Any]) -> Loss:
        from phidet.architectures.relations.loss import RelationsLoss

        # What is not the quality weighs the part of its name.
        weights = {key: value for key, value in settings.items() if key != "quality"}
        return RelationsLoss(settings["quality"], weights)


def _no_image(config: RelationsConfig) -> ConfigError:
    return ConfigError(
        f"{config.name} relates detections and looks at no image: detect with a detector, and give this network to "
        "phidet detect --relations, or to phidet.Relations"
    )


RELATIONS = RelationsArchitecture()
