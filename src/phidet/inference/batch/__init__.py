"""Images by the million: input parts to output files, on one machine or on a cluster.

:class:`BatchWorker` is the part that other people's jobs can use by itself; ``docs/batch.md`` has recipes for Ray,
Spark and Dask.
"""

from __future__ import annotations

from phidet.inference.batch.parts import Columns
from phidet.inference.batch.worker import BatchWorker

__all__ = ["BatchWorker", "Columns"]
