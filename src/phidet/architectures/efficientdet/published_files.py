"""The published weight files, by model name: where they lie, how they are checked, and under which licence.

Nothing is downloaded here; see :mod:`phidet.weights.download`.
"""

from __future__ import annotations

from typing import NamedTuple

from phidet.core.errors import UnknownNameError


class PublishedFile(NamedTuple):
    """A weight file that somebody published.

    Attributes:
        url: where it is, https.
        sha256_prefix: the first hexadecimal digits of its SHA-256; empty where its publisher gives none.
        licence: the licence of the project that it comes from, and that project. The images that weights were trained
            on have terms of their own, which none of these licences speak about.
    """

    url: str
    sha256_prefix: str
    licence: str

    @property
    def name(self) -> str:
        """Its file name; no two published files share one."""
        return self.url.rpartition("/")[2]


def _published(base_url: str, licence: str, stems: dict[str, str]) -> dict[str, PublishedFile]:
    """Entries from file names without ``.pth``; all three publishers end them with the start of the SHA-256."""
    return {
        name: PublishedFile(f"{base_url}/{stem}.pth", stem.rpartition("-")[2], licence) for name, stem in stems.items()
    }


# effdet's conversions of the official checkpoints. Its second set ("ap", D0 to D5 on AdvProp backbones) expects other
# pixel values than the models here are given.
COCO_DETECTORS: dict[str, PublishedFile] = _published(
    "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1",
    "Apache-2.0 (google/automl)",
    {
        "efficientdet-d0": "tf_efficientdet_d0_34-f153e0cf",
        "efficientdet-d1": "tf_efficientdet_d1_40-a30f94af",
        "efficientdet-d2": "tf_efficientdet_d2_43-8107aa99",
        "efficientdet-d3": "tf_efficientdet_d3_47-0b525f35",
        "efficientdet-d4": "tf_efficientdet_d4_49-f56376d9",
        "efficientdet-d5": "tf_efficientdet_d5_51-c79f9be6",
        "efficientdet-d6": "tf_efficientdet_d6_52-4eda3773",
        "efficientdet-d7": "tf_efficientdet_d7_53-6d1d7a95",
        "efficientdet-d7x": "tf_efficientdet_d7x-f390b87c",
        "efficientdet-lite0": "tf_efficientdet_lite0-dfacfc78",
        "efficientdet-lite1": "tf_efficientdet_lite1-6dc7ab30",
        "efficientdet-lite2": "tf_efficientdet_lite2-86c5d55b",
        "efficientdet-lite3": "tf_efficientdet_lite3-506852cb",
        "efficientdet-lite3x": "tf_efficientdet_lite3x-8404c57b",
        "efficientdet-lite4": "tf_efficientdet_lite4-391ddabc",
    },
)
"""Every detector of the family, trained on COCO 2017."""

IMAGENET_BACKBONES: dict[str, PublishedFile] = {
    # What google/automl starts EfficientDet from: ImageNet alone, with AutoAugment ("aa"); there is no B8 of that kind,
    # so its RandAugment one ("ra"). Noisy Student ("ns") scores higher but saw 300 million private images, AdvProp
    # ("ap") expects other pixel values. timm still lists most under rwightman/…, where the repository was before.
    **_published(
        "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights",
        "Apache-2.0 (google, tensorflow/tpu)",
        {
            "efficientnet-b0": "tf_efficientnet_b0_aa-827b6e33",
            "efficientnet-b1": "tf_efficientnet_b1_aa-ea7a6ee0",
            "efficientnet-b2": "tf_efficientnet_b2_aa-60c94f97",
            "efficientnet-b3": "tf_efficientnet_b3_aa-84b4657e",
            "efficientnet-b4": "tf_efficientnet_b4_aa-818f208c",
            "efficientnet-b5": "tf_efficientnet_b5_aa-99018a74",
            "efficientnet-b6": "tf_efficientnet_b6_aa-80ba17e4",
            "efficientnet-b7": "tf_efficientnet_b7_aa-076e3472",
            "efficientnet-b8": "tf_efficientnet_b8_ra-572d5dd9",
            "efficientnet-lite0": "tf_efficientnet_lite0-0aa007d2",
            "efficientnet-lite1": "tf_efficientnet_lite1-bde8b488",
            "efficientnet-lite2": "tf_efficientnet_lite2-dcccb7df",
            "efficientnet-lite3": "tf_efficientnet_lite3-b733e338",
            "efficientnet-lite4": "tf_efficientnet_lite4-741542c3",
        },
    ),
    # IMAGENET1K_V1 throughout: the one recipe that all six have (ResNet-18 and -34 have no V2), so that a comparison
    # of sizes is one of sizes, and the start that published detectors on a ResNet are compared from.
    **_published(
        "https://download.pytorch.org/models",
        "BSD-3-Clause (pytorch/vision)",
        {
            "resnet18": "resnet18-f37072fd",
            "resnet34": "resnet34-b627a593",
            "resnet50": "resnet50-0676ba61",
            "resnet101": "resnet101-63fe2227",
            "resnet152": "resnet152-394f9c45",
            "mobilenet-v2": "mobilenet_v2-b0353104",
        },
    ),
}
"""Every published classifier, trained on ImageNet-1k."""


def detector_file(name: str) -> PublishedFile:
    """The COCO weights of the published detector called ``name``.

    Raises:
        UnknownNameError: none are published under that name; the nearest names are in the message.
    """
    if name not in COCO_DETECTORS:
        raise UnknownNameError("COCO-trained detector", name, COCO_DETECTORS)
    return COCO_DETECTORS[name]


def backbone_file(name: str) -> PublishedFile:
    """The ImageNet weights of the published classifier called ``name``.

    Raises:
        UnknownNameError: none are published under that name; the nearest names are in the message.
    """
    if name not in IMAGENET_BACKBONES:
        raise UnknownNameError("ImageNet-trained classifier", name, IMAGENET_BACKBONES)
    return IMAGENET_BACKBONES[name]
