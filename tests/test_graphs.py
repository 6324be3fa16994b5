"""Feature networks as data: the graphs are the papers', bad ones are refused, and a new one takes ten lines."""

from __future__ import annotations

import msgspec
import pytest
import torch

from phidet import create_model
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.efficientdet.published import detector_config
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.architectures.feature_networks.graphs import GRAPHS, FeatureGraph, Node, build_graph
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import from_json, replace, to_json

RANGES = [(3, 7), (3, 8), (2, 5), (1, 2), (4, 9)]
EVERY = [(name, *r) for name in GRAPHS for r in RANGES if name != "nas-fpn" or r == (3, 7)] + [("nas-fpn", 2, 6)]


def reached(graph: FeatureGraph) -> dict[int, set[int]]:
    """For each output level, the input levels that it depends on."""
    sources = [{level} for level in graph.levels]
    for node in graph.nodes:
        sources.append(set().union(*(sources[i] for i in node.inputs)))
    return {level: sources[i] for level, i in zip(graph.levels, graph.outputs, strict=True)}


def described(graph: FeatureGraph) -> list[str]:
    """Each node as its level and the levels that it fuses; a quote marks a node, so P4' is a node on level 4."""
    width, counts = len(graph.levels), dict.fromkeys(graph.levels, 0)
    names = [f"P{level}" for level in graph.levels]
    lines = []
    for node in graph.nodes:
        counts[node.level] += 1
        names.append(f"P{node.level}" + "'" * counts[node.level])
        lines.append(f"{names[-1]} = {' + '.join(names[i] for i in node.inputs)}")
    assert len(names) == width + len(lines)
    return lines


# --- what each graph is -----------------------------------------------------------------------------------------------


def test_fpn() -> None:
    """1612.03144: one node per level; each adds the coarser one."""
    assert described(build_graph("fpn", 3, 7)) == [
        "P7' = P7",
        "P6' = P6 + P7'",
        "P5' = P5 + P6'",
        "P4' = P4 + P5'",
        "P3' = P3 + P4'",
    ]


def test_panet() -> None:
    """1803.01534: FPN, then upwards over its results; the finest level is ready after the way down."""
    assert described(build_graph("panet", 3, 5)) == [
        "P5' = P5",
        "P4' = P4 + P5'",
        "P3' = P3 + P4'",
        "P4'' = P4' + P3'",
        "P5'' = P5' + P4''",
    ]


def test_simplified_panet() -> None:
    """1911.09070, section 3.2: no node with one input."""
    assert described(build_graph("simplified-panet", 3, 5)) == [
        "P4' = P4 + P5",
        "P3' = P3 + P4'",
        "P4'' = P4' + P3'",
        "P5' = P5 + P4''",
    ]


def test_bifpn() -> None:
    """1911.09070, figure 2 (d), in checkpoint order: P4'' to P6'' also see their own input."""
    assert described(build_graph("bifpn", 3, 7)) == [
        "P6' = P6 + P7",
        "P5' = P5 + P6'",
        "P4' = P4 + P5'",
        "P3' = P3 + P4'",
        "P4'' = P4 + P4' + P3'",
        "P5'' = P5 + P5' + P4''",
        "P6'' = P6 + P6' + P5''",
        "P7' = P7 + P6''",
    ]


def test_fully_connected() -> None:
    """1911.09070, table 5: every output sees every input directly."""
    graph = build_graph("fully-connected-fpn", 3, 5)
    assert described(graph) == [f"P{level}' = P3 + P4 + P5" for level in (3, 4, 5)]


def test_nas_fpn() -> None:
    """1904.07392, figure 7: seven merging cells, in the order of the search's result."""
    assert described(build_graph("nas-fpn", 3, 7)) == [
        "P4' = P4 + P6",
        "P4'' = P4 + P4'",
        "P3' = P3 + P4''",
        "P4''' = P4'' + P3'",
        "P5' = P3' + P4''' + P5",
        "P7' = P4'' + P5' + P7",
        "P6' = P5' + P7'",
    ]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_counts_of_nodes_and_edges(low: int, high: int) -> None:
    """For n levels. BiFPN: n − 1 nodes down, n − 1 up, and one extra edge at each of the n − 2 levels between."""
    n = high - low + 1
    counts = {
        name: (len(graph.nodes), sum(len(node.inputs) for node in graph.nodes))
        for name in set(GRAPHS) - {"nas-fpn"}
        for graph in [build_graph(name, low, high)]
    }
    assert counts == {
        "fpn": (n, 2 * n - 1),
        "panet": (2 * n - 1, 4 * n - 3),
        "simplified-panet": (2 * n - 2, 4 * n - 4),
        "bifpn": (2 * n - 2, 4 * n - 4 + n - 2),
        "fully-connected-fpn": (n, n * n),
    }


# --- laws of all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "low", "high"), EVERY)
def test_a_graph_is_in_order_and_uses_what_it_has(name: str, low: int, high: int) -> None:
    """Nodes read only earlier maps, no node and no input is idle, outputs stand on their levels, the name is kept."""
    graph = build_graph(name, low, high)
    width = len(graph.levels)
    read: set[int] = set(graph.outputs)
    for i, node in enumerate(graph.nodes):
        assert all(index < width + i for index in node.inputs)
        assert len(set(node.inputs)) == len(node.inputs)
        read.update(node.inputs)
    assert read == set(range(width + len(graph.nodes)))
    assert [graph.level_of(i) for i in graph.outputs] == list(range(low, high + 1))
    assert (graph.name, list(graph.levels)) == (name, list(range(low, high + 1)))


