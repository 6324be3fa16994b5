"""Times one model on one runtime, in this process.

``python -m phidet.inference.bench.measure REQUEST`` does so in its own process, undisturbed by another model's memory
and threads; request and result are JSON.
"""

from __future__ import annotations

import io
import re
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from phidet.core.errors import PhidetError
from phidet.detections.settings import PostprocessSettings, Score
from phidet.images.decode import read_image, read_reduced
from phidet.inference.detector import Detector
from phidet.inference.runtimes.options import Arithmetic, Device, Runtime

WARM_UP = 3


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to time.

    Attributes:
        model: as for :class:`phidet.inference.detector.Detector`.
        runtime: name of the runtime.
        threads: of the runtime; ``None`` for its default.
        precision, device: see :class:`phidet.inference.detector.Detector`.
        batches: batch sizes for the throughput.
        runs: timed runs of each, after three to warm up.
        score: of the detections, which decides how much is suppressed.
        image: a photograph; unless given, coloured noise of 640 × 480 pixels as a JPEG.
    """

    model: str
    runtime: Runtime = "auto"
    threads: int | None = None
    precision: Arithmetic = "file"
    device: Device = "cpu"
    batches: tuple[int, ...] = (1, 8)
    runs: int = 10
    score: Score = 0.3
    image: str | None = None


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds over all runs: the papers give mean and deviation; median and 95 % are robust on a busy machine."""

    mean: float
    deviation: float
    median: float
    p95: float


class Decoding(msgspec.Struct, frozen=True, kw_only=True):
    """From the network's outputs to detections: time, and arrays at their largest, in MiB."""

    times: Times
    memory_mib: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one runtime.

    Attributes:
        model, runtime, precision: what ran.
        threads: as requested.
        size_hw: the network's input.
        load_ms: time to load the model.
        network: batch 1, the network alone.
        stages: "decode" a JPEG, "resize" and normalise, "network", "post": one image, from bytes to boxes.
        images_per_second: by batch size, the network alone.
        memory_mib: peak of the process above what Python and its libraries took before loading; ``None`` where the
            system does not tell.
        decoding: of networks with masks, what "boxes" alone and "masks" as well cost for the 100 best objects.
    """

    model: str
    runtime: str
    precision: str
    threads: int | None
    size_hw: tuple[int, int]
    load_ms: float
    network: Times
    stages: dict[str, Times]
    images_per_second: dict[int, float]
    memory_mib: float | None
    decoding: dict[str, Decoding] = {}


def measure(request: Request) -> Measurement:
    """Times the model of ``request``."""
    encoded = _encoded(request.image)
    # Before loading, so that the difference to the peak is the model's own share.
    before = _memory_mib("VmRSS")
    start = time.perf_counter()
    detector = Detector(
        request.model,
        runtime=request.runtime,
        threads=request.threads,
        precision=request.precision,
        device=request.device,
    )
    network, config = detector.network, detector.config
    load_ms = (time.perf_counter() - start) * 1e3

    pixels = read_reduced(encoded, detector.needed_hw).pixels
    architecture, settings = detector.architecture, PostprocessSettings(score=request.score)
    detector.check(settings)
    prepared = architecture.prepare(config, pixels)
    inputs, placement = architecture.network_inputs([prepared]), prepared.placement
    outputs = {name: array[0] for name, array in network(*inputs).items()}
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: read_reduced(encoded, detector.needed_hw),
        "resize": lambda: architecture.prepare(config, pixels),
        "network": lambda: network(*inputs),
        "post": lambda: detector.decode(outputs, placement, settings),
    }
    # One stage after the other instead of whole images in turns: each with warm caches, as in a loop over images.
    times = {name: _times(work, request.runs) for name, work in stages.items()}
    rates = {}
    for batch in request.batches:
        # The same image many times: convolutions take equally long whatever they see.
        stacked = [np.repeat(array, batch, 0) for array in inputs]
        rates[batch] = batch * 1e3 / _times(lambda stacked=stacked: network(*stacked), request.runs).median  # type: ignore[misc]
    # Before masks are made once more below, for their own cost.
    peak = _memory_mib("VmHWM")
    decoding = {}
    if "masks" in architecture.finds(config):
        for name, masks in (("boxes", False), ("masks", True)):
            # Whatever their scores, so that as many masks are made on any image, by any network.
            best = PostprocessSettings(score=0, masks=masks)
            decoding[name] = _decoding(lambda best=best: detector.decode(outputs, placement, best), request.runs)  # type: ignore[misc]
    return Measurement(
        model=request.model,
        runtime=detector.runtime_name,
        precision=getattr(network, "precision", "fp32"),
        threads=request.threads,
        size_hw=(prepared.image.shape[1], prepared.image.shape[2]),
        load_ms=load_ms,
        network=times["network"],
        stages=times,
        images_per_second=rates,
        memory_mib=None if peak is None or before is None else peak - before,
        decoding=decoding,
    )


def _decoding(work: Callable[[], object], runs: int) -> Decoding:
    times = _times(work, runs)
    tracemalloc.start()  # knows NumPy's arrays; after the times, which it would spoil
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Decoding(times=times, memory_mib=most / 2**20)


def _times(work: Callable[[], object], runs: int) -> Times:
    taken: list[float] = []
    for run in range(WARM_UP + runs):
        start = time.perf_counter()
        work()
        # The first runs allocate memory and choose kernels; later ones do not.
        if run >= WARM_UP:
            taken.append((time.perf_counter() - start) * 1e3)
    return Times(
        mean=statistics.fmean(taken),
        deviation=statistics.pstdev(taken),
        median=statistics.median(taken),
        p95=float(np.percentile(taken, 95)),
    )


def _encoded(image: str | None) -> bytes:
    if image is not None:
        read_image(Path(image))  # raises InputError if it cannot be decoded
        return Path(image).read_bytes()
    return sample_image()


def sample_image() -> bytes:
    """Coloured noise of 640 × 480 pixels as a JPEG."""
    # Smooth noise: a JPEG of pixel noise would take much longer to decode than a photograph.
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _memory_mib(key: str) -> float | None:
    """Resident memory now ("VmRSS") or at its peak ("VmHWM"); ``None`` on systems without /proc."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return None if found is None else int(found[1]) / 1024


def main() -> int:
    """Measures the request on the command line; an error is one line, with its exit code."""
    try:
        print(msgspec.json.encode(measure(msgspec.json.decode(sys.argv[1], type=Request))).decode())
    except PhidetError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
