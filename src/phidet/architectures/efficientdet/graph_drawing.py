"""Feature networks as pictures: a :class:`~phidet.architectures.efficientdet.graphs.FeatureGraph` in, one standalone
SVG document out.

The levels are rows, the coarsest on top, and maps flow from the inputs at the left to the outputs at the right:
a node stands right of everything that it reads. How the picture is made, in this order:

1. ``_columns``: a node stands a full step right of what it reads, but only a slant right of a map on the next
   row, so that a chain through the levels reads as one leaning column with an upright arrow at every step.
2. ``_ports``: every edge gets a place of its own on the boundary of both its nodes.
3. ``_routes``: every edge tries a few curves and keeps the cheapest: short, beside no other edge, through no
   node. The last ones tried keep to the gutters between the rows, where no node stands, so one always fits.

Lengths are SVG user units (pixels at scale 1), y points down. A map is named by its index in the graph; the
output of the i-th level stands at index ``number of maps + i``, so that arrows out are routed like edges.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from phidet.architectures.efficientdet.graphs import FeatureGraph

Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]  # a cubic Bézier: start, two handles, end
Route = list[Curve]

NODE_WIDTH, NODE_HEIGHT = 64.0, 34.0  # least height; more ports on a side make all nodes higher
GUTTER = 62.0  # between the nodes of two rows
LEFT, TOP = 196.0, 84.0  # centre of the inputs; where edges that run above the top row run
SLANT = 36.0  # from a map to the node that reads it on the next row
STEP, STEP_PER_INPUT = 150.0, 64.0  # from a map to any other node that reads it: room for the edges of the busiest
UPRIGHT = 100.0  # how far right a node on the next row may stand and still be read through its top or bottom
PORT = 9.0  # between two edges at one side of a node
ARROW = 8.0  # length of an arrow's head
CELL = 6.0  # edges nearer than about this count as beside each other

INK, SOFT = "#1f2933", "#52606d"
KINDS = {  # what an edge does: its colour, which differs for colour-blind eyes as well, and its legend
    "same": ("#323f4b", "same level"),
    "downsample": ("#0072b2", "downsample (to coarser)"),
    "upsample": ("#d55e00", "upsample (to finer)"),
    "output": ("#7b8794", "output"),
}
ROLES = {  # what a map is to the network: its fill, the ink on it, and its legend
    "input": ("#e4e9f0", INK, "input"),
    "inner": ("#fff", INK, "node"),
    "output": (INK, "#fff", "node that leaves the network"),
}


class _Edge(NamedTuple):
    """``target`` reads ``source`` as its input number ``order``."""

    source: int
    target: int
    order: int
    kind: str


@dataclass(frozen=True)
class _Sheet:
    """Where everything stands. ``xs`` and ``rows`` go by index; row 0 is the coarsest level."""

    xs: list[float]
    rows: list[int]
    maps: int
    step: float
    height: float = NODE_HEIGHT

    def y(self, row: float) -> float:
        return TOP + (row + 0.5) * (self.height + GUTTER)

    def centre(self, index: int) -> Point:
        return self.xs[index], self.y(self.rows[index])

    def stacked(self, edge: _Edge) -> bool:
        """Whether the edge runs upright between two neighbouring rows, not from right side to left side."""
        near = self.xs[edge.target] - self.xs[edge.source] <= UPRIGHT
        return near and abs(self.rows[edge.target] - self.rows[edge.source]) == 1

    def inside(self, index: int, point: Point, margin: float) -> bool:
        x, y = self.centre(index)
        return abs(point[0] - x) < NODE_WIDTH / 2 + margin and abs(point[1] - y) < self.height / 2 + margin

    def between(self, edge: _Edge) -> bool:
        """Whether a third node stands on the straight line of an edge within one row."""
        a, b = self.xs[edge.source], self.xs[edge.target]
        row = self.rows[edge.source]
        return any(a < self.xs[i] < b and self.rows[i] == row for i in range(self.maps))


def _edges(graph: FeatureGraph) -> list[_Edge]:
    """All edges in the order of the nodes and their inputs, then one arrow out for every level."""
    width, edges = len(graph.levels), []
    for target, node in enumerate(graph.nodes, start=width):
        for order, source in enumerate(node.inputs):
            rise = node.level - graph.level_of(source)
            kind = "same" if rise == 0 else "downsample" if rise > 0 else "upsample"
            edges.append(_Edge(source, target, order, kind))
    first = width + len(graph.nodes)
    return edges + [_Edge(source, first + i, 0, "output") for i, source in enumerate(graph.outputs)]


def _columns(graph: FeatureGraph) -> _Sheet:
    """Places for all maps and outputs; nodes of one row stand at least a step apart, in the order of the graph."""
    levels = [graph.level_of(i) for i in range(len(graph.levels) + len(graph.nodes))]
    step = max(STEP, STEP_PER_INPUT * max((len(node.inputs) for node in graph.nodes), default=0))
    xs = [LEFT for _ in graph.levels]
    for node in graph.nodes:
        row = [x + step for x, level in zip(xs, levels, strict=False) if level == node.level]
        read = [xs[i] + (SLANT if abs(levels[i] - node.level) == 1 else step) for i in node.inputs]
        xs.append(max(row + read))
    out = max(xs) + NODE_WIDTH / 2 + 64
    rows = [graph.max_level - level for level in [*levels, *graph.levels]]
    return _Sheet(xs + [out for _ in graph.levels], rows, len(levels), step)


def _ports(edges: list[_Edge], sheet: _Sheet) -> tuple[_Sheet, dict[_Edge, tuple[Point, Point]]]:
    """The two end points of every edge, and the sheet with nodes high enough for them.

    On a side, ports are ordered as the edges come in, so that they do not cross there; a straight edge within
    the row gets the middle if there is room, and nodes grow a little for that.
    """
    sides = defaultdict(list)
    for edge in edges:
        if not sheet.stacked(edge):
            sides[edge.source, "right"].append(edge)
            sides[edge.target, "left"].append(edge)
    shift: dict[tuple[_Edge, str], float] = {}
    for (index, name), side in sides.items():
        side.sort(key=lambda edge: _slope(edge, index, sheet))
        straight = [i for i, edge in enumerate(side) if _slope(edge, index, sheet) == 0]
        middle = straight[0] if straight else (len(side) - 1) / 2
        if max(middle, len(side) - 1 - middle) > 2:
            middle = (len(side) - 1) / 2
        shift.update({(edge, name): (i - middle) * PORT for i, edge in enumerate(side)})
    furthest = max(abs(offset) for offset in shift.values())
    sheet = replace(sheet, height=max(NODE_HEIGHT, 2 * furthest + 10))

    twins = Counter(edge[:2] for edge in edges)  # a node may read a map more than once
    drawn = Counter[tuple[int, int]]()
    ends = {}
    for edge in edges:
        (ax, ay), (bx, by) = sheet.centre(edge.source), sheet.centre(edge.target)
        if sheet.stacked(edge):
            count, inward = twins[edge[:2]], min((bx - ax) / 2, 20)
            aside = (drawn[edge[:2]] - (count - 1) / 2) * min(PORT, 20 / count)
            drawn[edge[:2]] += 1
            half = math.copysign(sheet.height / 2, by - ay)
            ends[edge] = (ax + inward + aside, ay + half), (bx - inward + aside, by - half)
        else:
            reach = NODE_WIDTH / 2 if edge.target < sheet.maps else 0
            a, b = shift[edge, "right"], shift[edge, "left"]
            ends[edge] = (ax + NODE_WIDTH / 2, ay + a), (bx - reach, by + b)
    return sheet, ends


def _slope(edge: _Edge, index: int, sheet: _Sheet) -> float:
    """How steeply the edge leaves the node ``index``, negative upwards; longer bows over a row lie higher."""
    other = edge.target if index == edge.source else edge.source
    (x, y), (other_x, other_y) = sheet.centre(index), sheet.centre(other)
    if y == other_y:
        return -1e-6 * abs(other_x - x) if sheet.between(edge) else 0
    return (other_y - y) / abs(other_x - x)


def _rounded(corners: list[Point], radius: float = 12.0) -> Route:
    """A line along these corners with each of them rounded."""
    route, here = [], corners[0]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        cut = min(radius, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        a, b = _towards(corner, before, cut), _towards(corner, after, cut)
        route += [(here, here, a, a), (a, corner, corner, b)]
        here = b
    return [*route, (here, here, corners[-1], corners[-1])]


def _towards(a: Point, b: Point, distance: float) -> Point:
    share = distance / (math.dist(a, b) or 1)
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _detour(edge: _Edge, ends: tuple[Point, Point], sheet: _Sheet, lane: float) -> Route:
    """A route through gutters and gaps only, ``lane`` units off their middle: it cannot meet a third node."""
    (ax, ay), (bx, by) = ends
    row, last = sheet.rows[edge.source], sheet.rows[edge.target]
    way = 1 if last > row else -1
    gutter = row + way / 2
    x = ax + 24 + lane
    corners = [(ax, ay), (x, ay), (x, sheet.y(gutter) + lane)]
    for passed in range(row + way, last, way):
        wish = ax + (bx - ax) * (passed - row) / (last - row)
        gaps = [sheet.xs[i] + sheet.step / 2 for i in range(sheet.maps) if sheet.rows[i] == passed]
        x = min(gaps, key=lambda gap: abs(gap - wish)) + lane
        gutter = passed + way / 2
        corners += [(x, corners[-1][1]), (x, sheet.y(gutter) + lane)]
    x = bx - 24 + lane
    return _rounded([*corners, (x, corners[-1][1]), (x, by), (bx, by)])


def _candidates(edge: _Edge, ends: tuple[Point, Point], sheet: _Sheet) -> Iterator[Route]:
    (ax, ay), (bx, by) = ends
    if sheet.stacked(edge):
        middle = (ay + by) / 2
        yield [((ax, ay), (ax, middle), (bx, middle), (bx, by))]
        return
    width = bx - ax
    if sheet.rows[edge.source] == sheet.rows[edge.target]:
        for bow in (0, -44, -54, -64, 44, 54, 64):
            for reach in (0.25 * width, 0.1 * width):
                yield [((ax, ay), (ax + reach, ay + bow), (bx - reach, by + bow), (bx, by))]
    else:
        tip = (bx - ARROW, by)  # the head lies on a straight end, else it would seem to point past a steep one
        for out, into in ((0.4, 0.4), (0.2, 0.2), (0.1, 0.6), (0.6, 0.1)):
            yield [((ax, ay), (ax + out * width, ay), (tip[0] - into * width, by), tip), (tip, tip, (bx, by), (bx, by))]
    for lane in (0, -8, 8, -16, 16):
        yield _detour(edge, ends, sheet, lane)


def _samples(route: Route) -> Iterator[Point]:
    """Points along the route, a few units apart."""
    for a, b, c, d in route:
        count = math.ceil((math.dist(a, b) + math.dist(b, c) + math.dist(c, d)) / 4) or 1
        for t in (i / count for i in range(count + 1)):
            p, q, r, s = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            yield p * a[0] + q * b[0] + r * c[0] + s * d[0], p * a[1] + q * b[1] + r * c[1] + s * d[1]


def _cell(point: Point) -> tuple[int, int]:
    return round(point[0] / CELL), round(point[1] / CELL)


def _route_cost(route: Route, sheet: _Sheet, others: list[int], taken: set[tuple[int, int]]) -> float:
    """Its length, the cells that it shares with other edges, and far above both the maps that it runs through."""
    points = list(_samples(route))
    through = sum(sheet.inside(i, point, 6) for i in others for point in points)
    beside = sum(_cell(point) in taken for point in points)
    return 1e6 * through + 8 * beside + 4 * len(points)


def _routes(edges: list[_Edge], sheet: _Sheet, ends: dict[_Edge, tuple[Point, Point]]) -> dict[_Edge, Route]:
    """The cheapest route of every edge; short edges choose first and long ones make way."""
    taken: set[tuple[int, int]] = set()
    routes = {}
    for edge in sorted(edges, key=lambda edge: math.dist(*ends[edge])):
        others = [i for i in range(sheet.maps) if i not in edge[:2]]
        routes[edge] = min(_candidates(edge, ends[edge], sheet), key=lambda r: _route_cost(r, sheet, others, taken))
        taken |= {_cell(point) for point in _samples(routes[edge])}
    return {edge: routes[edge] for edge in edges}


def _names(graph: FeatureGraph) -> list[str]:
    """What each map is called: "P5 in", then a prime for every node so far on its level as for derivatives: "P5′"."""
    names, seen = [f"P{level} in" for level in graph.levels], Counter[int]()
    for node in graph.nodes:
        seen[node.level] += 1
        count = seen[node.level]
        names.append(f"P{node.level}" + ("′" * count if count < 4 else f"({count})"))
    return names + [f"P{level} out" for level in graph.levels]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def _edge_svg(edge: _Edge, route: Route, names: list[str], count: int) -> str:
    path = f"M{route[0][0][0]:.1f} {route[0][0][1]:.1f}" + "".join(
        "C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in curve[1:]) for curve in route
    )
    colour, words = KINDS[edge.kind]
    tip = f"{names[edge.source]} → {names[edge.target]}"
    tip += "" if edge.kind == "output" else f", {words}, input {edge.order + 1} of {count}"
    return (
        f'<g class="edge" data-from="{edge.source}" data-to="{edge.target}" data-input="{edge.order}" '
        f'data-kind="{edge.kind}"><title>{tip}</title>'
        f'<path d="{path}" stroke="#fff" stroke-width="5"/>'
        f'<path d="{path}" stroke="{colour}" marker-end="url(#{edge.kind})"/></g>'
    )


def _node_svg(index: int, graph: FeatureGraph, sheet: _Sheet, name: str) -> str:
    x, y = sheet.centre(index)
    role = "input" if index < len(graph.levels) else "output" if index in graph.outputs else "inner"
    fill, ink, _ = ROLES[role]
    level = graph.level_of(index)
    return (
        f'<g class="node" data-index="{index}" data-level="{level}" data-role="{role}">'
        f"<title>{name}, {role}, stride {2**level}</title>"
        f'<rect x="{x - NODE_WIDTH / 2:g}" y="{y - sheet.height / 2:g}" width="{NODE_WIDTH:g}" '
        f'height="{sheet.height:g}" rx="10" fill="{fill}" stroke="{INK}" stroke-width="1.5"/>'
        + _text(x, y + 5, name, f' fill="{ink}" text-anchor="middle"')
        + "</g>"
    )


def graph_svg(graph: FeatureGraph) -> str:
    """The feature network as a standalone SVG document, the same text for the same graph."""
    edges = _edges(graph)
    sheet, ends = _ports(edges, _columns(graph))
    routes = _routes(edges, sheet, ends)
    names = _names(graph)
    reads = {i: node.inputs for i, node in enumerate(graph.nodes, start=len(graph.levels))}
    width = max(sheet.xs[-1] + 84, 760)
    height = sheet.y(len(graph.levels) - 0.5) + 76
    name = "".join(c if c.isprintable() else "\ufffd" for c in graph.name)  # XML has no word for control characters
    fitting = int(width - 48) // 14  # letters of the headline
    headline = name if len(name) <= fitting else name[: fitting - 1] + "…"
    facts = f"levels {graph.min_level} to {graph.max_level}, {len(reads)} nodes, {sum(map(len, reads.values()))} edges"
    title = f"Feature network {name}"
    words = [f"{names[i]} reads {', '.join(names[j] for j in read)}." for i, read in reads.items()]
    words += [f"{names[i]} leaves as P{level} out." for level, i in zip(graph.levels, graph.outputs, strict=True)]
    body = [
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(facts.capitalize())}. {' '.join(words)}</desc>",
        *_markers(),
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#fff"/>',
        _text(24, 38, headline, ' font-size="20" font-weight="bold"'),
        _text(24, 60, facts, f' fill="{SOFT}"'),
        *_rows(graph, sheet),
        '<g fill="none" stroke-width="1.8">',
        *(_edge_svg(edge, route, names, len(reads.get(edge.target, ()))) for edge, route in routes.items()),
        "</g>",
        *(_node_svg(i, graph, sheet, names[i]) for i in range(sheet.maps)),
        *_legend(height - 46),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={quoteattr(title)} '
        f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}">\n' + "\n".join(body) + "\n</svg>\n"
    )


def _markers() -> list[str]:
    arrows = [
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="{ARROW:g}" markerHeight="{ARROW:g}" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8Z" fill="{colour}"/></marker>'
        for kind, (colour, _) in KINDS.items()
    ]
    return ["<defs>", *arrows, "</defs>"]


def _rows(graph: FeatureGraph, sheet: _Sheet) -> list[str]:
    """What stands beside the nodes of each row: the level at the left, the output's name at the right."""
    rows = []
    for level in reversed(graph.levels):
        y = sheet.y(graph.max_level - level) + 5
        rows.append(_text(24, y, f"P{level} · stride {2**level}", f' fill="{SOFT}"'))
        rows.append(_text(sheet.xs[-1] + 8, y, f"P{level} out"))
    return rows


def _legend(y: float) -> list[str]:
    parts, x = [f'<g font-size="12" fill="{SOFT}">'], 24
    for kind, (colour, words) in KINDS.items():
        line = f'<path d="M{x} {y - 4:g}h34" stroke="{colour}" stroke-width="1.8" marker-end="url(#{kind})"/>'
        parts += [line, _text(x + 42, y, words)]
        x += 70 + 7 * len(words)
    x, y = 24, y + 24
    for fill, _, words in ROLES.values():
        parts.append(f'<rect x="{x}" y="{y - 11:g}" width="22" height="14" rx="4" fill="{fill}" stroke="{INK}"/>')
        parts.append(_text(x + 30, y, words))
        x += 62 + 7 * len(words)
    return [*parts, _text(x, y, "P5′, P5′′: nodes of a level in order"), "</g>"]
