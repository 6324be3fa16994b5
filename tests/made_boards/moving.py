"""Videos of boards before a moving camera: the parts stay, the image jumps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from made_boards.board import CLASSES, make_board
from made_boards.camera import Camera, make_camera
from made_boards.mounting import FaultShares, mount
from made_boards.rendering import render
from made_boards.scene import Scene


def make_video(
    seed: int, frames: int, jump_px: float, size_hw: tuple[int, int] = (384, 384), cells: tuple[int, int] = (3, 3)
) -> list[Scene]:
    """A board of its own design, as a camera sees it that is moved between frames.

    Args:
        seed: of the design and the motion.
        frames: their number.
        jump_px: standard deviation of the shift between two frames in each direction; the camera also turns by 1° and
            comes nearer or goes away by 1 % (standard deviations), and is drawn back to where it began.
        size_hw: of the frames.
        cells: of the board.
    """
    board = make_board(seed, cells)
    rng = np.random.default_rng([seed, 9])
    assembly = mount(board, seed, FaultShares(0, 0, 0, 0, 0))
    start = make_camera(board.size, seed, size_hw, turn=180)
    centre = np.array([size_hw[1], size_hw[0]]) / 2
    scenes, shift, turn, scale = [], np.zeros(2), 0.0, 0.0
    for _ in range(frames):
        angle = np.radians(turn)
        c, s = np.exp(scale) * np.cos(angle), np.exp(scale) * np.sin(angle)
        motion = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        motion[:2, 2] = centre - motion[:2, :2] @ centre + shift
        scenes.append(Scene(assembly, Camera(motion @ start.matrix, 0.0, size_hw)))
        # Drawn back, so that the board does not leave the image for good.
        shift = 0.7 * shift + jump_px * rng.standard_normal(2)
        turn, scale = 0.8 * turn + rng.normal(0, 1), 0.8 * scale + rng.normal(0, 0.01)
    return scenes


def visible(scene: Scene) -> np.ndarray:
    """(M,) whether the centre of each mounted part lies in the image."""
    height, width = scene.camera.size_hw
    inside: np.ndarray = np.all((scene.places_px >= 0) & (scene.places_px < [width, height]), axis=1)
    return inside


def write_videos(folder: Path, splits: Mapping[str, Sequence[int]], frames: int, jump_px: float) -> Path:
    """Videos as COCO JSON with ``video_id``, ``frame_id`` and ``track_id``, and the frames as images."""
    for split, seeds in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            for number, scene in enumerate(make_video(seed, frames, jump_px)):
                height, width = scene.camera.size_hw
                name = f"board-{seed:05d}-{number:03d}.png"
                Image.fromarray(render(scene, seed)).save(folder / split / name, compress_level=1)
                image = {"id": len(images) + 1, "file_name": name, "height": height, "width": width}
                images.append(image | {"video_id": seed, "frame_id": number})
                boxes, parts = scene.boxes_xyxy.tolist(), scene.assembly.mounted
                for k in np.flatnonzero(visible(scene)).tolist():
                    (x1, y1, x2, y2), category = boxes[k], CLASSES.index(parts[k].label) + 1
                    entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": category}
                    area = (x2 - x1) * (y2 - y1)
                    annotations.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "track_id": k})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