@pytest.mark.parametrize(("name", "low", "high"), EVERY)
def test_who_sees_whom(name: str, low: int, high: int) -> None:
    """FPN is one-way (section 3.2): a level sees itself and the coarser ones. All others reach every level,
    NAS-FPN after two cells."""
    for level, sources in reached(build_graph(name, low, high)).items():
        if name == "fpn":
            assert sources == set(range(level, high + 1))
        elif name == "nas-fpn":
            # Outputs 3 and 4 come before P5 and P7 are read, 5 before P7: these reach them in the next cell.
            unseen = {0: {low + 2, high}, 1: {low + 2, high}, 2: {high}}.get(level - low, set())
            assert sources == set(range(low, high + 1)) - unseen
            again = set().union(*(reached(build_graph(name, low, high))[s] for s in sources))
            assert again == set(range(low, high + 1))
        else:
            assert sources == set(range(low, high + 1))


@pytest.mark.parametrize(("name", "low", "high"), EVERY)
def test_graphs_survive_json(name: str, low: int, high: int) -> None:
    """A graph of one's own travels inside the config."""
    graph = build_graph(name, low, high)
    assert msgspec.json.decode(msgspec.json.encode(graph), type=FeatureGraph) == graph


# --- bad ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ((Node(3, ()),), (2, 1), r"node 0: inputs \(\) must name one or more earlier maps, 0\.\.1"),
        ((Node(3, (0, 2)),), (2, 1), r"node 0: inputs \(0, 2\) must name .* 0\.\.1"),  # itself
        ((Node(3, (0, 3)), Node(4, (1, 2))), (2, 3), r"node 0: inputs \(0, 3\)"),  # a cycle: each reads the other
        ((Node(3, (0, 1)), Node(4, (1, 7))), (2, 3), r"node 1: inputs \(1, 7\) must name .* 0\.\.2"),
        ((Node(3, (-1,)),), (2, 1), r"node 0: inputs \(-1,\)"),
        ((Node(5, (0,)),), (0, 1), r"node 0: level 5 is not in 3\.\.4"),
        ((Node(3, (0, 1)),), (2,), r"outputs \(2,\) stand on levels \[3\], expected \[3, 4\]"),
        ((Node(3, (0, 1)),), (1, 2), r"stand on levels \[4, 3\], expected \[3, 4\]"),
        ((Node(3, (0, 1)),), (2, 9), r"stand on levels \[3, None\], expected \[3, 4\]"),
        ((Node(3, (0, 1)),), (2, -1), r"stand on levels \[3, None\], expected \[3, 4\]"),
    ],
)
def test_bad_graphs(nodes: tuple[Node, ...], outputs: tuple[int, ...], message: str) -> None:
    """Refused when written: unknown maps, forward references and so cycles, missing or misplaced outputs."""
    with pytest.raises(ConfigError, match=r"graph 'mine'.*" + message):
        FeatureGraph(name="mine", min_level=3, max_level=4, nodes=nodes, outputs=outputs)


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"nas-fpn"}))
@pytest.mark.parametrize(("low", "high"), [(4, 4), (7, 3)])
def test_one_level_is_no_pyramid(name: str, low: int, high: int) -> None:
    with pytest.raises(ConfigError, match=rf"at least two levels, finest first, got {low}\.\.{high}"):
        build_graph(name, low, high)


def test_one_level_is_no_graph_of_ones_own() -> None:
    with pytest.raises(ConfigError, match=r"graph 'mine' needs at least two levels, got 4\.\.4"):
        FeatureGraph(name="mine", min_level=4, max_level=4, nodes=(Node(4, (0,)),), outputs=(1,))


def test_nas_fpn_needs_five_levels() -> None:
    with pytest.raises(ConfigError, match=r"five levels, got 3\.\.6: choose e\.g\. 3\.\.7"):
        build_graph("nas-fpn", 3, 6)


def test_unknown_graphs() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown feature network 'bifnp'\. Did you mean bifpn"):
        build_graph("bifnp", 3, 7)


# --- one's own --------------------------------------------------------------------------------------------------------


def test_a_graph_of_ones_own_in_ten_lines() -> None:
    """Every level fuses its finer and coarser neighbour; it trains, and travels in the config."""
    levels = range(3, 8)
    nodes = tuple(Node(level, tuple(i for i in range(5) if abs(levels[i] - level) <= 1)) for level in levels)
    graph = FeatureGraph(name="neighbours", min_level=3, max_level=7, nodes=nodes, outputs=(5, 6, 7, 8, 9))
    network = FeatureNetworkConfig(channels=16, repeats=2, graph=graph)
    backbone = BackboneConfig(architecture="efficientnet-lite", width=0.5, depth=0.3)
    config = replace(detector_config("efficientdet-lite0"), {"feature_network": network, "backbone": backbone})

    assert from_json(to_json(config), type(config)) == config
    torch.manual_seed(0)
    model = create_model(config, num_classes=2)
    images = torch.randn(2, 3, 128, 160)
    sum(o.square().mean() for o in model(images)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # Two repeats of neighbours only: level 7 reaches level 5 and no finer one.
    model.eval()
    maps = {level: torch.randn(1, model.backbone.channels[level], 256 >> level, 256 >> level) for level in (3, 4, 5)}
    with torch.no_grad():
        before = model.feature_network(maps)
        coarser = model.feature_network.coarser
        assert coarser is not None
        coarser.bn.bias[:] += 1.0  # moves levels 6 and 7
        after = model.feature_network(maps)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, False, False, False]


def test_levels_must_match() -> None:
    with pytest.raises(ConfigError, match=r"graph 'fpn' stands on levels 3\.\.6, the feature network on 3\.\.7"):
        FeatureNetworkConfig(channels=16, repeats=1, graph=build_graph("fpn", 3, 6))
