"""Configs: JSON and back without loss, nothing unknown or impossible accepted, and no PyTorch needed for any of it."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import needs_pytorch
from phidet.architectures.backbones.config import BackboneArchitecture, BackboneConfig
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.published import CLASSIFIER_NAMES, classifier_config
from phidet.architectures.config import Activation, check_class_names, default_class_names
from phidet.architectures.efficientdet.config import ASPECTS_2020, ASPECTS_OFFICIAL, AnchorConfig, ModelConfig
from phidet.architectures.efficientdet.published import (
    DETECTOR_NAMES,
    FAMILIES,
    detector_config,
    family_of,
    scaled_detector_config,
)
from phidet.architectures.feature_networks.config import FeatureNetworkConfig, Fusion
from phidet.architectures.feature_networks.graphs import GRAPHS, build_graph
from phidet.architectures.registry import published_config
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import from_json, replace, to_json
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.images.prepare import IMAGENET, LITE, Preprocess
from phidet.training.recipe import SMALL
from phidet.training.recipe import replace as change_recipe

D0 = detector_config("efficientdet-d0")
factors = st.floats(0.01, 16)
aspects = st.tuples(*[st.floats(0.1, 10)] * 2)


@st.composite
def feature_networks(draw: st.DrawFn) -> FeatureNetworkConfig:
    """Any possible feature network, its graph by name or in full."""
    low = draw(st.integers(1, 5))
    high = draw(st.integers(low + 1, 8))
    graph = draw(st.sampled_from(sorted(set(GRAPHS) - (set() if high - low == 4 else {"nas-fpn"}))))
    return FeatureNetworkConfig(
        channels=draw(st.integers(1, 512)),
        repeats=draw(st.integers(1, 10)),
        graph=build_graph(graph, low, high) if draw(st.booleans()) else graph,
        fusion=draw(st.sampled_from(get_args(Fusion))),
        min_level=low,
        max_level=high,
    )


models = st.builds(
    ModelConfig,
    name=st.text(),
    backbone=st.builds(
        BackboneConfig,
        architecture=st.sampled_from(get_args(BackboneArchitecture)),
        width=factors,
        depth=factors,
        drop_path=st.floats(0, 0.99),
    ),
    feature_network=feature_networks(),
    head_layers=st.integers(0, 8),
    activation=st.sampled_from(get_args(Activation)),
    image_size_hw=st.tuples(*[st.integers(256, 4096)] * 2),
    class_names=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5, unique=True).map(tuple),
    anchors=st.builds(
        AnchorConfig,
        scale=st.floats(0.1, 16),
        octaves=st.integers(1, 4),
        aspects_wh=st.lists(aspects, min_size=1, max_size=4).map(tuple),
    ),
    preprocess=st.sampled_from([IMAGENET, LITE, Preprocess(mean_rgb=(0.5, 0.0, -3.25), std_rgb=(1e-3, 1.0, 255.0))]),
)


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETECTOR_NAMES)
def test_detectors_survive_json(name: str) -> None:
    config = detector_config(name)
    assert from_json(to_json(config), ModelConfig) == config


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_classifiers_survive_json(name: str) -> None:
    config = classifier_config(name)
    assert from_json(to_json(config), ClassifierConfig) == config


@given(models)
def test_any_config_survives_json(config: ModelConfig) -> None:
    """Every field, floats to the last bit; equal configs have equal hashes and equal text."""
    again = from_json(to_json(config), ModelConfig)
    assert again == config
    assert hash(again) == hash(config)
    assert to_json(again) == to_json(config)


def test_what_json_leaves_out_is_the_default() -> None:
    """A file of an older phidet, without the later fields, still means the same."""
    data = msgspec.json.decode(to_json(D0))
    del data["anchors"], data["preprocess"], data["feature_network"]["graph"], data["backbone"]["width"]
    assert from_json(msgspec.json.encode(data), ModelConfig) == D0


def changed(path: str, value: object) -> bytes:
    """D0's JSON with one value changed, at a dotted path."""
    data = msgspec.json.decode(to_json(D0))
    *parents, key = path.split(".")
    at = data
    for parent in parents:
        at = at[parent]
    at[key] = value
    encoded: bytes = msgspec.json.encode(data)
    return encoded


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, r"unknown key colour"),
        ("feature_network.repeat", 3, r"unknown key feature_network\.repeat"),
        ("anchors.ratio", 1, r"unknown key anchors\.ratio"),
        ("anchors.scales", 1, r"unknown key anchors\.scales\. Did you mean scale\?"),
        ("head_layers", "3", r"head_layers: expected a whole number, got text"),
        ("head_layers", 2.5, r"head_layers: expected a whole number, got a number"),
        ("image_size_hw", [512], r"image_size_hw: expected a list of length 2"),
        ("image_size_hw", [64, 512], r"64×512 is smaller than the coarsest stride, 128"),
        ("activation", "gelu", r"activation: expected silu, relu6, relu, got 'gelu'"),
        ("feature_network.fusion", "mean", r"feature_network\.fusion: expected sum, .*, got 'mean'"),
        ("feature_network.graph", "bi-fpn", r"unknown feature network 'bi-fpn'\. Did you mean bifpn"),
        ("backbone.width", 0, r"backbone: backbone width must be in \(0, 16\], got 0"),
        ("backbone", {}, r"backbone\.architecture is missing"),
        ("class_names", [], r"at least one class, got none"),
        ("class_names", ["cat", "dog", "cat"], r"'cat' is both 0 and 2"),
        ("preprocess.std_rgb", [1, 0, 1], r"preprocess: std_rgb must be > 0, got "),
    ],
)
def test_json_that_does_not_fit(path: str, value: object, message: str) -> None:
    """The message names the key's path and what was expected."""
    with pytest.raises(ConfigError, match=message) as caught:
        from_json(changed(path, value), ModelConfig)
    assert str(caught.value).startswith("config does not fit: ")


