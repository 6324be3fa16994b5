"""The structure of the package in numbers, and as a drawing: both are made from the code, so they stay true.

python tools/structure.py                               numbers of this checkout
python tools/structure.py --against main~50             beside those of another commit
python tools/structure.py --draw docs/images/rooms.svg  rooms and the imports between them
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tokenize
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "phidet"
ORDER = (
    *("core", "images", "detections", "data", "architectures", "weights", "evaluation", "inference"),
    *("training", "export", "serve", "cli"),
)
"""Rooms from the bottom up: each may import those before it."""
CONCRETE = re.compile(r"\b(EfficientDet|EFFICIENTDET|Classifier|CLASSIFIER|ModelConfig|ClassifierConfig)\b")
MODEL_KINDS = re.compile(r"isinstance\([^()]*\b(EfficientDet|Classifier|ModelConfig|ClassifierConfig)\b")
TARGET_ROOM = "architectures"


class Import(NamedTuple):
    """One module imports another; ``typing_only`` where only a type checker sees it."""

    source: str
    target: str
    typing_only: bool


def modules(src: Path) -> dict[str, Path]:
    """Dotted name → file, for every module of the package below ``src``."""
    found = {}
    for path in sorted((src / PACKAGE).rglob("*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(src: Path) -> list[Import]:
    """All imports of the package's own modules, at any depth of a file."""
    known = modules(src)
    found = []
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in known else node.module for target in inside]
            found += [Import(name, target, id(node) in typing_only) for target in set(targets) if target in known]
    return found


def room(module: str) -> str:
    """The folder below the package's root that a module lies in; its own name for a file there."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def cycles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    after: dict[str, list[str]] = defaultdict(list)
    for a, b in edges:
        after[a].append(b)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in after[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    for node in sorted({a for a, _ in edges}):
        if node not in index:
            visit(node)
    sys.setrecursionlimit(limit)
    return groups


def numbers(root: Path) -> dict[str, str]:
    """What to compare between two states of the project."""
    src, tests = root / "src", root / "tests"
    files = list(modules(src).values())
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    lines = {path: text.count("\n") for path, text in texts.items()}
    functions = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    comments = sum(
        token.type == tokenize.COMMENT
        for text in texts.values()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )
    found = [one for one in imports(src) if not one.typing_only]
    between = {(room(a), room(b)) for a, b, _ in found if room(a) != room(b)}
    outside = [path for path in files if TARGET_ROOM not in path.relative_to(src).parts]
    code = {path: _without_text(texts[path]) for path in outside}
    entries = [entry for entry in (src / PACKAGE).iterdir() if entry.name != "__pycache__"]
    test_lines = sum(path.read_text(encoding="utf-8").count("\n") for path in tests.rglob("*.py"))
    total = sum(lines.values())
    return {
        "entries of the package's root": str(len(entries)),
        "arrows between rooms": str(len(between)),
        "circles of rooms": str(len(cycles(between))),
        "circles of modules": str(len(cycles({(a, b) for a, b, _ in found if a != b}))),
        "files outside architectures/ that name a concrete architecture": str(
            sum(bool(CONCRETE.search(text)) for text in code.values())
        ),
        "isinstance of models and their configs": str(sum(len(MODEL_KINDS.findall(text)) for text in texts.values())),
        "files": str(len(files)),
        "lines": f"{total:,}",
        "lines of a file: median, longest": f"{statistics.median(lines.values()):g}, {max(lines.values())}",
        "lines of a function: median, longest": f"{statistics.median(functions):g}, {max(functions)}",
        "comments in 100 lines": f"{100 * comments / total:.1f}",
        "test lines per source line": f"{test_lines / total:.2f}",
    }


def _without_text(code: str) -> str:
    """``code`` without its comments, texts and docstrings: a name in a sentence is no dependency."""
    kept = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type not in (tokenize.COMMENT, tokenize.STRING)
    ]
    return " ".join(kept)


def at_commit(commit: str, folder: Path) -> Path:
    """The project as it was at ``commit``, unpacked into ``folder``."""
    command = ["git", "-C", str(ROOT), "archive", commit, "src", "tests"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def draw(src: Path) -> str:
    """Rooms as a column of boxes, the lowest at the bottom, with an arc for each import between two of them."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for a, b, typing_only in imports(src):
        if room(a) != room(b) and not typing_only and PACKAGE not in (room(a), room(b)):
            counts[room(a), room(b)] += 1
    sizes: dict[str, int] = defaultdict(int)
    for name in modules(src):
        sizes[room(name)] += 1
    step, left, width = 46, 250, 150
    height = step * len(ORDER) + 20
    place = {name: height - 10 - step * (i + 1) + 6 for i, name in enumerate(ORDER)}
    size = f'width="{left + width + 260}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14">',
        "<title>The rooms of phidet and the imports between them</title>",
        f'<rect {size} fill="#ffffff"/>',
    ]
    for (a, b), count in sorted(counts.items()):
        down = ORDER.index(a) > ORDER.index(b)
        x = left + width if down else left
        top, bottom = place[a] + 17, place[b] + 17
        bend = (1 if down else -1) * (24 + 0.42 * abs(top - bottom))
        colour = "#0072B2" if down else "#D55E00"
        parts.append(
            f'<path d="M{x},{top} C{x + bend:.0f},{top} {x + bend:.0f},{bottom} {x},{bottom}" fill="none" '
            f'stroke="{colour}" stroke-opacity="0.55" stroke-width="{min(1 + count / 12, 5):.1f}">'
            f"<title>{a} imports {b}: {count}</title></path>"
        )
    for name, y in place.items():
        parts.append(f'<rect x="{left}" y="{y}" width="{width}" height="34" rx="5" fill="#EEF3F7" stroke="#33506B"/>')
        parts.append(f'<text x="{left + 12}" y="{y + 22}" fill="#10202E">{name}</text>')
        label = f"{sizes[name]} files"
        parts.append(f'<text x="{left + width - 10}" y="{y + 22}" text-anchor="end" fill="#5C7183">{label}</text>')
    parts.append('<text x="20" y="24" fill="#D55E00">upwards (none allowed)</text>')
    parts.append(f'<text x="{left + width + 100}" y="24" fill="#0072B2">imports, downwards</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Prints or draws what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="print the numbers of another commit beside these")
    parser.add_argument("--draw", type=Path, metavar="SVG", help="write the drawing of the rooms")
    args = parser.parse_args()
    if args.draw is not None:
        args.draw.write_text(draw(ROOT / "src"), encoding="utf-8")
        return
    now, before = numbers(ROOT), {}
    if args.against is not None:
        with TemporaryDirectory() as folder:
            before = numbers(at_commit(args.against, Path(folder)))
    for name, value in now.items():
        print(f"{name:<64} {before.get(name, ''):>12} {value:>12}")


if __name__ == "__main__":
    main()
