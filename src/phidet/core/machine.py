"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors that the process may run on, and that its container gives it time for; at least 1.

    Args:
        quota: where control groups (version 2) keep "microseconds period"; ``docker run --cpus`` writes it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError):  # no container, no limit ("max"), or something else
        return cores
