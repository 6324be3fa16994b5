"""Feature networks as drawings.

A :class:`~phidet.architectures.feature_networks.graphs.FeatureGraph` in, one standalone SVG document out.

Levels are rows, the coarsest on top; columns lead from the inputs at the left to the outputs at the right. A node
stands in the first column right of everything that it reads, or directly above or below a map of the next row, so that
a chain through the levels is one upright line. Edges bend between columns only. Where an edge passes a column it is
horizontal, beside the nodes and at a height of its own, so it runs through no third node.

Lengths are SVG user units (pixels at scale 1), y points down. A map is named by its index in the graph; the output of
the i-th level stands at index ``number of maps + i``, so that arrows out are routed like edges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import count, pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from phidet.architectures.feature_networks.graphs import FeatureGraph
from phidet.detections.draw import shorten

Point = tuple[float, float]

NODE_WIDTH, NODE_HEIGHT = 64.0, 34.0  # least height; more edges at a side make all nodes higher
GUTTER = 48.0  # between the nodes of two rows
LEFT, TOP = 196.0, 84.0  # centre of the inputs; where the highest edge may run
STEP, STEP_PER_INPUT = 150.0, 64.0  # between columns: room for the edges of the busiest node
PORT = 9.0  # between two edges at one side of a node or in one column
ARROW = 8.0  # length of an arrow's head

INK, SOFT = "#1f2933", "#52606d"
KINDS = {  # kind of edge: colour, distinguishable for colour-blind readers, and legend
    "same": ("#323f4b", "same level"),
    "downsample": ("#0072b2", "downsample (to coarser)"),
    "upsample": ("#d55e00", "upsample (to finer)"),
    "output": ("#7b8794", "output"),
}
ROLES = {  # role of a map: fill, text colour, and legend
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


class _Layout(NamedTuple):
    """Positions: centres by index, the height of all nodes, and the points of each edge."""

    centres: list[Point]
    height: float
    lines: dict[_Edge, list[Point]]


def _edges(graph: FeatureGraph) -> list[_Edge]:
    """All edges in the order of the nodes and their inputs, then one arrow out for every level."""
    edges = []
    for target, node in enumerate(graph.nodes, start=len(graph.levels)):
        for order, source in enumerate(node.inputs):
            rise = node.level - graph.level_of(source)
            kind = "same" if rise == 0 else "downsample" if rise > 0 else "upsample"
            edges.append(_Edge(source, target, order, kind))
    first = len(graph.levels) + len(graph.nodes)
    return edges + [_Edge(source, first + i, 0, "output") for i, source in enumerate(graph.outputs)]


def _columns(graph: FeatureGraph) -> list[int]:
    """The column of each map, then of the outputs."""
    columns = [0 for _ in graph.levels]
    for node in graph.nodes:
        # Right of all maps of its own level, which would lie below it; and right of what it reads, unless that is the
        # next level's, which an upright line reaches.
        row = [column + 1 for i, column in enumerate(columns) if graph.level_of(i) == node.level]
        read = [columns[i] + (abs(graph.level_of(i) - node.level) != 1) for i in node.inputs]
        columns.append(max(row + read))
    return columns + [max(columns) + 1 for _ in graph.levels]


def _layout(graph: FeatureGraph) -> _Layout:
    edges, columns = _edges(graph), _columns(graph)
    levels = [*map(graph.level_of, range(len(columns) - len(graph.levels))), *graph.levels]
    upright, across = defaultdict(list), []
    for edge in edges:
        if columns[edge.source] == columns[edge.target]:
            upright[edge.source, edge.target].append(edge)
        else:
            across.append(edge)
    # All nodes are as high as the one with the most edges at one side needs.
    busiest = Counter([(e.source, "out") for e in across] + [(e.target, "in") for e in across]).most_common(1)[0][1]
    height = max(NODE_HEIGHT, PORT * busiest + 10)
    step = max(STEP, STEP_PER_INPUT * max((len(node.inputs) for node in graph.nodes), default=0))
    centres = [
        (LEFT + column * step, TOP + (graph.max_level - level + 0.5) * (height + GUTTER))
        for column, level in zip(columns, levels, strict=True)
    ]
    lines = _ports(_passes(across, centres, height, step), centres, height)
    for (source, target), twins in upright.items():  # a node may read a map more than once
        (x, start), (_, end) = centres[source], centres[target]
        half = height / 2 if end > start else -height / 2
        gap = min(PORT, (NODE_WIDTH - 20) / len(twins))
        for i, edge in enumerate(twins):
            aside = x + (i - (len(twins) - 1) / 2) * gap
            lines[edge] = [(aside, start + half), (aside, end - half)]
    return _Layout(centres, height, {edge: lines[edge] for edge in edges})


def _passes(edges: list[_Edge], centres: list[Point], height: float, step: float) -> dict[_Edge, list[Point]]:
    """The centres that each edge joins, and between them where it passes columns: next to the straight way."""
    taken: defaultdict[float, list[float]] = defaultdict(list)  # heights of edges by the x of a column
    lines = {}
    # Edges within a row come first, so that most of them are straight; then short ones.
    for edge in sorted(edges, key=lambda e: (e.kind not in ("same", "output"), e.target - e.source)):
        (x, start), (last, end) = centres[edge.source], centres[edge.target]
        lines[edge] = [(x, start)]
        while (x := x + step) < last:
            straight = start + (end - start) * (x - centres[edge.source][0]) / (last - centres[edge.source][0])
            nodes = [node_y for node_x, node_y in centres if node_x == x]
            # From the straight way outwards, until there is room between the nodes and the other edges of this column.
            y = next(
                y
                for k in count()
                for y in (straight - 3 * k, straight + 3 * k)
                if y >= TOP
                and all(abs(y - other) >= PORT for other in taken[x])
                and all(abs(y - node) >= height / 2 + PORT for node in nodes)
            )
            taken[x].append(y)
            lines[edge].append((x, y))
        lines[edge].append((last, end))
    return lines


def _ports(lines: dict[_Edge, list[Point]], centres: list[Point], height: float) -> dict[_Edge, list[Point]]:
    """Lines from right side to left side, with the ports of a side in the order in which its edges come in."""
    sides = defaultdict(list)
    for edge, line in lines.items():
        sides[edge.source, 0].append((line[1][1], edge))
        sides[edge.target, -1].append((line[-2][1], edge))
    ports: dict[tuple[_Edge, int], float] = {}
    for (index, end), side in sides.items():
        side.sort()
        y, middle = centres[index][1], (len(side) - 1) / 2
        for i, (height_before, _) in enumerate(side):  # a straight edge stays straight where there is room
            if height_before == y and max(i, len(side) - 1 - i) * PORT <= height / 2 - 5:
                middle = i
        ports |= {(edge, end): y + (i - middle) * PORT for i, (_, edge) in enumerate(side)}
    routed, half = {}, NODE_WIDTH / 2
    for edge, ((left, _), *passes, (right, _)) in lines.items():
        into = right - half, ports[edge, -1]
        routed[edge] = [
            (left + half, ports[edge, 0]),
            *((x + aside, y) for x, y in passes for aside in (-half, half)),
            (into[0] - ARROW, into[1]),  # the head lies on a straight end
            into,
        ]
    return routed


def _names(graph: FeatureGraph) -> list[str]:
    """The name of each map: "P5 in", then a prime for every node so far on its level as for derivatives: "P5′"."""
    names, seen = [f"P{level} in" for level in graph.levels], Counter[int]()
    for node in graph.nodes:
        seen[node.level] += 1
        count = seen[node.level]
        names.append(f"P{node.level}" + ("′" * count if count < 4 else f"({count})"))
    return names + [f"P{level} out" for level in graph.levels]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def _edge_svg(edge: _Edge, line: list[Point], names: list[str], inputs: int) -> str:
    path = f"M{line[0][0]:.1f} {line[0][1]:.1f}"
    for (x, y), (next_x, next_y) in pairwise(line):  # flat at both ends
        middle = (x + next_x) / 2
        # Control points level with both ends: lines leave a column as they enter the next one.
        path += f"C{middle:.1f} {y:.1f} {middle:.1f} {next_y:.1f} {next_x:.1f} {next_y:.1f}"
    colour, words = KINDS[edge.kind]
    tip = f"{names[edge.source]} → {names[edge.target]}"
    tip += "" if edge.kind == "output" else f", {words}, input {edge.order + 1} of {inputs}"
    return (
        f'<g class="edge" data-from="{edge.source}" data-to="{edge.target}" data-input="{edge.order}" '
        f'data-kind="{edge.kind}"><title>{tip}</title>'
        # A white line below, so that crossings can be told from joints.
        f'<path d="{path}" stroke="#fff" stroke-width="5"/>'
        f'<path d="{path}" stroke="{colour}" marker-end="url(#{edge.kind})"/></g>'
    )


def _node_svg(index: int, graph: FeatureGraph, sheet: _Layout, name: str) -> str:
    x, y = sheet.centres[index]
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
    sheet, names = _layout(graph), _names(graph)
    reads = {i: node.inputs for i, node in enumerate(graph.nodes, start=len(graph.levels))}
    out = sheet.centres[-1][0] - NODE_WIDTH / 2
    width = max(out + 84, 760)
    lowest = max(y for line in sheet.lines.values() for _, y in line)
    height = max(lowest, max(y for _, y in sheet.centres) + sheet.height / 2) + 100
    name = "".join(c if c.isprintable() else "\ufffd" for c in graph.name)  # XML does not allow control characters
    fitting = int(width - 48) // 14  # letters of the headline
    headline = shorten(name, lambda part: len(part) <= fitting)
    facts = f"levels {graph.min_level} to {graph.max_level}, {len(reads)} nodes, {sum(map(len, reads.values()))} edges"
    title = f"Feature network {name}"
    # The same in words, for those who cannot see the drawing.
    words = [f"{names[i]} reads {', '.join(names[j] for j in read)}." for i, read in reads.items()]
    words += [f"{names[i]} leaves as P{level} out." for level, i in zip(graph.levels, graph.outputs, strict=True)]
    body = [
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(facts.capitalize())}. {' '.join(words)}</desc>",
        *_markers(),
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#fff"/>',
        _text(24, 38, headline, ' font-size="20" font-weight="bold"'),
        _text(24, 60, facts, f' fill="{SOFT}"'),
        *_rows(graph, sheet, out + 8),
        '<g fill="none" stroke-width="1.8">',
        *(_edge_svg(edge, line, names, len(reads.get(edge.target, ()))) for edge, line in sheet.lines.items()),
        "</g>",
        *(_node_svg(i, graph, sheet, names[i]) for i in range(len(graph.levels) + len(reads))),
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


def _rows(graph: FeatureGraph, sheet: _Layout, right: float) -> list[str]:
    """The labels beside each row: the level at the left, the output's name at the right."""
    rows = []
    for level in reversed(graph.levels):
        y = sheet.centres[level - graph.min_level][1] + 5
        rows.append(_text(24, y, f"P{level} · stride {2**level}", f' fill="{SOFT}"'))
        rows.append(_text(right, y, f"P{level} out"))
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
