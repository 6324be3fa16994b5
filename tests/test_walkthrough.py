"""The walk-through of docs/train.md, as it stands there, on 48 photos of BCCD; only smaller and shorter."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

import phidet
from phidet.cli.main import main
from phidet.training.fit import RunSettings

DOCS = Path(__file__).resolve().parents[1] / "docs" / "train.md"
QUICK = ["--epochs", "1", "--image-size", "128", "--batch-size", "16", "--workers", "0", "--accelerator", "cpu"]


@pytest.fixture
def here(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 48 labelled photos in ``my-photos``, no list of which are for what, and ``photo.jpg``."""
    source, target = shared / "data" / "bccd", tmp_path / "my-photos"
    names = (source / "ImageSets" / "Main" / "trainval.txt").read_text().split()[:48]
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (target / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / folder / f"{name}{suffix}", target / folder)
    shutil.copy(source / "JPEGImages" / f"{names[0]}.jpg", tmp_path / "photo.jpg")
    monkeypatch.setenv("PHIDET_OFFLINE", "1")  # from ImageNet weights, which an installed package has
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(language: str) -> str:
    """The first block of that language in the walk-through."""
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def test_the_command_lines_of_the_walk_through_work(here: Path) -> None:
    lines = [shlex.split(line, comments=True) for line in block("sh").splitlines()]
    assert [line[1] for line in lines] == ["doctor", "train", "eval", "detect", "export"]
    for line in lines:
        assert main([*line[1:], *(QUICK if line[1] == "train" else [])]) == 0, line
    assert (here / "runs" / "first" / "best.onnx").stat().st_size > 5e6
    assert (here / "eval" / "mistakes.png").is_file()
    for name in ("curves.png", "report/pr.png", "report/confusion.png"):
        with Image.open(here / "runs" / "first" / name) as figure:
            assert min(figure.size) > 300, name
    assert len(list((here / "found").glob("*.jpg"))) == 48


@pytest.mark.slow
def test_the_python_of_the_walk_through_works(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = phidet.train

    def quick(data: str, model: str, changes: dict[str, object]) -> object:
        assert changes == {"epochs": 50}
        settings = RunSettings(out=here / "run", workers=0, accelerator="cpu")
        return real(data, model, image_size=128, changes={"epochs": 1, "batch_size": 16}, settings=settings)

    monkeypatch.setattr(phidet, "train", quick, raising=False)
    exec(compile(block("python"), str(DOCS), "exec"), {})
