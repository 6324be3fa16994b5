"""Poses found among missing, false and mislabelled detections; and what must not be found."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from conftest import slowly
from made_boards import (
    CLASSES,
    Board,
    ClutterShares,
    FaultShares,
    Part,
    Scene,
    make_board,
    make_camera,
    mount,
    observe,
)
from made_boards.nominal import as_detections, nominal_of_board
from phidet.detections.alignment.alignment import align_detections
from phidet.detections.alignment.locate import _log_small
from phidet.detections.alignment.nominal import Nominal
from phidet.detections.alignment.results import Alignment
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections

NO_FAULTS = FaultShares(0, 0, 0, 0, 0)
PERFECT = ClutterShares(0, 0, 0, 0.2)
SIZE = (384, 384)


def scene_of(board: Board, seed: int, size: tuple[int, int] = SIZE, **camera: object) -> Scene:
    return Scene(mount(board, seed, NO_FAULTS, scatter=0.0), make_camera(board.size, seed, size, **camera))  # type: ignore[arg-type]


def align_scene(scene: Scene, clutter: ClutterShares, settings: AlignSettings | None = None) -> Alignment:
    found = as_detections(observe(scene, 1, clutter), scene.camera.size_hw)
    return align_detections(nominal_of_board(scene.assembly.board), found, settings)


def errors_px(result: Alignment, scene: Scene) -> np.ndarray:
    """Distances of the nominal places' pixels by the reported pose, computed as its documentation says."""
    assert result.pose is not None
    places = scene.assembly.board.places
    homogeneous = np.c_[places, np.ones(len(places))] @ np.array(result.pose.matrix).T
    centre = np.array(scene.camera.size_hw[::-1]) / 2
    offset = homogeneous[:, :2] / homogeneous[:, 2:] - centre
    pixels = centre + offset * (1 + result.pose.k1 * (offset**2).sum(1, keepdims=True) / (centre**2).sum())
    return np.linalg.norm(pixels - scene.camera.project(places), axis=1)


@pytest.mark.repeated
@pytest.mark.parametrize("count", [30, *slowly(100)])
def test_the_pose_is_found_on_99_of_100_boards_and_is_as_good_as_noise_allows(count: int) -> None:
    """30 % missing, 20 % false, 10 % mislabelled, 1 pixel of noise; the bound is printed by benchmarks/align.py."""
    found, squares = 0, []
    for seed in range(count):
        scene = scene_of(make_board(seed), seed)
        result = align_scene(scene, ClutterShares(0.3, 0.2, 0.1, 1.0))
        if result.pose is not None:
            errors = errors_px(result, scene)
            assert np.median(errors) < 5, "a wrong pose with a good verdict"
            squares.append((errors**2).mean() / 2)
            found += 1
    assert found >= count - 1
    # About 18 right detections and 8 parameters: the bound is 0.49 pixels RMS of a coordinate.
    assert np.sqrt(np.mean(squares)) < 0.49 + 0.3


@pytest.mark.repeated
@pytest.mark.parametrize("count", [20, *slowly(100)])
def test_unrelated_boards_and_random_detections_give_no_pose(count: int) -> None:
    for seed in range(count):
        other = scene_of(make_board(seed + 5000), seed)
        nominal = nominal_of_board(make_board(seed))
        boxes = as_detections(observe(other, seed, ClutterShares()), SIZE)
        result = align_detections(nominal, boxes)
        assert (result.reason, result.parts, result.right) == ("none", (), False)
        rng = np.random.default_rng(seed)
        centres = rng.uniform(30, 354, (len(nominal), 2))
        at_random = Detections(
            np.concatenate([centres - 8, centres + 8], 1).astype(np.float32),
            np.ones(len(nominal), np.float32),
            rng.integers(len(CLASSES), size=len(nominal)),
            CLASSES,
            SIZE,
        )
        assert align_detections(nominal, at_random).reason == "none"


