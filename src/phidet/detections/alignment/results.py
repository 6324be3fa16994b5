"""What is known of an image after it was aligned: its pose, and each part's place and verdict."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Verdict = Literal["right", "displaced", "rotated", "wrong label", "missing", "extra", "outside"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
FAULTS: tuple[Verdict, ...] = ("displaced", "rotated", "wrong label", "missing", "extra")


class PartResult(msgspec.Struct, frozen=True, kw_only=True):
    """One part. What is not known is ``None``.

    Attributes:
        reference: nominal name, "" for an extra part.
        label: nominal class, "" for an extra part.
        verdict: "right"; "displaced"; "rotated"; "wrong label" (a part of another class in its place); "missing";
            "extra" (a detection that is no part's); "outside" of the image.
        found_label: class of its detection.
        score: of its detection, 0…1.
        nominal_xy: nominal place, in the unit of the list.
        xy: measured place, in the unit and axes of the list.
        deviation_xy: measured minus nominal.
        deviation: its length.
        sigma_xy: standard deviations of ``deviation_xy``, from the scatter of all parts and the pose's uncertainty.
        correlation: of the two errors, −1…1.
        xy_px: measured place in pixels.
        expected_px: where the pose puts the nominal place, in pixels.
        box_xyxy: of the detection, in pixels.
        rotation_deviation: degrees 0…90 away from the nominal rotation, as far as the box tells.
    """

    reference: str
    label: str
    verdict: Verdict
    found_label: str | None = None
    score: float | None = None
    nominal_xy: tuple[float, float] | None = None
    xy: tuple[float, float] | None = None
    deviation_xy: tuple[float, float] | None = None
    deviation: float | None = None
    sigma_xy: tuple[float, float] | None = None
    correlation: float | None = None
    xy_px: tuple[float, float] | None = None
    expected_px: tuple[float, float] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None
    rotation_deviation: float | None = None


class PoseResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the board lies in the image.

    Attributes:
        kind: "similarity", "affine" or "homography", the simplest that explains the places.
        matrix: 3 × 3, from places in the unit and axes of the list to undistorted pixels.
        k1: with c the image's centre and r the distance from it over half the diagonal, a pixel is
            c + (1 + k1 r²)(u − c), u undistorted.
        side: that is seen.
        mirrored: whether the image shows the list's drawing mirrored.
        origin_px: where the list's origin is, in pixels.
        rotation: of the list's x axis in the image, degrees counter-clockwise.
        scale: pixels for a unit of the list, in the middle of the parts.
        sigma_px: standard deviation of a right part's coordinate around the pose, in pixels.
        parts: number of parts that the pose was fitted to.
        share: of the parts in view that met a detection of their class.
        log10_false_alarms: logarithm of the expected number of poses as good by chance.
    """

    kind: str
    matrix: tuple[tuple[float, float, float], ...]
    k1: float
    side: str
    mirrored: bool
    origin_px: tuple[float, float]
    rotation: float
    scale: float
    sigma_px: float
    parts: int
    share: float
    log10_false_alarms: float


class Alignment(msgspec.Struct, frozen=True, kw_only=True):
    """One image against the nominal list.

    Attributes:
        image: where it came from.
        unit: of the list.
        image_size_hw: in pixels.
        pose: ``None`` where none was found.
        reason: "" if there is a pose; "few" parts or detections, "none" that agrees, or "ambiguous".
        message: the reason in a sentence, "" if there is a pose.
        parts: nominal ones in the order of the list, extra ones after them; empty without a pose.
        doubled: number of detections left out because another one with a higher score covers the same object.
    """

    image: str
    unit: str
    image_size_hw: tuple[int, int]
    pose: PoseResult | None = None
    reason: str = ""
    message: str = ""
    parts: tuple[PartResult, ...] = ()
    doubled: int = 0

    @property
    def right(self) -> bool:
        """Whether there is a pose, and every part is right."""
        return self.pose is not None and all(part.verdict == "right" for part in self.parts)

    def counts(self) -> dict[Verdict, int]:
        """Number of parts of each verdict that occurs, in the order of :data:`VERDICTS`."""
        verdicts = [part.verdict for part in self.parts]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict in verdicts}
