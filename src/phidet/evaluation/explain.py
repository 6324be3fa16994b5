"""What a model looks at: class activation maps of classifiers, and of single detections.

For a classifier the map is exact (CAM, arXiv 1512.04150): the last layer is linear in the average of the last map, so
the class's logit is the average of what each place of the map contributes, plus the bias. For a detection it is the
first-order part of its class logit: gradient times activation, of every map that the feature network is fed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from phidet.architectures.config import Preprocess, default_class_names
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.decode import find_candidates
from phidet.architectures.efficientdet.network import Classifier, EfficientDet
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.detections.boxes import clip, decode
from phidet.detections.nms import Floats, PostprocessSettings, suppress
from phidet.images.prepare import prepare, scaled_size
from phidet.images.sheet import Tile, draw_sheet


class ActivationMap(NamedTuple):
    """Where in a picture the evidence for an answer lies.

    Attributes:
        heat: (H, W) float32 of the picture's size, 0…1; evidence against the answer counts as none.
        label: the class.
        score: 0…1.
        box_xyxy: of a detection, in pixels of the picture.
    """

    heat: npt.NDArray[np.float32]
    label: str
    score: float
    box_xyxy: tuple[float, float, float, float] | None = None


def explain(
    model: EfficientDet | Classifier,
    image: npt.NDArray[np.uint8],
    class_name: str | None = None,
    most: int = 3,
) -> list[ActivationMap]:
    """Maps of a classifier's best classes, or of a detector's best detections.

    Args:
        model: as loaded; in evaluation mode afterwards.
        image: (H, W, 3) RGB.
        class_name: only this class; of a classifier, even where it is not among the best.
        most: how many maps.

    Raises:
        UnknownNameError: the model has no such class.
        ConfigError: ``most`` is less than 1.
    """
    if most < 1:
        raise ConfigError(f"the number of maps must be ≥ 1, got {most}")
    names = class_names_of(model)
    if class_name is not None and class_name not in names:
        raise UnknownNameError("class", class_name, names)
    wanted = None if class_name is None else names.index(class_name)
    model.eval()
    if isinstance(model, Classifier):
        return _classifier_maps(model, image, names, wanted, most)
    return _detection_maps(model, image, wanted, most)


def class_names_of(model: EfficientDet | Classifier) -> tuple[str, ...]:
    """The model's class names; ImageNet's where it has its thousand classes without names."""
    names = model.config.class_names
    if isinstance(model, Classifier) and names == default_class_names(1000):
        from torchvision.models import ResNet18_Weights  # noqa: PLC0415 - only for this list

        found = ResNet18_Weights.DEFAULT.meta["categories"]
        return tuple(f"{name} ({i})" if found.count(name) > 1 else name for i, name in enumerate(found))
    return names


def _classifier_maps(
    model: Classifier, image: npt.NDArray[np.uint8], names: Sequence[str], wanted: int | None, most: int
) -> list[ActivationMap]:
    """The whole picture at the model's resolution, nothing cut off."""
    image_hw = image.shape[0], image.shape[1]
    size_hw = scaled_size(image_hw, min(model.config.image_size_hw) / min(image_hw))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)
    with torch.inference_mode():
        evidence = place_evidence(model, _normalised(resized, model.config.preprocess))
        logits = evidence.mean((1, 2)) + model.linear.bias
        scores = logits.softmax(0)
        chosen = scores.topk(min(most, len(scores))).indices.tolist() if wanted is None else [wanted]
        return [ActivationMap(_heat(evidence[c], image_hw), names[c], float(scores[c])) for c in chosen]


def place_evidence(model: Classifier, images: Tensor) -> Tensor:
    """What each place of the last map contributes to each class: (1, 3, H, W) → (C, h, w); its mean is logit − bias."""
    features = model.backbone(images)[model.top]
    if model.head is not None:
        features = model.head(features)
    return torch.einsum("kc,chw->khw", model.linear.weight, features[0])


def _normalised(pixels: Tensor, spec: Preprocess) -> Tensor:
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (spec.mean_rgb, spec.std_rgb))
    return (pixels - mean) / std


