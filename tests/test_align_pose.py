"""Poses: maps and their inverses, derivatives against differences, fits against truth and against what noise allows."""

from __future__ import annotations

import numpy as np
import pytest

from phidet.detections.alignment.pose import KINDS, Floats, Frame, Pose, PoseKind, fit_pose, local_pose

SIZE = (600, 800)


def some_places(count: int = 40, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).uniform((0, -50), (80, 0), (count, 2))


def some_pose(kind: PoseKind, k1: float = 0.0, mirrored: bool = False) -> Pose:
    """A pose that fills the image of :data:`SIZE` with the places of :func:`some_places`."""
    sign = -1.0 if mirrored else 1.0
    matrix = np.array([[0.45, -0.12 * sign, 0.03], [0.12, 0.45 * sign, -0.02], [0, 0, 1]])
    if kind != "similarity":
        matrix[0, 1] += 0.05
    if kind == "homography":
        matrix[2, :2] = 0.05, -0.08
    return Pose(kind, matrix, k1, Frame.of(some_places(), SIZE), fitted_k1=bool(k1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k1", [0.0, -0.12, 0.12])
def test_back_undoes_project(kind: PoseKind, k1: float) -> None:
    pose = some_pose(kind, k1)
    assert np.allclose(pose.back(pose.project(some_places())), some_places(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_derivatives_equal_differences(kind: PoseKind, mirrored: bool) -> None:
    pose, places, step = some_pose(kind, 0.1, mirrored), some_places(), 1e-6
    by_place = np.stack(
        [(pose.project(places + d) - pose.project(places - d)) / (2 * step) for d in step * np.eye(2)], axis=2
    )
    assert np.allclose(pose.local(places), by_place, rtol=1e-6, atol=1e-6)
    # The parameters: elements of the matrix, tied together for a similarity, then k1.
    sign = -1.0 if mirrored else 1.0
    moves = {
        "similarity": [([0, 4], [1, sign]), ([1, 3], [-sign, 1]), ([2], [1]), ([5], [1])],
        "affine": [([i], [1]) for i in range(6)],
        "homography": [([i], [1]) for i in range(8)],
    }[kind]
    columns = []
    for elements, values in moves:
        ends = []
        for way in (1, -1):
            matrix = pose.matrix.copy()
            matrix.reshape(-1)[elements] += way * step * np.array(values)
            ends.append(Pose(kind, matrix, pose.k1, pose.frame).project(places))
        columns.append((ends[0] - ends[1]) / (2 * step))
    ends = [Pose(kind, pose.matrix, pose.k1 + d, pose.frame).project(places) for d in (step, -step)]
    columns.append((ends[0] - ends[1]) / (2 * step))
    assert np.allclose(pose.by_parameters(places), np.stack(columns, axis=2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("k1", [0.0, -0.08])
def test_a_fit_finds_the_exact_pose(kind: PoseKind, mirrored: bool, k1: float) -> None:
    true, places = some_pose(kind, k1, mirrored), some_places()
    pixels = true.project(places)
    # From the map around one place only, as the search gives it.
    start = local_pose(true.local(places[:1])[0], places[0], pixels[0], true.frame)
    fitted = fit_pose(places, pixels, start, kind, distortion=bool(k1))
    assert fitted is not None
    assert np.abs(fitted.project(places) - pixels).max() < 1e-6
    assert fitted.mirrored == mirrored
    assert fitted.k1 == pytest.approx(k1, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_covariance_is_that_of_many_fits(kind: PoseKind) -> None:
    """Over 400 fits to noisy pixels, the scatter of a projected place is what :meth:`Pose.spread_of` says."""
    true, places, sigma = some_pose(kind), some_places(16), 0.7
    rng = np.random.default_rng(1)
    pixels = true.project(places)
    corners = np.array([[0.0, -50], [80, 0], [40, -25]])
    ends = []
    for _ in range(400):
        fitted = fit_pose(places, pixels + sigma * rng.standard_normal(pixels.shape), true, kind)
        assert fitted is not None
        ends.append(fitted.project(corners))
    exact = fit_pose(places, pixels, true, kind)
    assert exact is not None
    scatter = np.var(np.array(ends), axis=0)
    told = sigma**2 * np.diagonal(exact.spread_of(corners), axis1=1, axis2=2)
    assert np.allclose(scatter / told, 1, atol=0.3)  # 400 fits: a standard deviation of 0.07
    assert np.abs(np.mean(ends, axis=0) - true.project(corners)).max() < 5 * sigma * np.sqrt(told.max() / 400)


def test_a_similarity_keeps_angles_and_a_mirrored_one_turns_them_round() -> None:
    places = some_places(12)
    for mirrored in (False, True):
        true = some_pose("similarity", mirrored=mirrored)
        noisy = true.project(places) + np.random.default_rng(2).standard_normal((12, 2))
        fitted = fit_pose(places, noisy, true, "similarity")
        assert fitted is not None
        linear = fitted.local(places[:1])[0]
        assert np.allclose(linear.T @ linear, np.eye(2) * (linear.T @ linear)[0, 0])
        assert (np.linalg.det(linear) < 0) == mirrored


def test_places_that_do_not_determine_a_pose_give_none() -> None:
    true = some_pose("homography")
    line = np.stack([np.linspace(0, 80, 20), np.full(20, -10.0)], 1)
    assert fit_pose(line, true.project(line), true, "homography") is None
    assert fit_pose(line[:3], true.project(line[:3]), true, "homography") is None
    assert fit_pose(line, true.project(line), true, "affine") is None
    assert np.isinf(true.spread_of(line)).all()  # never fitted
