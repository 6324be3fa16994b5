"""Box arithmetic for NumPy arrays and PyTorch tensors alike, through the array API; does not import PyTorch.

A box is ``(x1, y1, x2, y2)`` in pixels, x to the right, y down, so that ``x2 - x1`` is its width. It is the last
dimension of an array ``(…, 4)``. The order of box columns is known here and nowhere else in phidet.

Results are float32, float64 where an input was float64: half precision is too coarse for pixels (above 1,024
bfloat16 steps by 8), so float16 and bfloat16 are taken to float32 first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from phidet.core.errors import UnknownNameError

ArrayT = TypeVar("ArrayT", bound=Any)
"""``numpy.ndarray`` or ``torch.Tensor``; results are of the same kind as the arguments."""
IouKind = Literal["iou", "giou", "diou", "ciou"]
IOU_KINDS: tuple[IouKind, ...] = get_args(IouKind)

_SMALLEST_SIZE = 1e-8  # the official coder's guard of divisions and logarithms
_LARGEST_LOG_RATIO = 10.0
_DEGENERATE = 1e-12  # px²; below it a ratio of areas is meaningless, and its gradient overflows float32


def encode(boxes_xyxy: ArrayT, anchors_xyxy: ArrayT) -> ArrayT:
    """Regression targets of the box head at each anchor, (ty, tx, th, tw): the inverse of :func:`decode`.

    ``ty = (y − ya) / ha``, ``th = ln(h / ha)``, likewise for x, (y, x) being centres: Faster R-CNN (arXiv 1506.01497)
    equation 2, in the official code's order and without scale factors.

    Args:
        boxes_xyxy: (…, 4); a side below 1e-8 pixels counts as 1e-8.
        anchors_xyxy: (…, 4), broadcast against the boxes.

    Returns:
        (…, 4), in units of the anchor's size and in logarithms of it.
    """
    xp, boxes, anchors = _floating(boxes_xyxy, anchors_xyxy)
    x, y, w, h = _centre_and_size(boxes)
    xa, ya, wa, ha = _centre_and_size(anchors)
    w, h, wa, ha = (xp.clip(side, _SMALLEST_SIZE, None) for side in (w, h, wa, ha))
    deltas: ArrayT = xp.stack(((y - ya) / ha, (x - xa) / wa, xp.log(h / ha), xp.log(w / wa)), axis=-1)
    return deltas


def decode(deltas: ArrayT, anchors_xyxy: ArrayT) -> ArrayT:
    """Boxes from the box head's outputs: ``y = ty · ha + ya``, ``h = exp(th) · ha``, likewise for x, (y, x) centres.

    Args:
        deltas: (…, 4), (ty, tx, th, tw); th and tw are clipped to ±10 (22,026 times the anchor), which no image
            needs, so that an untrained or damaged network gives no infinite box.
        anchors_xyxy: (…, 4) in pixels, broadcast against the deltas.

    Returns:
        (…, 4) xyxy in pixels, not clipped to any image.
    """
    xp, deltas, anchors = _floating(deltas, anchors_xyxy)
    xa, ya, wa, ha = _centre_and_size(anchors)
    x = deltas[..., 1] * wa + xa
    y = deltas[..., 0] * ha + ya
    half_h = xp.exp(xp.clip(deltas[..., 2], -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)) * ha / 2
    half_w = xp.exp(xp.clip(deltas[..., 3], -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)) * wa / 2
    boxes: ArrayT = xp.stack((x - half_w, y - half_h, x + half_w, y + half_h), axis=-1)
    return boxes


def clip(boxes_xyxy: ArrayT, size_hw: tuple[float, float]) -> ArrayT:
    """(…, 4) boxes clipped at the borders of an image of ``size_hw`` pixels; one wholly outside gets area 0."""
    xp, boxes = _floating(boxes_xyxy)
    height, width = size_hw
    x1, y1, x2, y2 = _columns(boxes)
    # As floats: array-api-compat before 1.11.2 takes whole numbers for the limits of an integer type.
    right, bottom = float(width), float(height)
    sides = xp.clip(x1, 0.0, right), xp.clip(y1, 0.0, bottom), xp.clip(x2, 0.0, right), xp.clip(y2, 0.0, bottom)
    clipped: ArrayT = xp.stack(sides, axis=-1)
    return clipped


def area(boxes_xyxy: ArrayT) -> ArrayT:
    """(…, 4) boxes → (…,) areas in px², 0 for a box whose sides are in the wrong order."""
    xp, boxes = _floating(boxes_xyxy)
    x1, y1, x2, y2 = _columns(boxes)
    areas: ArrayT = xp.clip(x2 - x1, 0.0, None) * xp.clip(y2 - y1, 0.0, None)
    return areas


def pairwise_iou(a_xyxy: ArrayT, b_xyxy: ArrayT) -> ArrayT:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a_xyxy: (…, N, 4).
        b_xyxy: (…, M, 4); leading dimensions broadcast, so (B, N, 4) goes with (M, 4).

    Returns:
        (…, N, M) in 0…1; 0 where either box has no area.
    """
    xp, a, b = _floating(a_xyxy, b_xyxy)
    a, b = a[..., :, None, :], b[..., None, :, :]  # (…, N, 1, 4), (…, 1, M, 4)
    intersection = _intersection(a, b, xp)
    union = area(a) + area(b) - intersection
    overlaps: ArrayT = intersection / xp.clip(union, _DEGENERATE, None)  # no area: 0 / 1e-12
    return overlaps


