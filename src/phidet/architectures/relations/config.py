"""Configuration of a graph network on detections, and the published shapes of it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal, get_args

import msgspec

from phidet.architectures.config import check_class_names
from phidet.core.errors import UnknownNameError
from phidet.core.structs import require, require_one_of
from phidet.detections.graphs.edges import EdgeRule
from phidet.images.prepare import Preprocess

Layer = Literal["gated", "sage", "attention", "chebyshev", "gcn"]
Answer = Literal["label", "score", "place", "together", "right"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)


class RelationsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A graph network on the detections of an image.

    Attributes:
        name: of the network.
        class_names: of the detector.
        layer: what passes messages along edges: "gated" (arXiv 1511.05493), "sage" (1706.02216), "attention"
            (2105.14491), "chebyshev" (1606.09375) or "gcn" (1609.02907).
        answers: what it says: of each node its "label", its "score" and its "place"; of each edge whether the two
            belong "together"; of the graph whether it is "right".
        width: channels of a node.
        depth: layers, or steps of the gated one.
        heads: of attention.
        order: of Chebyshev's polynomials.
        edges: which detections are joined.
        fields: further columns of the detections that the network sees, with their width: an appearance, for instance.
        score: detections are taken from this score on.
    """

    name: str
    class_names: tuple[str, ...]
    layer: Layer = "attention"
    answers: tuple[Answer, ...] = ("label", "score", "place")
    width: int = 64
    depth: int = 3
    heads: int = 4
    order: int = 3
    edges: EdgeRule = EdgeRule()
    fields: dict[str, int] = {}
    score: float = 0.1

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        require_one_of("layer", self.layer, Layer)
        for answer in self.answers:
            require_one_of("answer", answer, Answer)
        require(bool(self.answers), f"a network needs at least one answer: {', '.join(ANSWERS)}")
        for key in ("width", "depth", "heads", "order"):
            require(getattr(self, key) >= 1, f"{key} must be a whole number ≥ 1, got {getattr(self, key)}")
        require(self.width % self.heads == 0, f"width must be a multiple of heads, got {self.width} and {self.heads}")
        for name, width in self.fields.items():
            require(width >= 1, f"the field {name!r} must have a width ≥ 1, got {width}")
        require(0 <= self.score < 1, f"score must be in 0…1, below 1, got {self.score:g}")

    @property
    def num_classes(self) -> int:
        """Number of classes; ids are 0…num_classes − 1."""
        return len(self.class_names)

    # A network on detections has no image of its own; tools that describe any network ask for these two.

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """(0, 0): there is no image."""
        return 0, 0

    @property
    def preprocess(self) -> Preprocess:
        """The identity: there is no image."""
        return Preprocess(mean_rgb=(0.0, 0.0, 0.0), std_rgb=(1.0, 1.0, 1.0))


LOSS_SETTINGS: MappingProxyType[str, Any] = MappingProxyType(
    {"label": 1.0, "score": 1.0, "place": 10.0, "together": 1.0, "right": 1.0, "quality": False}
)
"""Weights of the answers' losses, and what scores mean; see :mod:`phidet.architectures.relations.loss`."""
RELATIONS_NAMES = tuple(f"relations-{layer}" for layer in get_args(Layer))


def relations_config(name: str, class_names: tuple[str, ...] | None = None) -> RelationsConfig:
    """The config that a published name stands for: one for each kind of layer.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in RELATIONS_NAMES:
        raise UnknownNameError("model", name, RELATIONS_NAMES)
    layer: Any = name.removeprefix("relations-")
    return RelationsConfig(name=name, class_names=class_names or ("object",), layer=layer)
