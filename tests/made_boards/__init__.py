"""Made boards with parts at known places: seeded, with truth for boxes, places, labels, faults and graphs.

A :class:`Board` is a design: parts in modules, on a plane in millimetres, y up. An :class:`Assembly` is what was
mounted, right but for its faults. A :class:`Scene` is one image of it under a :class:`Camera`: with :func:`render` as
pixels, with :func:`observe` only as the boxes that a detector of known quality would give.

>>> board = make_board(seed=7)
>>> scene = make_scene(board, seed=1)
>>> render(scene, seed=1).shape
(384, 384, 3)
"""

from made_boards.board import CLASSES, MODULES, Board, Part, make_board
from made_boards.camera import Camera, make_camera
from made_boards.files import write_data_set, write_nominal
from made_boards.mounting import Assembly, FaultShares, Mounted, mount
from made_boards.observing import ClutterShares, Observed, observe
from made_boards.rendering import render
from made_boards.scene import Scene, make_scene

__all__ = [
    "CLASSES",
    "MODULES",
    "Assembly",
    "Board",
    "Camera",
    "ClutterShares",
    "FaultShares",
    "Mounted",
    "Observed",
    "Part",
    "Scene",
    "make_board",
    "make_camera",
    "make_scene",
    "mount",
    "observe",
    "render",
    "write_data_set",
    "write_nominal",
]