@pytest.mark.parametrize("text", ["", "{", "not json", "{'name': 1}"])
def test_text_that_is_not_json(text: str) -> None:
    with pytest.raises(ConfigError, match="config is not valid JSON"):
        from_json(text, ModelConfig)


def test_a_detector_is_not_a_classifier() -> None:
    with pytest.raises(ConfigError, match="config does not fit"):
        from_json(to_json(D0), ClassifierConfig)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (BackboneConfig, {"architecture": "resnet19"}, r"unknown architecture 'resnet19'\. Did you mean resnet1"),
        (BackboneConfig, {"architecture": "resnet18", "width": math.nan}, r"width must be in \(0, 16\], got nan"),
        (BackboneConfig, {"architecture": "resnet18", "depth": 17}, r"depth must be in \(0, 16\], got 17"),
        (BackboneConfig, {"architecture": "resnet18", "drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        (FeatureNetworkConfig, {"channels": 0, "repeats": 1}, r"channels must be ≥ 1, got 0"),
        (FeatureNetworkConfig, {"channels": 8, "repeats": 0}, r"repeats must be ≥ 1, got 0"),
        (FeatureNetworkConfig, {"channels": 8, "repeats": 1, "fusion": "fats"}, r"unknown fusion 'fats'.*mean fast"),
        (FeatureNetworkConfig, {"channels": 8, "repeats": 1, "min_level": 0}, r"levels must satisfy.*got 0\.\.7"),
        (FeatureNetworkConfig, {"channels": 8, "repeats": 1, "min_level": 6}, r"levels must satisfy.*got 6\.\.7"),
        (FeatureNetworkConfig, {"channels": 8, "repeats": 1, "max_level": 3}, r"levels must satisfy.*got 3\.\.3"),
        (FeatureNetworkConfig, {"channels": 8, "repeats": 1, "max_level": 11}, r"levels must satisfy.*got 3\.\.11"),
        (
            FeatureNetworkConfig,
            {"channels": 8, "repeats": 1, "graph": "nas-fpn", "max_level": 6},
            r"searched on five levels, got 3\.\.6",
        ),
        (
            FeatureNetworkConfig,
            {"channels": 8, "repeats": 1, "graph": build_graph("fpn", 2, 5)},
            r"graph 'fpn' stands on levels 2\.\.5, the feature network on 3\.\.7",
        ),
        (AnchorConfig, {"scale": 0}, r"anchor scale must be > 0, got 0"),
        (AnchorConfig, {"scale": math.inf}, r"anchor scale must be > 0, got inf"),
        (AnchorConfig, {"octaves": 0}, r"anchor octaves must be ≥ 1, got 0"),
        (AnchorConfig, {"aspects_wh": ()}, r"pairs of positive \(width, height\), got \(\)"),
        (AnchorConfig, {"aspects_wh": ((1.0, -1.0),)}, r"pairs of positive"),
        (AnchorConfig, {"aspects_wh": ((1.0, math.inf),)}, r"pairs of positive"),
        (AnchorConfig, {"aspects_wh": ((math.nan, 1.0),)}, r"pairs of positive"),
        (Preprocess, {"mean_rgb": (0.0, math.nan, 0.0)}, r"mean_rgb must be finite"),
        (Preprocess, {"std_rgb": (1.0, 1.0, -1.0)}, r"std_rgb must be > 0"),
    ],
)
def test_impossible_values(kind: type, fields: dict[str, object], message: str) -> None:
    """Refused where they are written, from Python as from JSON; the message has the value."""
    with pytest.raises(ConfigError, match=message):
        kind(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size_hw": (127, 512)}, r"127×512 is smaller than the coarsest stride, 128 \(level 7\)"),
        ({"image_size_hw": (512, 0)}, r"512×0 is smaller"),
        ({"head_layers": -1}, r"head_layers must be ≥ 0, got -1"),
        ({"activation": "swish"}, r"unknown activation 'swish'"),
        ({"class_names": ()}, r"at least one class, got none"),
        ({"class_names": ("cat", " ")}, r"class name 1 must be non-empty text, got ' '"),
        ({"class_names": ("cat", "cat")}, r"class names must differ: 'cat' is both 0 and 1"),
        ({"class_names": "cat"}, r"must be a list of names, got one string 'cat'"),
        ({"clas_names": ("cat",)}, r"unknown config key 'clas_names'\. Did you mean class_names"),
    ],
)
def test_impossible_changes(changes: dict[str, object], message: str) -> None:
    """``replace`` checks again what it changes."""
    with pytest.raises(ConfigError, match=message):
        replace(D0, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_channels": -1}, r"head_channels must be ≥ 0, got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"image_size_hw": (31, 224)}, r"at least 32 pixels, got \(31, 224\)"),
        ({"class_names": ("a", "a")}, r"class names must differ"),
    ],
)
def test_impossible_classifiers(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(classifier_config("efficientnet-b0"), changes)


def test_replace_changes_what_it_is_told_and_nothing_else() -> None:
    smaller = replace(D0, {"image_size_hw": (256, 384), "class_names": ("cat", "dog")})
    assert (smaller.image_size_hw, smaller.class_names, smaller.num_classes) == ((256, 384), ("cat", "dog"), 2)
    assert replace(smaller, {"image_size_hw": D0.image_size_hw, "class_names": D0.class_names}) == D0
    assert D0.num_classes == 90


def test_configs_are_frozen_and_hashable() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        D0.name = "other"  # type: ignore[misc]
    assert len({D0, detector_config("efficientdet-d0"), detector_config("efficientdet-d1")}) == 2


def test_aspects_of_the_two_official_codes() -> None:
    """Aspect 2 is (√2, 1/√2) today and (1.4, 0.7) in mid 2020; only the first keeps the area."""
    assert [w * h for w, h in ASPECTS_OFFICIAL] == pytest.approx([1, 1, 1])
    assert [w * h for w, h in ASPECTS_2020] == pytest.approx([1, 0.98, 0.98])
    assert [round(w / h, 6) for w, h in ASPECTS_OFFICIAL] == [1, 2, 0.5] == [round(w / h, 6) for w, h in ASPECTS_2020]
    assert AnchorConfig().per_cell == 9


def test_preprocessing_constants() -> None:
    """ImageNet's on the 0–255 scale; Lite's to −0.992…1."""
    assert IMAGENET.mean_rgb == pytest.approx((123.675, 116.28, 103.53))
    assert IMAGENET.std_rgb == pytest.approx((58.395, 57.12, 57.375))
    assert (LITE.mean_rgb, LITE.std_rgb) == ((127.0,) * 3, (128.0,) * 3)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "name", "near"),
    [
        (detector_config, "efficientdet-d9", "efficientdet-d"),
        (detector_config, "EfficientDet-D0", "efficientdet-d0"),
        (detector_config, "efficientdet_lite0", "efficientdet-lite0"),
        (classifier_config, "efficientnet-b9", "efficientnet-b"),
        (classifier_config, "resnet-50", "resnet50"),
        (family_of, "efficientdet-resnet5", "efficientdet-resnet50"),
    ],
)
def test_unknown_names_give_the_nearest(call: object, name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown \w+ '{name}'\. Did you mean [^?]*{near}") as caught:
        call(name)  # type: ignore[operator]
    assert caught.value.name == name
    assert any(n.startswith(near) for n in caught.value.near)


def test_names_near_nothing_give_the_list() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown family 'yolo'\. Known: efficientdet, ") as caught:
        family_of("yolo")
    assert caught.value.near == []
    assert all(name in str(caught.value) for name in FAMILIES)
    # Of 150 models nobody reads the list to its end.
    with pytest.raises(UnknownNameError, match=r"Known: efficientdet-d0, .* and \d+ more\.") as caught:
        published_config("zzz")
    assert len(str(caught.value)) < 600


def test_class_names() -> None:
    """A count alone gives numbers: whose 80 or 90 classes they are, nobody said."""
    assert default_class_names(80)[0] == "class-0"
    assert default_class_names(np.int64(2)) == ("class-0", "class-1")
    assert default_class_names(3) == ("class-0", "class-1", "class-2")
    assert len(default_class_names(1000)) == 1000
    assert check_class_names(["cat", "dog"]) == ("cat", "dog")


def test_coco_slots() -> None:
    """Index i is category id i + 1; ten ids were never assigned."""
    unused = [i + 1 for i, name in enumerate(COCO_CLASS_NAMES) if name.startswith("unused")]
    assert unused == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert all(COCO_CLASS_NAMES[i - 1] == f"unused-{i}" for i in unused)
    known = {1: "person", 13: "stop sign", 44: "bottle", 67: "dining table", 70: "toilet", 90: "toothbrush"}
    assert {i: COCO_CLASS_NAMES[i - 1] for i in known} == known


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "3", None])
def test_impossible_class_counts(count: object) -> None:
    with pytest.raises(ConfigError, match=rf"num_classes must be a whole number ≥ 1, got {count!r}.*no background"):
        default_class_names(count)  # type: ignore[arg-type]


