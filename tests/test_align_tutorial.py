"""The tutorial of docs/align.md, as it stands there: from a CSV and ten photographs to corrected coordinates."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import phidet
from made_boards import ClutterShares, Scene, make_board, make_camera, mount, render
from made_boards.detector import TruthDetector
from phidet.cli.main import main
from phidet.detections.alignment.results import Alignment

DOCS = Path(__file__).resolve().parents[1] / "docs" / "align.md"
BOARD = make_board(12)
OFF = {"R1": (0.35, -0.2), "C9": (-0.3, 0.3)}
"""Parts that the list has in a wrong place, by so many millimetres."""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``board.csv`` and ten photographs; on one of them R2 is missing."""
    detector = TruthDetector(ClutterShares(missing=0.03, false=0.0, mislabelled=0.0, noise_px=0.5))
    monkeypatch.setattr("phidet.inference.detector.Detector", detector)
    monkeypatch.setattr("phidet.inference.align.Detector", detector)
    monkeypatch.chdir(tmp_path)
    header, first = block("").splitlines()[:2]
    assert len(header.split(",")) == len(first.split(","))
    # A class with references of its own letter only: large capacitors would be C, too.
    parts = [part for part in BOARD.parts if part.label != "electrolytic"]
    rows = [
        [part.reference, part.value, part.package, *(f"{v:.3f}" for v in part.xy), f"{part.rotation}", "top"]
        for part in parts
    ]
    (tmp_path / "board.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    (tmp_path / "photos").mkdir()
    for number in range(10):
        assembly = mount(BOARD, number, scatter=0.03)
        kept = tuple(
            replace(
                part,
                xy=(part.xy[0] + OFF.get(part.reference, (0, 0))[0], part.xy[1] + OFF.get(part.reference, (0, 0))[1]),
            )
            for part in assembly.mounted
            if part.label != "electrolytic" and not (number == 7 and part.reference == "R2")
        )
        scene = Scene(replace(assembly, mounted=kept), make_camera(BOARD.size, number, turn=30))
        pixels = render(scene, number)
        detector.learn(pixels, scene)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png", compress_level=1)
    return tmp_path


def test_the_tutorial_ends_with_corrected_coordinates(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = shlex.split(block("sh"))
    assert main(command[1:]) == 8
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("photos/07.png"))
    assert re.search(r"missing: [^;]*\bR2\b", line)
    assert len(list((here / "found" / "images").glob("*.png"))) == 10
    exec(compile(block("python"), str(DOCS), "exec"), {})
    corrected = {row["Ref"]: row for row in csv.DictReader((here / "corrected.csv").read_text().splitlines())}
    listed = list(csv.DictReader((here / "board.csv").read_text().splitlines()))
    assert list(corrected) == [row["Ref"] for row in listed]
    true = {part.reference: np.array(part.xy) + OFF.get(part.reference, (0, 0)) for part in BOARD.parts}
    errors = {ref: np.array([float(row["PosX"]), float(row["PosY"])]) - true[ref] for ref, row in corrected.items()}
    # Half a pixel of noise, 7 pixels a millimetre, ten photographs: 0.025 mm, and the pose's share.
    assert np.sqrt(np.mean([error**2 for error in errors.values()])) < 0.05
    for reference, offset in OFF.items():
        assert np.abs(errors[reference]).max() < 0.12
        assert np.hypot(*offset) > 0.3


def test_the_line_of_python_works(here: Path) -> None:
    line = re.search(r"`(result = phidet\.align\(.*?\))`", DOCS.read_text(encoding="utf-8"), re.S)
    assert line is not None
    (here / "photos" / "00.png").rename(here / "photo.jpg")  # an image is known by its content
    names: dict[str, object] = {"phidet": phidet}
    exec(line[1], names)
    result = names["result"]
    assert isinstance(result, Alignment)
    # Only resistors are mapped: too few on some boards, but here there are enough.
    assert {part.label for part in result.parts} <= {"resistor", ""}
