"""Statistics of series against hand-computed values, and the files they are written to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from phidet.detections.alignment.drawing import draw_alignment
from phidet.detections.alignment.files import PART_COLUMNS, write_json, write_parts, write_statistics
from phidet.detections.alignment.results import Alignment, PartResult, PoseResult, Verdict
from phidet.detections.alignment.statistics import AxisStatistics, series_statistics

POSE = PoseResult(
    kind="similarity",
    matrix=((10.0, 0.0, 50.0), (0.0, -10.0, 450.0), (0.0, 0.0, 1.0)),
    k1=0.0,
    side="top",
    mirrored=False,
    origin_px=(50.0, 450.0),
    rotation=0.0,
    scale=10.0,
    sigma_px=0.5,
    parts=12,
    share=1.0,
    log10_false_alarms=-20.0,
)


def image(
    number: int, x: float, verdict: Verdict = "right", pose: PoseResult | None = POSE, extra: bool = False
) -> Alignment:
    """An image with one part, R1, that lies ``x`` too far to the right."""
    measured = PartResult(
        reference="R1",
        label="resistor",
        verdict=verdict,
        found_label="resistor",
        score=0.9,
        nominal_xy=(10.0, 20.0),
        xy=(10.0 + x, 20.0),
        deviation_xy=(x, 0.0),
        deviation=abs(x),
        sigma_xy=(0.01, 0.02),
        correlation=0.0,
        xy_px=(150.0 + 10 * x, 250.0),
        expected_px=(150.0, 250.0),
        box_xyxy=(140.0, 245.0, 160.0, 255.0),
    )
    missing = PartResult(
        reference="R1", label="resistor", verdict="missing", nominal_xy=(10.0, 20.0), expected_px=(150, 250)
    )
    more = PartResult(reference="", label="", verdict="extra", found_label="diode", xy=(1.0, 2.0), xy_px=(60.0, 430.0))
    parts = (missing if verdict == "missing" else measured, *((more,) if extra else ()))
    return Alignment(
        image=f"{number}.png",
        unit="mm",
        image_size_hw=(500, 700),
        pose=pose,
        reason="" if pose else "none",
        message="" if pose else "no arrangement agrees",
        parts=parts if pose else (),
    )


def test_capability_by_hand() -> None:
    """Deviations 0.1, 0.2, 0.3: mean 0.2, sigma 0.1; with a tolerance of 0.5 Cp = 5/3 and Cpk = 1."""
    series = [image(i, x) for i, x in enumerate((0.1, 0.2, 0.3))]
    part = series_statistics(series, tolerance=0.5).parts[0]
    assert part.x is not None
    assert (part.reference, part.measured, part.faults) == ("R1", 3, {})
    assert part.x.mean == pytest.approx(0.2)
    assert part.x.sigma == pytest.approx(0.1)
    assert part.x.cp == pytest.approx(0.5 / 0.3)
    assert part.x.cpk == pytest.approx((0.5 - 0.2) / 0.3)
    assert (part.x.drift, part.x.drifts) == (None, False)  # too few images
    assert part.noise == pytest.approx((0.01, 0.02))
    without = series_statistics(series).parts[0].x
    assert without is not None
    assert (without.cp, without.cpk) == (None, None)
    single = series_statistics(series[:1], 0.5).parts[0].x
    assert single is not None
    assert (single.sigma, single.cp) == (None, None)


def test_drift_is_the_slope_of_a_line_over_the_images_and_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, 30)
    values = 0.02 * np.arange(30) + noise
    # Image 12 has no pose: the others keep their place in the series.
    series = [image(i, float(x), pose=None if i == 12 else POSE) for i, x in enumerate(values)]
    axis = series_statistics(series).parts[0].x
    assert axis is not None
    kept = np.arange(30) != 12
    slope, covariance = np.polyfit(np.arange(30)[kept], values[kept], 1, cov=True)
    assert axis.drift == pytest.approx(slope[0])
    assert axis.drift_sigma == pytest.approx(np.sqrt(covariance[0, 0]))
    assert axis.drifts
    steady = series_statistics([image(i, float(x)) for i, x in enumerate(noise)]).parts[0].x
    assert steady is not None
    assert not steady.drifts


def test_the_board_itself_is_followed_over_the_series() -> None:
    turns = [178.0, 179.0, -180.0, -179.0, -178.0]
    series = [
        image(i, 0.0, pose=msgspec.structs.replace(POSE, rotation=turn, origin_px=(50.0 + i, 450.0)))
        for i, turn in enumerate(turns)
    ]
    board = series_statistics(series).board
    assert board["rotation"].mean == pytest.approx(180)
    assert board["rotation"].drift == pytest.approx(1)
    assert board["x"].drift == pytest.approx(1)
    assert board["scale"] == AxisStatistics(mean=10.0, sigma=0.0, drift=0.0, drift_sigma=0.0)


def test_faults_are_counted_and_wrong_parts_are_no_measurements() -> None:
    series = [image(0, 0.1), image(1, 0.9, "displaced"), image(2, 0.0, "missing"), image(3, 0.2, "wrong label")]
    statistics = series_statistics([*series, image(4, 0, pose=None)], 0.5)
    part = statistics.parts[0]
    assert part.faults == {"displaced": 1, "missing": 1, "wrong label": 1}
    assert part.measured == 2
    assert part.x is not None
    assert part.x.mean == pytest.approx(0.5)
    assert (statistics.images, statistics.located, statistics.right) == (5, 4, 1)
    assert series_statistics([]).parts == ()


def test_tables_have_a_line_for_each_part_and_say_why_there_is_none(tmp_path: Path) -> None:
    series = [image(0, 0.25, extra=True), image(1, 0.0, "missing"), image(2, 0, pose=None)]
    rows = list(csv.DictReader(write_parts(tmp_path / "parts.csv", series).read_text().splitlines()))
    assert [(r["image"], r["reference"], r["verdict"]) for r in rows] == [
        ("0.png", "R1", "right"),
        ("0.png", "", "extra"),
        ("1.png", "R1", "missing"),
        ("2.png", "", "no pose: none"),
    ]
    assert tuple(rows[0]) == PART_COLUMNS
    first = rows[0]
    assert {name: first[name] for name in ("x", "y", "x_deviation", "x_sigma", "x_px", "x_expected_px", "unit")} == {
        "x": "10.25",
        "y": "20",
        "x_deviation": "0.25",
        "x_sigma": "0.01",
        "x_px": "152.5",
        "x_expected_px": "150",
        "unit": "mm",
    }
    assert (rows[2]["x"], rows[2]["x_nominal"]) == ("", "10")
    statistics = series_statistics(series, 0.5)
    lines = list(csv.DictReader(write_statistics(tmp_path / "statistics.csv", statistics).read_text().splitlines()))
    assert (lines[0]["reference"], lines[0]["measured"], lines[0]["faults"], lines[0]["x_mean"]) == (
        "R1",
        "1",
        "1",
        "0.25",
    )
    content = json.loads(write_json(tmp_path / "alignment.json", series, statistics).read_text())
    assert msgspec.convert(content["images"], list[Alignment]) == series
    assert content["statistics"]["tolerance"] == 0.5


def test_a_drawing_shows_faults_and_leaves_the_rest_of_the_image() -> None:
    plain = np.full((500, 700, 3), 90, np.uint8)
    drawn = np.asarray(draw_alignment(plain, image(0, 0.5, "displaced", extra=True)))
    changed = (drawn != plain).any(-1)
    assert changed[245:255, 140:160].any()  # the part
    assert not changed[:150].any()
    # The deviation, 5 pixels, is enlarged to a twentieth of the diagonal or so: a light line to the right.
    assert (drawn[250, 165:175] > 200).all()
    unknown = np.asarray(draw_alignment(plain, image(0, 0, pose=None)))
    assert np.array_equal(unknown, plain)
