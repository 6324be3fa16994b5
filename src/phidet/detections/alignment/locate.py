"""The pose of an image, or why it is not known: too little agrees, or two poses agree equally well.

A pose counts only if chance does not explain it. The number of false alarms (Desolneux, Moisan and Morel, *From
Gestalt Theory to Image Analysis*, chapter 3) is the number of poses that could be tried times the probability that so
many parts meet a detection of their class by chance, a binomial tail, and that they meet it so closely. The rate of
chance meetings is measured, with the same pose a few parts' distances aside, since parts stand in groups and rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betainc, log_ndtr

from phidet.detections.alignment.pose import KINDS, Floats, Pose, PoseKind, fit_pose
from phidet.detections.alignment.rivals import rivals
from phidet.detections.alignment.search import Ints, Points, SearchSettings, count_trials, match, search

Bools: TypeAlias = npt.NDArray[np.bool_]
Reason = Literal["few", "none", "ambiguous"]
MOST_FALSE_ALARMS = 1e-10
"""Largest expected number of poses that chance would give, if parts stood anywhere."""
_MOST_LOOSE = 10**-1.6
"""Largest probability that chance meetings are as close as those of a pose: on boards of other designs with the same
modules many parts meet, but not closely (decision 20)."""
_MEAN_BY_CHANCE = 0.48  # of squared distances in units of the squared gate: about half
_BEYOND_DOUBT = 1e-15
"""Expected number of poses below which it does not matter how close the meetings are."""
_LOG_ODDS = math.log(1000)  # of the best pose against the next one
_LEAST_BATCHES = 2  # searched although a pose is found, as a better one may be met
_GATE = 3.5  # standard deviations within which a detection is a part's: a normal 2-vector lies outside in 0.2 %
_RAYLEIGH_MEDIAN = 1.1774  # median length of a 2-vector of standard normal coordinates
_ASIDE = 24  # shifts by which the rate of chance meetings is measured


@dataclass(frozen=True, eq=False)
class Located:
    """A pose, and what speaks for it.

    Attributes:
        pose: fitted to the pairs.
        ours: (M,) numbers of the parts it was fitted to.
        theirs: (M,) numbers of their detections.
        sigma: standard deviation of a coordinate's residual in pixels, corrected for the fitted parameters.
        gate: distance in pixels within which detections were taken as a part's.
        false_alarms: log10 of the expected number of poses as good by chance.
        share: of the parts in view that met a detection of their class.
        explained: share of all detections that met a part.
        closeness: log10 of the probability that chance meetings are so close; part of ``false_alarms``.
    """

    pose: Pose
    ours: Ints
    theirs: Ints
    sigma: float
    gate: float
    false_alarms: float
    share: float
    explained: float
    closeness: float


@dataclass(frozen=True)
class NotLocated:
    """Why there is no pose.

    Attributes:
        reason: "few" parts or detections, "none" agrees, or "ambiguous".
        text: a sentence for people.
    """

    reason: Reason
    text: str


@dataclass(frozen=True, eq=False)
class LocateSettings:
    """What counts as found.

    Attributes:
        least_share: of the parts in view that must meet a detection of their class, and of the detections that must
            meet a part, 0…1.
        least_sigma: px; below it residuals are not believed to be smaller.
        image_size_hw: parts outside it are not in view.
    """

    least_share: float
    least_sigma: float
    image_size_hw: tuple[int, int]


def locate(
    nominal: Points, found: Points, classes: int, searched: SearchSettings, settings: LocateSettings
) -> Located | NotLocated:
    """The pose, if one is found that chance does not explain and no other one is nearly as good."""
    log_trials = math.log(count_trials(nominal, found, classes) * len(searched.mirrored))
    candidates = _candidates(nominal, found, search(nominal, found, classes, searched), log_trials, settings)
    if not candidates or not _is_found(candidates[0], settings):
        return NotLocated("none", _why_none(nominal, candidates, settings))
    others = rivals(nominal, found, candidates[0].pose, len(candidates[0].ours), len(searched.mirrored) > 1)
    _keep_refined(nominal, found, others, (log_trials, settings), candidates)
    best = candidates[0]
    rival = next((one for one in candidates[1:] if _log_odds(nominal, found, best, one) < _LOG_ODDS), None)
    if rival is not None:
        return NotLocated(
            "ambiguous",
            f"two poses are as good: {len(best.ours)} and {len(rival.ours)} parts meet a detection of their class, "
            f"{_difference(best.pose, rival.pose)}",
        )
    return _simplest(nominal, found, best, settings.least_sigma)


def _candidates(
    nominal: Points, found: Points, batches: Iterable[list[Pose]], log_trials: float, settings: LocateSettings
) -> list[Located]:
    """Poses that differ, the best first, from as many batches of trials as it takes to find one."""
    candidates: list[Located] = []
    for number, poses in enumerate(batches, start=1):
        _keep_refined(nominal, found, poses, (log_trials, settings), candidates)
        if candidates and number >= _LEAST_BATCHES and _is_found(candidates[0], settings):
            return candidates
    return candidates


def relocate(nominal: Points, found: Points, before: Located, settings: LocateSettings) -> Located:
    """The pose once more, with better places of the same detections; ``before`` where they do not improve it."""
    ours, theirs = match(nominal, found, before.pose, before.gate)
    pose = fit_pose(
        nominal.places[ours], found.places[theirs], before.pose, before.pose.kind, distortion=before.pose.fitted_k1
    )
    refined = None if pose is None else _refined(nominal, found, pose, 0.0, settings)
    if refined is None or refined.share < 0.8 * before.share:
        return before
    return _simplest(nominal, found, refined, settings.least_sigma)


def _refined(nominal: Points, found: Points, pose: Pose, log_trials: float, settings: LocateSettings) -> Located | None:
    """Matches and fit in turn, with a gate that follows the residuals; the evidence of the result."""
    gate = 0.25 * found.spacing
    sigma = gate / _GATE
    for _ in range(6):
        ours, theirs = match(nominal, found, pose, gate)
        fitted = fit_pose(nominal.places[ours], found.places[theirs], pose, pose.kind, distortion=pose.fitted_k1)
        if fitted is None:
            return None
        pose = fitted
        lengths = np.linalg.norm(found.places[theirs] - pose.project(nominal.places[ours]), axis=1)
        sigma = max(settings.least_sigma, _corrected(float(np.median(lengths)) / _RAYLEIGH_MEDIAN, len(ours), pose))
        # Never wider than at first: where residuals fill the gate evenly, they are chance meetings.
        before, gate = gate, min(0.25 * found.spacing, _GATE * sigma)
        if abs(before - gate) < 1e-3 * gate:
            break
    ours, theirs = match(nominal, found, pose, gate)
    if 2 * len(ours) <= pose.parameters:
        return None
    view = _in_view(pose.project(nominal.places), settings.image_size_hw)
    rate = _chance_rate(nominal, found, pose, gate, view)
    # As many parts as the fit can bring to a detection by itself are no evidence.
    free = pose.parameters / 2
    log_tail = _log_tail(len(ours) - free, max(int(view.sum()), len(ours)) - free, rate)
    squares = ((found.places[theirs] - pose.project(nominal.places[ours])) ** 2).sum(1) / gate**2
    log_small = _log_small(float(squares.sum()), len(ours) - free)
    share = len(ours) / max(int(view.sum()), len(ours))
    evidence = (log_trials + log_tail + log_small) / math.log(10)
    explained = len(ours) / len(found.places)
    return Located(pose, ours, theirs, sigma, gate, evidence, share, explained, log_small / math.log(10))


def _chance_rate(nominal: Points, found: Points, pose: Pose, gate: float, view: Bools) -> float:
    """Probability that a part in a wrong place meets a detection of its class."""
    pixels, classes = pose.project(nominal.places[view]), nominal.classes[view]
    angles = np.arange(_ASIDE) * 2.399963  # the golden angle: directions and distances spread evenly
    steps = found.spacing * np.linspace(1.3, 4.0, _ASIDE)
    aside = pixels[None] + (steps[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1))[:, None]
    distances, _ = found.nearest(aside, np.broadcast_to(classes, aside.shape[:2]), gate)
    measured = (float(np.isfinite(distances).sum()) + 1) / (distances.size + 1)
    # What an even spread of the detections would give, where the measured rate is by luck smaller.
    area = float(np.prod(np.ptp(found.places, axis=0))) or 1.0
    counts = np.bincount(found.classes, minlength=int(classes.max(initial=0)) + 1)[classes]
    even = float(np.mean(-np.expm1(-counts * np.pi * gate**2 / area))) if len(classes) else 1.0
    return min(1.0, max(measured, even))


def _log_tail(hits: float, trials: float, rate: float) -> float:
    """The logarithm of the probability of at least ``hits`` of ``trials``, as the incomplete beta function has it also
    for numbers that are not whole; where that underflows, Hoeffding's bound."""
    if hits <= rate * trials or trials <= 0:
        return 0.0
    tail = float(betainc(hits, max(trials - hits, 0) + 1, rate))
    if tail > 1e-280:
        return math.log(tail)
    share = min(1.0, hits / trials)
    divergence = share * math.log(share / rate)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - rate))
    return -trials * divergence


