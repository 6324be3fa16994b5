"""A mounted board before a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_boards.board import SIZES, Board, turned
from made_boards.camera import Camera, make_camera
from made_boards.mounting import Assembly, FaultShares, mount


@dataclass(frozen=True)
class Scene:
    """What is seen, and how.

    Attributes:
        assembly: the mounted board.
        camera: where it is seen from.
    """

    assembly: Assembly
    camera: Camera

    @property
    def labels(self) -> list[str]:
        """True class of each mounted part."""
        return [part.label for part in self.assembly.mounted]

    @property
    def places_px(self) -> npt.NDArray[np.float64]:
        """(M, 2) true centres of mounted parts in pixels."""
        return self.camera.project(np.array([part.xy for part in self.assembly.mounted], np.float64).reshape(-1, 2))

    @property
    def boxes_xyxy(self) -> npt.NDArray[np.float64]:
        """(M, 4) true boxes of mounted parts in pixels, clipped to the image."""
        outlines = [outline(part.label, part.xy, part.rotation) for part in self.assembly.mounted]
        corners = self.camera.project(np.array(outlines).reshape(-1, 16, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        height, width = self.camera.size_hw
        clipped: npt.NDArray[np.float64] = np.clip(boxes, 0, [width, height, width, height])
        return clipped


def outline(label: str, xy: tuple[float, float], rotation: float) -> npt.NDArray[np.float64]:
    """(16, 2) points around a part in mm."""
    length, width = SIZES[label]
    if label == "electrolytic":
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        local = np.stack([np.cos(angles), np.sin(angles)], 1) * length / 2
    else:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * [length / 2, width / 2]
        local = np.repeat(corners, 4, axis=0)
    return turned(local, rotation) + xy


def make_scene(
    board: Board,
    seed: int,
    shares: FaultShares | None = None,
    size_hw: tuple[int, int] = (384, 384),
    camera: Camera | None = None,
) -> Scene:
    """One image's truth: faults and pose drawn from ``seed``, the pose a homography with slight lens distortion,
    the board turned by at most 12°."""
    if camera is None:
        rng = np.random.default_rng([seed, 4])
        camera = make_camera(board.size, seed, size_hw, turn=12, k1=float(rng.uniform(-0.04, 0.04)))
    return Scene(mount(board, seed, FaultShares() if shares is None else shares), camera)
