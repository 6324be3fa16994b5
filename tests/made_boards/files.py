"""Writes made boards as data: COCO's layout, nominal lists, and the truth as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from made_boards.board import CLASSES, Board, make_board
from made_boards.mounting import FaultShares
from made_boards.rendering import render
from made_boards.scene import Scene, make_scene


def write_nominal(path: Path, board: Board) -> Path:
    """The design as a list that a layout program would write; KiCad's columns and one for the class."""
    lines = ["Ref,Val,Package,PosX,PosY,Rot,Side,Class"]
    for part in board.parts:
        row = [f'"{part.reference}"', f'"{part.value}"', f'"{part.package}"', f"{part.xy[0]:.4f}", f"{part.xy[1]:.4f}"]
        lines.append(",".join([*row, f"{part.rotation:.6f}", "top", f'"{part.label}"']))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def truth(scene: Scene, image: str) -> dict[str, Any]:
    """Everything that is known of an image, as JSON values.

    ``parts`` are the mounted ones in the order of the COCO file's annotations; ``edges`` are pairs of their numbers
    that belong to one module; ``faults`` has every nominal part.
    """
    assembly, camera = scene.assembly, scene.camera
    parts = [
        {
            "reference": part.reference,
            "label": part.label,
            "xy_mm": list(part.xy),
            "rotation": part.rotation,
            "fault": part.fault,
            "module": part.module,
            "xy_px": place,
            "box_xyxy": box,
        }
        for part, place, box in zip(assembly.mounted, scene.places_px.tolist(), scene.boxes_xyxy.tolist(), strict=True)
    ]
    return {
        "image": image,
        "board": assembly.board.name,
        "size_hw": list(camera.size_hw),
        "homography": camera.matrix.tolist(),
        "k1": camera.k1,
        "right": assembly.right,
        "faults": assembly.faults,
        "modules": list(assembly.board.modules),
        "parts": parts,
        "edges": assembly.edges(),
    }


def write_data_set(
    folder: Path,
    splits: dict[str, Sequence[int]],
    shares: FaultShares | None = None,
    *,
    right_share: float = 0.3,
    size_hw: tuple[int, int] = (384, 384),
) -> Path:
    """Boards as a data set in COCO's layout, each of a design of its own.

    ``SPLIT/NAME.png``, ``annotations/instances_SPLIT.json``, ``nominal/NAME.csv`` and ``truth/SPLIT.json``, a list of
    :func:`truth`.

    Args:
        folder: to write to.
        splits: name → seeds, one for each board.
        shares: of faults on boards that are not right.
        right_share: share of boards without any fault.
        size_hw: of the images.
    """
    for split, seeds in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        truths: list[dict[str, Any]] = []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            right = bool(np.random.default_rng([seed, 7]).random() < right_share)
            scene = make_scene(make_board(seed), seed, FaultShares(0, 0, 0, 0, 0) if right else shares, size_hw)
            name = scene.assembly.board.name
            Image.fromarray(render(scene, seed)).save(folder / split / f"{name}.png", compress_level=1)
            write_nominal(folder / "nominal" / f"{name}.csv", scene.assembly.board)
            image = {"id": seed, "file_name": f"{name}.png", "height": size_hw[0], "width": size_hw[1]}
            images.append(image | {"right": scene.assembly.right})
            truths.append(truth(scene, f"{name}.png"))
            for part, (x1, y1, x2, y2) in zip(scene.assembly.mounted, scene.boxes_xyxy.tolist(), strict=True):
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                identity = {"id": len(annotations) + 1, "image_id": seed, "category_id": CLASSES.index(part.label) + 1}
                group = {"group": part.module} if part.module >= 0 else {}
                annotations.append(identity | box | group)
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        _write_json(folder / "annotations" / f"instances_{split}.json", content)
        _write_json(folder / "truth" / f"{split}.json", truths)
    return folder


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