def _log_small(total: float, count: float) -> float:
    """The logarithm of the probability that ``count`` squared distances of chance meetings have so small a sum.

    In units of the squared gate those are spread evenly over 0…1, while those of parts in their places are mostly near
    0. The saddle-point formula of Lugannani and Rice (1980) for the sum of ``count`` uniform numbers, which need not be
    whole; it differs from the exact law of Irwin and Hall by an eighth at most.
    """
    mean = max(total / count, 1e-9) if count > 0 else 1.0
    if mean >= _MEAN_BY_CHANCE:
        return 0.0
    # The density exp(−t u) whose mean is the measured one; where that is small, t is 1 / mean.
    t = 1 / mean if mean < 1e-2 else float(brentq(lambda t: 1 / t - 1 / math.expm1(t) - mean, 1e-3, 200.0))
    log_likelihood = min(count * (t * mean + math.log(-math.expm1(-t) / t)), -1e-12)
    root = -math.sqrt(-2 * log_likelihood)
    scaled = -t * math.sqrt(count * max(1 / t**2 - math.exp(-t) / math.expm1(-t) ** 2, 0.0))
    log_normal = float(log_ndtr(root))
    log_density = log_likelihood - 0.5 * math.log(2 * math.pi)
    return log_normal + math.log1p((1 / root - 1 / scaled) * math.exp(log_density - log_normal))


