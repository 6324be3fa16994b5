"""The tables of published files, against the lists of the projects that publish them."""

from __future__ import annotations

import re

import pytest
import timm
import torchvision
from effdet.config.model_config import efficientdet_model_param_dict

from peers import NAMES
from phidet.architectures.backbones.published import EFFICIENTNETS, OTHER_BACKBONES
from phidet.architectures.backbones.published_files import IMAGENET_BACKBONES, backbone_file
from phidet.architectures.classifier.published import CLASSIFIER_NAMES
from phidet.architectures.efficientdet.published import DETECTOR_NAMES
from phidet.architectures.efficientdet.published_files import COCO_DETECTORS, detector_file
from phidet.core.errors import UnknownNameError

ALL = [*COCO_DETECTORS.values(), *IMAGENET_BACKBONES.values()]


def test_every_published_model_has_a_file():
    assert tuple(COCO_DETECTORS) == DETECTOR_NAMES
    assert tuple(IMAGENET_BACKBONES) == CLASSIFIER_NAMES


def test_addresses_are_https_and_cached_names_do_not_clash():
    assert all(re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+\.pth", file.url) for file in ALL)
    assert len({file.name for file in ALL}) == len(ALL)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.name)
def test_checksum_is_the_one_in_the_file_name(file):
    assert re.fullmatch(r"[0-9a-f]{8}", file.sha256_prefix)
    assert file.name.endswith(f"-{file.sha256_prefix}.pth")
    assert file.licence.startswith(("Apache-2.0 (", "BSD-3-Clause ("))


@pytest.mark.parametrize("name", DETECTOR_NAMES)
def test_detectors_are_where_effdet_says(name):
    assert detector_file(name).url == efficientdet_model_param_dict[NAMES[name]]["url"]


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_efficientnets_are_where_timm_says(name):
    recipe = "in1k" if "lite" in name else "ra_in1k" if name.endswith("b8") else "aa_in1k"
    theirs = timm.get_pretrained_cfg(f"tf_{name.replace('-', '_')}.{recipe}")
    assert backbone_file(name).url == theirs.url.replace("github.com/rwightman/", "github.com/huggingface/")
    assert theirs.license == "apache-2.0"


@pytest.mark.parametrize("name", OTHER_BACKBONES)
def test_other_backbones_are_where_torchvision_says(name):
    theirs = torchvision.models.get_model_weights(name.replace("-", "_"))
    assert backbone_file(name).url == theirs.IMAGENET1K_V1.url


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(UnknownNameError, match=r"COCO-trained detector 'efficientdet-phi1'.*efficientdet-d1"):
        detector_file("efficientdet-phi1")
    with pytest.raises(UnknownNameError, match=r"ImageNet-trained classifier 'efficientnet-b9'.*efficientnet-b0"):
        backbone_file("efficientnet-b9")
