"""Class activation maps of classifiers (CAM, arXiv 1512.04150)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import ResNet18_Weights

from phidet.architectures.classifier.network import Classifier
from phidet.architectures.evidence import ActivationMap, heat_map, normalised
from phidet.images.prepare import scaled_size


def classifier_maps(
    model: Classifier, image: npt.NDArray[np.uint8], names: Sequence[str], wanted: int | None, limit: int
) -> list[ActivationMap]:
    """Maps for the whole image at the model's resolution, without cropping."""
    image_hw = image.shape[0], image.shape[1]
    size_hw = scaled_size(image_hw, min(model.config.image_size_hw) / min(image_hw))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)
    with torch.inference_mode():
        evidence = place_evidence(model, normalised(resized, model.config.preprocess))
        logits = evidence.mean((1, 2)) + model.linear.bias
        scores = logits.softmax(0)
        chosen = scores.topk(min(limit, len(scores))).indices.tolist() if wanted is None else [wanted]
        return [ActivationMap(heat_map(evidence[c], image_hw), names[c], float(scores[c])) for c in chosen]


def place_evidence(model: Classifier, images: Tensor) -> Tensor:
    """Contribution of each position of the last map to each class: (1, 3, H, W) → (C, h, w), with mean logit − bias."""
    features = model.backbone(images)[model.top]
    if model.head is not None:
        features = model.head(features)
    # Average and last layer are linear, so that they may change places: a logit at each position, whose mean is the
    # logit of the image.
    return torch.einsum("kc,chw->khw", model.linear.weight, features[0])


def imagenet_names() -> tuple[str, ...]:
    """Names of ImageNet's thousand classes, from torchvision; numbered where two classes share one."""
    found = ResNet18_Weights.DEFAULT.meta["categories"]
    return tuple(f"{name} ({i})" if found.count(name) > 1 else name for i, name in enumerate(found))
