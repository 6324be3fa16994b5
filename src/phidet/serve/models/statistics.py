"""What a loaded version has done since it was loaded, as Triton's statistics extension counts it."""

from __future__ import annotations

import time
from collections import defaultdict

import msgspec


class Duration(msgspec.Struct):
    """How often something was done, and the nanoseconds that it took in total."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Notes ``count`` times, each of ``seconds``."""
        self.count += count
        self.ns += round(seconds * 1e9) * count


class Statistics:
    """Counts of one version; changed on the event loop only.

    Attributes:
        success: requests that were answered, from the end of their body to the answer.
        fail: requests that were not.
        queue: images' waits for their batch.
        compute_input: requests' decoding.
        compute_infer: images, each with the time of its whole batch.
        compute_output: writing of answers.
        batches: batch size → calls of the model with so many images.
        images: that were answered.
        last_inference: milliseconds since the epoch, 0 before the first.
    """

    def __init__(self) -> None:
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute_input = Duration()
        self.compute_infer = Duration()
        self.compute_output = Duration()
        self.batches: defaultdict[int, Duration] = defaultdict(Duration)
        self.images = 0
        self.last_inference = 0

    def add_batch(self, size: int, answered: int, seconds: float) -> None:
        """Notes one call of the model with ``size`` images, of which ``answered`` have an answer."""
        self.batches[size].add(seconds)
        self.compute_infer.add(seconds, answered)
        self.images += answered
        self.last_inference = time.time_ns() // 1_000_000
