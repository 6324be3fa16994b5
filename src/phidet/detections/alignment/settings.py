"""What an alignment takes for right."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from phidet.core.structs import require, require_one_of
from phidet.detections.alignment.pose import PoseKind

SideChoice = Literal["auto", "top", "bottom"]
MirrorChoice = Literal["auto", "no", "yes"]
Refinement = Literal["none", "centroid", "template"]
PoseSource = Literal["parts", "image"]


class AlignSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How images are aligned.

    Attributes:
        pose: the most general pose that is tried; the simplest that explains the places is taken.
        pose_from: "parts", or "image": corners and edges of the image of a right assembly, for models that find little
            on a right one, such as detectors of defects.
        distortion: whether lenses may distort (one radial coefficient).
        side: which parts of the list are seen; "auto" tries both.
        mirrored: whether the image shows the list's drawing mirrored; "auto" tries both.
        tolerance: largest deviation of a right part, in the unit of the list; ``None`` for what the scatter of all
            parts explains, so that one of a hundred right boards has a part called displaced.
        reach: largest deviation up to which a detection is taken for the part, in the unit of the list; ``None``
            for three quarters of the median distance of neighbours.
        least_share: of the parts in view that must meet a detection of their class, and of the detections that must
            meet a part, 0…1, for a pose to be believed.
        score: detections with a lower one only confirm a part of their class in its place, 0…1: they give no pose, no
            wrong label and no extra part. So a part that the detector is unsure of is not missing.
        refine: of the places: "none" takes the boxes' centres; "centroid" the centroid of what differs from the
            background in a box; "template" compares with the image of the right assembly.
        partial: whether parts outside the image are no fault.
        seed: of the search.

    Raises:
        ConfigError: a value out of range.
    """

    pose: PoseKind = "homography"
    pose_from: PoseSource = "parts"
    distortion: bool = False
    side: SideChoice = "auto"
    mirrored: MirrorChoice = "auto"
    tolerance: float | None = None
    reach: float | None = None
    least_share: float = 0.35
    score: float = 0.0
    refine: Refinement = "none"
    partial: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of("pose", self.pose, PoseKind)
        require_one_of("side", self.side, SideChoice)
        require_one_of("mirrored", self.mirrored, MirrorChoice)
        require_one_of("pose source", self.pose_from, PoseSource)
        require_one_of("refinement", self.refine, Refinement)
        for name in ("tolerance", "reach"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value > 0)
            require(good, f"{name} must be a number > 0, got {value!r}")
        require(0 < self.least_share <= 1, f"least_share must be in (0, 1], got {self.least_share!r}")
        require(0 <= self.score <= 1, f"score must be in 0…1, got {self.score!r}")
        require(self.seed >= 0, f"seed must be ≥ 0, got {self.seed!r}")