def test_class_names_travel_with_phi() -> None:
    assert scaled_detector_config(1.5, class_names=("cat",)).class_names == ("cat",)
    assert detector_config("efficientdet-d3", ("cat", "dog")).num_classes == 2


# --- without PyTorch --------------------------------------------------------------------------------------------------

CORE = (
    "phidet",
    "phidet.architectures.config",
    "phidet.architectures.backbones.scaling",
    "phidet.architectures.efficientdet.anchors",
    "phidet.architectures.efficientdet.graph_drawing",
    "phidet.architectures.feature_networks.graphs",
    "phidet.architectures.efficientdet.published",
    "phidet.core.errors",
    "phidet.data.coco_classes",
    "phidet.detections.boxes",
    "phidet.cli.main",
    "phidet.cli.info",
)
BLOCK = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'safetensors', 'h5py', 'tqdm']))\n"


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_half_that_detects_imports_without_pytorch() -> None:
    """Blocked, it is not missed; present, it is not imported."""
    run("".join((BLOCK, *(f"import {module}\n" for module in CORE))))
    present = "".join(f"import {module}\nassert 'torch' not in sys.modules, {module!r}\n" for module in CORE)
    run(f"import sys\n{present}")


@pytest.mark.parametrize("name", ["create_model", "create_classifier", "load_model", "save_model", "convert"])
def test_what_needs_pytorch_says_so(name: str) -> None:
    program = f"""{BLOCK}
import phidet
try:
    phidet.{name}
except phidet.MissingExtraError as error:
    print(error.exit_code, error)
"""
    assert run(program) == f"6 phidet.{name} needs packages that are not installed: pip install 'phidet[train]'"


