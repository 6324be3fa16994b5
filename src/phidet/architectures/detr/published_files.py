"""The published weight files, by model name: addresses, checksums and licences."""

from __future__ import annotations

from phidet.architectures.published_file import PublishedFile, file_of, published_files

DETECTORS: dict[str, PublishedFile] = published_files(
    "https://dl.fbaipublicfiles.com/detr",
    "Apache-2.0 (facebookresearch/detr)",
    {
        "detr-r50": "detr-r50-e632da11",
        "detr-r101": "detr-r101-2c7b67e5",
        "detr-r50-dc5": "detr-r50-dc5-f0fb7ef5",
        "detr-r101-dc5": "detr-r101-dc5-a2e86def",
        "detr-r50-panoptic": "detr-r50-panoptic-00ce5173",
        "detr-r50-dc5-panoptic": "detr-r50-dc5-panoptic-da08f1b1",
        "detr-r101-panoptic": "detr-r101-panoptic-40021d53",
        "detr-demo": "detr_demo-da2a99e9",
    },
)
"""Every detector of the paper, trained on COCO 2017."""


def detector_file(name: str) -> PublishedFile:
    """The COCO weights of the published detector named ``name``.

    Raises:
        UnknownNameError: none are published under that name; the nearest names are in the message.
    """
    return file_of(name, DETECTORS, "COCO-trained DETR")
