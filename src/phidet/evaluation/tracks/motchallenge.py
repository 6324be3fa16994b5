"""MOTChallenge's folders: the truth of sequences, results as text, and the frames.

A sequence is a folder with ``gt/gt.txt``, often ``seqinfo.ini`` and ``img1/000001.jpg``, …; results are ``NAME.txt``
for each sequence. Lines are frame, id, left, top, width, height, and then of the truth whether it counts, class and
visibility, of results the score. Frames and pixels count from 1 (Milan et al., *MOT16*, arXiv 1603.00831, section 4).
The truth of MOT15 has no class, but ten columns with a place in the world.
"""

from __future__ import annotations

import configparser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections.boxes import pairwise_iou
from phidet.detections.tracking.assignment import assign

Floats = npt.NDArray[np.float64]
_PEDESTRIAN, _NO_CLASS = 1, -1
_DISTRACTORS = (2, 7, 8, 12)  # on a vehicle, not moving, on a poster, reflected: finding them is no mistake
_USUAL_RATE = 30.0
_MOST_FRAMES = 100_000_000
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Rows(NamedTuple):
    """Boxes of one sequence, in the order of frames and ids.

    Attributes:
        frames: (N,) int64, from 0.
        ids: (N,) int64.
        boxes_xyxy: (N, 4) float64.
        counts: (N,) whether each is to be found; the others may be, and are neither right nor wrong.
        distracts: (N,) whether a box found there is left out.
    """

    frames: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    boxes_xyxy: Floats
    counts: npt.NDArray[np.bool_]
    distracts: npt.NDArray[np.bool_]

    def of_frame(self, frame: int) -> Rows:
        """The boxes of one frame."""
        chosen = slice(*np.searchsorted(self.frames, (frame, frame + 1)).tolist())
        frames, ids, boxes, counts, distracts = self
        return Rows(frames[chosen], ids[chosen], boxes[chosen], counts[chosen], distracts[chosen])


class Video(NamedTuple):
    """One video.

    Attributes:
        name: of its folder.
        folder: where it is.
        truth: what is to be found.
        frames: number of frames.
        rate: of them in a second.
        images: their files in order, as far as they are there.
    """

    name: str
    folder: Path
    truth: Rows
    frames: int
    rate: float
    images: Sequence[Path]


def read_sequences(folder: Path) -> list[Video]:
    """The sequences below a folder, in the order of names; or the one that it is itself.

    Raises:
        InputError: there is none, or a file of one is damaged.
    """
    # The folder itself, or those below it: MOT17/train has one for each sequence. Some data come without gt/.
    files = [folder / "gt" / "gt.txt", folder / "gt.txt"]
    files = [file for file in files if file.is_file()] or sorted(folder.glob("**/gt/gt.txt"))
    files = files or sorted(folder.glob("**/gt.txt"))
    if not files:
        raise InputError(
            f"there are no MOTChallenge sequences in {folder}: expected folders with gt/gt.txt, as in MOT17/train"
        )
    return [_sequence(file) for file in files]


def _sequence(file: Path) -> Video:
    folder = file.parent.parent if file.parent.name == "gt" else file.parent
    truth = read_rows(file)
    about = configparser.ConfigParser()
    try:
        about.read(folder / "seqinfo.ini", encoding="utf-8-sig")
        info = about["Sequence"] if about.has_section("Sequence") else {}
        rate = float(info.get("frameRate", _USUAL_RATE))
        count = int(info.get("seqLength", 0))
    except (configparser.Error, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {folder / 'seqinfo.ini'}: {error}") from error
    place = folder / info.get("imDir", "img1")
    images = sorted(p for p in place.iterdir() if p.suffix.lower() in _ENDINGS) if place.is_dir() else []
    # Frames without an object at the end are known by their images or by seqinfo.ini only.
    count = max(count, len(images), int(truth.frames.max(initial=-1)) + 1)
    return Video(folder.resolve().name, folder, truth, count, rate if rate > 0 else _USUAL_RATE, images)


def read_rows(file: Path) -> Rows:
    """The boxes of a text file, of the truth or of results.

    Raises:
        InputError: it cannot be read; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[:9]]
        except ValueError:
            values = []
        # Every frame up to the last one is compared: a time in place of a number would keep that going for years.
        known = len(values) >= 6 and np.isfinite(values).all() and 1 <= values[0] <= _MOST_FRAMES
        if not known or min(values[4:6]) < 0:
            raise InputError(
                f"{file}, line {number}: expected frame, id, left, top, width, height, …, got {line[:80]!r}"
            )
        # Ten columns are MOT15's: what follows the seventh is a place in the world, no class and no visibility.
        if len(words) > 9:
            values = values[:7]
        rows.append(values + [1.0, _NO_CLASS, 1.0][len(values) - 6 :])
    table = np.array(rows, np.float64).reshape(-1, 9)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    # Pixels count from 1 there.
    corner = table[:, 2:4] - 1
    classes = table[:, 7]
    # The seventh column is 0 where the truth does not count; in results it is a score, which does no harm here.
    counts = (table[:, 6] != 0) & np.isin(classes, (_PEDESTRIAN, _NO_CLASS))
    boxes = np.concatenate((corner, corner + table[:, 4:6]), axis=1)
    ids = table[:, 1].astype(np.int64)
    return Rows(table[:, 0].astype(np.int64) - 1, ids, boxes, counts, np.isin(classes, _DISTRACTORS))


def read_results(place: Path, name: str) -> Rows:
    """The results for a sequence: of the file itself, or of ``NAME.txt`` in a folder.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    if place.is_file():
        return read_rows(place)
    # TrackEval keeps results in the folder as they are, phidet below mot/.
    found = [file for file in (place / f"{name}.txt", place / "mot" / f"{name}.txt") if file.is_file()]
    if not found:
        raise InputError(
            f"there are no tracks for {name} in {place}: expected {name}.txt, as 'phidet track --save mot' writes it"
        )
    return read_rows(found[0])


class Frames(NamedTuple):
    """What is compared: for each frame, ids and boxes of the truth and of the tracks."""

    true_ids: list[npt.NDArray[np.int64]]
    true_boxes: list[Floats]
    ids: list[npt.NDArray[np.int64]]
    boxes: list[Floats]


def compared(sequence: Video, found: Rows) -> Frames:
    """Truth and tracks by frame, without tracks on what need not be found, as MOTChallenge's own tools have it.

    Raises:
        InputError: tracks after the last frame: they are of another video.
    """
    last = int(found.frames.max(initial=-1))
    if last >= sequence.frames:
        raise InputError(f"the tracks go to frame {last + 1}, {sequence.name} has {sequence.frames}: of another video?")
    frames = Frames([], [], [], [])
    for frame in range(sequence.frames):
        truth, ours = sequence.truth.of_frame(frame), found.of_frame(frame)
        rows, columns = assign(pairwise_iou(truth.boxes_xyxy, ours.boxes_xyxy), 0.5)
        # A track on a distractor is neither right nor wrong; the truth that does not count is just not looked for.
        kept = np.ones(len(ours.ids), np.bool_)
        kept[columns] = ~truth.distracts[rows]
        frames.true_ids.append(truth.ids[truth.counts])
        frames.true_boxes.append(truth.boxes_xyxy[truth.counts])
        frames.ids.append(ours.ids[kept])
        frames.boxes.append(ours.boxes_xyxy[kept])
    return frames
