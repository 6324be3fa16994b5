"""The tracker: laws that hold for every scene, its filter and assignment against plain ones, and TUD's videos."""

from __future__ import annotations

import dataclasses
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phidet import Detections, Tracker, TrackerSettings
from phidet.core.errors import ConfigError, InputError, MissingExtraError
from phidet.detections.tracking import assignment
from phidet.detections.tracking.assignment import assign
from phidet.detections.tracking.camera import CameraMotion
from phidet.detections.tracking.external import ExternalTracker
from phidet.detections.tracking.motion import Motion
from tracking_data import LEVELS, RATE, Truth, noisy, perfect, score, tud

pytest.importorskip("scipy", reason="no SciPy here: pip install 'phidet[track]'")
SIZE_HW = (480, 640)
CALM = TrackerSettings()


def boxes_at(*centres: tuple[float, float], side: float = 40) -> npt.NDArray[np.float32]:
    return np.array([(x - side / 2, y - side, x + side / 2, y + side) for x, y in centres], np.float32).reshape(-1, 4)


def found(
    boxes: npt.NDArray[np.float32], scores: float | list[float] = 0.9, classes: list[int] | None = None
) -> Detections:
    class_ids = np.array(classes if classes is not None else [0] * len(boxes), np.int64)
    return Detections(boxes, np.broadcast_to(scores, len(boxes)), class_ids, ("person", "dog"), SIZE_HW)


