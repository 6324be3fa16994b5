"""Finds poses without a first guess: triples of neighbouring parts, tried, verified nearby and grown over the board.

A triple of a detection and two of its neighbours has the same classes as some triples of nominal parts; each of these
pairs of triples gives an affine map. Most are wrong, and few of the next neighbours agree with them. Those that agree
best are grown: a pose is fitted to what matches around the triple, then matches a circle twice as large, and so on.
Local maps need not know of perspective or distortion, neighbours of a part are mostly found where the board is, and the
number of trials does not depend on the number of parts. After Fischler and Bolles' RANSAC (1981), with samples and
verification restricted to neighbourhoods, as stars are matched (Lang et al., arXiv 0910.2233).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from phidet.detections.alignment.pose import Floats, Frame, Pose, PoseKind, fit_pose, local_pose
from phidet.detections.alignment.settings import AlignSettings

Ints = npt.NDArray[np.int64]
_TRIPLE_NEIGHBOURS = 8  # of which a triple takes two
_CHECKED_NEIGHBOURS = 14  # nominal ones that a triple's map is verified on
_LEAST_SINE = 0.3  # of a triple's angle; flatter ones give no reliable map
_TOLERANCE = 0.25  # of the median distance of neighbours, while a pose is not yet known
_BATCH = 12  # triples of detections that are tried at once
_MOST_CANDIDATES = 3000  # nominal triples tried for each of them
_GROWN = 24  # maps of a batch that are grown,
_GROWN_EACH = 4  # and of one triple of detections: where structures repeat, each fits in several places
_STRETCH = (1.25, 1.7)  # largest ratio of scales in two directions: the usual first, then oblique views
_SCALE_RANGE = 2.5  # how far the median distances of neighbours may differ from the true scale


@dataclass(frozen=True, eq=False)
class Points:
    """Places with classes, and their neighbours.

    Attributes:
        places: (N, 2).
        classes: (N,) integers.
        tree: of (x, y, class · :attr:`apart`): points of different classes are too far apart to be neighbours.
        apart: the third coordinate's step.
        neighbours: (N, K) nearest first, of any class, without the point itself.
        spacing: median distance of a point to its nearest neighbour.
    """

    places: Floats
    classes: Ints
    tree: cKDTree
    apart: float
    neighbours: Ints
    spacing: float

    @classmethod
    def of(cls, places: Floats, classes: Ints) -> Points:
        """At least three places."""
        apart = 10 * float(np.ptp(places, axis=0).max()) + 1
        count = min(_CHECKED_NEIGHBOURS + 1, len(places))
        distances, neighbours = cKDTree(places).query(places, k=count)
        # Of points in the same place either may come first, so the point itself is not always in the first column.
        others = np.argsort(neighbours == np.arange(len(places))[:, None], axis=1, kind="stable")[:, : count - 1]
        neighbours = np.take_along_axis(neighbours, others, 1)
        # Doubled detections lie in one place, which is not the distance of parts.
        nearest = distances[:, 1]
        spacing = float(np.median(nearest[nearest > 0])) if (nearest > 0).any() else 1.0
        return cls(places, classes, cKDTree(np.c_[places, classes * apart]), apart, neighbours, spacing)

    def nearest(self, places: Floats, classes: Ints, limit: float) -> tuple[Floats, Ints]:
        """Distance and number of the nearest point of the same class within ``limit``; infinity where there is none."""
        query = np.c_[places.reshape(-1, 2), classes.ravel() * self.apart]
        query[~np.isfinite(query).all(1)] = -1e12
        distances, found = self.tree.query(query, distance_upper_bound=limit)
        return distances.reshape(classes.shape), found.reshape(classes.shape)


@dataclass(frozen=True, eq=False)
class SearchSettings:
    """What poses are looked for.

    Attributes:
        kind: the most general pose.
        distortion: whether lenses may distort.
        mirrored: handedness to try: (False,), (True,) or both.
        seed: of the order of trials.
        most_batches: trials before giving up.
        frame: normalises coordinates.
    """

    kind: PoseKind
    distortion: bool
    mirrored: tuple[bool, ...]
    seed: int
    frame: Frame
    most_batches: int = 40

    @classmethod
    def of(cls, settings: AlignSettings, places: Floats, size_hw: tuple[int, int]) -> SearchSettings:
        """What an alignment asks for, of (N, 2) places in an image of that size."""
        mirrored = {"auto": (False, True), "no": (False,), "yes": (True,)}[settings.mirrored]
        return cls(settings.pose, settings.distortion, mirrored, settings.seed, Frame.of(places, size_hw))


@dataclass(frozen=True, eq=False)
class _Triples:
    """Ordered triples of neighbours, sorted by their classes' code."""

    points: Ints
    codes: Ints
    inverses: Floats  # (T, 2, 2) of the matrix with the two sides as columns

    @classmethod
    def of(cls, points: Points, classes: int) -> _Triples:
        count = min(_TRIPLE_NEIGHBOURS, points.neighbours.shape[1])
        first, second = np.nonzero(~np.eye(count, dtype=bool))
        centre = np.repeat(np.arange(len(points.places)), len(first))
        near = points.neighbours
        triples = np.stack([centre, near[:, first].ravel(), near[:, second].ravel()], 1)
        sides = _sides(points.places, triples)
        determinant = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]
        lengths = np.hypot(sides[:, 0], sides[:, 1])
        kept = np.abs(determinant) > _LEAST_SINE * lengths[:, 0] * lengths[:, 1] + 1e-12
        triples, sides = triples[kept], sides[kept]
        codes = (points.classes[triples] * np.array([classes * classes, classes, 1])).sum(1)
        order = np.argsort(codes, kind="stable")
        inverses: Floats = np.asarray(np.linalg.inv(sides[order]), np.float64)
        return cls(triples[order], codes[order], inverses)


