"""The classical questions to a graph of detections, each by one call; SciPy answers them.

Nodes are numbered as the detections are. Where lengths matter they are distances of centres in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError, MissingExtraError
from phidet.detections.graphs.edges import Edges
from phidet.detections.graphs.graph import DetectionGraph

try:
    from scipy.cluster.vq import kmeans, vq
    from scipy.sparse import csgraph
    from scipy.spatial import KDTree
except ModuleNotFoundError as error:
    raise MissingExtraError("graphs of detections", "relations") from error

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class ShortestPaths(NamedTuple):
    """The shortest paths from one node.

    Attributes:
        lengths: (N,) pixels; infinite where there is no path.
        before: (N,) the node before each one on its path; −1 for the start and for nodes without a path.
    """

    lengths: Floats
    before: Ints

    def to(self, node: int) -> list[int]:
        """The nodes of the path to ``node``, from the start on; empty if there is none."""
        if not np.isfinite(self.lengths[node]):
            return []
        path = [node]
        while self.before[path[-1]] >= 0:
            path.append(int(self.before[path[-1]]))
        return path[::-1]


class Neighbours(NamedTuple):
    """The nearest nodes of each node.

    Attributes:
        nodes: (N, k) the nearest first.
        distances: (N, k) pixels.
    """

    nodes: Ints
    distances: Floats


def breadth_first(graph: DetectionGraph, start: int) -> Ints:
    """The nodes that can be reached from ``start``, in breadth-first order."""
    _check_node(graph, start)
    order = csgraph.breadth_first_order(graph.adjacency(), start, return_predecessors=False)
    return np.asarray(order, np.int64)


def depth_first(graph: DetectionGraph, start: int) -> Ints:
    """The nodes that can be reached from ``start``, in depth-first order."""
    _check_node(graph, start)
    order = csgraph.depth_first_order(graph.adjacency(), start, return_predecessors=False)
    return np.asarray(order, np.int64)


def shortest_paths(graph: DetectionGraph, start: int) -> ShortestPaths:
    """The shortest paths from ``start`` to every node, by the distances along the edges (Dijkstra)."""
    _check_node(graph, start)
    # A stored zero is an edge of length 0 to SciPy as well: nodes at one place stay joined.
    lengths, before = csgraph.dijkstra(
        graph.adjacency(weights=graph.distances), indices=start, return_predecessors=True
    )
    return ShortestPaths(np.asarray(lengths), np.where(before < 0, -1, before).astype(np.int64))


def minimum_spanning_tree(graph: DetectionGraph) -> Edges:
    """(2, N − c) pairs, the smaller node first, of a spanning tree of least length of each of the c connected parts."""
    lengths = graph.distances[graph.edges[0] < graph.edges[1]]
    order = np.empty(len(lengths))
    # SciPy takes a weight of zero for no edge, but nodes may lie at one place. Only the order of lengths decides about
    # the tree, and their ranks from 1 on have no zeros.
    order[np.argsort(lengths, kind="stable")] = np.arange(1, len(lengths) + 1)
    tree = csgraph.minimum_spanning_tree(DetectionGraph(graph.detections, graph.pairs).adjacency(weights=order)).tocoo()
    pairs = np.sort(np.stack((tree.row, tree.col)).astype(np.int64), axis=0)
    return pairs[:, np.lexsort(pairs[::-1])]


def connected_clusters(graph: DetectionGraph) -> Ints:
    """(N,) number of the connected part that each node belongs to, numbered by their first nodes."""
    return np.asarray(csgraph.connected_components(graph.adjacency(), directed=False)[1], np.int64)


def kmeans_clusters(graph: DetectionGraph, count: int, seed: int = 0) -> Ints:
    """(N,) number of the cluster of each node: at most ``count`` clusters of centres (k-means, best of 20 starts).

    Raises:
        ConfigError: ``count`` is below 1 or above the number of nodes.
    """
    if not 1 <= count <= len(graph):
        raise ConfigError(f"expected 1…{len(graph)} clusters of {len(graph)} nodes, got {count}")
    # Twenty starts, of which the best is taken: one alone may end in a bad division.
    means, _ = kmeans(graph.centres, count, iter=20, rng=np.random.default_rng(seed))
    return np.asarray(vq(graph.centres, means)[0], np.int64)


def nearest_neighbours(graph: DetectionGraph, count: int) -> Neighbours:
    """The ``count`` nodes nearest to each node, whatever the edges are.

    Raises:
        ConfigError: there are not as many other nodes.
    """
    if not 1 <= count < len(graph):
        raise ConfigError(f"expected 1…{len(graph) - 1} neighbours among {len(graph)} nodes, got {count}")
    distances, nodes = KDTree(graph.centres).query(graph.centres, count + 1)
    # The node itself is among the nearest, but not always first: others may lie at the same place.
    own = nodes == np.arange(len(graph))[:, None]
    own[~own.any(axis=1), -1] = True
    shape = (len(graph), count)
    return Neighbours(nodes[~own].reshape(shape).astype(np.int64), distances[~own].reshape(shape))


def _check_node(graph: DetectionGraph, node: int) -> None:
    if not 0 <= node < len(graph):
        raise ConfigError(f"there is no node {node}: expected 0…{len(graph) - 1}")
