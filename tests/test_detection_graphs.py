"""Graphs of detections: edges, adjacency, the classical questions against networkx, other libraries' objects."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phidet import Detections, MissingExtraError
from phidet.core.errors import ConfigError, InputError
from phidet.detections.graphs import classical
from phidet.detections.graphs.edges import EdgeKind, EdgeRule, edges_between, symmetric
from phidet.detections.graphs.frames import join_frames, matches_of
from phidet.detections.graphs.graph import DetectionGraph, detection_graph
from phidet.detections.graphs.groups import groups_of

nx = pytest.importorskip("networkx")

NAMES = ("a", "b", "c")


def scattered(count: int, seed: int, step: float = 0.0) -> Detections:
    """Boxes at random places of a 400×300 image; with ``step`` on a raster, so that some lie at one place."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, (400, 300), (count, 2))
    places = np.round(places / step) * step if step else places
    boxes = np.concatenate((places, places + rng.uniform(10, 60, (count, 2)) * (not step) + 20), axis=1)
    return Detections(boxes, rng.random(count), rng.integers(0, 3, count), NAMES, (300, 400))


def at(*centres: tuple[float, float]) -> Detections:
    """Boxes of 10 pixels, in this order."""
    places = np.array(centres, float).reshape(-1, 2)
    scores = np.linspace(0.9, 0.1, len(places))
    return Detections(np.concatenate((places - 5, places + 5), axis=1), scores, np.zeros(len(places), int), ("a",))


def joined(*pairs: tuple[int, int], count: int) -> DetectionGraph:
    places = [(40.0 * i, 30.0 * (i % 2)) for i in range(count)]
    return DetectionGraph(at(*places), symmetric(np.array(pairs, np.int64).reshape(-1, 2).T, count))


graphs = st.builds(
    lambda count, seed, step, rule: detection_graph(scattered(count, seed, step), rule),
    st.integers(1, 14),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 80.0]),
    st.sampled_from(
        [
            EdgeRule(neighbours=1),
            EdgeRule(neighbours=3),
            EdgeRule(kind="overlap"),
            EdgeRule(kind="distance", distance=90),
            EdgeRule(kind="delaunay"),
            EdgeRule(kind="all"),
        ]
    ),
)


def test_with_self_loops_nodes_that_share_their_neighbours_have_equal_rows() -> None:
    """Nodes 2 and 3 are joined to all others, 4 and 5 to all but 1 (numbered from 1, as in the example)."""
    pairs = [(1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)]
    graph = joined(*[(i - 1, j - 1) for i, j in pairs], count=5)
    a, looped = graph.adjacency().toarray(), graph.adjacency(self_loops=True).toarray()
    assert a.tolist() == [[0, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 0, 1, 1], [0, 1, 1, 0, 1], [0, 1, 1, 1, 0]]
    assert np.array_equal(looped, a + np.eye(5))
    for i, j in ((1, 2), (3, 4)):
        assert (a[i] != a[j]).any()
        assert (looped[i] == looped[j]).all()
    # No two rows of A are equal; of A + I the first stays alone, and the two groups differ.
    assert len({tuple(row) for row in a}) == 5
    assert [sorted(i for i in range(5) if (looped[i] == row).all()) for row in looped[[0, 1, 3]]] == [
        [0],
        [1, 2],
        [3, 4],
    ]


@given(graphs)
def test_edges_go_both_ways_once_and_never_to_the_node_itself(graph: DetectionGraph) -> None:
    edges = list(zip(*graph.edges.tolist(), strict=True))
    assert edges == sorted(set(edges))
    assert {(j, i) for i, j in edges} == set(edges)
    assert all(i != j for i, j in edges)
    assert graph.pairs.shape[1] * 2 == len(edges)


