"""Counts of a loaded version since it was loaded, as in Triton's statistics extension."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import NamedTuple

import msgspec


class Duration(msgspec.Struct):
    """How often something was done, and the nanoseconds that it took in total."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Notes one more."""
        self.count += 1
        self.ns += round(seconds * 1e9)


class RequestSeconds(NamedTuple):
    """Where the time of one request went.

    Attributes:
        success: all of it, from the end of the body to the answer.
        queue: waiting for a batch.
        compute_input: decoding.
        compute_infer: the batches that its images were in.
        compute_output: writing the answer.
    """

    success: float
    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float


class Statistics:
    """Counts of one version; changed on the event loop only.

    Attributes:
        requests: part of :class:`RequestSeconds` → its sum over the requests that were answered. All counts are equal:
            perf_analyzer ends where they are not.
        fail: requests that were not answered.
        batches: batch size → calls of the model with so many images.
        images: that were answered.
        last_inference: milliseconds since the epoch, 0 before the first.
    """

    def __init__(self) -> None:
        self.requests = {name: Duration() for name in RequestSeconds._fields}
        self.fail = Duration()
        self.batches: defaultdict[int, Duration] = defaultdict(Duration)
        self.images = 0
        self.last_inference = 0

    def add_request(self, seconds: RequestSeconds) -> None:
        """Notes a request that was answered."""
        # All parts are counted together, which keeps their counts equal as perf_analyzer expects.
        for name, value in seconds._asdict().items():
            self.requests[name].add(value)

    def add_batch(self, size: int, answered: int, seconds: float) -> None:
        """Notes one call of the model with ``size`` images, of which ``answered`` have an answer."""
        # By the size that ran, including images whose clients have left meanwhile.
        self.batches[size].add(seconds)
        self.images += answered
        self.last_inference = time.time_ns() // 1_000_000
