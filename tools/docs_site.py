"""What MkDocs does not do by itself: the README as the home page, notebooks as pages, decisions in the navigation,
links to files beside ``docs/``, and roles of docstrings. ``python tools/docs_site.py site`` checks the built pages.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCE = "https://github.com/phidet/phidet/blob/main/"
log = logging.getLogger("mkdocs.hooks.docs_site")
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_ROLE = re.compile(r":(?:class|meth|mod|func|attr|data|exc):<code>~?([\w.]+)</code>")
_LIST = re.compile(r"^([-*] |\d+\. )")
_LOADED = re.compile(r"<(?:script|img|iframe|source|video|link)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*\"[^>]*>")


def on_config(config: Any) -> Any:
    """Puts all decisions into the navigation, and pages that nobody has put anywhere."""
    sections = {name: pages for section in config.nav for name, pages in section.items()}
    named = {page for pages in sections.values() if isinstance(pages, list) for one in pages for page in one.values()}
    sections["How to"] += [path.name for path in sorted(DOCS.glob("*.md")) if path.name not in named]
    decisions = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "decisions").glob("*.md"))
    sections["How it is made"].append({"Decisions": decisions[-1:] + decisions[:-1]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds pages that are made of something else."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - only MkDocs has it

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = {"index.md": _LINK.sub(_from_readme, readme)}
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of ``docs/`` lead to the source; lists have the blank line before them that MkDocs wants."""
    folder = (DOCS / page.file.src_uri).parent
    return _with_blank_lines(_LINK.sub(lambda link: _out_of_docs(link, folder, page.file.src_uri), markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Roles of docstrings become plain code."""
    return _ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", html)


def notebook_page(path: Path) -> str:
    """A notebook's text and code as Markdown."""
    name = path.relative_to(ROOT).as_posix()
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, f"The [notebook]({SOURCE}{name}) of this page is run by the tests."])


def _from_readme(link: re.Match[str]) -> str:
    target = link[2]
    if target.startswith("docs/") and Path(target).suffix:
        return f"{link[1]}{target.removeprefix('docs/')}{link[3]}"
    if target.startswith("docs/decisions"):
        return f"{link[1]}decisions/README.md{link[3]}"
    return f"{link[1]}{SOURCE}{target}{link[3]}"


def _out_of_docs(link: re.Match[str], folder: Path, page: str) -> str:
    target = (folder / link[2]).resolve()
    if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT):
        return link[0]
    if not target.exists():
        log.warning("%s links to %s, which is not there", page, link[2])
    return f"{link[1]}{SOURCE}{target.relative_to(ROOT).as_posix()}{link[3]}"


def _with_blank_lines(markdown: str) -> str:
    lines: list[str] = []
    is_code = False
    for line in markdown.split("\n"):
        before = lines[-1] if lines else ""
        if not is_code and _LIST.match(line) and before and not _LIST.match(before) and not before.startswith(" "):
            lines.append("")
        lines.append(line)
        is_code ^= line.startswith("```")
    return "\n".join(lines)


def requests_elsewhere(site: Path) -> list[str]:
    """What pages of the site would load from other places, without a reader's click."""
    found = [
        f"{path.relative_to(site)}: {tag}"
        for path in sorted(site.rglob("*.html"))
        for tag in _LOADED.findall(path.read_text(encoding="utf-8"))
    ]
    found += [
        f"{path.relative_to(site)}: {url}"
        for path in sorted(site.rglob("*.css"))
        for url in re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^)\"']+", path.read_text(encoding="utf-8"))
    ]
    return found


def main() -> None:
    """Checks a built site; ends with 1 where something is wrong."""
    site = Path(sys.argv[1])
    elsewhere = requests_elsewhere(site)
    roles = [str(p.relative_to(site)) for p in site.rglob("*.html") if re.search(r">\s*:::|:class:", p.read_text())]
    for line in [*elsewhere, *(f"{page}: a role or a reference that was not rendered" for page in roles)]:
        print(line, file=sys.stderr)
    print(f"{len(list(site.rglob('*.html')))} pages, {len(elsewhere)} requests to elsewhere")
    sys.exit(bool(elsewhere or roles))


if __name__ == "__main__":
    main()
