"""Where tracks went wrong: switches of identity and gaps, and strips of the images around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from phidet.core.numbers import evenly_spaced
from phidet.detections.boxes import pairwise_iou
from phidet.detections.draw import colour, draw_frame
from phidet.detections.tracking.assignment import assign
from phidet.evaluation.tracks.motchallenge import Frames

Floats = npt.NDArray[np.float64]
_OVERLAP = 0.5
_CELL, _TEXT, _GAP = 160, 20, 6  # pixels of a strip
_CONTEXT = 2.0  # of the longest side of the true boxes
_INK, _PAPER, _ALARM = (30, 30, 30), (255, 255, 255), (213, 94, 0)


class TrackMistake(NamedTuple):
    """One mistake.

    Attributes:
        kind: ``switch``, the object goes on under another id; ``fragment``, it is lost and found again.
        frame: in which it is found again.
        before: the last frame in which it had been found.
        true_id: of the object.
        ids: of the tracks before and after.
    """

    kind: Literal["switch", "fragment"]
    frame: int
    before: int
    true_id: int
    ids: tuple[int, int]


def find_mistakes(frames: Frames) -> list[TrackMistake]:
    """All switches and fragments, in the order of frames; one that is both is a switch.

    Matching is CLEAR MOT's: what was matched in the frame before stays so while the boxes overlap by half.
    """
    last: dict[int, tuple[int, int]] = {}  # true id → track and frame of the last match
    mistakes = []
    for frame, (true_ids, true_boxes, ids, boxes) in enumerate(zip(*frames, strict=True)):
        overlaps = pairwise_iou(true_boxes, boxes)
        going_on = np.array([[last.get(t, (None, 0))[0] == i for i in ids.tolist()] for t in true_ids.tolist()])
        similarity = np.where(overlaps >= _OVERLAP, overlaps, 0.0)
        # More than all overlaps of a frame together: a pair that goes on is never given up for better overlaps.
        if going_on.size:
            similarity += np.where((overlaps >= _OVERLAP) & going_on, 1000.0, 0.0)
        for row, column in zip(*assign(similarity, _OVERLAP), strict=True):
            true_id, track_id = int(true_ids[row]), int(ids[column])
            # A track that begins is no mistake: as if it had been there in the frame before.
            before_id, before = last.get(true_id, (track_id, frame - 1))
            if before_id != track_id:
                mistakes.append(TrackMistake("switch", frame, before, true_id, (before_id, track_id)))
            elif before < frame - 1 and true_id in _between(frames.true_ids, before, frame):
                mistakes.append(TrackMistake("fragment", frame, before, true_id, (before_id, track_id)))
            last[true_id] = track_id, frame
    return mistakes


def _between(ids: Sequence[npt.NDArray[np.int64]], before: int, frame: int) -> set[int]:
    """True ids of the frames between: an object that was not there could not be found."""
    return {int(i) for k in range(before + 1, frame) for i in ids[k].tolist()}


def draw_strips(
    frames: Frames, mistakes: Sequence[TrackMistake], load: Callable[[int], npt.NDArray[np.uint8]], cells: int = 6
) -> Image.Image:
    """A row for each mistake: the frames around it, the true box dashed, the tracks' boxes with their ids.

    Args:
        frames: truth and tracks.
        mistakes: what to show.
        load: the image of a frame, (H, W, 3) uint8 RGB.
        cells: images of a row.
    """
    width = cells * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, max(1, len(mistakes)) * (_CELL + _TEXT + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    if not mistakes:
        pen.text((_GAP, _GAP), "no switches and no fragments", _INK, font)
    for row, mistake in enumerate(mistakes):
        top = _GAP + row * (_CELL + _TEXT + _GAP)
        a, b = mistake.ids
        what = f"{a} becomes {b}" if mistake.kind == "switch" else f"{a} is lost and found"
        when = f"frames {mistake.before + 1} to {mistake.frame + 1}"
        text = f"{mistake.kind}: object {mistake.true_id}, track {what}, {when}"
        pen.text((_GAP, top), text, _ALARM if mistake.kind == "switch" else _INK, font)
        chosen = _frames_around(mistake, cells, len(frames.ids))
        window = _window(frames, mistake, chosen)
        for column, frame in enumerate(chosen):
            cell = _cell(frames, mistake, frame, window, load(frame))
            sheet.paste(cell, (_GAP + column * (_CELL + _GAP), top + _TEXT))
    return sheet


def _frames_around(mistake: TrackMistake, cells: int, count: int) -> list[int]:
    """Frames from a little before the last match to a little after the new one, evenly."""
    first = max(0, mistake.before - 1)
    last = min(count - 1, max(mistake.frame + 1, first + cells - 1))
    return [first + i for i in evenly_spaced(last - first + 1, cells)]


def _window(frames: Frames, mistake: TrackMistake, chosen: Sequence[int]) -> Floats:
    """A square that shows the object in all chosen frames."""
    boxes = [frames.true_boxes[k][frames.true_ids[k] == mistake.true_id] for k in (*chosen, mistake.frame)]
    there = np.concatenate(boxes)
    low, high = there[:, :2].min(axis=0), there[:, 2:].max(axis=0)
    # The whole way of the object, and at least some surroundings of it where it stands still.
    side = max(float((high - low).max()) * 1.2, float((there[:, 2:] - there[:, :2]).max()) * _CONTEXT, 16.0)
    middle = (low + high) / 2
    return np.concatenate((middle - side / 2, middle + side / 2))


def _cell(
    frames: Frames, mistake: TrackMistake, frame: int, window: Floats, image: npt.NDArray[np.uint8]
) -> Image.Image:
    scale = _CELL / float(window[2] - window[0])
    x1, y1, x2, y2 = window.round().tolist()
    # Pillow fills what lies outside the image with black.
    cell = Image.fromarray(image).crop((x1, y1, x2, y2)).resize((_CELL, _CELL), Image.Resampling.BILINEAR)
    # Text with an outline can be read on any image.
    pen = ImageDraw.Draw(cell, "RGBA")
    font = ImageFont.load_default(12)
    origin = np.tile(window[:2], 2)
    for track_id, found in zip(frames.ids[frame].tolist(), (frames.boxes[frame] - origin) * scale, strict=True):
        x1, y1, x2, y2 = found.tolist()
        if x2 < 0 or y2 < 0 or x1 > _CELL or y1 > _CELL:
            continue
        draw_frame(pen, (x1, y1, x2, y2), colour(track_id), 3 if track_id in mistake.ids else 1)
        pen.text((max(2, x1 + 4), max(2, y1 + 3)), str(track_id), _PAPER, font, stroke_width=2, stroke_fill=_INK)
    true = frames.true_boxes[frame][frames.true_ids[frame] == mistake.true_id]
    for x1, y1, x2, y2 in ((true - origin) * scale).tolist():
        draw_frame(pen, (x1, y1, x2, y2), _PAPER, 1, dashed=True)
    pen.text((_CELL - 4, _CELL - 4), str(frame + 1), _PAPER, font, anchor="rs", stroke_width=2, stroke_fill=_INK)
    return cell
