"""How a generator is trained: penalty, averages, and the schedule in real images shown."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from phidet.core.structs import require, require_one_of

Batches = Literal["paper", "one-device", "fixed"]
_BATCHES = {
    "paper": {4: 512, 8: 256, 16: 128, 32: 64},
    "one-device": {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8},
}
_SMALLEST_BATCH = {"paper": 32, "one-device": 4}
"""Images per step by resolution (appendix C, for eight devices, and for one); beyond the table the smallest one."""
_RATES = {128: 1.5, 256: 2.0, 512: 3.0, 1024: 3.0}
"""With the paper's batches, the learning rate by resolution in units of the recipe's."""


class AdversarialSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the training of a style-based generator; images are real images shown to the discriminator.

    Attributes:
        penalty: γ of R1: half of it times the squared gradient is added to the loss. "auto" is 0.0002 · pixels of the
            image / images of the batch (arXiv 2006.06676, appendix C); 10 for 1024 pixels is far too much for 32.
        average_half_life: images after which half of the average generator is replaced.
        style_decay: share of the average of w that a step keeps.
        growing: whether training starts at ``first_resolution`` and grows; without it, all layers learn from the start.
        first_resolution: where it starts.
        phase_images: of each phase: a resolution is trained for so many, and the next one fades in over as many.
        batches: images per step: those of the paper for eight devices, or for one, or the recipe's own throughout.
        epoch_images: of an epoch, after which the model is saved and measured; rounded down to whole batches.
    """

    penalty: float | Literal["auto"] = 10.0
    average_half_life: float = 10_000
    style_decay: float = 0.995
    growing: bool = True
    first_resolution: int = 8
    phase_images: int = 600_000
    batches: Batches = "paper"
    epoch_images: int = 10_240

    def __post_init__(self) -> None:
        if self.penalty != "auto":
            require(0 <= self.penalty < math.inf, f"penalty must be ≥ 0, or auto, got {self.penalty}")
        require(self.average_half_life > 0, f"average_half_life must be > 0, got {self.average_half_life}")
        require(0 <= self.style_decay < 1, f"style_decay must be in [0, 1), got {self.style_decay}")
        require(
            self.first_resolution in (4, 8, 16, 32, 64, 128, 256, 512, 1024),
            f"first_resolution must be a power of two from 4, got {self.first_resolution}",
        )
        require(self.phase_images >= 1, f"phase_images must be a whole number ≥ 1, got {self.phase_images}")
        require(self.epoch_images >= 1, f"epoch_images must be a whole number ≥ 1, got {self.epoch_images}")
        require_one_of("batches", self.batches, Batches)

    def detail(self, shown: int, resolution: int) -> float:
        """The level of detail after ``shown`` images, for a generator of ``resolution``."""
        if not self.growing:
            return 0.0
        # A resolution is trained by itself for one phase; over another the next one fades in.
        steps, within = divmod(shown, 2 * self.phase_images)
        faded = max(within - self.phase_images, 0) / self.phase_images
        return max(math.log2(resolution / self.first_resolution) - steps - faded, 0.0)

    def penalty_weight(self, resolution: int, batch_size: int) -> float:
        """γ for full images of ``resolution``."""
        return 0.0002 * resolution**2 / batch_size if self.penalty == "auto" else self.penalty

    def batch_size(self, resolution: int, own: int) -> int:
        """Images per step at ``resolution``; ``own`` is the recipe's."""
        if self.batches == "fixed":
            return own
        return _BATCHES[self.batches].get(resolution, _SMALLEST_BATCH[self.batches])

    def rate(self, resolution: int, own: float) -> float:
        """The learning rate at ``resolution``; ``own`` is the recipe's."""
        return own * _RATES.get(resolution, 1.0) if self.batches == "paper" else own
