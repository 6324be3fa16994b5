"""The documentation: the site builds without a warning and loads nothing from elsewhere; the notebooks run.

Run by `make docs` and `make test` in `.venv-docs`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.filterwarnings("ignore")  # of Jupyter and MkDocs, in their own code


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="run in .venv-docs")
    pytest.importorskip("mkdocstrings", reason="run in .venv-docs")
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run(
        [sys.executable, "tools/docs_site.py", str(site)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    sources = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    written = {path.with_suffix(".html").as_posix().replace("README.html", "index.html") for path in sources}
    assert written <= pages
    assert "read_results" in (site / "reference" / "detect.html").read_text(encoding="utf-8")


def test_links_to_nothing_and_loads_from_elsewhere_are_found(tmp_path: Path) -> None:
    """The test of the test."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from docs_site import notebook_page, requests_elsewhere  # noqa: PLC0415
    finally:
        sys.path.pop(0)
    (tmp_path / "a.html").write_text('<a href="https://x.example">a</a><script src="https://x.example/a.js"></script>')
    (tmp_path / "a.css").write_text("@font-face { src: url('//fonts.example/a.woff') }")
    assert requests_elsewhere(tmp_path) == [
        'a.html: <script src="https://x.example/a.js">',
        "a.css: url('//fonts.example/a.woff",
    ]
    for path in NOTEBOOKS:
        page = notebook_page(path)
        assert page.startswith("# ")
        assert page.count("```") == 2 * sum(c["cell_type"] == "code" for c in json.loads(path.read_text())["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="run in .venv-docs")
    pytest.importorskip("ipykernel", reason="run in .venv-docs")
    import nbformat  # noqa: PLC0415

    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    tables = [output.data for output in outputs if "text/html" in output.get("data", {})]
    if path.stem == "first-boxes":
        assert "<td>person</td>" in tables[0]["text/html"]
    if path.stem == "own-data":
        assert "'best.safetensors'" in next(
            o.data["text/plain"] for o in outputs if "data" in o and "metrics" in str(o)
        )
    if path.stem != "serving":
        assert "image/png" in tables[-1], "the last cell shows an image with its objects"
    assert all(not cell.outputs for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
