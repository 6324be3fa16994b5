"""What masks cost: ways to store them, and reading and drawing 1,000 objects in an image.

    python benchmarks/masks.py

Times are of the processor, so that a busy machine does not move them; memory is that of the arrays, and the peak of the
process where it says so.
"""

from __future__ import annotations

import pickle
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.detections.detections import Detections
from phidet.detections.masks import Masks

COUNT = 1000
Full = npt.NDArray[np.bool_]


def outlines(size_hw: tuple[int, int], radius: float, seed: int) -> list[list[npt.NDArray[np.float64]]]:
    """Blobs of 40 corners."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    found = []
    for _ in range(COUNT):
        radii = radius * (1 + 0.3 * np.sin(3 * angles + rng.uniform(0, 6)))
        centre = rng.uniform(0, 1, 2) * np.array(size_hw[::-1])
        found.append([centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]])
    return found


def spent(call: Callable[[], Any], repeats: int = 3) -> float:
    """Milliseconds of the processor, the least of several."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def storage(size_hw: tuple[int, int], radius: float) -> None:
    """Bytes, and times to take half of the masks, to pickle them, and to get the pixels in their boxes."""
    masks = Masks.from_polygons(outlines(size_hw, radius, 0), size_hw)
    crops = [(box, np.ascontiguousarray(crop)) for box, crop in masks.crops()]
    bits = [(box, crop.shape, np.packbits(crop)) for box, crop in crops]
    texts = masks.to_list()
    half = np.random.default_rng(1).random(COUNT) < 0.5
    chosen = np.flatnonzero(half).tolist()

    def unpacked() -> list[Full]:
        return [np.unpackbits(b, count=s[0] * s[1]).reshape(s).astype(bool) for _, s, b in bits]

    rows: list[tuple[str, int, Callable[[], Any], Callable[[], Any], Callable[[], Any]]] = [
        (
            "bool, cut to boxes",
            sum(crop.nbytes for _, crop in crops),
            lambda: [crops[i] for i in chosen],
            lambda: pickle.loads(pickle.dumps(crops)),
            lambda: [crop for _, crop in crops],
        ),
        (
            "bits, cut to boxes",
            sum(packed.nbytes for _, _, packed in bits),
            lambda: [bits[i] for i in chosen],
            lambda: pickle.loads(pickle.dumps(bits)),
            unpacked,
        ),
        (
            "COCO's text",
            sum(len(row["counts"]) for row in texts),
            lambda: [texts[i] for i in chosen],
            lambda: pickle.loads(pickle.dumps(texts)),
            lambda: list(Masks.from_coco(texts, size_hw).crops()),
        ),
        (
            "runs (taken)",
            masks.runs.bounds.nbytes + masks.runs.starts.nbytes,
            lambda: masks[half],
            lambda: pickle.loads(pickle.dumps(masks)),
            lambda: list(masks.crops()),
        ),
    ]
    print(f"\n{COUNT:,} objects of about {2 * radius:.0f} pixels in {size_hw[1]}×{size_hw[0]}")
    print(f"{'full bool':<20}{COUNT * size_hw[0] * size_hw[1] / 2**20:>10,.1f} MiB")
    print(f"{'':<20}{'MiB':>10}{'half ms':>10}{'pickle ms':>11}{'pixels ms':>11}")
    for name, size, take, through_pickle, pixels in rows:
        times = [spent(call) for call in (take, through_pickle, pixels)]
        print(f"{name:<20}{size / 2**20:>10.2f}{times[0]:>10.2f}{times[1]:>11.2f}{times[2]:>11.1f}")
    other = Masks.from_polygons(outlines(size_hw, radius, 2), size_hw)
    ious, areas = spent(lambda: masks.iou(other), 1), spent(lambda: masks.areas)
    print(f"all {COUNT * COUNT:,} IoUs: {ious:.0f} ms; areas: {areas:.2f} ms")


def drawing(size_hw: tuple[int, int], radius: float) -> None:
    """Polygons to pixels, results to masks, and an image with masks and labels drawn."""
    objects = outlines(size_hw, radius, 0)
    masks = Masks.from_polygons(objects, size_hw)
    texts = masks.to_list()
    rng = np.random.default_rng(0)
    names, scores = tuple("abcdefg"), np.linspace(1, 0.3, COUNT, dtype=np.float32)
    found = Detections(masks.boxes_xyxy, scores, rng.integers(0, 7, COUNT), names, size_hw, {"masks": masks})
    image = Image.fromarray(rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read, decoded = (
        spent(call) for call in (lambda: Masks.from_polygons(objects, size_hw), lambda: Masks.from_coco(texts, size_hw))
    )
    drawn = spent(lambda: found.draw(image), 1)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{size_hw[1]}×{size_hw[0]}: polygons read {read:.0f} ms, results read {decoded:.0f} ms, drawn with labels "
        f"{drawn:.0f} ms; {grown:.0f} MiB more memory at most"
    )


if __name__ == "__main__":
    print("reading and drawing 1,000 objects")
    drawing((1080, 1920), 40)
    drawing((3000, 4000), 60)
    storage((1080, 1920), 40)
    storage((3000, 4000), 400)
