"""How far a run is, and how good it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Progress:
    """One row of metrics per epoch, and the best so far.

    Args:
        metrics: key of a validation metric → its title; the first one decides which model is best.
        lower_is_better: whether a lower value of that one is better.

    Attributes:
        rows: metrics by name; only evaluated epochs have those of the validation.
        best: ``None`` until there was an evaluation.
        since_best: evaluations since then.
    """

    def __init__(self, metrics: Mapping[str, str], lower_is_better: bool = False) -> None:
        self.metrics, self.lower_is_better = metrics, lower_is_better
        self.key, self.best_title = next(iter(metrics.items()))
        self.rows: list[dict[str, float]] = []
        self.best: float | None = None
        self.since_best = 0

    @property
    def epoch(self) -> int:
        """The number of epochs that are done."""
        return len(self.rows)

    def note(self, row: dict[str, float]) -> bool:
        """Adds a row; returns whether its model is the best so far. Without evaluation the latest is."""
        self.rows.append(row)
        if self.key not in row:
            # Without validation every epoch counts as best; between two evaluations none does.
            return self.best is None
        value = row[self.key]
        better = self.best is None or (value < self.best if self.lower_is_better else value > self.best)
        self.since_best = 0 if better else self.since_best + 1
        if better:
            self.best = value
        return better

    def line(self, epochs: int) -> str:
        """The last epoch in one line."""
        row = self.rows[-1]
        # The mean over all epochs, evaluation excluded: a rough estimate that does not jump about.
        left = sum(r["seconds"] for r in self.rows) / len(self.rows) * (epochs - self.epoch)
        text = f"epoch {self.epoch}/{epochs}  loss {row['loss']:.4f}"
        text += "".join(f"  {title} {row[key]:.3f}" for key, title in self.metrics.items() if key in row)
        return f"{text}  {row['images_per_second']:.1f} images/s  {_clock(left)} left"

    def state(self) -> dict[str, Any]:
        """Plain values that :meth:`restore` goes on from."""
        return {"rows": self.rows, "best": self.best, "since_best": self.since_best}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes everything back to where ``state`` was saved."""
        self.rows, self.best, self.since_best = state["rows"], state["best"], state["since_best"]


def batch_line(done: int, batches: int, loss: float, images: int, seconds: float) -> str:
    """How far an epoch is, in one line: what is left is that of the epoch, at its rate so far."""
    left = seconds / done * (batches - done)
    return f"batch {done:,}/{batches:,}  loss {loss:.4f}  {images / seconds:.1f} images/s  {_clock(left)} left in it"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