@given(graphs)
def test_rows_are_equal_exactly_where_neighbourhoods_are(graph: DetectionGraph) -> None:
    """The example's law for any graph: in A joined nodes differ, in A + I those with one closed neighbourhood agree."""
    a, looped = graph.adjacency().toarray(), graph.adjacency(self_loops=True).toarray()
    near = [set(np.flatnonzero(row).tolist()) for row in a]
    for i in range(len(graph)):
        for j in range(i):
            assert np.array_equal(a[i], a[j]) == (near[i] == near[j])
            assert np.array_equal(looped[i], looped[j]) == (near[i] | {i} == near[j] | {j})
            assert i not in near[j] or not np.array_equal(a[i], a[j])


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=25), st.integers(0, 8))
def test_pairs_in_any_direction_repeated_or_with_themselves_are_edges_once(
    count: int, given_pairs: list[tuple[int, int]], start: int
) -> None:
    pairs = [(i % count, j % count) for i, j in given_pairs]
    graph = joined(*pairs, count=count)
    theirs = nx.Graph([(i, j) for i, j in pairs if i != j])
    theirs.add_nodes_from(range(count))  # those that no pair has stay alone
    np.testing.assert_array_equal(graph.adjacency().toarray(), nx.to_numpy_array(theirs, nodelist=range(count)))
    np.testing.assert_array_equal(
        graph.adjacency(self_loops=True).toarray(), nx.to_numpy_array(theirs, nodelist=range(count)) + np.eye(count)
    )
    parts = classical.connected_clusters(graph)
    assert len(set(parts.tolist())) == nx.number_connected_components(theirs)
    reached = set(classical.breadth_first(graph, start % count).tolist())
    assert reached == set(classical.depth_first(graph, start % count).tolist())
    assert reached == nx.node_connected_component(theirs, start % count)
    lengths = classical.shortest_paths(graph, start % count).lengths
    assert set(np.flatnonzero(np.isfinite(lengths)).tolist()) == reached


def test_each_rule_joins_what_it_says() -> None:
    places = at((0, 0), (6, 0), (30, 0), (30, 40), (200, 0))
    boxes = places.boxes_xyxy
    pairs = {
        kind: list(zip(*detection_graph(places, rule).pairs.tolist(), strict=True))
        for kind, rule in {
            "nearest": EdgeRule(neighbours=1),
            "overlap": EdgeRule(kind="overlap", iou=0.2),
            "distance": EdgeRule(kind="distance", distance=40),
            "all": EdgeRule(kind="all"),
        }.items()
    }
    # 0 and 1 are each other's nearest; 2 is nearest to 1, 3 to 2, 4 to 2.
    assert pairs["nearest"] == [(0, 1), (1, 2), (2, 3), (2, 4)]
    assert pairs["overlap"] == [(0, 1)]  # 4 · 10 of 160 pixels: IoU 0.25
    assert edges_between(boxes, EdgeRule(kind="overlap", iou=0.25)).size == 0
    assert pairs["distance"] == [(0, 1), (0, 2), (1, 2), (2, 3)]
    assert len(pairs["all"]) == 10