@pytest.mark.repeated
@pytest.mark.parametrize("kind", [*slowly("similarity", "affine"), "homography"])
def test_the_simplest_kind_that_explains_the_places_is_taken(kind: str) -> None:
    kinds = []
    for seed in range(20):
        scene = scene_of(make_board(seed, (4, 4)), seed, (800, 800), kind=kind)
        result = align_scene(scene, ClutterShares(0.1, 0.1, 0.05, 0.5))
        assert result.pose is not None
        kinds.append(result.pose.kind)
    assert kinds.count(kind) >= 17


def test_distortion_is_measured_where_it_is_asked_for() -> None:
    for seed, k1 in ((1, -0.1), (2, 0.08), (3, 0.0)):
        scene = scene_of(make_board(seed, (5, 5)), seed, (900, 900), k1=k1)
        settings = AlignSettings(distortion=True)
        result = align_scene(scene, ClutterShares(0.2, 0.1, 0.05, 0.3), settings)
        assert result.pose is not None
        assert result.pose.k1 == pytest.approx(k1, abs=0.01)
        assert errors_px(result, scene).max() < 1
    plain = align_scene(scene_of(make_board(1, (5, 5)), 1, (900, 900), k1=-0.1), ClutterShares(0.2, 0.1, 0.05, 0.3))
    assert plain.pose is None or plain.pose.k1 == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_images_are_recognised(mirrored: bool) -> None:
    scene = scene_of(make_board(3), 3, mirrored=mirrored)
    result = align_scene(scene, ClutterShares())
    assert result.pose is not None
    assert result.pose.mirrored == mirrored
    assert np.median(errors_px(result, scene)) < 2
    # Told the wrong handedness, it is not found.
    wrong = AlignSettings(mirrored="no" if mirrored else "yes")
    assert align_scene(scene, ClutterShares(), wrong).pose is None


def test_the_side_that_is_seen_is_recognised() -> None:
    front, back = make_board(4), make_board(40)
    both = [nominal_of_board(front), nominal_of_board(back)]
    nominal = Nominal(
        tuple(f"{name}{side}" for one, side in zip(both, "tb", strict=True) for name in one.references),
        tuple(label for one in both for label in one.labels),
        np.concatenate([one.places for one in both]),
        np.concatenate([one.rotations for one in both]),
        ("top",) * len(both[0]) + ("bottom",) * len(both[1]),
        "mm",
        y_up=True,
    )
    for board, side, mirrored in ((front, "top", False), (back, "bottom", True)):
        scene = scene_of(board, 5, mirrored=mirrored)
        result = align_detections(nominal, as_detections(observe(scene, 1, ClutterShares()), SIZE))
        assert result.pose is not None
        assert (result.pose.side, result.pose.mirrored) == (side, mirrored)
        assert {part.reference[-1] for part in result.parts if part.reference} == {side[0]}


def symmetric_board(seed: int, mark: bool) -> Board:
    """A board that looks the same after half a turn, but for a mark of ten connectors in a row."""
    half = make_board(seed, (4, 2))
    width, height = half.size
    turned = tuple(
        replace(part, reference=part.reference + "b", xy=(width - part.xy[0], 2 * height - part.xy[1]), module=99)
        for part in half.parts
    )
    marks = tuple(Part(f"M{i}", "crystal", (5 + 5.5 * i, -5.0), 0.0, 100, "", "") for i in range(9)) if mark else ()
    return Board("symmetric", (width, 2 * height), half.parts + turned + marks, (*half.modules, "", ""))


@pytest.mark.repeated
def test_of_two_equally_good_poses_neither_is_taken() -> None:
    for seed in range(5):
        board = symmetric_board(seed, mark=False)
        result = align_scene(scene_of(board, seed), ClutterShares(0.2, 0.1, 0.05, 0.5), AlignSettings(mirrored="no"))
        assert result.reason == "ambiguous"
        assert "turned against each other by 180°" in result.message
        marked = scene_of(symmetric_board(seed, mark=True), seed)
        settings = AlignSettings(mirrored="no")
        result = align_scene(marked, ClutterShares(0.2, 0.1, 0.05, 0.5), settings)
        assert result.pose is not None
        assert np.median(errors_px(result, marked)) < 2


