"""The interface of networks that relate detections: detections as their inputs, their outputs as relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # every architecture imports this module, and a detector needs neither data sets nor graphs
    import numpy.typing as npt
    import torch

    from phidet.data.dataset import Annotations
    from phidet.detections.boxes import FloatArray
    from phidet.detections.detections import Detections
    from phidet.detections.graphs.graph import DetectionGraph
    from phidet.detections.graphs.related import Related


class RelationBatch(Protocol):
    """Several graphs with what is true of them, for a network that relates detections and for its loss.

    The first field has a value for each graph, as that of other batches has an image.
    """

    def to(self, device: torch.device) -> RelationBatch:
        """The same on ``device``."""

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The network's arguments."""


class Relating(Protocol):
    """Detections as a network's inputs, and its outputs as relations."""

    @property
    def score(self) -> float:
        """Detections are taken from this score on."""

    def graph(self, detections: Detections) -> DetectionGraph:
        """The graph that the network looks at."""

    def random_graph(self, count: int, seed: int) -> DetectionGraph:
        """The graph of so many detections at random, for tracing and comparing networks."""

    def inputs(self, graph: DetectionGraph) -> Mapping[str, npt.NDArray[Any]]:
        """The network's inputs by name.

        Raises:
            InputError: detections that the network was not trained for.
        """

    def example(self, graph: DetectionGraph, truth: Annotations, right: bool | None) -> Any:
        """What is learned from ``graph``.

        Args:
            graph: of the detections of an image.
            truth: its objects; with the field ``group`` also which of them belong together.
            right: whether the whole is complete and right; ``None`` where that is not known.

        Raises:
            InputError: detections of another detector.
        """

    def collate(self, examples: Sequence[Any]) -> RelationBatch:
        """Examples as a batch. Needs PyTorch."""

    def decode(self, graph: DetectionGraph, outputs: Mapping[str, FloatArray]) -> Related:
        """What the outputs for ``graph`` mean.

        Raises:
            CheckpointError: the outputs are not finite.
        """
