"""Pre-labels: what a model finds in images without labels, as a start for people who label them.

Images are ranked by what is to be gained from labelling them, and corrected labels are compared with the pre-labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from phidet.core.errors import ConfigError, InputError
from phidet.core.structs import from_json
from phidet.core.words import count
from phidet.data.dataset import Annotations, Dataset
from phidet.data.fingerprint import fingerprints
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.settings import Score
from phidet.detections.thresholds import Thresholds

RECORD = "prelabels.json"
LOWEST_SCORE = 0.05
"""Detections below it are not looked at: they are nearly always none."""
UNTOUCHED = 0.95
"""IoU from which a corrected box counts as left as it was."""
SAME = 0.5
"""IoU from which a corrected box is a pre-label that was moved."""


class PreLabel(msgspec.Struct, frozen=True):
    """What was written of one image: its fingerprint, and box, class and score of each object."""

    name: str
    fingerprint: str
    boxes_xyxy: list[tuple[float, float, float, float]]
    class_names: list[str]
    scores: list[float]


class Record(msgspec.Struct, frozen=True):
    """All pre-labels of a folder, to compare corrected labels with."""

    model: str
    score: Score
    images: list[PreLabel]


def labelled(images: Dataset, detections: Sequence[Detections], score: float | Thresholds) -> Dataset:
    """``images`` with the detections of at least ``score`` as objects; their scores are the field ``score``."""
    annotations = []
    for found in detections:
        kept = found[score.kept(found) if isinstance(score, Thresholds) else found.scores >= score]
        annotations.append(Annotations.of_boxes(kept.boxes_xyxy, kept.class_ids, {"score": kept.scores}))
    return images.relabelled(annotations, images.class_names)


def expected_mistakes(found: Detections) -> float:
    """How many of a model's decisions on an image are wrong, if its scores are probabilities: the sum of min(s, 1 − s).

    A detection of score s is kept or dropped, whichever is likelier right. Those below :data:`LOWEST_SCORE` do not
    count.
    """
    scores = found.scores[found.scores >= LOWEST_SCORE].astype(np.float64)
    return float(np.minimum(scores, 1 - scores).sum())


def record_of(dataset: Dataset, model: str, score: Score) -> Record:
    """The pre-labels of ``dataset``, see :func:`labelled`."""
    images = []
    for i, known in enumerate(fingerprints(dataset)):
        a = dataset.annotations(i)
        boxes = [(x1, y1, x2, y2) for x1, y1, x2, y2 in a.boxes_xyxy.tolist()]
        names, scores = [dataset.class_names[c] for c in a.class_ids.tolist()], np.asarray(a.fields.get("score", ()))
        images.append(PreLabel(str(dataset.names[i]), known or "", boxes, names, scores.tolist()))
    return Record(model, score, images)


def read_record(folder: Path) -> Record:
    """The record that ``phidet label`` left in ``folder``.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return from_json((folder / RECORD).read_bytes(), Record)
    except OSError as error:
        raise InputError(f"{folder} has no {RECORD}: name the folder that 'phidet label' wrote") from error
    except ConfigError as error:
        raise InputError(f"{folder / RECORD} is damaged, or not of 'phidet label': {error}") from error


class Corrections(NamedTuple):
    """What people did to pre-labels.

    Attributes:
        images: that are in both.
        kept: boxes left as they were.
        moved: boxes of the same class that were changed.
        renamed: boxes that got another class.
        removed: pre-labels that were no objects.
        added: objects that the model had missed.
    """

    images: int
    kept: int
    moved: int
    renamed: int
    removed: int
    added: int

    def __str__(self) -> str:
        total = self.kept + self.moved + self.renamed + self.removed
        share = f" ({self.kept / total:.0%})" if total else ""
        return (
            f"{count(self.images, 'image')} compared: of {count(total, 'pre-label')} {self.kept:,}{share} kept, "
            f"{self.moved:,} moved, {self.renamed:,} given another class, {self.removed:,} removed; "
            f"{count(self.added, 'object')} added"
        )


def compare(record: Record, datasets: Sequence[Dataset]) -> Corrections:
    """Compares corrected labels with pre-labels; images are recognised by their content.

    Raises:
        InputError: no image is in both.
    """
    known = {image.fingerprint: image for image in record.images if image.fingerprint}
    counts = np.zeros(6, np.int64)
    for dataset in datasets:
        for i, fingerprint in enumerate(fingerprints(dataset)):
            if fingerprint in known:
                # Popped, so that a copy of an image in another split is not counted again.
                counts += _compared(known.pop(fingerprint), dataset.annotations(i), dataset.class_names)
    if not counts[0]:
        raise InputError(
            f"none of the {len(record.images)} pre-labelled images is among the data: give labels of the same images"
        )
    return Corrections(*counts.tolist())


def _compared(before: PreLabel, after: Annotations, class_names: tuple[str, ...]) -> tuple[int, ...]:
    """One image's counts, in the order of :class:`Corrections`. Each box is matched once, the closest pair first."""
    boxes = np.array(before.boxes_xyxy, np.float64).reshape(-1, 4)
    overlaps = pairwise_iou(boxes, after.boxes_xyxy.astype(np.float64))
    # Greedy by overlap: a box that was moved a little is nearer to its own pre-label than to its neighbour's.
    pairs = sorted(zip(*np.nonzero(overlaps >= SAME), strict=True), key=lambda pair: -overlaps[pair])
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for old, new in pairs:
        if old not in matched and new not in taken:
            matched[int(old)] = int(new)
            taken.add(int(new))
    # What is kept, moved or renamed is matched; the rest of either side was removed or added.
    same_class = {old: before.class_names[old] == class_names[after.class_ids[new]] for old, new in matched.items()}
    kept = sum(same_class[old] and bool(overlaps[old, new] >= UNTOUCHED) for old, new in matched.items())
    moved = sum(same_class.values()) - kept
    renamed = len(matched) - kept - moved
    return 1, kept, moved, renamed, len(boxes) - len(matched), len(after.class_ids) - len(matched)
