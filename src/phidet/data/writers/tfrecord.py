"""Writes sharded TFRecord, the way the official converter does."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.errors import ConfigError
from phidet.data.dataset import Dataset
from phidet.data.label_map import label_map
from phidet.data.mask_labels import IN_RECORD
from phidet.data.tfrecord_file import Value, make_example, write_record
from phidet.data.writers.files import (
    PreparedImage,
    Written,
    atomic_folder,
    check_splits,
    count_written,
    decodable_images,
)
from phidet.data.writers.masks import readable_or_none


def write_tfrecord(datasets: Mapping[str, Dataset], out: Path, images_per_shard: int = 1000) -> Written:
    """Writes ``out/SPLIT-00000-of-000NN.tfrecord`` with the features of the official converter, and a label map.

    Image i goes to shard i mod NN, as there. ``image/object/difficult`` is only in records that need it, and so is
    ``image/object/mask``: a PNG for each object, 1 where it is, as TensorFlow's tools have it; empty for one without.

    Args:
        datasets, out: as :func:`~phidet.data.writers.coco.write_coco` takes them.
        images_per_shard: at most so many images in a file.

    Raises:
        ConfigError, InputError, PhidetError: as there, or where ``images_per_shard`` is below 1.
    """
    check_splits(datasets)
    if images_per_shard < 1:
        raise ConfigError(f"images_per_shard must be at least 1, got {images_per_shard}")
    written = Written({}, {}, [], [])
    with atomic_folder(out) as folder:
        for split, dataset in datasets.items():
            shards = -(-len(dataset) // images_per_shard)
            kept: list[int] = []
            # Shard by shard, so that images are decoded in the order in which they are written.
            order = [i for shard in range(shards) for i in range(shard, len(dataset), shards)]
            images = decodable_images(dataset, order, written.problems, for_tensorflow=True)
            upcoming = next(images, None)
            for shard in range(shards):
                file = Path(f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")
                with (folder / file).open("wb") as stream:
                    # One image ahead: broken ones are skipped, so a shard ends where the next index is not its own.
                    while upcoming is not None and upcoming[0] % shards == shard:
                        found = readable_or_none(_encoded_masks, dataset, upcoming[0], written.problems)
                        masks: dict[str, Value] = {IN_RECORD: found} if found else {}
                        write_record(stream, make_example(_example(dataset, *upcoming) | masks))
                        kept.append(upcoming[0])
                        upcoming = next(images, None)
                written.files.append(file)
            count_written(written, split, dataset, kept)
        names = next(iter(datasets.values())).class_names
        (folder / "label_map.pbtxt").write_text(label_map(names), encoding="utf-8")
        written.files.append(Path("label_map.pbtxt"))
    return written


def _example(dataset: Dataset, index: int, image: PreparedImage) -> dict[str, Value]:
    height, width = dataset.size_hw(index)
    a = dataset.annotations(index)
    # In float64, so that reading, which multiplies in float64 too, gives back the same float32.
    x1, y1, x2, y2 = (a.boxes_xyxy.astype(np.float64) / [width, height, width, height]).T
    features: dict[str, Value] = {
        "image/height": [height],
        "image/width": [width],
        "image/filename": [str(dataset.names[index]).encode("utf-8", "surrogateescape")],
        "image/source_id": [str(index + 1).encode()],
        "image/key/sha256": [hashlib.sha256(image.content).hexdigest().encode()],
        "image/encoded": [image.content],
        "image/format": [image.format.lower().encode()],
        "image/object/bbox/xmin": x1.tolist(),
        "image/object/bbox/xmax": x2.tolist(),
        "image/object/bbox/ymin": y1.tolist(),
        "image/object/bbox/ymax": y2.tolist(),
        "image/object/class/text": [dataset.class_names[i].encode() for i in a.class_ids],
        "image/object/class/label": (a.class_ids + 1).tolist(),
        "image/object/is_crowd": a.crowd.astype(np.int64).tolist(),
        "image/object/area": a.areas.tolist(),
    }
    if a.difficult.any():
        features["image/object/difficult"] = a.difficult.astype(np.int64).tolist()
    return features


def _encoded_masks(dataset: Dataset, index: int) -> list[bytes]:
    """A PNG for each object of an image, empty for one without a mask; none where no object has one.

    Raises:
        InputError: a label image cannot be read.
    """
    labels = dataset.annotations(index).mask_labels
    if labels is None or not labels.known.any():
        return []
    return [
        _as_png(mask.to_full()[0].view(np.uint8)) if known else b""
        for mask, known in zip(labels.masks(dataset.size_hw(index)), labels.known, strict=True)
    ]


def _as_png(values: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()
