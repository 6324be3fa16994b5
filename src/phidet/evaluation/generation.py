"""Measures of made images: by their features, by the paths between them, by what their latents separate.

Features are any network's; a measure is comparable with others only where the network is the same, and takes its name.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
PATH_STEP = 1e-4
"""Between two images whose difference is taken for the speed along a path (arXiv 1812.04948 section 4.1)."""


class PrecisionRecall(NamedTuple):
    """Precision and recall of made images, both 0…1.

    Attributes:
        precision: share of made images that lie among the real ones: how good they are.
        recall: share of real images that lie among the made ones: how varied those are.
    """

    precision: float
    recall: float


def frechet_distance(real: npt.ArrayLike, made: npt.ArrayLike) -> float:
    """Fréchet's distance of two normal distributions fitted to features (arXiv 1706.08500); with Inception's, FID.

    Args:
        real, made: (N, D) and (M, D) features, N and M ≥ 2.
    """
    a, b = (np.asarray(features, np.float64) for features in (real, made))
    if min(len(a), len(b)) < 2:
        raise InputError(f"a distance of distributions needs two images of each, got {len(a)} and {len(b)}")
    first, second = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    # The root of a product of two covariances has the eigenvalues of this symmetric matrix.
    root = _root(first)
    values = np.linalg.eigvalsh(root @ second @ root)
    # Of few images the covariances are singular, and rounding makes eigenvalues of 0 slightly negative.
    cross = np.sqrt(values.clip(min=0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def _root(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(matrix)
    root: FloatArray = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def precision_recall(real: npt.ArrayLike, made: npt.ArrayLike, neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall (arXiv 1904.06991): the shares of points in a ball around any point of the other kind.

    Args:
        real, made: (N, D) and (M, D) features.
        neighbours: a ball around each point reaches to this neighbour of its own kind.

    Raises:
        InputError: fewer points than neighbours.
    """
    a, b = (np.asarray(features, np.float64) for features in (real, made))
    if min(len(a), len(b)) <= neighbours:
        raise InputError(f"{neighbours} neighbours need more images than that, got {len(a)} and {len(b)}")
    return PrecisionRecall(_covered(a, b, neighbours), _covered(b, a, neighbours))


def _covered(centres: FloatArray, points: FloatArray, neighbours: int) -> float:
    """Share of ``points`` in the balls around ``centres``."""
    # The distance of a point to itself is the smallest of its row: the k-th neighbour is at index k.
    radii = np.partition(squared_distances(centres, centres), neighbours, axis=1)[:, neighbours]
    return float((squared_distances(points, centres) <= radii).any(1).mean())


def squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, D) and (M, D) → (N, M)."""
    # Rounding may make the distance of a point to itself slightly negative.
    squares: FloatArray = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * (a @ b.T)
    return squares.clip(min=0)


def nearest_real(real: npt.ArrayLike, made: npt.ArrayLike, count: int = 3) -> npt.NDArray[np.int64]:
    """Indices of the real images nearest to each made one, (M, count), to see whether it was memorised."""
    distances = squared_distances(np.asarray(made, np.float64), np.asarray(real, np.float64))
    return np.argsort(distances, axis=1, kind="stable")[:, :count].astype(np.int64)


def slerp(a: npt.ArrayLike, b: npt.ArrayLike, t: npt.ArrayLike) -> FloatArray:
    """Spherical interpolation of the directions of two latents, (N, D), at t (N, 1) or a number; in fp64.

    With fp32, the angle between two nearly equal directions would be noise.
    """
    first, second = (_directions(np.asarray(latents, np.float64)) for latents in (a, b))
    angle = np.arccos((first * second).sum(-1, keepdims=True).clip(-1, 1)) * np.asarray(t, np.float64)
    # The part of the second direction across the first: both span the plane of the rotation.
    across = _directions(second - (first * second).sum(-1, keepdims=True) * first)
    return _directions(first * np.cos(angle) + across * np.sin(angle))


def _directions(vectors: FloatArray) -> FloatArray:
    directions: FloatArray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return directions


def path_length(distances: npt.ArrayLike) -> float:
    """Perceptual path length: the mean of squared differences over squared steps, without the extremes.

    Those below the 1st and above the 99th percentile are left out, the percentiles themselves being distances.
    """
    values = np.asarray(distances, np.float64)
    # A path that happens to cross from one object to another says nothing about the usual one.
    low = np.percentile(values, 1, method="lower")
    high = np.percentile(values, 99, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())


def conditional_entropy(table: npt.ArrayLike) -> float:
    """H(Y | X) in bits of a joint distribution (2, 2) of the side X of a plane (rows) and the label Y (columns)."""
    joint = np.asarray(table, np.float64)
    joint = joint / joint.sum()
    sides = joint.sum(1, keepdims=True)
    # 0 · log 0 is 0: the limit, which floating point does not know.
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(joint > 0, joint * np.log2(joint / sides), 0.0)
    return float(-bits.sum())


def separability(latents: npt.ArrayLike, probabilities: npt.ArrayLike, share: float = 0.5) -> float:
    """Linear separability (arXiv 1812.04948 section 4.2): 2^Σ H(Y | X); 1 where planes separate every attribute.

    Args:
        latents: z or w of made images, (N, D).
        probabilities: (N, K), what a classifier says of each image for K attributes with two answers.
        share: of the images, the most certain ones, that are used for each attribute.

    Raises:
        InputError: all images of an attribute have the same answer.
    """
    points, answers = np.asarray(latents, np.float64), np.asarray(probabilities, np.float64)
    total = 0.0
    for attribute in answers.T:
        # The labels are a classifier's, and near 0.5 they are chance.
        certain = np.argsort(-np.abs(attribute - 0.5), kind="stable")[: max(2, round(share * len(attribute)))]
        labels = attribute[certain] > 0.5
        if labels.all() or not labels.any():
            raise InputError("an attribute has the same answer for all images: nothing is there to separate")
        sides = linear_classifier(points[certain], labels)
        total += conditional_entropy([[np.mean((sides == x) & (labels == y)) for y in (0, 1)] for x in (0, 1)])
    return float(2**total)


def linear_classifier(points: FloatArray, labels: npt.NDArray[np.bool_], steps: int = 50) -> npt.NDArray[np.bool_]:
    """The side of each point of a support vector machine with squared hinge loss and C = 1, by Newton's method.

    It minimises ½‖(v, b)‖² + Σ max(0, 1 − y (v·x + b))², as the usual linear support vector classifiers do.
    """
    # The bias is the weight of a coordinate that is always 1, and is kept small with the others, as liblinear does.
    x = np.concatenate([points, np.ones((len(points), 1))], 1)
    y = np.where(labels, 1.0, -1.0)
    v = np.zeros(x.shape[1])
    for _ in range(steps):
        margin = 1 - y * (x @ v)
        active = margin > 0
        gradient = v - 2 * x[active].T @ (y[active] * margin[active])
        # The gradient is a sum over the points, and so is its rounding.
        if np.abs(gradient).max() < 1e-6 * len(x):
            break
        hessian = np.eye(len(v)) + 2 * x[active].T @ x[active]
        step, before = np.linalg.solve(hessian, gradient), _objective(x, y, v)
        # The loss is piecewise quadratic: a full step may overshoot into another piece.
        size = 1.0
        while size > 1e-6 and _objective(x, y, v - size * step) > before:
            size /= 2
        v = v - size * step
    return (x @ v) > 0


def _objective(x: FloatArray, y: FloatArray, v: FloatArray) -> float:
    return float(0.5 * v @ v + np.square((1 - y * (x @ v)).clip(min=0)).sum())
