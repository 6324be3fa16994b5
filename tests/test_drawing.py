"""Images of feature networks: what a reader relies on, read back from the SVG alone."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phidet.architectures.efficientdet.graph_drawing import graph_svg
from phidet.architectures.feature_networks.graphs import GRAPHS, FeatureGraph, Node, build_graph

SVG = "{http://www.w3.org/2000/svg}"
RANGES = {name: [(3, 7)] if name == "nas-fpn" else [(3, 7), (2, 5), (0, 1)] for name in GRAPHS}
RANGES["bifpn"].append((3, 8))
# What a user may hand to FeatureNetworkConfig(graph=...): a map read twice, an input that leaves as it is, a skip
# over a row, and a name that is no name for XML.
OWN = FeatureGraph(
    name='my <&> "graph"\x00',
    min_level=3,
    max_level=5,
    nodes=(Node(4, (1, 0, 2)), Node(3, (0, 3)), Node(4, (1, 3, 4)), Node(5, (0, 4, 5, 5)), Node(3, (4, 6))),
    outputs=(7, 5, 2),
)
LONE = FeatureGraph(name="x" * 500, min_level=3, max_level=4, nodes=(), outputs=(0, 1))
KNOWN = [build_graph(name, *levels) for name, ranges in RANGES.items() for levels in ranges]
every_graph = pytest.mark.parametrize("graph", [*KNOWN, OWN, LONE], ids=lambda g: f"{g.name[:12]!r}-{g.max_level}")

Point = tuple[float, float]


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def holds(self, point: Point, margin: float = 0) -> bool:
        x, y = point
        return self.left - margin < x < self.right + margin and self.top - margin < y < self.bottom + margin

    def distance(self, point: Point) -> float:
        """From its border."""
        x, y = point
        outside = math.hypot(max(self.left - x, 0, x - self.right), max(self.top - y, 0, y - self.bottom))
        return outside or min(x - self.left, self.right - x, y - self.top, self.bottom - y)


class Drawing:
    """The SVG of a graph as a reader sees it: boxes of maps, lines of edges, words."""

    def __init__(self, graph: FeatureGraph) -> None:
        self.root = ET.fromstring(graph_svg(graph))
        self.maps: dict[int, ET.Element] = {}
        self.boxes: dict[int, Box] = {}
        self.edges: dict[tuple[int, int, int], ET.Element] = {}
        self.lines: dict[tuple[int, int, int], list[Point]] = {}
        for group in self.root.iter(SVG + "g"):
            if group.get("class") == "node":
                index = int(group.attrib["data-index"])
                assert index not in self.maps
                self.maps[index] = group
                self.boxes[index] = box_of(group.find(SVG + "rect"))
            elif group.get("class") == "edge":
                key = tuple(int(group.attrib[name]) for name in ("data-from", "data-to", "data-input"))
                assert key not in self.edges
                self.edges[key] = group
                halo, line = group.findall(SVG + "path")
                assert halo.attrib["d"] == line.attrib["d"]
                self.lines[key] = points_of(line.attrib["d"])

    @property
    def page(self) -> Box:
        return Box(*(float(value) for value in self.root.attrib["viewBox"].split()))


def box_of(rect: ET.Element | None) -> Box:
    assert rect is not None
    x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
    return Box(x, y, x + width, y + height)


def points_of(path: str) -> list[Point]:
    """Points about 2 units apart on a path of one M and several C."""
    assert re.fullmatch(r"M[-\d. ]+(C[-\d. ]+)+", path)
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    knots = list(zip(numbers[::2], numbers[1::2], strict=True))
    points = []
    for i in range(0, len(knots) - 1, 3):
        curve = knots[i : i + 4]
        steps = 1 + int(sum(math.dist(*pair) for pair in pairwise(curve)) / 2)
        for t in (step / steps for step in range(steps + 1)):
            blend = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            points.append((sum(b * x for b, (x, _) in zip(blend, curve, strict=True)),
                           sum(b * y for b, (_, y) in zip(blend, curve, strict=True))))  # fmt: skip
    return points


def words_of(drawing: Drawing, group: ET.Element | None = None, size: float = 14) -> list[tuple[str, Box]]:
    """All text with about the room it takes in a wide font: 0.62 of its size a letter, 0.7 if bold."""
    found = []
    for element in drawing.root if group is None else group:
        inner = float(element.get("font-size", size))
        if element.tag == SVG + "text":
            text = element.text or ""
            width = len(text) * inner * (0.7 if element.get("font-weight") else 0.62)
            x, y = float(element.attrib["x"]), float(element.attrib["y"])
            left = x - width / 2 if element.get("text-anchor") == "middle" else x
            found.append((text, Box(left, y - 0.75 * inner, left + width, y + 0.25 * inner)))
        else:
            found += words_of(drawing, element, inner)
    return found


def edges_of(graph: FeatureGraph) -> set[tuple[int, int, int]]:
    """(from, to, which input), arrows out of the network among them."""
    width, maps = len(graph.levels), len(graph.levels) + len(graph.nodes)
    inner = {(a, width + i, n) for i, node in enumerate(graph.nodes) for n, a in enumerate(node.inputs)}
    return inner | {(index, maps + i, 0) for i, index in enumerate(graph.outputs)}


def title_of(element: ET.Element) -> str:
    return element.findtext(SVG + "title") or ""


@every_graph
def test_the_same_graph_gives_the_same_document_which_needs_nothing_else(graph: FeatureGraph) -> None:
    text = graph_svg(graph)
    assert text == graph_svg(graph)
    assert text.count("http") == 1  # the namespace
    assert set(re.findall(r"url\(#([\w-]+)\)", text)) <= set(re.findall(r' id="([\w-]+)"', text))
    assert "<image" not in text
    assert "<style" not in text


def test_another_process_draws_the_same() -> None:
    code = (
        "from phidet.architectures.efficientdet.graph_drawing import graph_svg; "
        "from phidet.architectures.feature_networks.graphs import nas_fpn; print(end=graph_svg(nas_fpn(3, 7)))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONUTF8": "1"}
    text = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, encoding="utf-8")
    assert text.stdout == graph_svg(build_graph("nas-fpn", 3, 7))


@every_graph
def test_every_map_and_every_edge_is_drawn_once_under_a_title_of_its_own(graph: FeatureGraph) -> None:
    drawing = Drawing(graph)
    assert set(drawing.maps) == set(range(len(graph.levels) + len(graph.nodes)))
    assert set(drawing.edges) == edges_of(graph)
    names = {index: title_of(group).split(",")[0] for index, group in drawing.maps.items()}
    assert len(set(names.values())) == len(names)
    for index, group in drawing.maps.items():
        assert group.findtext(SVG + "text") == names[index]
        assert names[index].startswith(f"P{graph.level_of(index)}")
        assert title_of(group).endswith(f"stride {2 ** graph.level_of(index)}")
    titles = {title_of(group) for group in drawing.edges.values()}
    assert len(titles) == len(drawing.edges)
    for (a, b, order), group in drawing.edges.items():
        if b in names:
            rise = graph.level_of(b) - graph.level_of(a)
            kind = "same level" if rise == 0 else "downsample" if rise > 0 else "upsample"
            assert title_of(group).startswith(f"{names[a]} → {names[b]}, {kind}")
            assert f"input {order + 1} of" in title_of(group)
        else:
            assert title_of(group) == f"{names[a]} → P{graph.level_of(a)} out"


@every_graph
def test_colours_and_fills_say_what_the_legend_says(graph: FeatureGraph) -> None:
    drawing = Drawing(graph)
    colours = {kind: {line_colour(e) for e in drawing.edges.values() if e.get("data-kind") == kind}
               for kind in ("same", "downsample", "upsample", "output")}  # fmt: skip
    used = [colour for kind in colours.values() for colour in kind]
    assert len(used) == len(set(used))
    assert all(len(kind) <= 1 for kind in colours.values())
    assert all(contrast(colour, "#ffffff") >= 3 for colour in used)  # WCAG 2.2, 1.4.11
    legend = list(drawing.root)[-1]
    assert set(used) <= {path.get("stroke") for path in legend.iter(SVG + "path")}
    fills = {group.find(SVG + "rect").get("fill") for group in drawing.maps.values()}  # type: ignore[union-attr]
    assert fills <= {rect.get("fill") for rect in legend.iter(SVG + "rect")}


def line_colour(edge: ET.Element) -> str:
    line = edge.findall(SVG + "path")[1]
    assert line.attrib["marker-end"] == f"url(#{edge.attrib['data-kind']})"
    return line.attrib["stroke"]


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def assert_readable(graph: FeatureGraph) -> Drawing:
    """Levels as rows, left to right, every edge from its source to its target and through nothing else."""
    drawing = Drawing(graph)
    heights = {}
    for index, box in drawing.boxes.items():
        centre = (box.top + box.bottom) / 2
        assert heights.setdefault(graph.level_of(index), centre) == centre
    assert sorted(heights.values(), reverse=True) == [heights[level] for level in graph.levels]  # coarse on top
    for one, other in combinations(drawing.boxes.values(), 2):
        assert one.right + 10 < other.left or other.right + 10 < one.left or not overlap(one, other, margin=10)

    labels = [box for text, box in words_of(drawing) if not any(inside(box, b) for b in drawing.boxes.values())]
    for (a, b, _), line in drawing.lines.items():
        assert drawing.boxes[a].distance(line[0]) < 3  # corners are round
        assert line[0][0] <= line[-1][0]
        if b in drawing.boxes:
            assert drawing.boxes[b].distance(line[-1]) < 3
            if drawing.boxes[a].left == drawing.boxes[b].left:  # straight up or down to the next row
                assert abs(graph.level_of(a) - graph.level_of(b)) == 1
                assert [x for x, _ in line] == pytest.approx([line[0][0]] * len(line))
            else:
                assert drawing.boxes[a].left < drawing.boxes[b].left
        else:
            assert line[-1][0] > max(box.right for box in drawing.boxes.values())
            assert line[-1][1] == pytest.approx(heights[graph.level_of(a)], abs=1)
        for index, box in drawing.boxes.items():
            if index in (a, b):
                assert not any(box.holds(point, margin=-4) for point in line)
            else:
                assert not any(box.holds(point, margin=4) for point in line), (a, b, index)
        assert all(drawing.page.holds(point) for point in line)
        assert not any(box.holds(point) for box in labels for point in line)
    assert all(inside(box, drawing.page) for box in drawing.boxes.values())
    return drawing


def overlap(one: Box, other: Box, margin: float = 0) -> bool:
    apart = one.right + margin <= other.left or other.right + margin <= one.left
    return not (apart or one.bottom + margin <= other.top or other.bottom + margin <= one.top)


def inside(one: Box, other: Box) -> bool:
    return one.left >= other.left and one.right <= other.right and one.top >= other.top and one.bottom <= other.bottom


@every_graph
def test_an_image_can_be_read(graph: FeatureGraph) -> None:
    drawing = assert_readable(graph)
    words = words_of(drawing)
    for text, box in words:
        assert inside(box, drawing.page), text
    for (text, one), (other_text, other) in combinations(words, 2):
        assert not overlap(one, other), (text, other_text)
    for group in drawing.maps.values():
        [(text, box)] = words_of(drawing, group)
        assert inside(box, box_of(group.find(SVG + "rect"))), text


@every_graph
def test_no_two_edges_run_into_one(graph: FeatureGraph) -> None:
    """Edges may cross; side by side they stay apart, and no two begin or end at one point."""
    lines = [np.array(line) for line in Drawing(graph).lines.values()]
    for one, other in combinations(lines, 2):
        assert math.dist(one[0], other[0]) > 6
        assert math.dist(one[-1], other[-1]) > 6
        beside = np.linalg.norm(one[:, None] - other, axis=-1).min(1) < 3
        steps = np.linalg.norm(np.diff(one, axis=0), axis=-1)
        assert steps[beside[1:]].sum() < 45


@st.composite
def graphs(draw: st.DrawFn) -> FeatureGraph:
    low = draw(st.integers(0, 4))
    width = draw(st.integers(2, 6))
    nodes: list[Node] = []
    for count in range(draw(st.integers(0, 9))):
        inputs = draw(st.lists(st.integers(0, width + count - 1), min_size=1, max_size=4, unique=True))
        nodes.append(Node(draw(st.integers(low, low + width - 1)), tuple(inputs)))
    last = {low + i: i for i in range(width)} | {node.level: width + i for i, node in enumerate(nodes)}
    return FeatureGraph(
        name=draw(st.text(max_size=200)), min_level=low, max_level=low + width - 1, nodes=tuple(nodes),
        outputs=tuple(last[low + i] for i in range(width)),
    )  # fmt: skip


@settings(max_examples=25, derandomize=True)
@given(graphs())
@pytest.mark.repeated
def test_any_graph_can_be_read(graph: FeatureGraph) -> None:
    assert set(assert_readable(graph).edges) == edges_of(graph)


def test_a_stack_of_bifpns_as_one_graph_can_be_read() -> None:
    cell = build_graph("bifpn", 3, 7)
    nodes: list[Node] = []
    tips = list(range(5))
    for _ in range(4):
        new = tips + [5 + len(nodes) + i for i in range(len(cell.nodes))]
        nodes += [Node(node.level, tuple(new[i] for i in node.inputs)) for node in cell.nodes]
        tips = [new[i] for i in cell.outputs]
    graph = FeatureGraph(name="stack", min_level=3, max_level=7, nodes=tuple(nodes), outputs=tuple(tips))
    drawing = assert_readable(graph)
    assert len({title_of(group) for group in drawing.maps.values()}) == 5 + len(nodes)


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    drawing = Drawing(OWN)
    assert drawing.root.attrib["aria-label"] == 'Feature network my <&> "graph"\ufffd'
    assert title_of(drawing.root) == drawing.root.attrib["aria-label"]
    assert words_of(drawing)[0][0] == 'my <&> "graph"\ufffd'
    path = tmp_path / "own.svg"
    path.write_text(graph_svg(OWN), encoding="utf-8")
    assert ET.parse(path).getroot().tag == SVG + "svg"


def test_a_name_too_long_for_the_headline_is_whole_in_the_title() -> None:
    drawing = Drawing(LONE)
    headline = words_of(drawing)[0][0]
    assert headline.endswith("x…")
    assert len(headline) < 60
    assert "x" * 500 in title_of(drawing.root)


def test_a_screen_reader_hears_the_graph() -> None:
    root = Drawing(build_graph("fpn", 3, 5)).root
    assert root.get("role") == "img"
    assert root.findtext(SVG + "desc") == (
        "Levels 3 to 5, 3 nodes, 5 edges. P5′ reads P5 in. P4′ reads P4 in, P5′. P3′ reads P3 in, P4′. "
        "P3′ leaves as P3 out. P4′ leaves as P4 out. P5′ leaves as P5 out."
    )
