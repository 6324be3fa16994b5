"""``phidet align`` and ``phidet.align`` from end to end, with a detector that knows the made images."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import phidet
from made_boards import (
    CLASSES,
    ClutterShares,
    Scene,
    make_board,
    make_camera,
    mount,
    render,
    write_nominal,
)
from made_boards.detector import TruthDetector
from phidet.cli.main import main
from phidet.core.errors import ConfigError, InputError
from phidet.detections.alignment.results import Alignment
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import image_size, read_image
from phidet.inference.relations import RelatedDetector

BOARD = make_board(11)
RIGHT = mount(BOARD, 0, scatter=0.02)


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TruthDetector:
    made = TruthDetector(ClutterShares(0, 0, 0, 0.3))
    monkeypatch.setattr("phidet.inference.detector.Detector", made)
    monkeypatch.setattr("phidet.inference.align.Detector", made)
    monkeypatch.chdir(tmp_path)
    write_nominal(tmp_path / "board.csv", BOARD)
    return made


def photograph(detector: TruthDetector, name: str, scene: Scene, seed: int = 1) -> Path:
    """Renders a scene to a file that the detector will recognise."""
    pixels = render(scene, seed)
    detector.learn(pixels, scene)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def seen(assembly: object = RIGHT, seed: int = 1) -> Scene:
    return Scene(assembly, make_camera(BOARD.size, seed, turn=20))  # type: ignore[arg-type]


def without(reference: str) -> object:
    """The right assembly without one part."""
    return replace(RIGHT, mounted=tuple(part for part in RIGHT.mounted if part.reference != reference))


def test_a_right_board_ends_with_0(detector: TruthDetector, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(detector, "photo.png", seen())
    assert main(["align", "board.csv", "photo.png", "-m", "parts.onnx", "--tolerance", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert out == f"photo.png: {len(BOARD.parts)} right\n"
    assert err == "wrote alignment/parts.csv, alignment/alignment.json\n"
    rows = list(csv.DictReader(Path("alignment/parts.csv").read_text().splitlines()))
    assert [row["reference"] for row in rows] == [part.reference for part in BOARD.parts]
    for row, part in zip(rows, RIGHT.mounted, strict=True):
        assert np.hypot(float(row["x"]) - part.xy[0], float(row["y"]) - part.xy[1]) < 0.3
    assert image_size(Path("alignment/images/photo.png")) == (384, 384)


def test_a_fault_ends_with_8_and_is_named(detector: TruthDetector, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(detector, "photos/a.png", seen(seed=1))
    photograph(detector, "photos/b.png", seen(without("R1"), seed=2))
    assert main(["align", "board.csv", "photos", "-m", "parts.onnx", "--tolerance", "0.5", "--no-images"]) == 8
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"photos/a.png: {len(BOARD.parts)} right"
    assert lines[1] == f"photos/b.png: {len(BOARD.parts) - 1} right; 1 missing: R1"
    assert lines[-2] == "2 images: 1 right, 1 with faults, 0 without a pose"
    assert err.endswith("phidet: 1 of 2 images show something that is not right\n")
    assert sorted(path.name for path in Path("alignment").iterdir()) == [
        "alignment.json",
        "parts.csv",
        "statistics.csv",
    ]
    content = json.loads(Path("alignment/alignment.json").read_text())
    assert [len(one["parts"]) for one in content["images"]] == [len(BOARD.parts)] * 2
    first = next(csv.DictReader(Path("alignment/statistics.csv").read_text().splitlines()))
    assert first["measured"] == "2"


def test_another_board_ends_with_9(detector: TruthDetector, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_board(500)
    photograph(detector, "photo.png", Scene(mount(other, 1), make_camera(other.size, 1)))
    assert main(["align", "board.csv", "photo.png", "-m", "parts.onnx"]) == 9
    out, err = capsys.readouterr()
    assert out.startswith("photo.png: no pose (none): ")
    assert "phidet: 1 of 1 images could not be judged: no pose that is certain" in err
    rows = list(csv.DictReader(Path("alignment/parts.csv").read_text().splitlines()))
    assert [(row["image"], row["verdict"]) for row in rows] == [("photo.png", "no pose: none")]


def test_an_unreadable_image_ends_with_3_after_the_others(
    detector: TruthDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(detector, "photo.png", seen(without("R1")))
    Path("broken.png").write_bytes(b"no image")
    assert main(["align", "board.csv", "broken.png", "photo.png", "-m", "parts.onnx"]) == 3
    out, err = capsys.readouterr()
    assert "1 missing: R1" in out
    assert "broken.png" in err
    assert err.endswith("phidet: 1 image could not be used\n")


def test_json_lines_are_alignments(detector: TruthDetector, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(detector, "photo.png", seen())
    assert main(["align", "board.csv", "photo.png", "-m", "parts.onnx", "--json", "-o", "out"]) == 0
    line = json.loads(capsys.readouterr().out)
    result = phidet.align("board.csv", "photo.png", detector)
    assert result.pose is not None
    assert line["pose"]["matrix"] == [list(row) for row in result.pose.matrix]
    assert len(line["parts"]) == len(result.parts)


def test_python_takes_one_image_or_a_list(detector: TruthDetector) -> None:
    paths = [photograph(detector, f"{i}.png", seen(seed=i)) for i in range(2)]
    one = phidet.align("board.csv", paths[0], detector)
    assert isinstance(one, Alignment)
    assert one.right
    several = phidet.align("board.csv", [str(path) for path in paths], "parts.onnx")
    assert [result.image for result in several] == ["0.png", "1.png"]
    assert several[0].parts == one.parts
    pixels = read_image(paths[1])
    assert phidet.align("board.csv", pixels, detector).parts == several[1].parts


def test_labels_are_mapped_and_unknown_ones_left_out(
    detector: TruthDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(detector, "photo.png", seen())
    arguments = ["align", "board.csv", "photo.png", "-m", "parts.onnx", "--label-column", "Val"]
    assert main(arguments) == 2
    assert "no label is a class of the model" in capsys.readouterr().err
    # Crystals are on the list, but not looked for: where the board has one, it is extra.
    mapping = "R=resistor,100n=capacitor,D=diode,47u=electrolytic,Q=transistor,U=ic,J=connector"
    code = main([*arguments, "--classes", mapping])
    crystals = sum(part.label == "crystal" for part in BOARD.parts)
    assert code == (8 if crystals else 0)
    err = capsys.readouterr().err
    assert (f"{crystals} listed parts are left out" in err) == bool(crystals)
    assert main([*arguments, "--classes", "R"]) == 2
    assert "--classes: expected LABEL=CLASS separated by commas, got 'R'" in capsys.readouterr().err


@pytest.mark.parametrize("refine", ["none", "template"])
def test_an_image_of_a_right_assembly_is_the_list_and_refines_places(detector: TruthDetector, refine: str) -> None:
    """Parts moved by a known 0.30 mm; boxes are noisy by a pixel, comparison with the golden image is not."""
    moved = {"R1": (0.3, 0.0), "C2": (0.0, -0.3)}
    mounted = tuple(
        replace(
            part,
            xy=(part.xy[0] + moved.get(part.reference, (0, 0))[0], part.xy[1] + moved.get(part.reference, (0, 0))[1]),
        )
        for part in RIGHT.mounted
    )
    golden = photograph(detector, "golden.png", Scene(RIGHT, make_camera(BOARD.size, 3, turn=0, kind="similarity")))
    detector.clutter = ClutterShares(0, 0, 0, 0.7)
    photo = photograph(detector, "photo.png", seen(replace(RIGHT, mounted=mounted), seed=4), seed=9)
    # The template's own boxes are those of the detector, so noisy: parts are known by their nearest true place.
    settings = phidet.AlignSettings(refine=refine, mirrored="no")  # type: ignore[arg-type]
    result = phidet.align(golden, photo, detector, settings)
    assert result.pose is not None
    camera = make_camera(BOARD.size, 3, turn=0, kind="similarity")
    pixels_per_mm = float(np.linalg.norm(camera.project(np.array([1.0, 0])) - camera.project(np.array([0.0, 0]))))
    places = camera.project(np.array([part.xy for part in RIGHT.mounted]))
    errors = []
    for part in result.parts:
        if part.deviation_xy is None or part.nominal_xy is None:
            continue
        nearest = RIGHT.mounted[int(np.argmin(np.hypot(*(places - part.nominal_xy).T)))]
        expected = np.array(moved.get(nearest.reference, (0, 0))) * [1, -1] * pixels_per_mm
        errors.append(np.array(part.deviation_xy) - expected)
    rms = float(np.sqrt(np.mean(np.square(errors))))
    assert len(errors) > 0.9 * len(BOARD.parts)
    assert (rms < 0.25) if refine == "template" else (rms > 0.5)


def test_centroids_do_not_follow_the_boxes(detector: TruthDetector) -> None:
    """On plain squares the centroid is exact, whatever the boxes' errors."""
    rng = np.random.default_rng(0)
    size = (400, 500)
    centres = np.array([[60 + 90 * (i % 5), 60 + 90 * (i // 5)] for i in range(20)]) + rng.uniform(-20, 20, (20, 2))
    columns, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    image = np.full(size, 60.0)
    for x, y in centres:
        # A square of 16 pixels with soft edges, so that its centre is known to a fraction of a pixel.
        image += 140 * np.clip(8.5 - np.abs(columns - x), 0, 1) * np.clip(8.5 - np.abs(rows - y), 0, 1)
    boxes = centres + rng.normal(0, 1.0, centres.shape)
    found = Detections(
        np.concatenate([boxes - 12, boxes + 12], 1).astype(np.float32),
        np.ones(20, np.float32),
        np.arange(20) % len(CLASSES),
        CLASSES,
        size,
    )
    lines = [f"P{i},{CLASSES[i % len(CLASSES)]},{x / 10},{-y / 10}" for i, (x, y) in enumerate(centres)]
    Path("squares.csv").write_text("\n".join(["Ref,Class,X,Y", *lines]))
    from phidet.inference.align import Aligner  # noqa: PLC0415 - the fixture replaces its detector

    pixels = np.repeat(image.astype(np.uint8)[..., None], 3, 2)
    worst = {}
    for refine in ("none", "centroid"):
        settings = phidet.AlignSettings(refine=refine)  # type: ignore[arg-type]
        result = Aligner("squares.csv", detector, settings).align(pixels, found)
        assert result.pose is not None
        worst[refine] = max(part.deviation for part in result.parts if part.deviation is not None)
    assert worst["centroid"] < 0.01  # mm, a tenth of a pixel
    assert worst["none"] > 0.1


def test_mistakes_are_one_message(detector: TruthDetector, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(detector, "photo.png", seen())
    for arguments, code, message in (
        (["board.csv", "photo.png"], 2, "say which model finds the parts"),
        (["nothing.csv", "photo.png", "-m", "x"], 3, "cannot read nothing.csv"),
        (["board.csv", "photo.png", "-m", "x", "--relations", "r", "--tile", "300"], 2, "leave out --tile"),
        (["board.csv", "photo.png", "-m", "x", "--tolerance", "-1"], 2, "tolerance must be a number > 0"),
        (["board.csv", "photo.png", "-m", "x", "--refine", "template"], 2, "need an image of a right assembly"),
        (["board.csv", "photo.png", "-m", "x", "-o", "."], 2, "lies in the folder that is written to"),
    ):
        assert main(["align", *arguments]) == code
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    Image.new("RGB", (40, 40)).save("blank.png")
    with pytest.raises(InputError, match=r"blank.png: the model finds no parts"):
        phidet.align("blank.png", "photo.png", detector)
    with pytest.raises(ConfigError, match="x=dog: the model has no class 'dog'"):
        phidet.align("board.csv", "photo.png", detector, classes={"x": "dog"})


class Doubting:
    """Relations that see everything from 0.2 on and take back what they are told to."""

    class_names = CLASSES
    config = SimpleNamespace(fields={})

    def __init__(self, path: str) -> None:
        self.refused = path

    def settings(self) -> PostprocessSettings:
        return PostprocessSettings(score=0.2)

    def check_detector(self, class_names: tuple[str, ...]) -> None:
        assert class_names == CLASSES

    def __call__(self, found: Detections) -> Detections:
        self.seen = found
        refused = np.array([label == self.refused for label in found.labels])
        return replace(found, scores=np.where(refused, 0.1, found.scores))


def test_relations_correct_what_is_aligned(
    detector: TruthDetector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phidet.inference.relations.Relations", Doubting)
    photograph(detector, "photo.png", seen())
    arguments = ["align", "board.csv", "photo.png", "-m", "x", "--tolerance", "0.5", "--no-images"]
    assert main([*arguments, "--relations", "none"]) == 0
    assert main([*arguments, "--relations", "resistor"]) == 8
    line = capsys.readouterr().out.splitlines()[-1]
    resistors = [part.reference for part in BOARD.parts if part.label == "resistor"]
    assert f"{len(resistors)} missing" in line
    # A detector asked for one class, surely, is asked for all and less sure ones, which the network sees.
    asked: list[PostprocessSettings] = []
    relations: Any = Doubting("resistor")
    corrected = RelatedDetector(detector, relations)
    monkeypatch.setattr(
        detector, "detect", lambda arrays, settings: [asked.append(settings) or detector._detect(a) for a in arrays]
    )
    wanted = PostprocessSettings(score=0.5, classes=("resistor", "capacitor"))
    found = corrected.detect([read_image(Path("photo.png"))], wanted)[0]
    assert (asked[0].score, asked[0].classes) == (0.2, None)
    assert set(found.labels) == {"capacitor"}
    assert found.scores.min() >= 0.5
    assert len(relations.seen) == len(RIGHT.mounted)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "scipy" or name.startswith(
            ("phidet.detections.alignment", "phidet.inference.align")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert main(["align", "board.csv", "photo.png", "-m", "x"]) == 6
    assert capsys.readouterr().err == (
        "phidet: phidet align needs packages that are not installed: pip install 'phidet[align]'\n"
    )
    with pytest.raises(phidet.MissingExtraError, match=r"phidet\.align needs .*phidet\[align\]"):
        _ = phidet.align