def _detection_maps(
    model: EfficientDet, image: npt.NDArray[np.uint8], wanted: int | None, most: int
) -> list[ActivationMap]:
    config, image_hw = model.config, (image.shape[0], image.shape[1])
    prepared, scale = prepare(image, config.image_size_hw, config.preprocess)
    levels = config.feature_network.levels
    with torch.no_grad():
        maps = model.backbone(torch.from_numpy(prepared)[None])
    maps = {level: features.requires_grad_() for level, features in maps.items() if level >= levels.start}
    features = model.feature_network(maps)
    logits, deltas = model.class_head(features)[0], model.box_head(features)[0].detach().numpy()
    anchors_xyxy = generate_anchors(config.image_size_hw, levels, config.anchors)
    height, width = scaled_size(image_hw, scale)
    found = []
    for anchor, class_id in _best(logits.detach().numpy(), decode(deltas, anchors_xyxy), wanted, most):
        evidence = gradient_evidence(logits[anchor, class_id], list(maps.values()), config.image_size_hw)
        box = clip(decode(deltas[anchor], anchors_xyxy[anchor]) / np.float32(scale), image_hw)
        x1, y1, x2, y2 = box.tolist()
        score = float(logits[anchor, class_id].detach().sigmoid())
        heat = _heat(evidence[:height, :width], image_hw)
        found.append(ActivationMap(heat, config.class_names[class_id], score, (x1, y1, x2, y2)))
    return found


def _best(logits: Floats, boxes_xyxy: Floats, wanted: int | None, most: int) -> list[tuple[int, int]]:
    """Anchors and classes of the best detections, best first, no two of a class on one object."""
    settings = PostprocessSettings(score=0.0, max_detections=most)
    if wanted is not None:
        logits = logits[:, [wanted]]
    anchors, class_ids, scores = find_candidates(logits.max(1), logits, settings)
    kept, _ = suppress(boxes_xyxy[anchors], scores, class_ids, settings)
    return [(int(anchors[i]), int(class_ids[i]) if wanted is None else wanted) for i in kept]


def gradient_evidence(logit: Tensor, maps: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
    """(H, W), the logit's first-order part at each pixel of the input, of all maps together."""
    total = torch.zeros(size_hw)
    for features, slope in zip(
        maps, torch.autograd.grad(logit, maps, retain_graph=True, allow_unused=True), strict=True
    ):
        if slope is None:
            continue
        evidence = (slope * features).sum(1, keepdim=True).detach()
        cells = evidence.shape[2] * evidence.shape[3]  # each counts by the pixels that it stands for
        total += F.interpolate(evidence, size_hw, mode="bilinear")[0, 0] * cells
    return total


def _heat(evidence: Tensor, image_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Evidence for the answer, over the picture, 0…1."""
    positive = F.interpolate(evidence[None, None].float(), image_hw, mode="bilinear", antialias=True)[0, 0].clamp(min=0)
    heat: npt.NDArray[np.float32] = (positive / positive.max().clamp(min=1e-12)).numpy()
    return heat


def overlay(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) picture under an (H, W) heat: grey where there is none, coloured where there is."""
    grey = image.astype(np.float32).mean(2, keepdims=True).repeat(3, 2) * 0.7 + 40
    colour = matplotlib.colormaps["inferno"](0.25 + 0.75 * heat)[..., :3] * 255
    share = np.clip(heat[..., None] * 1.3, 0, 0.75)
    mixed: npt.NDArray[np.uint8] = (grey * (1 - share) + colour * share).clip(0, 255).astype(np.uint8)
    return mixed


def comparison(
    image: npt.NDArray[np.uint8], name: str, maps: Sequence[tuple[str, Sequence[ActivationMap]]]
) -> Image.Image:
    """A sheet of the picture and the maps of each (model name, maps): one model's in rows, several side by side."""
    height, width = image.shape[:2]
    picture = Tile(name, f"{width}×{height}", image)
    columns = [[_tile(image, model, one) for one in found] or [_nothing(model)] for model, found in maps]
    if len(columns) == 1:
        return draw_sheet(_HEADING, [picture, *columns[0]], columns=min(4, 1 + len(columns[0])))
    rows = max((len(column) for column in columns), default=1)
    grid = [[picture], *columns]
    tiles = [column[row] if row < len(column) else _EMPTY for row in range(rows) for column in grid]
    return draw_sheet(_HEADING, tiles, columns=len(grid))


def _tile(image: npt.NDArray[np.uint8], model: str, one: ActivationMap) -> Tile:
    boxes = np.array([one.box_xyxy] if one.box_xyxy is not None else [], np.float32).reshape(-1, 4)
    seen = overlay(image, one.heat)
    return Tile(f"{one.label}, {one.score:.0%}", model, seen, boxes, [""] * len(boxes), [1] * len(boxes))


def _nothing(model: str) -> Tile:
    return _EMPTY._replace(title="nothing found", subtitle=model)


_HEADING = "What it looks at"
_EMPTY = Tile("", "", np.full((1, 1, 3), 255, np.uint8))