def elementwise_iou(a_xyxy: ArrayT, b_xyxy: ArrayT, kind: IouKind) -> ArrayT:
    """Overlap measure of two boxes, box by box, differentiable in PyTorch; 1 for equal boxes that have an area.

    ``iou`` is the intersection over the union. ``giou`` subtracts the empty share of the enclosing box
    (arXiv 1902.09630); ``diou`` the squared distance of the centres over the squared diagonal of the enclosing box
    (arXiv 1911.08287, equation 6); ``ciou`` moreover the squared difference of the aspects' angles (equations 8–11).

    Args:
        a_xyxy: (…, 4).
        b_xyxy: (…, 4), broadcast against ``a``.
        kind: which measure.

    Returns:
        (…,) in 0…1 for ``iou``, above −1 for ``giou`` and ``diou``, above −2 for ``ciou``. Values and gradients are
        finite for boxes without area too, whose ``iou`` is 0.

    Raises:
        ConfigError: an unknown kind.
    """
    xp, a, b = _floating(a_xyxy, b_xyxy)
    intersection = _intersection(a, b, xp)
    union = area(a) + area(b) - intersection
    iou: ArrayT = _ratio(intersection, union, xp)
    if kind == "iou":
        return iou
    if kind not in IOU_KINDS:
        raise UnknownNameError("IoU kind", kind, IOU_KINDS)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _columns(a), _columns(b)
    # The smallest box that encloses both: all further measures are relative to it.
    hull_w = xp.maximum(ax2, bx2) - xp.minimum(ax1, bx1)
    hull_h = xp.maximum(ay2, by2) - xp.minimum(ay1, by1)
    if kind == "giou":
        hull = hull_w * hull_h
        giou: ArrayT = iou - _ratio(hull - union, hull, xp)
        return giou
    (ax, ay, aw, ah), (bx, by, bw, bh) = _centre_and_size(a), _centre_and_size(b)
    diou: ArrayT = iou - _ratio((ax - bx) ** 2 + (ay - by) ** 2, hull_w**2 + hull_h**2, xp)
    if kind == "diou":
        return diou
    aspect = (4 / np.pi**2) * (_angle(aw, ah, xp) - _angle(bw, bh, xp)) ** 2
    # The paper's α is a trade-off, not a term to minimise: no gradient runs through it.
    weight = _constant(_ratio(aspect, 1 - iou + aspect, xp))
    ciou: ArrayT = diou - weight * aspect
    return ciou


