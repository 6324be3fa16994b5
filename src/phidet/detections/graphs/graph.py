"""The graph of an image's detections, with its adjacency and other libraries' objects."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.errors import InputError, MissingExtraError
from phidet.core.extras import RELATIONS_PACKAGES, extra_of
from phidet.detections.boxes import elementwise_iou, xyxy_to_cxcywh
from phidet.detections.detections import Detections
from phidet.detections.graphs.edges import EdgeRule, Edges, edges_between


@dataclass(frozen=True, eq=False)
class DetectionGraph:
    """Detections as nodes, in their order, and the edges between them.

    Attributes:
        detections: the nodes: class, score, box, and any field, for instance an appearance.
        edges: (2, E) int64, source and target of each edge; both directions of every pair.

    Raises:
        InputError: an edge to a node that is not there.
    """

    detections: Detections
    edges: Edges

    def __post_init__(self) -> None:
        edges, count = self.edges, len(self.detections)
        if edges.ndim != 2 or len(edges) != 2 or edges.dtype.kind not in "iu":
            raise InputError(f"expected edges (2, E) as whole numbers, got {edges.shape} {edges.dtype}")
        if edges.size and not 0 <= edges.min() <= edges.max() < count:
            raise InputError(f"expected edges between nodes 0…{count - 1}, got {edges.min()}…{edges.max()}")

    def __len__(self) -> int:
        return len(self.detections)

    @cached_property
    def centres(self) -> npt.NDArray[np.float64]:
        """(N, 2) x and y of the boxes' centres, pixels."""
        return xyxy_to_cxcywh(self.detections.boxes_xyxy.astype(np.float64))[:, :2]

    @cached_property
    def distances(self) -> npt.NDArray[np.float64]:
        """(E,) distance of the centres, pixels."""
        source, target = self.edges
        lengths: npt.NDArray[np.float64] = np.hypot(*(self.centres[source] - self.centres[target]).T)
        return lengths

    @property
    def pairs(self) -> Edges:
        """(2, E/2) each pair once, the smaller node first."""
        return self.edges[:, self.edges[0] < self.edges[1]]

    def adjacency(self, self_loops: bool = False, weights: npt.NDArray[Any] | None = None) -> Any:
        """The adjacency matrix as a SciPy sparse array (N, N) in rows: A, or with ``self_loops`` A + I.

        Row i of A has the neighbours of node i. Two nodes that are joined and have otherwise the same neighbours have
        different rows in A, because each has the other one and not itself; in A + I, where each belongs to its own
        neighbourhood, the rows are equal. A layer that adds up rows of A + I therefore treats them alike.

        Args:
            self_loops: add the identity.
            weights: (E,) values instead of 1, for instance :attr:`distances`.

        Raises:
            MissingExtraError: the ``relations`` extra is not installed.
        """
        sparse = _package("scipy.sparse")
        values = np.ones(self.edges.shape[1]) if weights is None else np.asarray(weights, np.float64)
        matrix = sparse.coo_array((values, tuple(self.edges)), shape=(len(self), len(self))).tocsr()
        return matrix + sparse.eye_array(len(self), format="csr") if self_loops else matrix

    def to_networkx(self) -> Any:
        """An undirected ``networkx.Graph``; nodes have ``label``, ``class_id``, ``score``, ``box_xyxy`` and the fields,
        edges ``distance`` (pixels) and ``iou``.

        Raises:
            MissingExtraError: the ``relations`` extra is not installed.
        """
        graph = _package("networkx").Graph()
        nodes = self.detections.to_dict()["detections"]
        graph.add_nodes_from(enumerate(nodes))
        source, target = self.pairs
        boxes = self.detections.boxes_xyxy
        overlaps = elementwise_iou(boxes[source], boxes[target], "iou").tolist()
        lengths = self.distances[self.edges[0] < self.edges[1]].tolist()
        for i, j, distance, iou in zip(source.tolist(), target.tolist(), lengths, overlaps, strict=True):
            graph.add_edge(i, j, distance=distance, iou=iou)
        return graph

    def to_torch_geometric(self) -> Any:
        """A ``torch_geometric.data.Data``: ``edge_index`` (2, E), ``pos`` (N, 2) centres in pixels, ``boxes_xyxy``
        (N, 4), ``scores`` (N,), ``class_ids`` (N,), ``edge_attr`` (E, 1) distances in pixels, and numeric fields by
        their names.

        Raises:
            MissingExtraError: the ``relations`` extra, or PyTorch, is not installed.
        """
        tensor = _package("torch").from_numpy
        found = self.detections
        columns: dict[str, npt.NDArray[Any]]
        columns = {"boxes_xyxy": found.boxes_xyxy, "scores": found.scores, "class_ids": found.class_ids}
        for name, values in found.fields.items():
            if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
                columns[name] = values
        return _package("torch_geometric.data").Data(
            edge_index=tensor(self.edges.copy()),
            pos=tensor(self.centres.astype(np.float32)),
            edge_attr=tensor(self.distances.astype(np.float32)[:, None]),
            num_nodes=len(self),
            **{name: tensor(values.copy()) for name, values in columns.items()},
        )

    def draw(
        self,
        image: Path | str | Image.Image | npt.NDArray[np.uint8],
        clusters: npt.NDArray[np.int64] | None = None,
        edges: Edges | None = None,
    ) -> Image.Image:
        """A copy of ``image`` with boxes, labels and edges.

        Args:
            image: the one that was detected on: a path, a Pillow image, or (H, W, 3) uint8 RGB.
            clusters: (N,) numbers of clusters, −1 for none, which then choose the colours.
            edges: (2, K) the edges to draw, for instance a spanning tree or a path; all unless given.

        Raises:
            InputError: the image cannot be read, or its size is another one.
        """
        drawn = self.detections.draw(image) if clusters is None else image
        shown = self.pairs if edges is None else edges
        from phidet.detections.graphs.draw import draw_graph  # noqa: PLC0415 - slow to import, and rarely needed

        return draw_graph(drawn, self.detections, self.centres[shown], clusters)


def detection_graph(detections: Detections, rule: EdgeRule | None = None) -> DetectionGraph:
    """The graph of ``detections`` with the edges of ``rule``, by default to the eight nearest ones.

    Raises:
        MissingExtraError: a rule that needs the ``relations`` extra, which is not installed.
    """
    return DetectionGraph(detections, edges_between(detections.boxes_xyxy, rule or EdgeRule()))


def _package(name: str) -> Any:
    """A package of an extra, imported when it is used."""
    try:
        with warnings.catch_warnings():
            # PyTorch Geometric marks functions for torch.jit.script, which newer versions of PyTorch call deprecated.
            warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
            return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".", maxsplit=1)[0]
        # Other extras bring SciPy, too, but this one brings all that graphs need.
        extra = "relations" if missing in RELATIONS_PACKAGES else extra_of(missing)
        if extra is None:
            raise
        raise MissingExtraError("graphs of detections", extra) from None
