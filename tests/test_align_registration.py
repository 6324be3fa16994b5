"""Poses from images themselves: on drawn boards with exact truth, and on deeppcb's boards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import phidet
from conftest import slowly
from made_boards import CLASSES, ClutterShares, Scene, make_board, make_camera, mount, render
from made_boards.detector import TruthDetector
from made_boards.warping import make_warp
from phidet.core.errors import ConfigError
from phidet.detections.alignment.alignment import align_detections
from phidet.detections.alignment.locate import Located, NotLocated
from phidet.detections.alignment.nominal import nominal_of
from phidet.detections.alignment.pose import Floats
from phidet.detections.alignment.registration import register_image
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections
from phidet.images.decode import read_image

SETTINGS = AlignSettings(pose="similarity", mirrored="no", pose_from="image")
GRID = np.stack(np.meshgrid(np.linspace(60, 440, 7), np.linspace(60, 340, 7)), -1).reshape(-1, 2)


def drawing(seed: int) -> np.ndarray:
    """(400, 500) grey: bright rectangles and lines on dark ground, drawn four times as large."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (2000, 1600), 30)
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = rng.uniform((0, 0), (1900, 1500))
        w, h = rng.uniform(60, 320, 2)
        pen.rectangle([x, y, x + w, y + h], fill=int(rng.integers(90, 240)))
    return np.asarray(image.resize((500, 400), Image.Resampling.BOX))


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_known_warp_is_measured_to_a_twentieth_of_a_pixel_in_spite_of_light_and_defects(seed: int) -> None:
    grey, warp = drawing(seed), make_warp(seed, (400, 500), turn=180)
    defective = grey.copy()
    rng = np.random.default_rng(seed)
    for x, y in rng.uniform((60, 60), (420, 320), (6, 2)).astype(int):
        defective[y : y + 18, x : x + 25] = 255 - defective[y : y + 18, x : x + 25]
    # Darker, with less contrast, and noisy.
    image = warp.image(defective)[..., 0] * 0.7 + 20 + rng.normal(0, 4, grey.shape)
    located = register_image(rgb(grey), rgb(image.clip(0, 255).astype(np.uint8)), SETTINGS)
    assert isinstance(located, Located)
    errors = np.linalg.norm(located.pose.project(GRID) - warp(GRID), axis=1)
    assert errors.max() < 0.05


@pytest.mark.repeated
@pytest.mark.parametrize("seed", [0, *slowly(1, 2, 3)])
def test_images_of_other_things_have_no_pose(seed: int) -> None:
    other = register_image(rgb(drawing(seed)), rgb(drawing(seed + 50)), SETTINGS)
    assert isinstance(other, NotLocated)
    assert other.reason == "none"
    assert "corners" in other.text


def test_a_blank_image_has_no_pose() -> None:
    blank = register_image(rgb(drawing(1)), np.full((400, 500, 3), 90, np.uint8), SETTINGS)
    assert isinstance(blank, NotLocated)
    assert blank.reason == "few"


@pytest.mark.repeated
def test_a_pattern_that_repeats_itself_is_not_taken_one_period_off() -> None:
    """Equal rows and one that is different: most places agree with a shifted pose too, but fewer."""
    row = drawing(3)[:110]
    grey = np.concatenate([row, row, row, drawing(9)[:70]])
    for seed in range(3):
        warp = make_warp(seed, grey.shape, turn=5, shift=10)
        located = register_image(rgb(grey), warp.image(grey), SETTINGS)
        assert isinstance(located, Located)
        assert np.linalg.norm(located.pose.project(GRID) - warp(GRID), axis=1).max() < 0.2