def _is_found(one: Located, settings: LocateSettings) -> bool:
    # A pose that leaves most detections without a part is suspicious too: a board that repeats itself, shifted so that
    # its rest is out of view.
    agrees = min(one.share, one.explained) >= settings.least_share
    most = MOST_FALSE_ALARMS if one.closeness <= math.log10(_MOST_LOOSE) else _BEYOND_DOUBT
    return agrees and one.false_alarms <= math.log10(most)


def _keep_refined(
    nominal: Points,
    found: Points,
    poses: Iterable[Pose],
    judged: tuple[float, LocateSettings],
    candidates: list[Located],
) -> None:
    """Refines poses, adds them to ``candidates``, and sorts these; ``judged`` are trials and settings."""
    for pose in poses:
        refined = _refined(nominal, found, pose, *judged)
        if refined is not None:
            _keep(candidates, refined)
    candidates.sort(key=lambda one: one.false_alarms)


def _keep(candidates: list[Located], new: Located) -> None:
    """Adds a pose, or replaces the worse of two that give most parts the same detections."""
    pairs = set(zip(new.ours.tolist(), new.theirs.tolist(), strict=True))
    for i, old in enumerate(candidates):
        common = sum(pair in pairs for pair in zip(old.ours.tolist(), old.theirs.tolist(), strict=True))
        if 2 * common > min(len(pairs), len(old.ours)):
            if new.false_alarms < old.false_alarms:
                candidates[i] = new
            return
    candidates.append(new)


