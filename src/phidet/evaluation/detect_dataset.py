"""Runs a detector on a whole data set, for its evaluation."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.measure import COCO_SETTINGS
from phidet.images.decode import Decoded, Needed

log = logging.getLogger("phidet")


def detect_dataset(
    detector: SupportsDetect,
    dataset: Dataset,
    settings: PostprocessSettings = COCO_SETTINGS,
    batch_size: int = 8,
    needed: Needed | None = None,
) -> tuple[Dataset, list[Detections]]:
    """Detections of ``detector`` in every image of ``dataset``.

    Args:
        detector: has the data set's classes, in the same order.
        dataset: images are decoded while the detector works.
        settings: of the postprocessing.
        batch_size: images at a time.
        needed: what of an image of some size is decoded; ``None`` for all of it, as the metrics' protocol has it.

    Returns:
        The data set and its detections, without the images that cannot be decoded; a warning names each of those.

    Raises:
        InputError: the classes differ, or no image can be decoded.
    """
    check_classes(detector.class_names, dataset)
    broken: dict[int, str] = {}
    found: list[Detections] = []
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(dataset), desc="detect", unit="image", disable=None) as bar:
        batches = [range(i, min(i + batch_size, len(dataset))) for i in range(0, len(dataset), batch_size)]
        # Two batches are decoded ahead while the detector works: more would only take memory.
        coming = [pool.submit(_read, dataset, batch, needed) for batch in batches[:2]]
        for i in range(len(batches)):
            images = coming.pop(0).result()
            # Left out of the data set as well: as an image in which nothing is found it would lower the metrics.
            broken |= {index: image for index, image in images if isinstance(image, str)}
            if i + 2 < len(batches):
                coming.append(pool.submit(_read, dataset, batches[i + 2], needed))
            whole = [image for _, image in images if not isinstance(image, str)]
            # Smaller ones are there only if the detector said that it takes them.
            found += detector.detect(cast("list[npt.NDArray[np.uint8]]", whole), settings)
            bar.update(len(batches[i]))
    if not found:
        raise InputError(f"no image of {dataset.name!r} can be decoded: run 'phidet doctor' on the data")
    return dataset.without(broken), found


def check_classes(class_names: tuple[str, ...], dataset: Dataset) -> None:
    """Raises InputError unless ``class_names``, those of a model, are the classes of ``dataset``."""
    if class_names != dataset.class_names:
        raise InputError(
            f"the model has {len(class_names)} classes ({', '.join(class_names[:5])} …), {dataset.name!r} was read "
            f"with {len(dataset.class_names)} ({', '.join(dataset.class_names[:5])} …): read it with the model's names"
        )


def _read(dataset: Dataset, indices: range, needed: Needed | None) -> list[tuple[int, Decoded | str]]:
    """Index and pixels of each image, or the error message instead of pixels."""
    images: list[tuple[int, Decoded | str]] = []
    for index in indices:
        try:
            image = dataset.reduced(index, needed)
            images.append((index, image.pixels if image.factor == 1 else image))
        except InputError as error:
            log.warning("left out: %s", error)
            images.append((index, str(error)))
    return images
