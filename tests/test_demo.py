"""A bare machine: an environment with nothing in it but what ``make demo`` and the wheel put there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phidet.detections.draw import colour

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "src/phidet/inference/bundled/person.md"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows."""
    if not (ROOT / ".git").exists() or shutil.which("make") is None:
        pytest.skip("needs a git checkout and make")
    copy = tmp_path_factory.mktemp("bare") / "phidet"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return copy


def run(folder: Path, *command: str | Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(checkout: Path) -> tuple[float, str]:
    """Seconds that ``make demo`` took, and what it said."""
    start = time.monotonic()
    said = run(checkout, "make", f"PYTHON={sys.executable}", "demo")
    return time.monotonic() - start, said


def test_the_demo_leaves_an_annotated_image_in_less_than_two_minutes(checkout: Path, demo: tuple[float, str]) -> None:
    seconds, said = demo
    assert seconds < 120
    assert "demo/grace-hopper.png: " in said
    with Image.open(checkout / "demo/grace-hopper.png") as image:
        before = np.asarray(image.convert("RGB"))
    with Image.open(checkout / "demo/detections/grace-hopper.png") as image:
        after = np.asarray(image)
    assert after.shape == before.shape == (600, 512, 3)
    drawn = (after == colour(0)).all(axis=-1)
    assert drawn.mean() > 0.001
    assert (before != after).any(axis=-1)[drawn].all()
    assert "1 person" in said


def test_the_core_is_small_and_knows_no_pytorch(checkout: Path, demo: tuple[float, str]) -> None:
    site = next((checkout / ".venv/lib").glob("python3*/site-packages"))
    size = sum(p.stat().st_size for p in site.rglob("*") if p.is_file() and not p.is_symlink())
    assert size < 250e6
    installed = {p.name.split("-")[0].lower() for p in site.glob("*.dist-info")}
    assert not installed & {"torch", "torchvision", "matplotlib", "safetensors", "av", "onnx"}
    code = "from phidet.cli.main import main; import sys; main(['detect', 'demo/grace-hopper.png', '--json'])"
    run(checkout, ".venv/bin/python", "-c", f"{code}; assert not {{'torch', 'matplotlib'}} & set(sys.modules)")


def test_the_wheel_carries_the_model_and_detects(checkout: Path, demo: tuple[float, str], tmp_path: Path) -> None:
    run(checkout, ".venv/bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ".")
    [wheel] = tmp_path.glob("phidet-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    weights = {name for name in names if name.endswith((".onnx", ".safetensors", ".pth"))}
    assert weights == {f"phidet/inference/bundled/person{suffix}" for suffix in (".onnx", ".safetensors")}
    assert not [name for name in names if name.startswith("tests")]
    run(checkout, ".venv/bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    run(tmp_path, checkout / ".venv/bin/phidet", "detect", checkout / "demo/grace-hopper.png")
    assert (tmp_path / "detections/grace-hopper.png").is_file()


def test_the_bundled_model_is_small_and_has_its_card() -> None:
    for suffix in (".onnx", ".safetensors"):
        assert CARD.with_suffix(suffix).stat().st_size <= 12e6
    card = CARD.read_text()
    for word in ("data", "recipe", "AP", "licence", "limits"):
        assert word.casefold() in card.casefold()
