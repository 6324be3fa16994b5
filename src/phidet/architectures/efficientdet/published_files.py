"""The published weight files, by model name: addresses, checksums and licences.

Nothing is downloaded here; see :mod:`phidet.weights.download`.
"""

from __future__ import annotations

from phidet.architectures.published_file import PublishedFile, file_of, published_files

# effdet's conversions of the official checkpoints. Its second set ("ap", D0 to D5 on AdvProp backbones) expects other
# pixel values than the models here are given.
COCO_DETECTORS: dict[str, PublishedFile] = published_files(
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


def detector_file(name: str) -> PublishedFile:
    """The COCO weights of the published detector named ``name``.

    Raises:
        UnknownNameError: none are published under that name; the nearest names are in the message.
    """
    return file_of(name, COCO_DETECTORS, "COCO-trained detector")