def test_parts_are_judged_by_a_pose_from_the_image(tmp_path: Path) -> None:
    """Too few parts for a pose of their own: four on the list, one of them missing, one extra."""
    board = make_board(11)
    right = mount(board, 0, scatter=0.0)
    detector = TruthDetector(ClutterShares(0, 0, 0, 0.3))
    golden, photo = Scene(right, make_camera(board.size, 3)), Scene(right, make_camera(board.size, 4))
    paths = []
    for name, scene in (("golden.png", golden), ("photo.png", photo)):
        pixels = render(scene, 1)
        detector.learn(pixels, scene)
        paths.append(tmp_path / name)
        Image.fromarray(pixels).save(paths[-1])
    by_parts = phidet.align(paths[0], paths[1], detector)
    by_image = phidet.align(paths[0], paths[1], detector, phidet.AlignSettings(pose_from="image"))
    assert by_parts.pose is not None
    assert by_image.pose is not None
    corners = golden.camera.project(np.array([[2.0, 2], [45, 2], [45, 45], [2, 45]]))
    true = photo.camera.project(golden.camera.back(corners))
    for result, most in ((by_parts, 1.5), (by_image, 0.5)):
        assert result.pose is not None
        homogeneous = np.c_[corners, np.ones(4)] @ np.array(result.pose.matrix).T
        assert np.abs(homogeneous[:, :2] / homogeneous[:, 2:] - true).max() < most
        assert result.counts()["right"] == len(board.parts)
    # A quarter of the parts found: no pose from them, but one from the image, and the rest is missing.
    detector.clutter = ClutterShares(0.75, 0, 0, 0.3)
    pixels = read_image(paths[1])
    few = detector.detect([pixels])[0]
    listed = nominal_of(TruthDetector.detect(_perfect(golden, paths[0]), [read_image(paths[0])])[0], "golden")
    located = register_image(read_image(paths[0]), pixels, AlignSettings(pose_from="image"))
    assert align_detections(listed, few).pose is None
    result = align_detections(listed, few, located=located)
    assert result.counts()["missing"] == len(listed) - len(few)
    assert result.counts()["right"] >= len(few) - 1
    with pytest.raises(ConfigError, match="need an image of a right assembly"):
        phidet.align(listed, paths[1], detector, phidet.AlignSettings(pose_from="image"))


def _perfect(scene: Scene, path: Path) -> TruthDetector:
    detector = TruthDetector(ClutterShares(0, 0, 0, 0.3))
    detector.learn(read_image(path), scene)
    assert detector.class_names == CLASSES
    return detector


@pytest.mark.parametrize("name", ["12100023", *slowly("12100128", "44000059")])
@pytest.mark.repeated
def test_deeppcb_is_registered_and_its_defects_kept_apart(shared: Path, name: str) -> None:
    """A board shifted, turned and scaled: its defects move by tens of pixels in the image, and not on the template."""
    data = shared / "data" / "deeppcb"
    tested = read_image(data / "images" / "test" / f"{name}.jpg")
    template = read_image(data / "templates" / "test" / f"{name}.jpg")
    rows = np.loadtxt(data / "labels" / "test" / f"{name}.txt", ndmin=2)
    centres, halves = rows[:, 1:3] * 640, rows[:, 3:5] * 320
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    warp = make_warp(1, (640, 640))
    places = []
    for pixels, seen in ((tested, boxes), (warp.image(tested[..., 0]), warp.boxes(boxes))):
        located = register_image(template, pixels, SETTINGS)
        assert isinstance(located, Located)
        places.append(_defects(located, seen, rows[:, 0].astype(np.int64)))
    assert np.linalg.norm(warp(centres) - centres, axis=1).min() > 5
    assert np.abs(places[0] - places[1]).max() < 0.2
    assert np.abs(places[0] - centres).max() < 2.5  # a template is not exactly where its image is


def _defects(located: Located, boxes: Floats, classes: np.ndarray) -> Floats:
    """Where labelled defects are on the template, which has none; all of them are extra, none is displaced."""
    names = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    found = Detections(boxes.astype(np.float32), scores, classes, names, (640, 640))
    result = align_detections(nominal_of(Detections.empty(names, (640, 640)), "template"), found, located=located)
    assert [part.verdict for part in result.parts] == ["extra"] * len(boxes)
    return np.array([part.xy for part in sorted(result.parts, key=lambda part: -(part.score or 0))])