@pytest.mark.repeated
def test_a_regular_grid_of_equal_parts_is_ambiguous() -> None:
    grid = tuple(Part(f"D{i}", "diode", (5.0 * (i % 8) + 4, 5.0 * (i // 8) + 4), 0.0, 0, "", "") for i in range(64))
    scene = scene_of(Board("grid", (43, 43), grid, ("",)), 2)
    assert align_scene(scene, PERFECT).reason == "ambiguous"


def test_a_part_of_the_board_is_enough_and_the_rest_is_outside() -> None:
    scene = scene_of(make_board(6, (6, 6)), 6, (800, 800))
    found = as_detections(observe(scene, 1, PERFECT), (800, 800))
    # The right half of the image, as a smaller one: its pixels begin at 400.
    kept = found[found.boxes_xyxy[:, 0] > 400]
    half = Detections(
        kept.boxes_xyxy - np.array([400, 0, 400, 0], np.float32), kept.scores, kept.class_ids, CLASSES, (800, 400)
    )
    nominal = nominal_of_board(scene.assembly.board)
    result = align_detections(nominal, half)
    counts = result.counts()
    assert counts["right"] >= len(kept) - 2
    assert counts["outside"] == len(nominal) - counts["right"] - counts.get("missing", 0) - counts.get("displaced", 0)
    assert not result.right
    partial = align_detections(nominal, half, AlignSettings(partial=True))
    assert "outside" not in partial.counts()
    assert len(partial.parts) == len(result.parts) - counts["outside"]


def test_the_answer_depends_on_nothing_but_the_input_and_the_seed() -> None:
    scene = scene_of(make_board(8), 8)
    first = align_scene(scene, ClutterShares())
    assert first == align_scene(scene, ClutterShares())
    # Another order of trials finds the same pairs, so the same pose.
    other = align_scene(scene, ClutterShares(), AlignSettings(seed=5))
    assert first.pose is not None
    assert other.pose is not None
    assert np.allclose(other.pose.matrix, first.pose.matrix, rtol=1e-5)
    assert [part.verdict for part in other.parts] == [part.verdict for part in first.parts]


def test_too_few_parts_are_said_so() -> None:
    nominal = nominal_of_board(make_board(1))
    for count in (0, 1, 3):
        few = as_detections(observe(scene_of(make_board(1), 1), 1, PERFECT), SIZE)[:count]
        result = align_detections(nominal, few)
        assert result.reason == "few"
        assert f"{count} detections" in result.message
    assert msgspec.json.decode(msgspec.json.encode(result), type=Alignment) == result


@pytest.mark.parametrize("rise", [0.0, 0.4])
def test_parts_on_one_line_determine_no_pose(rise: float) -> None:
    along = np.arange(12.0)
    places = np.stack((along, rise * along), axis=1)
    names = tuple(f"R{i}" for i in range(12))
    nominal = Nominal(names, ("resistor",) * 12, places, np.zeros(12), ("top",) * 12, "mm", y_up=True)
    found = as_detections(observe(scene_of(make_board(1), 1), 1, PERFECT), SIZE)
    result = align_detections(nominal, found)
    assert result.reason == "few"
    assert "on one line" in result.message


def irwin_hall(total: Fraction, count: int) -> float:
    """P(U1 + … + Un ≤ total) of uniform numbers in 0…1 (Irwin 1927, Hall 1927), in exact arithmetic."""
    terms = (Fraction((-1) ** k * math.comb(count, k)) * (total - k) ** count for k in range(math.floor(total) + 1))
    return float(sum(terms) / math.factorial(count))


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10, 25, 40])
def test_the_probability_of_close_meetings_is_that_of_a_sum_of_uniform_numbers(count: int) -> None:
    for mean in (Fraction(1, 10_000), Fraction(1, 50), Fraction(16, 100), Fraction(3, 10), Fraction(45, 100)):
        exact = math.log(irwin_hall(mean * count, count))
        assert abs(_log_small(float(mean * count), count) - exact) < 0.125
    # Chance meetings, no meetings, and meetings in the very place.
    assert _log_small(0.5 * count, count) == 0
    assert _log_small(0.0, 0) == 0
    assert -200 * count < _log_small(0.0, count) < -15 * count
