"""Data sets for the doctor's tests, made by hand."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
GOOD = "0 0.5 0.5 0.4 0.4\n"


def scene(seed: int, size_wh: tuple[int, int] = (160, 120)) -> Pixels:
    """An image with large and small features, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size_wh, Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(size_wh, Image.Resampling.BILINEAR)
    return np.asarray(Image.blend(coarse, fine, 0.25))


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """The pixels as an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes | str) -> None:
    """Writes a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def hashes(folder: Path) -> dict[str, str]:
    """Every file in a folder, by content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def coco(folder: Path, splits: dict[str, list[tuple[Pixels, list[tuple[str, list[float]]]]]], names: list[str]) -> Path:
    """COCO JSON of images with (class, xywh); an image is called ``<split>-<number>.png``."""
    for split, images in splits.items():
        content: dict[str, list[Any]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        }
        for i, (pixels, objects) in enumerate(images):
            file_name = f"{split}-{i}.png"
            write(folder / split / file_name, encoded(pixels))
            height, width = pixels.shape[:2]
            content["images"].append({"id": i, "file_name": file_name, "height": height, "width": width})
            for name, box in objects:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": i,
                        "category_id": names.index(name) + 1,
                        "bbox": box,
                    }
                )
        write(folder / "annotations" / f"{split}.json", json.dumps(content))
    return folder


def broken_yolo(folder: Path) -> dict[str, str]:
    """A YOLO folder of 4 good images and 40 things that are wrong, each about a file of its own.

    Returns:
        what is wrong, by the stem of the file: the kind of the finding.
    """
    jpeg = encoded(scene(1000), "JPEG")
    png = encoded(scene(1001))
    floats, integers = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 4800, dtype=np.float32).reshape(60, 80)).save(floats, "TIFF")
    Image.fromarray(np.full((60, 80), 1 << 24, np.int32)).save(integers, "TIFF")
    images: dict[str, bytes] = {
        "empty-file.jpg": b"",
        "text.jpg": b"this is no picture",
        "html.png": b"<!doctype html><title>404</title>",
        "noise.jpg": np.random.default_rng(0).bytes(5000),
        "zeros.png": bytes(4000),
        "head-only.jpg": jpeg[:300],
        "cut-jpeg.jpg": jpeg[: len(jpeg) // 2],
        "cut-png.png": png[: len(png) // 2],
        "cut-bmp.bmp": encoded(scene(1002), "BMP")[:9000],
        "cut-gif.gif": encoded(scene(1003), "GIF")[:3000],
        "cut-webp.webp": encoded(scene(1004), "WEBP")[:900],
        "cut-tiff.tif": encoded(scene(1005), "TIFF")[:200],
        "bad-checksum.png": png[:60] + bytes([png[60] ^ 255]) + png[61:],
        "float-pixels.tif": floats.getvalue(),
        "wide-integers.tif": integers.getvalue(),
    }
    labels: dict[str, tuple[str, str]] = {
        "words": ("dog 0.5 0.5 0.1 0.1", "label unreadable"),
        "too-few": ("0 0.5 0.5 0.1", "label unreadable"),
        "half-class": ("0.5 0.5 0.5 0.1 0.1", "label unreadable"),
        "odd-polygon": ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "label unreadable"),
        "commas": ("0,0.5,0.5,0.1,0.1", "label unreadable"),
        "binary": ("\x00\x01\x02\x03", "label unreadable"),
        "class-too-large": ("7 0.5 0.5 0.1 0.1", "class unknown"),
        "class-negative": ("-1 0.5 0.5 0.1 0.1", "class unknown"),
        "in-pixels": ("0 80 60 40 30", "box invalid"),
        "nan": ("0 nan 0.5 0.1 0.1", "box invalid"),
        "minus-infinite": ("0 0.5 -inf 0.1 0.1", "box invalid"),
        "no-width": ("0 0.5 0.5 0 0.1", "box empty"),
        "no-height": ("0 0.5 0.5 0.1 0", "box empty"),
        "negative-width": ("0 0.5 0.5 -0.1 0.1", "box empty"),
        "right-of-image": ("0 1.5 0.5 0.1 0.1", "box outside"),
        "above-image": ("0 0.5 -0.5 0.1 0.1", "box outside"),
        "polygon-outside": ("0 1.2 1.2 1.3 1.2 1.3 1.3", "box outside"),
        "sticks-out": ("0 0.9 0.5 0.6 0.1", "box clipped"),
    }
    expected = {Path(name).stem: "image unreadable" for name in images}
    for name, content in images.items():
        write(folder / "images" / "train" / name, content)
        write(folder / "labels" / "train" / f"{Path(name).stem}.txt", GOOD)
    for i, (stem, (line, kind)) in enumerate(labels.items()):
        write(folder / "images" / "train" / f"{stem}.png", encoded(scene(i)))
        write(folder / "labels" / "train" / f"{stem}.txt", GOOD + line + "\n")
        expected[stem] = kind
    for stem in ("good-1", "good-2"):
        write(folder / "images" / "train" / f"{stem}.png", encoded(scene(hash_of(stem))))
        write(folder / "labels" / "train" / f"{stem}.txt", GOOD)
    for stem in ("good-3", "good-4"):
        write(folder / "images" / "val" / f"{stem}.png", encoded(scene(hash_of(stem))))
        write(folder / "labels" / "val" / f"{stem}.txt", "1 0.5 0.5 0.4 0.4\n" + GOOD)
    first = (folder / "images" / "train" / "good-1.png").read_bytes()
    write(folder / "images" / "val" / "copied.png", first)
    write(folder / "labels" / "val" / "copied.txt", GOOD)
    write(folder / "images" / "val" / "encoded-again.jpg", encoded(scene(hash_of("good-2")), "JPEG", quality=70))
    write(folder / "labels" / "val" / "encoded-again.txt", GOOD)
    write(folder / "images" / "train" / "twice.png", encoded(scene(500)))
    write(folder / "labels" / "train" / "twice.txt", GOOD + "0 0.5 0.5 0.4 0.402\n")
    write(folder / "labels" / "train" / "no-image.txt", GOOD)
    write(folder / "images" / "extra" / "no-split.png", encoded(scene(501)))
    listed = [f"images/train/{p.name}" for p in sorted((folder / "images" / "train").iterdir())]
    listed += ["images/train/not-there.png", "images/train/good-2.png"]
    write(folder / "train.txt", "\n".join(listed))
    write(folder / "data.yaml", "names: [cat, dog]\ntrain: train.txt\nval: images/val\n")
    expected |= {"not-there": "image missing", "good-2": "image repeated", "copied": "same bytes"}
    expected |= {"encoded-again": "near", "twice": "box twice", "no-image": "unused", "no-split": "unused"}
    return expected


def hash_of(stem: str) -> int:
    """A seed."""
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4], "big")