@pytest.mark.parametrize("kind", ["nearest", "overlap", "distance"])
def test_many_boxes_are_joined_block_by_block_as_at_once(kind: EdgeKind, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, rule = scattered(60, 1).boxes_xyxy, EdgeRule(kind=kind, neighbours=4, distance=50)
    whole = edges_between(boxes, rule)
    monkeypatch.setattr("phidet.detections.graphs.edges._BLOCK", 150)  # two rows at a time
    assert np.array_equal(edges_between(boxes, rule), whole)
    assert whole.size


def test_no_centre_lies_in_the_circle_of_a_delaunay_triangle() -> None:
    graph = detection_graph(scattered(25, 3), EdgeRule(kind="delaunay"))
    a = graph.adjacency().toarray() > 0
    points, triangles = graph.centres, 0
    for i, j in zip(*graph.pairs, strict=True):
        # An edge is Delaunay's if some circle through its ends holds no other centre; on the bisector, such a circle's
        # centre lies between bounds that the other points give.
        middle, along = (points[i] + points[j]) / 2, points[j] - points[i]
        normal = np.array([-along[1], along[0]])
        others = np.delete(points, [i, j], axis=0) - middle
        side = others @ normal
        bound = ((others**2).sum(axis=1) - along @ along / 4) / (2 * side)
        assert max(bound[side < 0], default=-np.inf) <= min(bound[side > 0], default=np.inf) + 1e-9
        triangles += int((a[i] & a[j]).any())
    assert triangles == graph.pairs.shape[1]


@pytest.mark.parametrize(
    ("places", "pairs"),
    [
        ([], []),
        ([(0, 0)], []),
        ([(0, 0), (9, 9)], [(0, 1)]),
        ([(0, 0), (20, 20), (10, 10), (30, 30)], [(0, 2), (1, 2), (1, 3)]),  # a line has no triangles
        ([(5, 5), (5, 5), (5, 5)], [(0, 1), (1, 2)]),
        ([(0, 0), (10, 0), (0, 10), (10, 0)], [(0, 1), (0, 2), (1, 2), (1, 3)]),  # two at one place
    ],
)
def test_triangulations_of_points_without_triangles(
    places: list[tuple[float, float]], pairs: list[tuple[int, int]]
) -> None:
    graph = detection_graph(at(*places), EdgeRule(kind="delaunay"))
    found = list(zip(*graph.pairs.tolist(), strict=True))
    # Which of the nodes at one place is the corner is left to the triangulation.
    same = {(1, 3): (1, 3), (0, 3): (0, 1), (2, 3): (1, 2)}
    assert sorted(same.get(pair, pair) for pair in found) == pairs


@given(graphs, st.integers(0, 13))
def test_orders_paths_parts_and_trees_are_those_of_networkx(graph: DetectionGraph, start: int) -> None:
    start %= len(graph)
    theirs = graph.to_networkx()
    assert set(theirs.edges) == set(zip(*graph.pairs.tolist(), strict=True))
    breadth = [start, *(j for _, j in nx.bfs_edges(theirs, start, sort_neighbors=sorted))]
    assert classical.breadth_first(graph, start).tolist() == breadth
    depth = list(nx.dfs_preorder_nodes(theirs, start, sort_neighbors=sorted))
    assert classical.depth_first(graph, start).tolist() == depth

    paths = classical.shortest_paths(graph, start)
    lengths = nx.single_source_dijkstra_path_length(theirs, start, weight="distance")
    expected = [lengths.get(node, np.inf) for node in range(len(graph))]
    np.testing.assert_allclose(paths.lengths, expected, rtol=1e-9)
    for node in range(len(graph)):
        path = paths.to(node)
        assert bool(path) == (node in lengths)
        if path:
            assert (path[0], path[-1]) == (start, node)
            assert nx.path_weight(theirs, path, "distance") == pytest.approx(lengths[node])

    parts = classical.connected_clusters(graph)
    assert {frozenset(np.flatnonzero(parts == part).tolist()) for part in set(parts.tolist())} == {
        frozenset(part) for part in nx.connected_components(theirs)
    }
    tree = classical.minimum_spanning_tree(graph)
    ours = nx.Graph(zip(*tree.tolist(), strict=True))
    assert nx.is_forest(ours) if len(ours) else tree.shape == (2, 0)
    assert tree.shape[1] == len(graph) - len(set(parts.tolist()))
    total = sum(theirs.edges[pair]["distance"] for pair in zip(*tree.tolist(), strict=True))
    assert total == pytest.approx(nx.minimum_spanning_tree(theirs, weight="distance").size("distance"))


@given(st.integers(2, 14), st.integers(0, 10**6), st.integers(1, 13))
def test_nearest_neighbours_are_the_nearest(count: int, seed: int, wanted: int) -> None:
    graph = detection_graph(scattered(count, seed, 80.0 if seed % 2 else 0.0))
    wanted = min(wanted, count - 1)
    found = classical.nearest_neighbours(graph, wanted)
    apart = np.hypot(*(graph.centres[:, None] - graph.centres).transpose(2, 0, 1))
    np.testing.assert_allclose(np.take_along_axis(apart, found.nodes, axis=1), found.distances, rtol=1e-9)
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_allclose(found.distances, np.sort(apart, axis=1)[:, :wanted], rtol=1e-9)
    assert all(i not in row and len(set(row)) == wanted for i, row in enumerate(found.nodes.tolist()))


def test_kmeans_finds_groups_that_lie_apart() -> None:
    corners = [(0, 0), (300, 0), (0, 300)]
    graph = detection_graph(at(*[(x + dx, y + dx % 7) for dx in range(0, 20, 4) for x, y in corners]))
    clusters = classical.kmeans_clusters(graph, 3, seed=1)
    assert [len(set(clusters[i::3].tolist())) for i in range(3)] == [1, 1, 1]
    assert len(set(clusters.tolist())) == 3
    assert np.array_equal(clusters, classical.kmeans_clusters(graph, 3, seed=1))


def test_numbers_out_of_range_are_named() -> None:
    graph = joined((0, 1), count=3)
    with pytest.raises(ConfigError, match="there is no node 3: expected 0…2"):
        classical.breadth_first(graph, 3)
    with pytest.raises(ConfigError, match="expected 1…3 clusters of 3 nodes, got 4"):
        classical.kmeans_clusters(graph, 4)
    with pytest.raises(ConfigError, match="expected 1…2 neighbours among 3 nodes, got 3"):
        classical.nearest_neighbours(graph, 3)
    with pytest.raises(InputError, match="expected edges between nodes 0…2, got 0…3"):
        DetectionGraph(graph.detections, np.array([[0], [3]]))
    for rule, message in (
        ({"kind": "near"}, "Did you mean nearest"),
        ({"neighbours": 0}, "neighbours must be a whole number ≥ 1, got 0"),
        ({"iou": 1.0}, "iou must be in 0…1, below 1, got 1"),
        ({"distance": 0.0}, "distance must be a number of pixels > 0, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            EdgeRule(**rule)


def test_other_libraries_get_the_same_graph_with_all_that_detections_hold() -> None:
    found = scattered(8, 5).with_fields({"track": np.arange(8), "note": np.array(["x"] * 8)})
    graph = detection_graph(found, EdgeRule(neighbours=2))
    theirs = graph.to_networkx()
    assert np.array_equal(nx.to_numpy_array(theirs, nodelist=range(8), weight=None), graph.adjacency().toarray())
    assert theirs.nodes[3] == found.to_dict()["detections"][3]
    i, j = graph.pairs[:, 0].tolist()
    assert theirs.edges[i, j]["distance"] == pytest.approx(float(np.hypot(*(graph.centres[i] - graph.centres[j]))))

    pytest.importorskip("torch_geometric")
    data = graph.to_torch_geometric()
    assert data.validate()
    assert (data.num_nodes, data.is_undirected(), data.has_self_loops()) == (8, True, False)
    assert np.array_equal(data.edge_index.numpy(), graph.edges)
    assert data.track.tolist() == found.fields["track"].tolist()
    assert "note" not in data
    np.testing.assert_allclose(data.edge_attr[:, 0].numpy(), graph.distances, rtol=1e-6)


def test_a_drawn_graph_shows_its_edges_and_clusters_their_colours() -> None:
    graph = detection_graph(at((30, 30), (130, 30), (130, 90)), EdgeRule(kind="distance", distance=100))
    grey = np.full((120, 160, 3), 120, np.uint8)
    drawn = np.asarray(graph.draw(grey)).astype(int)
    assert drawn[30, 80].min() > 230  # the middle of the first edge
    assert drawn[60, 130].min() > 230
    assert drawn[60, 80].tolist() == [120, 120, 120]  # the long side is no edge
    clustered = np.asarray(graph.draw(grey, np.array([0, 0, 1]), graph.edges[:, :0])).astype(int)
    assert clustered[30, 80].tolist() == [120, 120, 120]
    assert clustered[30, 30].tolist() == clustered[30, 130].tolist() != clustered[90, 130].tolist()


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = joined((0, 1), count=3)
    for module in ("networkx", "scipy.sparse", "scipy.spatial"):
        monkeypatch.setitem(sys.modules, module, None)
    for needs in (
        graph.to_networkx,
        graph.adjacency,
        lambda: detection_graph(graph.detections, EdgeRule(kind="delaunay")),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'phidet\[relations\]'"):
            needs()
    assert detection_graph(graph.detections).edges.size  # the other rules need nothing but NumPy


def test_two_frames_are_one_graph_whose_pairs_are_matched_once_each() -> None:
    first = at((20, 20), (100, 20)).with_fields({"track": np.array([7, 8])})
    second = at((24, 20), (104, 20), (300, 20)).with_fields({"track": np.array([7, 8, 9])})
    joined = join_frames(first, second)
    assert joined.fields["frame"].tolist() == [0, 1, 1, 0, 1]  # by score: 0.9, 0.9, 0.5, 0.1, 0.1
    assert joined.fields["track"].tolist() == [7, 7, 8, 8, 9]
    pairs = np.array([[1, 0], [0, 2], [3, 2], [3, 1], [0, 3], [3, 4]]).T
    together = np.array([0.9, 0.95, 0.8, 0.7, 0.99, 0.4])
    # 0–2 and 3–1 are surer together than 0–1 and 3–2; 0–3 are of one frame, and 4 is too unsure.
    assert matches_of(joined.fields["frame"], pairs, together).tolist() == [[0, 3], [2, 1]]
    assert matches_of(joined.fields["frame"], pairs[:, :1], together[:1]).tolist() == [[0], [1]]
    assert matches_of(joined.fields["frame"], pairs[:, :0], together[:0]).shape == (2, 0)
    with pytest.raises(InputError, match="expected two frames of one video"):
        join_frames(first, scattered(2, 0))
    assert len(join_frames(at(), at((5, 5)))) == 1


def shares(graph: DetectionGraph, of: dict[tuple[int, int], float]) -> np.ndarray:
    return np.array([of[min(pair), max(pair)] for pair in zip(*graph.edges.tolist(), strict=True)])


def test_one_wrong_pair_does_not_join_two_groups() -> None:
    inner = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    graph = joined(*inner, (2, 3), (1, 3), (2, 4), count=7)
    sure = dict.fromkeys(inner, 0.9)
    # Of the three pairs between the groups one is taken for a pair of one group, and the two others outvote it.
    parted = groups_of(graph.edges, shares(graph, sure | {(2, 3): 0.8, (1, 3): 0.2, (2, 4): 0.3}), 7)
    assert parted.tolist() == [0, 0, 0, 1, 1, 1, 2]
    whole = groups_of(graph.edges, shares(graph, sure | {(2, 3): 0.8, (1, 3): 0.4, (2, 4): 0.4}), 7)
    assert whole.tolist() == [0] * 6 + [1]


@given(graphs, st.integers(0, 10**6))
def test_groups_of_pairs_that_agree_are_the_connected_parts(graph: DetectionGraph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, len(graph))
    same = classes[graph.edges[0]] == classes[graph.edges[1]]
    groups = groups_of(graph.edges, np.where(same, 0.9, 0.05), len(graph))
    parts = DetectionGraph(graph.detections, graph.edges[:, same])
    np.testing.assert_array_equal(groups, classical.connected_clusters(parts))


@given(graphs, st.integers(0, 10**6))
def test_no_two_groups_would_rather_be_one(graph: DetectionGraph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = {pair: float(rng.uniform(0, 1)) for pair in zip(*graph.pairs.tolist(), strict=True)}
    groups = groups_of(graph.edges, shares(graph, pairs), len(graph))
    between = np.zeros((len(graph), len(graph)))
    for (i, j), share in pairs.items():
        between[groups[i], groups[j]] += np.log(share / (1 - share))
    between += between.T
    assert (between[~np.eye(len(graph), dtype=bool)] <= 1e-9).all()
    # Each group holds together: it is connected by pairs that speak for it or were outvoted only in part.
    parts = classical.connected_clusters(graph)
    assert all(len({int(parts[i]) for i in np.flatnonzero(groups == g)}) == 1 for g in set(groups.tolist()))