def count_trials(nominal: Points, found: Points, classes: int) -> float:
    """Number of pairs of triples with the same classes: as many poses as could be tried."""
    ours, theirs = _Triples.of(nominal, classes).codes, _Triples.of(found, classes).codes
    left, right = np.searchsorted(ours, theirs, "left"), np.searchsorted(ours, theirs, "right")
    return max(1.0, float((right - left).sum()))


def search(nominal: Points, found: Points, classes: int, settings: SearchSettings) -> Iterator[list[Pose]]:
    """The grown poses of one batch of trials after the other; most are wrong, and the same may come several times.

    Args:
        nominal: places, y down.
        found: pixels.
        classes: number of classes.
        settings: what is looked for.
    """
    if min(len(nominal.places), len(found.places)) < 3:
        return
    triples = _Triples.of(nominal, classes)
    theirs = _Triples.of(found, classes)
    if not len(triples.points) or not len(theirs.points):
        return
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(theirs.points))
    batches = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
    for number, batch in enumerate(batches[: settings.most_batches]):
        # One batch in four, after the first ones, allows for oblique views, which take more trials.
        stretch = _STRETCH[number % 4 == 3]
        pairs = [_candidates(triples, theirs.codes[one], rng) for one in batch]
        ours = np.concatenate(pairs)
        samples = theirs.points[np.repeat(batch, [len(pair) for pair in pairs])]
        linear = _sides(found.places, samples) @ triples.inverses[ours]
        good = _plausible(linear, found.spacing / nominal.spacing, stretch, settings.mirrored)
        ours, samples, linear = triples.points[ours[good]], samples[good], linear[good]
        agreeing = _count_agreeing(nominal, found, ours[:, 0], samples[:, 0], linear)
        best = _best_of_each(agreeing, samples)
        best = best[agreeing[best] >= 2 + min(3, nominal.neighbours.shape[1] // 4)]
        grown: list[Pose] = []
        for i in best.tolist():
            start = local_pose(linear[i], nominal.places[ours[i, 0]], found.places[samples[i, 0]], settings.frame)
            # Most of the best maps are the same pose once more.
            if any(_agrees(pose, start, nominal, found, int(ours[i, 0])) for pose in grown):
                continue
            pose = grow(nominal, found, start, int(ours[i, 0]), settings)
            if pose is not None:
                grown.append(pose)
        yield grown


def match(nominal: Points, found: Points, pose: Pose, limit: float, among: Ints | None = None) -> tuple[Ints, Ints]:
    """Parts and their nearest detections of the same class within ``limit`` pixels, each detection once."""
    numbers = np.arange(len(nominal.places)) if among is None else among
    distances, nearest = found.nearest(pose.project(nominal.places[numbers]), nominal.classes[numbers], limit)
    order = np.argsort(distances, kind="stable")
    order = order[np.isfinite(distances[order])]
    _, first = np.unique(nearest[order], return_index=True)
    kept = order[np.sort(first)]
    return numbers[kept], nearest[kept]


def grow(nominal: Points, found: Points, start: Pose, centre: int, settings: SearchSettings) -> Pose | None:
    """A pose of the whole board from a map that holds around the part ``centre``; ``None`` if it does not hold on."""
    distances = ((nominal.places - nominal.places[centre]) ** 2).sum(1)
    order = np.argsort(distances, kind="stable")
    pose, limit = start, _TOLERANCE * found.spacing
    size = min(12, len(order))
    while True:
        among = order[:size]
        for _ in range(2):
            ours, theirs = match(nominal, found, pose, limit, among)
            if len(ours) < 3 or len(ours) < 0.3 * _in_view(pose, nominal, found, among):
                return None
            fitted = _fit(nominal.places[ours], found.places[theirs], pose, settings, whole=size == len(order))
            if fitted is None:
                return None
            pose = fitted
        if size == len(order):
            return pose
        size = min(2 * size, len(order))


def _fit(places: Floats, pixels: Floats, start: Pose, settings: SearchSettings, whole: bool) -> Pose | None:
    """As general a pose as so many matches determine."""
    if settings.kind == "similarity" or len(places) < 4:
        fitted = fit_pose(places, pixels, start, "similarity")
        return fitted if fitted is not None and fitted.mirrored == start.mirrored else None
    kind: PoseKind = "affine" if settings.kind == "affine" or len(places) < 12 else "homography"
    return fit_pose(places, pixels, start, kind, distortion=settings.distortion and whole and len(places) >= 16)


def _in_view(pose: Pose, nominal: Points, found: Points, among: Ints) -> float:
    """How many of the parts would lie where detections are."""
    pixels = pose.project(nominal.places[among])
    low, high = found.places.min(0) - found.spacing, found.places.max(0) + found.spacing
    return float(((pixels >= low) & (pixels <= high)).all(1).sum())


def _candidates(triples: _Triples, code: int, rng: np.random.Generator) -> Ints:
    """Numbers of the nominal triples with those classes, at most as many as are tried."""
    left, right = np.searchsorted(triples.codes, [code, code + 1]).tolist()
    if right - left <= _MOST_CANDIDATES:
        return np.arange(left, right)
    return rng.integers(left, right, _MOST_CANDIDATES)


def _sides(places: Floats, triples: Ints) -> Floats:
    """(T, 2, 2) the sides from a triple's first point, as columns."""
    corners = places[triples]
    return np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=2)


def _plausible(linear: Floats, scale: float, stretch: float, mirrored: tuple[bool, ...]) -> npt.NDArray[np.bool_]:
    """Which maps have a scale near ``scale``, do not stretch by more, and have one of the handedness."""
    determinant = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
    squares = (linear**2).sum((1, 2))
    size = np.sqrt(np.abs(determinant)) / scale
    good = (size > 1 / _SCALE_RANGE) & (size < _SCALE_RANGE)
    # With singular values a ≥ b: (a² + b²) / ab = a/b + b/a, which rises with the stretch a/b.
    good &= squares <= (stretch + 1 / stretch) * np.abs(determinant)
    if len(mirrored) == 1:
        good &= (determinant < 0) == mirrored[0]
    return good


def _count_agreeing(nominal: Points, found: Points, ours: Ints, theirs: Ints, linear: Floats) -> Ints:
    """For each map, how many of the nominal part's neighbours meet a detection of their class."""
    if not len(ours):
        return np.zeros(0, np.int64)
    near = nominal.neighbours[ours]
    offsets = nominal.places[near] - nominal.places[ours][:, None]
    predicted = found.places[theirs][:, None] + offsets @ linear.transpose(0, 2, 1)
    distances, _ = found.nearest(predicted, nominal.classes[near], _TOLERANCE * found.spacing)
    counted: Ints = np.isfinite(distances).sum(1)
    return counted


def _best_of_each(agreeing: Ints, samples: Ints) -> Ints:
    """Numbers of the maps that agree best, the best first, only a few for each triple of detections."""
    order = np.argsort(-agreeing, kind="stable")
    _, triple = np.unique(samples[order], axis=0, return_inverse=True)
    by_triple = np.argsort(triple, kind="stable")
    _, starts = np.unique(triple[by_triple], return_index=True)
    rank = np.empty(len(order), np.int64)
    rank[by_triple] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return order[rank < _GROWN_EACH][:_GROWN]


def _agrees(pose: Pose, start: Pose, nominal: Points, found: Points, centre: int) -> bool:
    """Whether the local map ``start`` says the same as ``pose`` around the part ``centre``."""
    near = np.r_[centre, nominal.neighbours[centre, :3]]
    apart = pose.project(nominal.places[near]) - start.project(nominal.places[near])
    return bool((np.abs(apart) < _TOLERANCE * found.spacing).all())
