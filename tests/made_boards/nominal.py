"""Made boards as phidet's own types: nominal lists, and observed boxes as detections."""

from __future__ import annotations

import numpy as np

from made_boards.board import CLASSES, Board
from made_boards.observing import Observed
from phidet.detections.alignment.nominal import SIDES, Nominal
from phidet.detections.detections import Detections


def nominal_of_board(board: Board) -> Nominal:
    """The design as a nominal list."""
    return Nominal(
        tuple(part.reference for part in board.parts),
        tuple(board.labels),
        board.places,
        np.array([part.rotation for part in board.parts]),
        (SIDES[0],) * len(board.parts),
        "mm",
        y_up=True,
    )


def as_detections(observed: Observed, size_hw: tuple[int, int]) -> Detections:
    """Observed boxes as a detector gives them."""
    boxes, scores = observed.boxes_xyxy.astype(np.float32), observed.scores.astype(np.float32)
    return Detections(boxes, scores, observed.class_ids, CLASSES, size_hw)