def xyxy_to_xywh(boxes_xyxy: ArrayT) -> ArrayT:
    """(…, 4) to COCO's order: left, top, width, height."""
    xp, boxes = _floating(boxes_xyxy)
    x1, y1, x2, y2 = _columns(boxes)
    result: ArrayT = xp.stack((x1, y1, x2 - x1, y2 - y1), axis=-1)
    return result


def xyxy_to_cxcywh(boxes_xyxy: ArrayT) -> ArrayT:
    """(…, 4) to centre x, centre y, width, height: YOLO's order, but in pixels."""
    xp, boxes = _floating(boxes_xyxy)
    result: ArrayT = xp.stack(_centre_and_size(boxes), axis=-1)
    return result


def cxcywh_to_xyxy(boxes_cxcywh: ArrayT) -> ArrayT:
    """(…, 4) from centre x, centre y, width, height: YOLO's order, but in pixels."""
    xp, boxes = _floating(boxes_cxcywh)
    x, y, w, h = _columns(boxes)
    result: ArrayT = xp.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), axis=-1)
    return result


def xyxy_to_yxyx(boxes_xyxy: ArrayT) -> ArrayT:
    """(…, 4) to TensorFlow's order: top, left, bottom, right; and back, as the swap undoes itself."""
    xp, boxes = _floating(boxes_xyxy)
    x1, y1, x2, y2 = _columns(boxes)
    result: ArrayT = xp.stack((y1, x1, y2, x2), axis=-1)
    return result


def _floating(*arrays: Any) -> tuple[Any, ...]:
    """The arrays' namespace, and the arrays as float32 or float64."""
    xp = _namespace(*arrays)
    wide = (xp.float32, xp.float64)
    return xp, *(array if array.dtype in wide else xp.astype(array, xp.float32) for array in arrays)


def _namespace(*arrays: Any) -> Any:
    """As ``array_api_compat.array_namespace``, but traceable by torch.compile, which that function's caches are not."""
    if all(isinstance(array, np.ndarray) for array in arrays):
        # NumPy follows the array API since 2.1; array_api_compat's wrapper of it would import all of NumPy at once,
        # which takes as long as everything else that a detector imports.
        if hasattr(np, "astype"):
            return np
        import array_api_compat.numpy as numpy_namespace  # noqa: PLC0415

        return numpy_namespace
    if not any(isinstance(array, np.ndarray) for array in arrays) and hasattr(arrays[0], "is_cuda"):
        import array_api_compat.torch as torch_namespace  # noqa: PLC0415 - a tensor was passed, so PyTorch is installed

        return torch_namespace
    from array_api_compat import array_namespace  # noqa: PLC0415 - raises for mixed arguments

    return array_namespace(*arrays)


def _columns(boxes: Any) -> tuple[Any, Any, Any, Any]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _centre_and_size(boxes: Any) -> tuple[Any, Any, Any, Any]:
    x1, y1, x2, y2 = _columns(boxes)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _intersection(a: Any, b: Any, xp: Any) -> Any:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _columns(a), _columns(b)
    width = xp.minimum(ax2, bx2) - xp.maximum(ax1, bx1)
    height = xp.minimum(ay2, by2) - xp.maximum(ay1, by1)
    return xp.clip(width, 0.0, None) * xp.clip(height, 0.0, None)


def _ratio(part: Any, whole: Any, xp: Any) -> Any:
    """``part / whole``, and 0 with zero gradient where ``whole`` is 0: the inner ``where`` avoids 0/0 in both."""
    # With a single where, the gradient of the unused branch would be NaN, and NaN · 0 is NaN.
    real = whole > _DEGENERATE
    return xp.where(real, part / xp.where(real, whole, 1.0), 0.0)


def _angle(width: Any, height: Any, xp: Any) -> Any:
    """``atan(width / height)``, 0 with zero gradient for a point."""
    real = width**2 + height**2 > _DEGENERATE
    return xp.atan2(xp.where(real, width, 0.0), xp.where(real, height, 1.0))


def _constant(array: Any) -> Any:
    """``array`` without its gradient, if it has one."""
    detach: Callable[[], Any] | None = getattr(array, "detach", None)
    return array if detach is None else detach()


FloatArray = npt.NDArray[np.float32]
