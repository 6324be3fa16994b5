"""The made boards: truth that agrees with itself, and the same boards for the same seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from made_boards import (
    CLASSES,
    MODULES,
    ClutterShares,
    FaultShares,
    make_board,
    make_camera,
    make_scene,
    mount,
    observe,
    render,
    write_data_set,
)
from phidet.data.layouts import open_data
from phidet.images.decode import read_image


def test_seeds_decide_everything() -> None:
    scenes = [make_scene(make_board(4), seed=9) for _ in range(2)]
    assert scenes[0].assembly == scenes[1].assembly
    assert np.array_equal(render(scenes[0], 1), render(scenes[1], 1))
    assert make_board(4) != make_board(5)
    assert not np.array_equal(render(scenes[0], 1), render(scenes[0], 2))


@pytest.mark.parametrize("k1", [-0.15, 0.0, 0.15])
def test_a_camera_goes_there_and_back(k1: float) -> None:
    camera = make_camera((50, 40), seed=3, k1=k1, mirrored=True)
    places = np.random.default_rng(0).uniform(0, (50, 40), (100, 2))
    assert np.allclose(camera.back(camera.project(places)), places, rtol=0, atol=1e-9)


def test_a_camera_sees_the_whole_board_from_above() -> None:
    for seed in range(20):
        camera = make_camera((50, 40), seed, (240, 320))
        corners = camera.project(np.array([[0, 0], [50, 0], [50, 40], [0, 40.0]]))
        assert ((corners > -1) & (corners < [321, 241])).all()
        x, y = corners.T
        signed_area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()
        assert signed_area < 0  # y up in mm, y down in pixels: counter-clockwise stays so for the eye


@pytest.mark.repeated
def test_faults_have_their_shares_and_their_sizes() -> None:
    board = make_board(1, (20, 20))
    shares = FaultShares(missing=0.1, displaced=0.2, wrong_label=0.1, rotated=0.1, extra=0.05)
    assembly = mount(board, 2, shares, scatter=0)
    faults = list(assembly.faults.values())
    count = len(board.parts)
    for fault, share in (("missing", 0.1), ("displaced", 0.2), ("wrong label", 0.1)):
        assert abs(faults.count(fault) / count - share) < 4 * np.sqrt(share * (1 - share) / count)
    nominal = {part.reference: part for part in board.parts}
    for part in assembly.mounted:
        if part.reference == "":
            assert min(np.hypot(*(np.array(part.xy) - other.xy)) for other in board.parts) >= 3.6
            continue
        moved = float(np.hypot(*(np.array(part.xy) - nominal[part.reference].xy)))
        assert (1.2 <= moved <= 2.2) == (part.fault == "displaced")
        assert (part.label != nominal[part.reference].label) == (part.fault == "wrong label")
        assert ((part.rotation - nominal[part.reference].rotation) % 360 == 90) == (part.fault == "rotated")
    assert not assembly.right
    assert mount(board, 2).right


def test_edges_join_the_parts_of_a_module_and_no_others() -> None:
    board = make_board(6)
    assembly = mount(board, 1)
    sizes = [len(MODULES[kind]) for kind in board.modules]
    edges = assembly.edges()
    assert len(edges) == sum(n * (n - 1) // 2 for n in sizes)
    assert all(assembly.mounted[i].module == assembly.mounted[j].module for i, j in edges)


def test_observed_detections_have_the_quality_that_was_asked_for() -> None:
    scene = make_scene(make_board(1, (16, 16)), 3, FaultShares(0, 0, 0, 0, 0), (2000, 2000))
    found = observe(scene, 5, ClutterShares(missing=0.3, false=0.2, mislabelled=0.1, noise_px=1.0))
    true = found.sources >= 0
    count = len(scene.labels)
    assert abs(true.sum() / count - 0.7) < 0.06
    assert (~true).sum() == round(0.2 * count)
    centres = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2
    errors = centres[true] - scene.places_px[found.sources[true]]
    assert abs(errors.std() - 1) < 0.06
    labels = np.array([CLASSES.index(label) for label in scene.labels])
    assert abs((found.class_ids[true] != labels[found.sources[true]]).mean() - 0.1) < 0.05


def test_a_drawn_part_is_where_its_box_says() -> None:
    """The same assembly without one part differs in the pixels of that part's box, and nowhere else."""
    scene = make_scene(make_board(8), 2, FaultShares(0, 0, 0, 0, 0))
    full = render(scene, 1, blur=0.01, noise=0).astype(int)
    for number in (0, 7):
        mounted = list(scene.assembly.mounted)
        removed = mounted.pop(number)
        # The last colours drawn are those of later parts, so the part is made invisible by sending it off the board.
        mounted.insert(number, type(removed)("", removed.label, (-100.0, -100.0), 0.0, "extra", -1))
        without = type(scene)(type(scene.assembly)(scene.assembly.board, tuple(mounted), {}), scene.camera)
        rows, columns = np.nonzero(np.abs(full - render(without, 1, blur=0.01, noise=0)).max(-1) > 8)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(box - scene.boxes_xyxy[number]).max() < 1.6


def test_the_data_set_is_read_as_coco_and_tells_its_truth(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "boards", {"train": [1, 2], "val": [3]}, FaultShares(0.2, 0.2, 0.2, 0.2, 0.2))
    data = open_data(folder)
    assert set(data.splits) >= {"train", "val"}
    truth = json.loads((folder / "truth" / "train.json").read_text())
    assert [one["image"] for one in truth] == ["board-00001.png", "board-00002.png"]
    coco = json.loads((folder / "annotations" / "instances_train.json").read_text())
    boxes = [part["box_xyxy"] for one in truth for part in one["parts"]]
    assert [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in coco["annotations"])] == [
        pytest.approx(box) for box in boxes
    ]
    for one in truth:
        assert read_image(folder / "train" / one["image"]).shape == (384, 384, 3)
        nominal = (folder / "nominal" / f"{one['board']}.csv").read_text().splitlines()
        assert len(nominal) == len(one["faults"]) + 1
