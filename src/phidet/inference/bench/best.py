"""Looks for the fastest way to run a model on this machine whose answers stay within a bound."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import PhidetError
from phidet.core.machine import usable_physical_cores
from phidet.inference.detector import Detector
from phidet.inference.runtimes.open_model import find_model, runtimes_for
from phidet.inference.runtimes.options import Arithmetic, Runtime

Pixels = npt.NDArray[np.uint8]


class Way(NamedTuple):
    """One way to run a model; the first of several is what the others are compared with.

    Attributes:
        model, runtime, precision: see :class:`~phidet.inference.detector.Detector`.
        threads: of a call.
        at_once: calls at a time.
    """

    model: str
    runtime: Runtime
    precision: Arithmetic
    threads: int
    at_once: int


class Found(NamedTuple):
    """What was measured of one way.

    Attributes:
        way: which.
        images_per_second: from pixels to boxes, with all its calls at a time: the median of several turns.
        milliseconds: from pixels to boxes of one image: the median.
        difference: from the first way; what it is, its caller decides.
    """

    way: Way
    images_per_second: float
    milliseconds: float
    difference: float


def ways_to_run(models: Sequence[str]) -> list[Way]:
    """Every installed runtime and precision for each model, on one thread for each of several images, and on all."""
    cores = usable_physical_cores()
    arithmetic: dict[Runtime, tuple[Arithmetic, ...]] = {"openvino": ("file", "bf16")}
    return [
        Way(model, runtime, precision, threads, cores // threads)
        for model in models
        for runtime in runtimes_for(find_model(model))
        for precision in arithmetic.get(runtime, ("file",))
        for threads in sorted({1, cores})
    ]


def measure_ways(
    ways: Sequence[Way],
    images: Sequence[Pixels],
    difference: Callable[[Detector, Detector], float],
    seconds: float,
    failed: Callable[[Way, PhidetError], None],
) -> list[Found]:
    """Times the ways in turns, so that what else the machine does falls on all alike.

    Args:
        ways: what to measure.
        images: what to detect in, (H, W, 3) uint8.
        difference: how far a detector's answers are from those of the first way's detector.
        seconds: for all of it; each way has at least one turn.
        failed: called with ways that cannot be used here.

    Raises:
        PhidetError: the first way cannot be used.
    """
    end = time.monotonic() + seconds
    detectors: dict[Way, Detector] = {}
    differences: dict[tuple[str, Runtime, Arithmetic], float] = {}
    for way in ways:
        try:
            detector = _open(way)
            key = way[:3]
            if key not in differences:  # threads change nothing
                first = detectors[ways[0]] if detectors else detector
                differences[key] = difference(first, detector)
            detectors[way] = detector
        except PhidetError as error:
            if not detectors:
                raise
            failed(way, error)
    rates: dict[Way, list[float]] = {way: [] for way in detectors}
    alone: dict[Way, list[float]] = {way: [] for way in detectors}
    # Each way has a turn at least, whatever the time.
    for turn in itertools.count():
        for way, detector in detectors.items():
            if turn and time.monotonic() > end:
                return [
                    Found(w, statistics.median(rates[w]), statistics.median(alone[w]), differences[w[:3]])
                    for w in detectors
                ]
            rates[way].append(_rate(detector, images, way.at_once))
            alone[way].append(_milliseconds(detector, images))
    raise AssertionError("the turns end by the clock")


def _open(way: Way) -> Detector:
    return Detector(way.model, runtime=way.runtime, threads=way.threads, precision=way.precision, at_once=way.at_once)


def _rate(detector: Detector, images: Sequence[Pixels], at_once: int) -> float:
    """Images a second."""
    work = [image for _, image in zip(range(4 * at_once), itertools.cycle(images), strict=False)]
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda image: detector.detect([image]), work[:at_once]))  # threads, caches and memory
        start = time.perf_counter()
        list(pool.map(lambda image: detector.detect([image]), work))
        return len(work) / (time.perf_counter() - start)


def _milliseconds(detector: Detector, images: Sequence[Pixels]) -> float:
    detector.detect([images[0]])
    taken = []
    for image in images[:3]:
        start = time.perf_counter()
        detector.detect([image])
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def score_difference(images: Sequence[Pixels]) -> Callable[[Detector, Detector], float]:
    """How far the scores of the best answers are apart on average, 0…1; the architecture knows which those are."""

    def difference(first: Detector, other: Detector) -> float:
        apart = []
        for image in images:
            inputs = first.architecture.network_inputs([first.architecture.prepare(first.config, image)])
            ours, theirs = ({name: of[0] for name, of in d.network(*inputs).items()} for d in (first, other))
            apart.append(first.architecture.agreement(first.config, ours, theirs)[0])
        return float(np.mean(apart))

    return difference