def _log_odds(nominal: Points, found: Points, best: Located, other: Located) -> float:
    """How much better the parts that each pose explains speak for ``best``.

    A part that meets a detection speaks for its pose by the odds of being detected there over the chance of a false
    detection of its class within the gate.
    """
    gate = max(best.gate, other.gate)
    area = float(np.prod(np.ptp(found.places, axis=0))) or 1.0
    counts = np.bincount(found.classes, minlength=int(nominal.classes.max()) + 1)[nominal.classes]
    chance = -np.expm1(-np.maximum(counts, 1) * np.pi * gate**2 / area)
    share = min(max(best.share, 0.05), 0.98)
    weights = np.maximum(0.0, np.log(share / (1 - share) / chance))
    odds = 0.0
    for one, sign in ((best, 1.0), (other, -1.0)):
        ours, _ = match(nominal, found, one.pose, gate)
        odds += sign * float(weights[ours].sum())
    return odds


def _simplest(nominal: Points, found: Points, best: Located, least_sigma: float) -> Located:
    """The pose of the kind that explains the residuals with fewest parameters (Schwarz's criterion, 1978)."""
    places, pixels = nominal.places[best.ours], found.places[best.theirs]
    kinds: list[tuple[PoseKind, bool]] = [(kind, False) for kind in KINDS[: KINDS.index(best.pose.kind) + 1]]
    if best.pose.fitted_k1:
        kinds += [(kind, True) for kind, _ in kinds]
    chosen, least = best.pose, np.inf
    for kind, distortion in kinds:
        fitted = fit_pose(places, pixels, _with_k1(best.pose, distortion), kind, distortion=distortion)
        if fitted is None:
            continue
        count = pixels.size
        error = float(((pixels - fitted.project(places)) ** 2).sum())
        criterion = count * math.log(max(error / count, 1e-12)) + fitted.parameters * math.log(count)
        if criterion < least:
            chosen, least = fitted, criterion
    lengths = np.linalg.norm(pixels - chosen.project(places), axis=1)
    sigma = max(least_sigma, _corrected(math.sqrt(float((lengths**2).mean()) / 2), len(places), chosen))
    return replace(best, pose=chosen, sigma=sigma)


def _with_k1(pose: Pose, distortion: bool) -> Pose:
    return Pose(pose.kind, pose.matrix, pose.k1 if distortion else 0.0, pose.frame)


def _corrected(sigma: float, count: int, pose: Pose) -> float:
    """A residuals' standard deviation, made larger by what the fit took away."""
    return sigma * math.sqrt(2 * count / max(1.0, 2 * count - pose.parameters))


def _in_view(pixels: Floats, size_hw: tuple[int, int]) -> Bools:
    inside = (pixels >= 0) & (pixels <= [size_hw[1], size_hw[0]])
    return np.asarray(inside.all(axis=1))


def _difference(a: Pose, b: Pose) -> str:
    """What distinguishes two poses, for people."""
    turns = [math.degrees(math.atan2(pose.matrix[1, 0], pose.matrix[0, 0])) for pose in (a, b)]
    if a.mirrored != b.mirrored:
        return "one of them mirrored. Say which side the image shows"
    turn = round(abs((turns[0] - turns[1] + 180) % 360 - 180))
    what = f"turned against each other by {turn}°" if turn > 2 else "shifted against each other"
    return f"{what}. Add parts that tell them apart, such as marks that break the symmetry"


def _why_none(nominal: Points, candidates: list[Located], settings: LocateSettings) -> str:
    if not candidates:
        return f"no arrangement of the detections agrees with the {len(nominal.places)} nominal parts"
    best = candidates[0]
    if best.share < settings.least_share:
        needed = f"at least {settings.least_share:.0%} are needed"
    elif best.explained < settings.least_share:
        needed = f"and {1 - best.explained:.0%} of the detections meet no part"
    elif best.false_alarms <= math.log10(MOST_FALSE_ALARMS):
        needed = "they are as far from their places as chance would have them"
    else:
        needed = f"chance would give that {10.0**best.false_alarms:.2g} times"
    return f"at best {len(best.ours)} of the parts in view ({best.share:.0%}) meet a detection of their class; {needed}"
