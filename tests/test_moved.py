"""Module paths of version 0.1 still import, with a warning that says where their contents are."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from conftest import needs_pytorch
from phidet.core.moved import _MODULES, new_places

SAMPLES = {
    "phidet.cores": ("usable_cores", "phidet.core.machine"),
    "phidet.config": ("ModelConfig", "phidet.architectures.efficientdet.config"),
    "phidet.data.images": ("read_image", "phidet.images.decode"),
    "phidet.explain": ("explain", "phidet.evaluation.explain"),
    "phidet.learn.recipe": ("Recipe", "phidet.training.recipe"),
    "phidet.learn.train": ("RunSettings", "phidet.training.fit"),
    "phidet.metrics.coco": ("evaluate_coco", "phidet.evaluation.coco_metrics"),
    "phidet.nms": ("PostprocessSettings", "phidet.detections.settings"),
    "phidet.nn.detector": ("Classifier", "phidet.architectures.classifier.network"),
    "phidet.runtime.onnx_runtime": ("OnnxNetwork", "phidet.inference.runtimes.onnx_runtime"),
    "phidet.video": ("video_frames", "phidet.images.video"),
}


NEED_PYTORCH = ("phidet.explain", "phidet.learn.train", "phidet.nn.detector")


@pytest.mark.parametrize(
    "old", [pytest.param(old, marks=needs_pytorch) if old in NEED_PYTORCH else old for old in SAMPLES]
)
def test_an_old_path_gives_the_very_object_and_names_the_new_one(old: str) -> None:
    name, new = SAMPLES[old]
    theirs = importlib.import_module(new)
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved: use .*{new}"):
        ours = importlib.import_module(old)
    assert getattr(ours, name) is getattr(theirs, name)
    with pytest.raises(AttributeError, match=f"{old}.*has no attribute 'nothing'"):
        _ = ours.nothing


@pytest.mark.parametrize(
    ("old", "name", "new", "now"),
    [
        ("phidet.detector", "Picture", "phidet.images.decode", "ImageLike"),
        ("phidet.sources", "Picture", "phidet.images.sources", "SourceImage"),
        ("phidet.video", "EXTENSIONS", "phidet.images.source_kinds", "VIDEO_EXTENSIONS"),
        ("phidet.sources", "pictures", "phidet.images.sources", "read_sources"),
        ("phidet.metrics.coco", "ClassFigures", "phidet.evaluation.coco_metrics", "ClassMetrics"),
    ],
)
def test_names_that_changed_are_found_by_their_old_name(old: str, name: str, new: str, now: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved"):
        ours = importlib.import_module(old)
    assert getattr(ours, name) is getattr(importlib.import_module(new), now)


def test_every_new_place_is_there_and_other_names_are_left_alone() -> None:
    for old in _MODULES:
        for place in new_places(f"phidet.{old}"):
            assert importlib.util.find_spec(place) is not None, place
    assert new_places("phidet.detections.boxes") == []
    assert new_places("numpy") == []
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("phidet.no_such_module")