def test_configs_work_without_pytorch() -> None:
    """Building, scaling and JSON of a config are part of the half that needs nothing."""
    program = f"""{BLOCK}
from phidet.architectures.efficientdet.published import scaled_detector_config
from phidet.core.structs import to_json
print(to_json(scaled_detector_config(1.5)))
"""
    assert from_json(run(program), ModelConfig) == scaled_detector_config(1.5)


@needs_pytorch
def test_the_public_names_are_there() -> None:
    """``dir`` and ``from phidet import *`` see the lazy names; others are the usual AttributeError."""
    import phidet  # noqa: PLC0415

    assert set(dir(phidet)) == set(phidet.__all__)
    assert all(getattr(phidet, name) is not None for name in phidet.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'create_modle'"):
        phidet.create_modle  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": "x"}, "recipe: epochs: expected a whole number, got text"),
        ({"precision": "fp16"}, "recipe: precision: expected 32-true, bf16-mixed, 16-mixed, got 'fp16'"),
        ({"augmentation": {"policy": "v9"}}, "recipe: augmentation.policy: expected none, v0, .*randaugment, got 'v9'"),
        ({"augmentation": {"flip": 3.0}}, r"recipe: augmentation: flip must be a probability, got 3\.0$"),
    ],
)
def test_what_does_not_fit_is_said_in_words(changes: dict[str, Any], message: str) -> None:
    """Not in msgspec's: ``Expected `int`, got `str` - at `$.epochs` ``."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        change_recipe(SMALL, changes)
