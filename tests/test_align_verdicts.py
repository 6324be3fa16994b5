"""Places, uncertainties and verdicts, by hand and against truth."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import numpy as np
import pytest

from made_boards import CLASSES, ClutterShares, FaultShares, make_board, make_scene, observe
from made_boards.nominal import as_detections, nominal_of_board
from phidet.core.errors import ConfigError, InputError
from phidet.detections.alignment.alignment import align_detections
from phidet.detections.alignment.assign import Radii, assign
from phidet.detections.alignment.nominal import SIDES, Nominal, nominal_of
from phidet.detections.alignment.pose import Frame, Pose, fit_pose
from phidet.detections.alignment.results import Alignment, PartResult
from phidet.detections.alignment.rotation import box_rotations
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections

NAMES = ("a", "b", "c")


def plan(seed: int = 0, count: int = 24) -> Nominal:
    """Parts of three classes scattered over 60 × 40 mm, at least 5 mm apart."""
    rng = np.random.default_rng(seed)
    places: list[np.ndarray] = []
    while len(places) < count:
        place = rng.uniform((0, 0), (60, 40))
        if all(np.hypot(*(place - other)) > 5 for other in places):
            places.append(place)
    return Nominal(
        tuple(f"P{i}" for i in range(count)),
        tuple(NAMES[i % 3] for i in range(count)),
        np.array(places),
        np.zeros(count),
        (SIDES[0],) * count,
        "mm",
        y_up=True,
    )


def seen(places_mm: np.ndarray, labels: list[str], scores: np.ndarray | None = None) -> Detections:
    """Detections 10 pixels to the millimetre, the image 700 × 500, y downwards."""
    centres = places_mm * [10, -10] + [50, 450]
    boxes = np.concatenate([centres - 12, centres + 12], axis=1).astype(np.float32)
    given = np.linspace(0.9, 0.5, len(labels)) if scores is None else scores
    return Detections(boxes, given.astype(np.float32), np.array([NAMES.index(n) for n in labels]), NAMES, (500, 700))


def part(result: Alignment, reference: str) -> PartResult:
    return next(one for one in result.parts if one.reference == reference)


def test_every_verdict_by_hand() -> None:
    nominal = plan()
    places, labels = nominal.places.copy(), list(nominal.labels)
    places += np.random.default_rng(3).normal(0, 0.03, places.shape)
    places[4] = nominal.places[4] + [1.5, -0.5]
    labels[7] = NAMES[(NAMES.index(labels[7]) + 1) % 3]
    kept = [i for i in range(24) if i != 10]
    places, labels = np.r_[places[kept], [[30.0, 47.0]]], [*(labels[i] for i in kept), "c"]
    result = align_detections(nominal, seen(places, labels), AlignSettings(mirrored="no"), image="x.png")
    assert result.pose is not None
    faults = {one.reference: one.verdict for one in result.parts if one.verdict != "right"}
    assert faults == {"P4": "displaced", "P7": "wrong label", "P10": "missing", "": "extra"}
    assert result.counts() == {"right": 21, "displaced": 1, "wrong label": 1, "missing": 1, "extra": 1}
    assert not result.right
    moved = part(result, "P4")
    assert moved.deviation_xy == pytest.approx((1.5, -0.5), abs=0.15)
    assert moved.deviation == pytest.approx(np.hypot(*moved.deviation_xy))
    assert part(result, "P7").found_label == labels[7]
    extra = part(result, "")
    assert extra.xy == pytest.approx((30.0, 47.0), abs=0.15)
    assert extra.found_label == "c"
    # The pose is in the list's axes: 10 pixels for a millimetre, the origin at (50, 450).
    assert result.pose.kind == "similarity"
    assert result.pose.scale == pytest.approx(10, abs=0.02)
    assert result.pose.rotation == pytest.approx(0, abs=0.1)
    assert result.pose.origin_px == pytest.approx((50, 450), abs=0.5)
    assert not result.pose.mirrored


def test_a_tolerance_decides_instead_of_the_scatter() -> None:
    nominal = plan()
    places = nominal.places + np.random.default_rng(3).normal(0, 0.02, nominal.places.shape)
    places[4] += [0.5, 0]
    found = seen(places, list(nominal.labels))
    deviation = part(align_detections(nominal, found, AlignSettings(tolerance=10.0)), "P4").deviation
    assert deviation is not None
    for tolerance, verdict in ((deviation * 1.01, "right"), (deviation * 0.99, "displaced")):
        result = align_detections(nominal, found, AlignSettings(tolerance=tolerance))
        assert part(result, "P4").verdict == verdict
        assert result.right == (verdict == "right")
    # Far from its place, a part is looked for up to ``reach``.
    places[4] += [3.5, 0]
    far = seen(places, list(nominal.labels))
    assert part(align_detections(nominal, far, AlignSettings(reach=2.0)), "P4").verdict == "missing"
    assert part(align_detections(nominal, far, AlignSettings(reach=5.0)), "P4").verdict == "displaced"


def test_a_deviation_is_what_a_fit_to_all_other_parts_measures() -> None:
    """The law behind the deviations: leaving a part out of the fit, not solving for it."""
    nominal = plan(count=12)
    places = nominal.places + np.random.default_rng(5).normal(0, 0.05, nominal.places.shape)
    found = seen(places, list(nominal.labels))
    result = align_detections(nominal, found, AlignSettings(pose="affine", mirrored="no"))
    assert result.pose is not None
    down, pixels = nominal.downward, places * [10, -10] + [50, 450]
    assert result.pose.parts == 12
    start = Pose("affine", np.eye(3), 0.0, Frame.of(down, (500, 700)))
    for i in range(12):
        others = np.arange(12) != i
        without = fit_pose(down[others], pixels[others], start, result.pose.kind)
        assert without is not None
        expected = (without.back(pixels[i][None])[0] - down[i]) * [1, -1]
        assert part(result, f"P{i}").deviation_xy == pytest.approx(tuple(expected), abs=2e-4)


@pytest.mark.slow
def test_uncertainties_are_those_of_the_errors() -> None:
    """Over many boards, squared deviations of right parts in units of their covariance have the mean 2."""
    squares = []
    for seed in range(60):
        scene = make_scene(make_board(seed), seed, FaultShares(0, 0, 0, 0, 0))
        found = as_detections(observe(scene, seed, ClutterShares(0.1, 0.1, 0.05, 1.0)), (384, 384))
        result = align_detections(nominal_of_board(scene.assembly.board), found)
        assert result.pose is not None
        for one in result.parts:
            if one.verdict in ("right", "rotated"):
                assert one.sigma_xy is not None
                assert one.correlation is not None
                x, y = one.sigma_xy
                covariance = np.array([[x * x, one.correlation * x * y], [one.correlation * x * y, y * y]])
                deviation = np.array(one.deviation_xy)
                squares.append(deviation @ np.linalg.solve(covariance, deviation))
    assert len(squares) > 1000
    assert np.mean(squares) == pytest.approx(2, abs=0.15)
    # A squared normal 2-vector is beyond 5.99 in 5 %.
    assert np.mean(np.array(squares) > 5.99) == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
def test_faults_of_made_boards_are_found_by_a_good_detector() -> None:
    """Boxes to half a pixel and nothing else wrong with the detector: shares of faults with their verdict."""
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(30):
        scene = make_scene(make_board(seed), seed, FaultShares(0.05, 0.05, 0.05, 0.0, 0.05))
        found = as_detections(observe(scene, seed, ClutterShares(0, 0, 0, 0.5)), (384, 384))
        result = align_detections(nominal_of_board(scene.assembly.board), found)
        assert result.pose is not None
        for one in result.parts:
            counts[scene.assembly.faults.get(one.reference, "extra") or "right", one.verdict] += 1
    for fault in ("missing", "displaced", "wrong label", "extra"):
        total = sum(n for (true, _), n in counts.items() if true == fault)
        assert total > 30
        assert counts[fault, fault] >= 0.95 * total
    right = sum(n for (true, _), n in counts.items() if true == "right")
    assert counts["right", "right"] >= 0.995 * right


def test_detections_of_one_object_count_once() -> None:
    nominal = plan()
    found = seen(nominal.places, list(nominal.labels))
    boxes = np.r_[found.boxes_xyxy, found.boxes_xyxy[:3] + 1]
    ids = np.r_[found.class_ids, (found.class_ids[:3] + 1) % 3]
    scores = np.r_[found.scores, [0.4, 0.4, 0.95]].astype(np.float32)
    result = align_detections(nominal, Detections(boxes, scores, ids, NAMES, (500, 700)))
    assert result.doubled == 3
    # Of two boxes on one object the higher score counts: twice the right class, once another. Scores fall with the
    # parts' numbers, so detection 2 is part P2.
    assert {one.reference: one.verdict for one in result.parts if one.verdict != "right"} == {"P2": "wrong label"}


def test_weak_detections_confirm_parts_and_nothing_else() -> None:
    nominal = plan()
    places, labels = nominal.places.copy(), list(nominal.labels)
    scores = np.full(24, 0.9)
    scores[[3, 5, 8]] = 0.15
    labels[5] = NAMES[(NAMES.index(labels[5]) + 1) % 3]  # another class in its place
    places[8] += [2.0, 0.0]  # its class, but elsewhere
    found = seen(np.r_[places, [[30.0, 47.0]]], [*labels, "a"], np.r_[scores, 0.15])
    for score, faults in (
        (0.0, {"P5": "wrong label", "P8": "displaced", "": "extra"}),
        (0.3, {"P5": "missing", "P8": "missing"}),
    ):
        result = align_detections(nominal, found, AlignSettings(score=score))
        assert {one.reference: one.verdict for one in result.parts if one.verdict != "right"} == faults
    # Without them, P3 is missing too.
    strong = align_detections(nominal, found.filter(0.3))
    assert part(strong, "P3").verdict == "missing"


def test_the_assignment_is_the_best_of_all() -> None:
    """Against every possible assignment of five parts to five detections."""
    radii = Radii(1.0, 3.0, 4.0, 9.0)

    def cost(distance: float, same: bool) -> float:
        if distance > 9 or (not same and distance > 4):
            return 1e9
        if same:
            return min(distance**2, 14) if distance <= 3 else 14 + 6 * (distance / 9) ** 2
        return 18 + (distance / 4) ** 2

    rng = np.random.default_rng(0)
    for _ in range(30):
        expected, found = rng.uniform(0, 12, (5, 2)), rng.uniform(0, 12, (5, 2))
        ours, theirs = rng.integers(2, size=5), rng.integers(2, size=5)
        table = np.array(
            [
                [cost(float(np.hypot(*(expected[i] - found[j]))), ours[i] == theirs[j]) for j in range(5)]
                for i in range(5)
            ]
        )
        # A part without a detection costs 24, as a pair that is dropped saves its own cost.
        least = min(
            sum(min(table[i, j], 24) for i, j in enumerate(order)) for order in itertools.permutations(range(5))
        )
        rows, columns = assign(expected, ours, found, theirs, radii)
        assert len(set(columns.tolist())) == len(columns)
        assert table[rows, columns].sum() + 24 * (5 - len(rows)) == pytest.approx(least)


@pytest.mark.parametrize("given", [True, False])
def test_boxes_tell_how_long_parts_are_turned(given: bool) -> None:
    angles = np.r_[np.zeros(6), np.full(6, 90.0), [30.0, 0, 0]]
    turned = np.r_[np.zeros(12), [0, 90, 40]]
    actual = np.radians(angles + turned)
    sides = np.array([8.0, 3.0])
    c, s = np.abs(np.cos(actual)), np.abs(np.sin(actual))
    sizes = np.stack([sides[0] * c + sides[1] * s, sides[0] * s + sides[1] * c], 1)
    sizes += np.random.default_rng(0).normal(0, 0.05, sizes.shape)
    nominal = np.tile(sides, (15, 1)) if given else None
    measured, misfit = box_rotations(angles, sizes, ["x"] * 15, nominal)
    assert (misfit[:13] < 4).all()
    assert (misfit[13:] > 8).all()
    assert measured[13:] == pytest.approx([90, 40], abs=3)
    # Square parts, and labels with too few parts, do not tell.
    square = np.full((15, 2), 5.0)
    assert np.isnan(box_rotations(angles, square, ["x"] * 15, None)[0]).all()
    assert np.isnan(box_rotations(angles[:2], sizes[:2], ["x"] * 2, None)[0]).all()


@pytest.mark.repeated
def test_turned_parts_are_told_from_turned_boards() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(30):
        scene = make_scene(make_board(seed, (4, 4)), seed, FaultShares(0, 0, 0, 0.08, 0), (512, 512))
        found = as_detections(observe(scene, seed, ClutterShares(0, 0, 0, 0.3)), (512, 512))
        result = align_detections(nominal_of_board(scene.assembly.board), found)
        # Long parts of which a board has many: their size is learned from the others.
        long = {p.reference for p in scene.assembly.board.parts if p.label in ("resistor", "capacitor")}
        for one in result.parts:
            if one.reference in long:
                counts[scene.assembly.faults[one.reference], one.verdict] += 1
    assert counts["rotated", "rotated"] >= 0.97 * (counts["rotated", "rotated"] + counts["rotated", "right"])
    assert counts["rotated", "rotated"] > 50
    assert counts["", "rotated"] <= 0.005 * counts["", "right"]


def test_an_image_of_a_right_assembly_is_a_list() -> None:
    nominal = plan()
    golden = seen(nominal.places, list(nominal.labels))
    listed = nominal_of(golden, "golden.png")
    assert Counter(reference.split("-")[0] for reference in listed.references) == Counter(nominal.labels)
    assert listed.unit == "px"
    moved = nominal.places + np.where(np.arange(24)[:, None] == 5, [0.8, 0.0], 0.0)
    result = align_detections(listed, seen(moved, list(nominal.labels)))
    faults = [one for one in result.parts if one.verdict != "right"]
    assert [one.verdict for one in faults] == ["displaced"]
    assert faults[0].deviation_xy == pytest.approx((8, 0), abs=0.2)  # pixels of the golden image, y downwards


def test_an_alignment_survives_json() -> None:
    nominal = plan()
    result = align_detections(nominal, seen(nominal.places, list(nominal.labels)), image="a.png")
    assert msgspec.json.decode(msgspec.json.encode(result), type=Alignment) == result


def test_settings_and_lists_are_checked() -> None:
    with pytest.raises(ConfigError, match="tolerance must be a number > 0, got -1"):
        AlignSettings(tolerance=-1)
    with pytest.raises(ConfigError, match="unknown pose 'projective'"):
        AlignSettings(pose="projective")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"least_share must be in \(0, 1\]"):
        AlignSettings(least_share=0)
    one = plan(count=4)
    with pytest.raises(InputError, match="the reference 'P0' comes twice"):
        Nominal(("P0",) * 4, one.labels, one.places, one.rotations, one.sides, "mm", y_up=True)
    with pytest.raises(InputError, match="places must be finite"):
        Nominal(one.references, one.labels, one.places * np.nan, one.rotations, one.sides, "mm", y_up=True)
    assert CLASSES  # the classes of made parts are not those of this plan
