"""Where boxes go: Kalman filters of constant velocity, one for each centre coordinate and side of each track.

The noise is independent between a box's centre x, centre y, width and height, and stays so: instead of one filter of
eight dimensions (SORT, arXiv 1602.00763, section 3.2) there are four of two, position and speed, in closed form and
for all tracks at once. Time is continuous: white noise acts on the acceleration (Bar-Shalom, Li and Kirubarajan,
*Estimation with Applications to Tracking and Navigation*, 6.2.2), so that two steps of 20 ms are one of 40 ms.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.detections.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from phidet.detections.tracking.settings import TrackerSettings

Floats = npt.NDArray[np.float64]
_PLACE, _SPEED, _PLACE_VAR, _COVARIANCE, _SPEED_VAR, _SIDE = range(6)
_SMALLEST_SIDE = 1e-3  # pixels; a side that shrinks at constant speed would become negative


class Motion:
    """The filters of T tracks.

    Attributes:
        state: (T, 6, 4) float64: place, speed a second, variance of the place, covariance of both, variance of the
            speed, and the side in pixels that scales the noise; each of centre x, centre y, width and height.
    """

    __slots__ = ("state",)

    def __init__(self, state: Floats) -> None:
        self.state = state

    @classmethod
    def begin(cls, boxes_xyxy: npt.NDArray[np.float32], settings: TrackerSettings) -> Motion:
        """Tracks that are seen for the first time, in (T, 4) boxes; they rest, as far as is known."""
        state = np.zeros((len(boxes_xyxy), 6, 4))
        state[:, _PLACE] = xyxy_to_cxcywh(boxes_xyxy.astype(np.float64))
        state[:, _SIDE] = _sides(state[:, _PLACE])
        state[:, _PLACE_VAR] = (settings.measured * state[:, _SIDE]) ** 2
        state[:, _SPEED_VAR] = (settings.first_speed * state[:, _SIDE]) ** 2
        return cls(state)

    @property
    def boxes_xyxy(self) -> Floats:
        """(T, 4) float64: where the filters believe the boxes."""
        return cxcywh_to_xyxy(self.state[:, _PLACE])

    def reach(self, seconds: float) -> Floats:
        """(T, 4) float64: what makes boxes larger on each side by the way that an object may have gone in ``seconds``
        because of what is not known of its speed, a standard deviation.
        """
        way = np.sqrt(self.state[:, _SPEED_VAR, :2]) * seconds
        return np.concatenate((-way, way), axis=1)

    def predict(self, seconds: float, settings: TrackerSettings) -> Motion:
        """The filters after ``seconds`` without a measurement."""
        place, speed, place_var, covariance, speed_var, side = self.state.swapaxes(0, 1)
        # Spectral density of the acceleration, and its integrals over the time.
        noise = (np.array([settings.acceleration] * 2 + [settings.growth] * 2) * side) ** 2
        moved = place + speed * seconds
        moved[:, 2:] = np.maximum(moved[:, 2:], _SMALLEST_SIDE)
        rows = (
            moved,
            speed,
            place_var + (2 * covariance + speed_var * seconds) * seconds + noise * seconds**3 / 3,
            covariance + speed_var * seconds + noise * seconds**2 / 2,
            speed_var + noise * seconds,
            side,
        )
        return Motion(np.stack(rows, axis=1))

    def correct(self, boxes_xyxy: npt.NDArray[np.float32], settings: TrackerSettings) -> Motion:
        """The filters after (T, 4) measured boxes, one for each track."""
        measured = xyxy_to_cxcywh(boxes_xyxy.astype(np.float64))
        place, speed, place_var, covariance, speed_var, side = self.state.swapaxes(0, 1)
        surprise = measured - place
        total = place_var + (settings.measured * side) ** 2
        gain, speed_gain = place_var / total, covariance / total
        corrected = place + gain * surprise
        corrected[:, 2:] = np.maximum(corrected[:, 2:], _SMALLEST_SIDE)
        rows = (
            corrected,
            speed + speed_gain * surprise,
            (1 - gain) * place_var,
            (1 - gain) * covariance,
            speed_var - speed_gain * covariance,
            _sides(corrected),
        )
        return Motion(np.stack(rows, axis=1))

    def moved(self, affine: Floats) -> Motion:
        """The filters after the camera moved; ``affine`` (2, 3) takes pixels of the last frame to the new one's."""
        linear, shift = affine[:, :2], affine[:, 2]
        # How much longer a step to the right and one downwards have become. Turned boxes keep their sides, and the
        # variances of x and y are not mixed: cameras turn little between frames.
        scale = np.tile(np.linalg.norm(linear, axis=0), 2)
        state = self.state.copy()
        state[:, _PLACE, :2] = state[:, _PLACE, :2] @ linear.T + shift
        state[:, _SPEED, :2] = state[:, _SPEED, :2] @ linear.T
        state[:, [_PLACE, _SPEED], 2:] *= scale[2:]
        state[:, [_PLACE_VAR, _COVARIANCE, _SPEED_VAR]] *= scale**2
        state[:, _SIDE] *= np.sqrt(scale[0] * scale[1])
        return Motion(state)


def _sides(boxes_cxcywh: Floats) -> Floats:
    """(T, 4), four times the mean of width and height."""
    sides: Floats = np.maximum(boxes_cxcywh[:, 2:].mean(axis=1, keepdims=True), _SMALLEST_SIDE).repeat(4, axis=1)
    return sides