def crowd(seed: int = 0, frames: int = 60, rate: float = 25.0) -> list[Detections]:
    """Objects that cross, leave and enter, with noise, misses and false boxes."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(0, 640, (12, 2)), rng.uniform(-160, 160, (12, 2))
    start[:, 1] *= 0.75
    truth = Truth([], [], SIZE_HW)
    for frame in range(frames):
        centres = start + speed * frame / rate
        inside = ((centres > 0) & (centres < (640, 480))).all(axis=1)
        truth.ids.append(np.flatnonzero(inside))
        truth.boxes_xyxy.append(boxes_at(*centres[inside].tolist()))
    return noisy(truth, LEVELS["middle"], seed)


def run(tracker: Tracker, frames: list[Detections], rate: float = 25.0, first: int = 0) -> list[Detections]:
    return [tracker.update(frame, (first + i) / rate) for i, frame in enumerate(frames)]


def ids_of(tracked: Detections) -> list[int]:
    return np.asarray(tracked.fields["track_id"]).tolist()  # type: ignore[no-any-return]


def as_set(tracked: Detections) -> set[tuple[object, ...]]:
    return set(zip(ids_of(tracked), map(tuple, tracked.boxes_xyxy.tolist()), tracked.scores.tolist(), strict=True))


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.repeated
def test_the_order_of_boxes_changes_nothing(seed: int) -> None:
    frames, rng = crowd(seed % 5, frames=15), np.random.default_rng(seed)
    # Equal scores, too: where they differ, Detections has sorted them already.
    flat = [dataclasses.replace(f, scores=np.round(f.scores * 2) / 2) for f in frames]
    shuffled = [f[rng.permutation(len(f))] for f in flat]
    for one, other in zip(run(Tracker(), flat), run(Tracker(), shuffled), strict=True):
        assert as_set(one) == as_set(other)


def test_a_mirrored_video_has_mirrored_tracks() -> None:
    frames = crowd(3)
    mirrored = []
    for f in frames:
        boxes = f.boxes_xyxy.copy()
        boxes[:, [0, 2]] = 640 - boxes[:, [2, 0]]
        mirrored.append(dataclasses.replace(f, boxes_xyxy=boxes))
    for one, other in zip(run(Tracker(), frames), run(Tracker(), mirrored), strict=True):
        assert ids_of(one) == ids_of(other)
        np.testing.assert_array_equal(one.scores, other.scores)


def test_ids_are_given_in_order_and_never_again() -> None:
    last_seen: dict[int, int] = {}
    highest = 0
    rng = np.random.default_rng(1)
    tracker = Tracker(TrackerSettings(lost_s=0.2))
    for frame in range(300):
        # Each object lives for 20 frames somewhere, and the next one begins at the same place after a long pause.
        alive = frame % 40 < 20
        boxes = boxes_at((100 + frame % 40, 100), (400, 300)) if alive else boxes_at()
        tracked = tracker.update(found(boxes + rng.normal(0, 0.5, boxes.shape).astype(np.float32)), frame / 25)
        for track_id in ids_of(tracked):
            assert track_id in last_seen or track_id == highest + 1
            assert frame - last_seen.get(track_id, frame) <= 5
            highest, last_seen[track_id] = max(highest, track_id), frame
    assert highest == 2 * 8


def test_a_stride_of_two_halves_nothing_but_the_resolution_in_time() -> None:
    start, speed = np.array([[50, 100], [600, 110], [300, 400.0]]), np.array([[150, 0], [-150, 0], [0, -60.0]])
    frames = [found(boxes_at(*(start + speed * i / 25).tolist())) for i in range(80)]
    every = run(Tracker(), frames)
    second = run(Tracker(), frames[::2], rate=12.5)
    for one, other in zip(every[2::2], second[1:], strict=True):
        assert as_set(one) == as_set(other)
    assert {i for tracked in every for i in ids_of(tracked)} == {1, 2, 3}


@pytest.mark.parametrize("camera_motion", [False, True])
@pytest.mark.repeated
def test_saved_and_continued_is_uninterrupted(tmp_path: Path, camera_motion: bool) -> None:
    frames = crowd(7, frames=30)
    images = [scene(shift=(2.0 * i, 0)) for i in range(4)] * 10
    chosen = TrackerSettings(camera_motion=camera_motion)
    whole, parts = Tracker(chosen), Tracker(chosen)
    for i, (frame, image) in enumerate(zip(frames, images, strict=False)):
        if i % 7 == 4:
            parts.save(tmp_path / "tracks.json")
            parts = Tracker.load(tmp_path / "tracks.json")
        assert whole.update(frame, i / 25, image) == parts.update(frame, i / 25, image)
        assert whole.predict(i / 25 + 0.02) == parts.predict(i / 25 + 0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["tracks.json"]


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ids": [1]}')
    with pytest.raises(InputError, match=r"a\.json is not a state that Tracker\.save wrote"):
        Tracker.load(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"cannot read .*b\.json"):
        Tracker.load(tmp_path / "b.json")
    tracker = Tracker()
    tracker.update(found(boxes_at((50, 50), (200, 200))), 0)
    tracker.save(tmp_path / "c.json")
    damaged = (tmp_path / "c.json").read_text().replace('"row":[0,1]', '"row":[0]')
    (tmp_path / "c.json").write_text(damaged)
    with pytest.raises(InputError, match="its columns are not those of tracks"):
        Tracker.load(tmp_path / "c.json")


def test_classes_are_kept_apart() -> None:
    tracker = Tracker()
    for i in range(4):
        tracked = tracker.update(found(boxes_at((100, 100), (100, 100)), [0.9, 0.8], [0, 1]), i / 25)
    assert dict(zip(ids_of(tracked), tracked.labels, strict=True)) == {1: "person", 2: "dog"}
    # The dog is gone: the person's weaker box is not taken for it.
    assert ids_of(tracker.update(found(boxes_at((100, 100), (100, 100)), [0.9, 0.8], [0, 0]), 0.2)) == [1]


def test_tracks_end_where_a_saved_state_goes_on_with_another_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker()
    for i in range(3):
        tracker.update(found(boxes_at((100, 100))), i / 25)
    tracker.save(str(tmp_path / "state.json"))
    tracker = Tracker.load(str(tmp_path / "state.json"))
    cats = [dataclasses.replace(found(boxes_at((100, 100))), names=("cat", "dog")) for _ in range(2)]
    # Class 0 was a person: nobody has become a cat, and the cat has an id that nobody had.
    assert [ids_of(tracker.update(cat, 0.12 + i / 25)) for i, cat in enumerate(cats)] == [[], [2]]
    message = "the classes were person, dog and are cat, dog: tracks of those that changed end"
    assert [record.message for record in caplog.records] == [message]


def test_weak_detections_go_on_with_a_track_but_begin_none() -> None:
    tracker = Tracker()
    for i in range(3):
        tracker.update(found(boxes_at((100, 100))), i / 25)
    for i in range(3, 8):
        tracked = tracker.update(found(boxes_at((100, 100), (300, 300)), [0.15, 0.14]), i / 25)
        assert ids_of(tracked) == [1]
        np.testing.assert_array_equal(tracked.boxes_xyxy, boxes_at((100, 100)))
    assert ids_of(tracker.update(found(boxes_at((100, 100)), 0.09), 0.4)) == []


@pytest.mark.parametrize(("gap_s", "same"), [(0.5, True), (0.96, True), (1.04, False)])
def test_gaps_are_bridged_for_as_long_as_the_settings_say(gap_s: float, same: bool) -> None:
    tracker = Tracker()
    for i in range(50):
        tracker.update(found(boxes_at((50 + 4 * i, 100))), i / 25)
    back = 49 / 25 + gap_s
    for i in range(50, round(back * 25)):
        tracker.update(found(boxes_at()), i / 25)
    for k in range(2):
        # It has gone on behind something at 100 pixels a second.
        tracked = tracker.update(found(boxes_at((50 + 100 * (back + k / 25), 100))), back + k / 25)
    assert ids_of(tracked) == ([1] if same else [2])


def test_one_sighting_is_no_track_and_a_second_one_is() -> None:
    tracker = Tracker()
    assert ids_of(tracker.update(found(boxes_at((100, 100)), 0.7), 0)) == []
    assert ids_of(tracker.update(found(boxes_at((300, 300)), 0.7), 0.04)) == []
    assert ids_of(tracker.update(found(boxes_at((100, 100)), 0.7), 0.08)) == [1]
    assert ids_of(Tracker(TrackerSettings(sure=0.7)).update(found(boxes_at((1, 1)), 0.7), 0)) == [1]


def test_at_one_frame_in_two_seconds_tracks_are_still_found() -> None:
    tracked = run(Tracker(), [found(boxes_at((100 + i, 100)), 0.7) for i in range(5)], rate=0.5)
    assert [ids_of(t) for t in tracked] == [[], [1], [1], [1], [1]]


def test_at_a_low_frame_rate_boxes_need_not_meet() -> None:
    """Two walkers, more than their width a frame: what is not known of their speeds is bridged."""

    def at(i: int, rate: float) -> Detections:
        return found(boxes_at((50 + 50 * i / rate, 100), (600 - 50 * i / rate, 300)), [0.9, 0.8])

    slow = [ids_of(t) for t in run(Tracker(), [at(i, 1.0) for i in range(10)], rate=1.0)]
    assert slow == [[], *([[1, 2]] * 9)]
    # At a high one nobody moves so far: a box that is a width away is another object.
    tracker = Tracker()
    for i in range(3):
        tracker.update(at(0, 25.0), i / 25)
    assert ids_of(tracker.update(at(1, 1.0), 3 / 25)) == []


def test_predictions_move_on_and_change_nothing() -> None:
    tracker = Tracker()
    for i in range(25):
        last = tracker.update(found(boxes_at((100 + 4 * i, 200))), i / 25)
    ahead = tracker.predict(24 / 25 + 0.1)
    assert ids_of(ahead) == [1]
    np.testing.assert_allclose(ahead.boxes_xyxy, boxes_at((100 + 4 * 24 + 10, 200)), atol=1.5)
    np.testing.assert_allclose(tracker.predict(24 / 25).boxes_xyxy, last.boxes_xyxy, atol=1.5)
    assert tracker.predict(24 / 25 + 0.1) == ahead


def test_drawn_tracks_have_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("phidet.detections.draw.draw_boxes", lambda image, *args, **_: given.append(args[2]) or image)
    tracker = Tracker()
    for i in range(2):
        tracked = tracker.update(found(boxes_at((100, 100), (300, 300)), [0.9, 0.8], [0, 1]), i / 25)
    tracked.draw(np.zeros((*SIZE_HW, 3), np.uint8))
    assert given == [["person 1", "dog 2"]]


def test_a_stream_that_changes_its_size_keeps_its_tracks() -> None:
    tracker = Tracker()
    for i in range(10):
        tracker.update(found(boxes_at((400, 300), (100, 300))), i / 25)
    small = Detections(boxes_at((400, 300), (100, 300)) / 4, np.ones(2), np.zeros(2, int), ("person",), (120, 160))
    assert sorted(ids_of(tracker.update(small, 0.4))) == [1, 2]


def test_times_must_not_run_backwards() -> None:
    tracker = Tracker()
    tracker.update(found(boxes_at()), 5.0)
    with pytest.raises(InputError, match=r"expected the time of a later frame than 5\.0 s, got 4\.9"):
        tracker.update(found(boxes_at()), 4.9)
    with pytest.raises(InputError, match="got nan"):
        tracker.predict(float("nan"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"high": 1.2}, r"high must be in 0…1, got 1\.2"),
        ({"lost_s": -1.0}, "lost_s must be 0 or more seconds"),
        ({"measured": 0.0}, "measured must be above 0"),
        ({"low": 0.6}, r"low must not be above high, got 0\.6 and 0\.5"),
    ],
)
def test_invalid_settings_are_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrackerSettings(**wrong)  # type: ignore[arg-type]


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assignment.import_solver.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'phidet\[track\]'"):
        Tracker()


# The filter and the assignment.


def test_the_filter_is_that_of_a_textbook() -> None:
    """Against the matrices of a constant-velocity filter with eight states, written out."""
    rng = np.random.default_rng(0)
    boxes = boxes_at((100, 120))
    motion, dt = Motion.begin(boxes, CALM), 0.07
    x1, y1, x2, y2 = boxes[0].tolist()
    mean = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0, 0, 0, 0])
    side = (mean[2] + mean[3]) / 2
    covariance = np.diag([(CALM.measured * side) ** 2] * 4 + [(CALM.first_speed * side) ** 2] * 4)
    step = np.eye(8) + dt * np.eye(8, k=4)
    seen = np.eye(4, 8)
    for _ in range(6):
        density = np.diag((np.array([CALM.acceleration] * 2 + [CALM.growth] * 2) * side) ** 2)
        noise = np.block([[density * dt**3 / 3, density * dt**2 / 2], [density * dt**2 / 2, density * dt]])
        mean, covariance = step @ mean, step @ covariance @ step.T + noise
        boxes = boxes + rng.normal(0, 3, (1, 4)).astype(np.float32)
        x1, y1, x2, y2 = boxes[0].tolist()
        residual = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) - seen @ mean
        total = seen @ covariance @ seen.T + np.eye(4) * (CALM.measured * side) ** 2
        gain = covariance @ seen.T @ np.linalg.inv(total)
        mean, covariance = mean + gain @ residual, (np.eye(8) - gain @ seen) @ covariance
        motion = motion.predict(dt, CALM).correct(boxes, CALM)
        side = (mean[2] + mean[3]) / 2
        np.testing.assert_allclose(motion.state[0, :2].reshape(-1), mean, rtol=1e-9)
        np.testing.assert_allclose(motion.state[0, 2], np.diag(covariance)[:4], rtol=1e-9)
        np.testing.assert_allclose(motion.state[0, 3], np.diag(covariance, k=4), rtol=1e-9)
        np.testing.assert_allclose(motion.state[0, 4], np.diag(covariance)[4:], rtol=1e-9)


@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_two_steps_are_one_of_their_sum(first: float, second: float) -> None:
    motion = (
        Motion.begin(boxes_at((100, 120), (300, 50)), CALM)
        .predict(0.04, CALM)
        .correct(boxes_at((103, 118), (301, 55)), CALM)
    )
    twice = motion.predict(first, CALM).predict(second, CALM)
    np.testing.assert_allclose(twice.state, motion.predict(first + second, CALM).state, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_the_assignment_is_the_best_of_all(rows: int, columns: int, seed: int) -> None:
    similarity, least = np.random.default_rng(seed).random((rows, columns)).round(2), 0.3
    chosen = list(zip(*assign(similarity, least), strict=True))
    assert len({i for i, _ in chosen}) == len({j for _, j in chosen}) == len(chosen)
    assert all(similarity[i, j] >= least for i, j in chosen)
    worth = np.maximum(similarity - least, 0)
    if rows > columns:
        worth = worth.T
    best = max(sum(worth[i, j] for i, j in enumerate(p)) for p in permutations(range(worth.shape[1]), len(worth)))
    np.testing.assert_allclose(sum(similarity[i, j] - least for i, j in chosen), best, atol=1e-9)


# The camera.


def scene(shift: tuple[float, float] = (0, 0), zoom: float = 1.0, turn: float = 0.0) -> npt.NDArray[np.uint8]:
    """A textured wall, 480 × 640, seen by a camera that has moved."""
    from PIL import Image  # noqa: PLC0415

    coarse = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    wall = Image.fromarray(coarse).resize((1280, 960), Image.Resampling.BICUBIC)
    # Pixels of the frame → pixels of the wall: the inverse of the movement, about the middle of the frame.
    c, s = np.cos(turn) / zoom, np.sin(turn) / zoom
    x0, y0 = 320 + shift[0], 240 + shift[1]
    a = (c, s, 640 - c * x0 - s * y0, -s, c, 480 + s * x0 - c * y0)
    return np.asarray(wall.transform((640, 480), Image.Transform.AFFINE, a, Image.Resampling.BICUBIC).convert("RGB"))


@pytest.mark.parametrize(
    ("shift", "zoom", "turn"),
    [((0, 0), 1, 0), ((13.4, -7.7), 1, 0), ((90, 40), 1, 0), ((0, 0), 1.03, 0), ((5, 5), 0.98, 0.02)],
)
def test_the_movement_of_a_camera_is_found(shift: tuple[float, float], zoom: float, turn: float) -> None:
    camera = CameraMotion()
    np.testing.assert_array_equal(camera.update(scene()), np.eye(2, 3))
    after = scene(shift, zoom, turn).copy()
    after[200:300, 250:350] = 40  # something that came into view
    affine = camera.update(after)
    rotation = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = np.array([[0, 0], [640, 0], [0, 480], [640, 480.0]])
    moved = (corners - (320, 240)) @ rotation.T + (320, 240) + shift
    np.testing.assert_allclose(corners @ affine[:, :2].T + affine[:, 2], moved, atol=1.0)


def test_tracks_survive_a_camera_that_shakes() -> None:
    rng = np.random.default_rng(0)
    shakes = np.cumsum(rng.uniform(-45, 45, (12, 2)), axis=0).clip(-120, 120)
    with_frames, without = Tracker(TrackerSettings(camera_motion=True)), Tracker()
    for i, shake in enumerate(shakes):
        centres = np.array([[200, 200], [300, 250], [420, 180.0]]) + shake
        frame = found(boxes_at(*centres.tolist()), [0.9, 0.85, 0.8])
        steady = ids_of(with_frames.update(frame, i / 25, scene(tuple(shake))))
        lost = ids_of(without.update(frame, i / 25))
    assert steady == [1, 2, 3]
    assert lost != [1, 2, 3]


def test_camera_motion_needs_the_frames() -> None:
    with pytest.raises(InputError, match="camera_motion needs the frame"):
        Tracker(TrackerSettings(camera_motion=True)).update(found(boxes_at()), 0)


# Trackers of others.


class Overlapping:
    """In the place of one of the ``trackers`` package: returns the rows backwards, the first one without an id."""

    def update(self, detections: Any) -> Any:
        backwards = detections[np.arange(len(detections))[::-1]]
        backwards.tracker_id = np.arange(len(detections))[::-1] * 10 - 1
        return backwards


def test_another_tracker_can_be_used_instead() -> None:
    pytest.importorskip("supervision")
    three = found(boxes_at((100, 100), (200, 100), (300, 100)), [0.9, 0.8, 0.7])
    tracker = ExternalTracker(Overlapping())
    tracked = tracker.update(three, 0.0)
    assert ids_of(tracked) == [9, 19]
    np.testing.assert_array_equal(tracked.boxes_xyxy, three.boxes_xyxy[1:])
    assert len(tracker.update(found(boxes_at()), 0.04)) == 0
    with pytest.raises(ConfigError, match="detect on every frame"):
        tracker.predict(1.0)
    with pytest.raises(ConfigError, match="expected a tracker with a method update, got a int"):
        ExternalTracker(1)


def test_bytetrack_of_trackers_gives_its_own_ids() -> None:
    trackers = pytest.importorskip("trackers")
    tracker = ExternalTracker(trackers.ByteTrackTracker(frame_rate=25.0))
    frames = [found(boxes_at((100 + 3 * i, 100), (400, 200)), [0.9, 0.8]) for i in range(10)]
    ids = [ids_of(tracker.update(frame, i / 25)) for i, frame in enumerate(frames)]
    assert len(ids[-1]) == 2
    assert ids[2:] == [ids[-1]] * 8


# TUD's videos.

THEIRS = {
    "TUD-Campus": {"low": (79.8, 88.4, 88.2), "middle": (58.0, 75.5, 76.6), "high": (36.7, 49.0, 54.0)},
    "TUD-Stadtmitte": {"low": (81.9, 92.3, 91.9), "middle": (54.2, 80.2, 69.9), "high": (34.3, 50.1, 52.7)},
}
"""HOTA, MOTA and IDF1 of ByteTrack of ``trackers`` 2.6.1 on the same detections, mean of three seeds: the figures of
``benchmarks/tracking.py``."""


def tracks_of(frames: list[Detections]) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.float32]]]:
    tracked = run(Tracker(), frames, RATE)
    return [np.asarray(t.fields["track_id"]) for t in tracked], [t.boxes_xyxy for t in tracked]


@pytest.mark.parametrize("name", THEIRS)
def test_with_perfect_boxes_nothing_is_confused(name: str) -> None:
    truth = tud(name)
    assert score(truth, *tracks_of(perfect(truth))) == (100, 100, 100, 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", THEIRS)
def test_tracks_of_noisy_boxes_are_at_least_as_good_as_those_of_trackers(name: str, level: str) -> None:
    truth = tud(name)
    ours = [score(truth, *tracks_of(noisy(truth, LEVELS[level], seed))) for seed in range(3)]
    mean = np.mean(ours, axis=0)[:3]
    assert (mean >= THEIRS[name][level]).all(), (mean, THEIRS[name][level])
