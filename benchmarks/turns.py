"""Pieces of work timed in turns, so that what else a machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Work = Mapping[str, Callable[[], object]]
TURN = 4  # runs of one kind, one after another


def in_turns(work: Work, runs: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds of every run of every piece of work; with one thread the processor's, which others disturb less.

    A turn is a few runs, the first of which does not count: the caches are full of another's data, and PyTorch's idle
    threads spin for a while.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(-(-runs // TURN)):
        for name, piece in work.items():
            piece()
            for _ in range(TURN):
                start = clock()
                piece()
                times[name].append((clock() - start) * 1e3)
    return times


def report(title: str, times: dict[str, list[float]], target: str) -> None:
    """One line for each piece of work; how many times as fast as the first the others are."""
    print(f"\n{title} (target: {target})")
    (first, base), *_ = times.items()
    for name, taken in times.items():
        faster = statistics.median(base) / statistics.median(taken), min(base) / min(taken)
        ratio = "" if name == first else f"  {faster[0]:.2f}× as fast as {first} by medians, {faster[1]:.2f}× by minima"
        print(f"  {name:34} median {statistics.median(taken):7.2f} ms  min {min(taken):7.2f}{ratio}")
