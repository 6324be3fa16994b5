"""A thousand images as they are found in the wild: each gives a result or a line, and no one spoils the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from odd_images import Odd, encoded, odd_images, photo
from phidet.cli.main import main
from phidet.detections.sinks.base import readable
from tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def look(
    folder: Path, odd: list[Odd], model: Path, capfd: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, object]], list[str]]:
    """Exit code, what the JSON says of each, and the lines on standard error."""
    folder.mkdir()
    for i, image in enumerate(odd):
        (folder / f"{i:04d}-{image.name}").write_bytes(image.content)
    capfd.readouterr()
    args = ["detect", str(folder), "-m", str(model), "--save", "json,images", "--out", str(folder / "out")]
    code = main([*args, "--max", "5", "--threads", "1"])
    out, err = capfd.readouterr()
    documents = [json.loads(line) for line in (folder / "out" / "detections.jsonl").read_text().splitlines()]
    assert len(out.splitlines()) == sum("error" not in d for d in documents)
    return code, documents, err.splitlines()


def check(folder: Path, count: int, seed: int, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(seed)
    normal = encoded(photo(rng, 120, 160), "PNG")
    odd = odd_images(count, seed)
    for i in range(0, len(odd), 10):
        odd[i : i + 1] = [odd[i], Odd("normal.png", normal, "result", (120, 160))]
    code, documents, lines = look(folder, odd, model, capfd)
    assert code == 3
    assert [d["source"] for d in documents] == [str(folder / f"{i:04d}-{o.name}") for i, o in enumerate(odd)]
    errors = [str(d["error"]) for d in documents if "error" in d]
    for image, document in zip(odd, documents, strict=True):
        if image.fate != "either":
            assert ("error" in document) == (image.fate == "error"), (image.name, document)
        if image.size_hw is not None:
            assert document["image_size_hw"] == list(image.size_hw), image.name
    # One line each, of the words that the file's own error has, then what was done, then the summary.
    assert lines[:-2] == [f"phidet: {readable(error)}" for error in errors]
    assert lines[-1] == f"phidet: {len(errors)} sources could not be used"
    assert 0.2 * count < len(errors) < 0.8 * count
    # The images between them are as if they were alone.
    _, [alone], _ = look(folder.with_name("alone"), [Odd("normal.png", normal, "result")], model, capfd)
    assert alone["detections"]
    normals = [d["detections"] for d in documents if str(d["source"]).endswith("normal.png")]
    assert len(normals) == -(-count // 10)
    assert all(found == alone["detections"] for found in normals)
    drawn = [path for path in (folder / "out").iterdir() if path.suffix != ".jsonl"]
    assert len(drawn) == len(documents) - len(errors)


def test_a_hundred_odd_images(tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(tmp_path / "in", 120, 0, model, capfd)


@pytest.mark.slow
def test_a_thousand_odd_images(tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(tmp_path / "in", 1000, 1, model, capfd)
