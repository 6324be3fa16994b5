"""Images that are nearly those that a model was trained on are named when it is measured."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phidet.data.layouts import open_data
from phidet.data.near_copies import near_copies, near_learned, warn_of
from phidet.data.run_images import RunImages, known_images
from test_doctor_facts import scene

BOX = [10, 10, 60, 50]


def write(root: Path, split: str, images: dict[str, bytes]) -> None:
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    rows, objects = [], []
    for i, (name, content) in enumerate(images.items()):
        (root / split / name).write_bytes(content)
        width, height = Image.open(io.BytesIO(content)).size
        rows.append({"id": i, "file_name": name, "width": width, "height": height})
        objects.append({"id": i, "image_id": i, "category_id": 1, "bbox": BOX})
    document = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def encoded(pixels: np.ndarray, kind: str = "PNG", **how: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **how)
    return stream.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    scenes = [np.asarray(scene(i, (320, 240))) for i in range(12)]
    write(tmp_path, "train", {f"t{i}.png": encoded(scenes[i]) for i in range(8)})
    small = np.asarray(Image.fromarray(scenes[1]).resize((200, 150), Image.Resampling.BILINEAR))
    write(
        tmp_path,
        "val",
        {
            "again.jpg": encoded(scenes[0], "JPEG", quality=60),
            "small.png": encoded(small),
            "mirrored.jpg": encoded(scenes[2][:, ::-1].copy(), "JPEG", quality=60),
            "same.png": encoded(scenes[3]),
            "other.png": encoded(scenes[9]),
        },
    )
    return tmp_path


def test_near_copies_are_named_and_exact_ones_are_not(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = open_data(data)
    train, val = folder.read("train"), folder.read("val", ("thing",))
    found = near_copies(val, train)
    assert dict(zip(found.images, found.of, strict=True)) == {
        "again.jpg": "t0.png", "small.png": "t1.png", "mirrored.jpg": "t2.png",
    }  # fmt: skip
    with caplog.at_level(logging.WARNING, "phidet"):
        warn_of(found, len(val))
    assert (
        "3 of these 5 images look nearly like images that the model has learned from (first: again.jpg" in caplog.text
    )


def test_only_what_the_run_has_learned_from_counts(data: Path) -> None:
    folder = open_data(data)
    train, val = folder.read("train"), folder.read("val", ("thing",))
    part = train.subset([1, 5], "train")
    found = near_learned(val, RunImages(known_images(part), known_images(val)), folder)
    assert found is not None
    assert found.images == ("small.png",)
    elsewhere = val.subset([4], "val")
    assert near_learned(val, RunImages((), known_images(val), frozenset({"0" * 16})), folder) is None, "not here"
    assert near_learned(elsewhere, RunImages(known_images(train), ()), folder) == ((), ())
