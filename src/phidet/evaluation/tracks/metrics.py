"""HOTA, MOTA and IDF1 of tracks against the truth, by TrackEval (extra ``track-eval``).

HOTA: Luiten et al., *HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking* (arXiv 2009.07736). MOTA:
Bernardin and Stiefelhagen, *Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics* (2008). IDF1:
Ristani et al., *Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking* (arXiv 1609.01775).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.core.optional import optional_package
from phidet.detections.boxes import pairwise_iou

Ids = Sequence[npt.NDArray[np.int64]]
Boxes = Sequence[npt.NDArray[Any]]


class TrackMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one sequence, or of several together; shares are 0…1, MOTA may be below 0.

    Attributes:
        hota: geometric mean of detection and association accuracy, over localisation thresholds 0.05…0.95.
        det_a, ass_a, loc_a: accuracy of detection, of association and of localisation, over the same thresholds.
        mota: 1 − (misses + false boxes + switches) / true boxes, at an IoU of 0.5.
        idf1: F1 of boxes with the right identity, at an IoU of 0.5.
        switches: how often a true track goes on under another id.
        fragments: how often a true track is lost and found again.
        misses, false_boxes, true_boxes: counts, at an IoU of 0.5.
        true_tracks, tracks: how many there are, and how many were found.
    """

    hota: float
    det_a: float
    ass_a: float
    loc_a: float
    mota: float
    idf1: float
    switches: int
    fragments: int
    misses: int
    false_boxes: int
    true_boxes: int
    true_tracks: int
    tracks: int


class Measurement:
    """Collects sequences, so that their metrics can be combined as MOTChallenge does: over all boxes."""

    def __init__(self) -> None:
        metrics = optional_package("trackeval.metrics", "measuring tracks", "track-eval")
        quiet = {"PRINT_CONFIG": False}  # else it prints to standard output
        self._metrics = {"hota": metrics.HOTA(), "clear": metrics.CLEAR(quiet), "identity": metrics.Identity(quiet)}
        self._sequences: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, tuple[int, int, int]] = {}

    def add(self, name: str, truth: tuple[Ids, Boxes], found: tuple[Ids, Boxes]) -> TrackMetrics:
        """Measures one sequence: for each frame the (N,) ids and (N, 4) boxes, of the truth and of the tracker.

        Raises:
            InputError: another number of frames, or an id twice in a frame.
        """
        data = _data(truth, found)
        self._sequences[name] = {key: metric.eval_sequence(data) for key, metric in self._metrics.items()}
        self._counts[name] = data["num_gt_dets"], data["num_gt_ids"], data["num_tracker_ids"]
        return _summary(self._sequences[name], self._counts[name])

    def combined(self) -> TrackMetrics:
        """The metrics of all sequences together."""
        results = {
            key: metric.combine_sequences({name: each[key] for name, each in self._sequences.items()})
            for key, metric in self._metrics.items()
        }
        # Ids are of one sequence: tracks of several are added up, never joined.
        boxes, true_tracks, tracks = (sum(column) for column in zip(*self._counts.values(), strict=True))
        return _summary(results, (boxes, true_tracks, tracks))


def measure_tracks(true_ids: Ids, true_boxes: Boxes, ids: Ids, boxes: Boxes) -> TrackMetrics:
    """The metrics of one sequence.

    Args:
        true_ids: for each frame, (N,) ids of the true objects.
        true_boxes: for each frame, (N, 4) xyxy.
        ids: for each frame, (M,) ids of the tracks.
        boxes: for each frame, (M, 4) xyxy.

    Raises:
        InputError: another number of frames, or an id twice in a frame.
        MissingExtraError: the ``track-eval`` extra is not installed.
    """
    return Measurement().add("sequence", (true_ids, true_boxes), (ids, boxes))


def _data(truth: tuple[Ids, Boxes], found: tuple[Ids, Boxes]) -> dict[str, Any]:
    """What TrackEval's metrics take: ids from 0 on, and the overlaps of each frame."""
    frames = {len(part) for part in (*truth, *found)}
    if len(frames) != 1:
        raise InputError(f"truth and tracks differ in their number of frames: {sorted(frames)}")
    data: dict[str, Any] = {"num_timesteps": frames.pop()}
    # TrackEval uses ids as indices of matrices, so they must run from 0 without gaps.
    for side, ids in (("gt", truth[0]), ("tracker", found[0])):
        for number, frame in enumerate(ids):
            if len(np.unique(frame)) != len(frame):
                raise InputError(f"frame {number} has an id twice: {np.sort(frame).tolist()}")
        known = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
        data[f"{side}_ids"] = [np.searchsorted(known, frame) for frame in ids]
        data[f"num_{side}_ids"], data[f"num_{side}_dets"] = len(known), sum(len(frame) for frame in ids)
    data["similarity_scores"] = [
        pairwise_iou(np.asarray(ours, np.float64).reshape(-1, 4), np.asarray(theirs, np.float64).reshape(-1, 4))
        for ours, theirs in zip(truth[1], found[1], strict=True)
    ]
    return data


def _summary(results: dict[str, Any], counts: tuple[int, int, int]) -> TrackMetrics:
    hota, clear, identity = results["hota"], results["clear"], results["identity"]
    return TrackMetrics(
        hota=float(np.mean(hota["HOTA"])),
        det_a=float(np.mean(hota["DetA"])),
        ass_a=float(np.mean(hota["AssA"])),
        loc_a=float(np.mean(hota["LocA"])),
        mota=float(clear["MOTA"]),
        idf1=float(identity["IDF1"]),
        switches=int(clear["IDSW"]),
        fragments=int(clear["Frag"]),
        misses=int(clear["CLR_FN"]),
        false_boxes=int(clear["CLR_FP"]),
        true_boxes=counts[0],
        true_tracks=counts[1],
        tracks=counts[2],
    )
