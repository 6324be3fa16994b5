"""phidet's own model files: what is saved comes back to the last bit, and what does not fit is refused by name."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

import peers
from conftest import randomise
from peers import same_tensors
from phidet import create_classifier, create_model, load_model, save_model
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.config import AnchorConfig, ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.architectures.feature_networks.graphs import FeatureGraph, Node
from phidet.core.errors import CheckpointError
from phidet.core.structs import replace
from phidet.images.prepare import Preprocess
from phidet.weights.load import load_into, open_source
from phidet.weights.mapping import weights_of
from phidet.weights.read import read_tensors

LADDER = FeatureGraph(
    name="ladder",
    min_level=4,
    max_level=6,
    nodes=(Node(5, (1, 2)), Node(4, (0, 3)), Node(6, (2, 4))),
    outputs=(4, 3, 5),
)
CUSTOM = ModelConfig(
    name="custom",
    backbone=BackboneConfig(architecture="resnet18", width=0.25, depth=0.5, drop_path=0.1),
    feature_network=FeatureNetworkConfig(
        channels=10, repeats=2, graph=LADDER, fusion="softmax", min_level=4, max_level=6
    ),
    head_layers=1,
    activation="relu",
    image_size_hw=(96, 160),
    class_names=("Schraube", "écrou", "垫圈"),
    anchors=AnchorConfig(scale=2.5, octaves=2, aspects_wh=((1.0, 1.0), (1 / 3, 3.0))),
    preprocess=Preprocess(mean_rgb=(1 / 3, 2.0, 3.0), std_rgb=(1.0, 7.0, 1e-3)),
)

BUILDERS: dict[str, Callable[[], EfficientDet | Classifier]] = {
    "detector": lambda: create_model("efficientdet-d0", class_names=["bolt", "nut"], image_size=(256, 384)),
    "phi-1.5": lambda: create_model(phi=1.5, num_classes=4),
    "custom": lambda: create_model(CUSTOM),
    "classifier": lambda: create_classifier("efficientnet-lite0", num_classes=7),
    "tiny": lambda: create_model(peers.tiny_detector()),
}


def build(kind: str) -> EfficientDet | Classifier:
    torch.manual_seed(0)
    model = BUILDERS[kind]()
    randomise(model)
    return model


def answer(model: nn.Module) -> tuple[Tensor, ...]:
    images = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = model.eval()(images)
    return (out,) if isinstance(out, Tensor) else tuple(out)


@pytest.fixture(scope="module")
def tiny() -> EfficientDet:
    model = build("tiny")
    assert isinstance(model, EfficientDet)
    return model


@pytest.fixture
def file(tiny: EfficientDet, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(tiny, path)
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as content:
        return dict(content.metadata())


def with_header(path: Path, **changes: str | None) -> Path:
    """Writes the file again with other metadata; ``None`` leaves a key out."""
    metadata: dict[str, str | None] = metadata_of(path) | changes
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})
    return path


def with_config(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    config = json.loads(metadata_of(path)["config"])
    change(config)
    return with_header(path, config=json.dumps(config))


def with_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    metadata, tensors = metadata_of(path), load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 1200, "an error is read by people"
    return message


# What is saved comes back.


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_loaded_model_is_the_saved_one(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert loaded.config.class_names == model.config.class_names
    assert loaded.config.preprocess == model.config.preprocess
    assert not loaded.training
    assert same_tensors(weights_of(loaded), weights_of(model))
    for ours, theirs in zip(answer(loaded), answer(model), strict=True):
        assert torch.equal(ours, theirs)
    assert len(model.config.class_names) == (answer(loaded)[0].shape[-1])


def test_a_file_says_what_it_is(file: Path, tiny: EfficientDet) -> None:
    metadata = metadata_of(file)
    config = json.loads(metadata.pop("config"))
    assert metadata == {"format": "phidet", "version": "2", "architecture": "efficientdet"}
    assert config["class_names"] == ["bolt", "nut", "washer"]
    assert config["preprocess"]["mean_rgb"] == [123.675, 116.28, 103.53]
    assert load_file(file).keys() == {name for name in tiny.state_dict() if "num_batches_tracked" not in name}
    save_model(build("classifier"), file)
    assert metadata_of(file)["architecture"] == "classifier"


def test_the_same_model_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    again = build("tiny")
    again.to(memory_format=torch.contiguous_format)  # how it lies in memory is not part of a model
    again.train()
    save_model(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    save_model(load_model(file), tmp_path / "loaded.safetensors")
    assert (tmp_path / "loaded.safetensors").read_bytes() == file.read_bytes()
    with torch.no_grad():
        next(again.parameters())[0, 0, 0, 0] += 1
    save_model(again, tmp_path / "other.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() != file.read_bytes()


def test_counters_neither_travel_nor_matter(tiny: EfficientDet, tmp_path: Path) -> None:
    """What no computation reads is not part of a model."""
    counted = build("tiny")
    for module in counted.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.fill_(5)
    for name, model in (("a", counted), ("b", tiny)):
        save_model(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# What does not fit is refused, and the message names it.


@pytest.mark.parametrize("version", ["3", "10", "1.1", "-1", "latest", ""])
def test_other_versions_are_refused(file: Path, version: str) -> None:
    message = refusal(with_header(file, version=version))
    assert repr(version) in message
    assert "up to 2" in message
    assert "pip install -U phidet" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(colour="red"), "colour"),
        (lambda c: c["feature_network"].update(chanels=8), "chanels"),
        (lambda c: c["anchors"].update(ratio=2), "unknown key anchors.ratio"),
        (lambda c: c.pop("head_layers"), "head_layers"),
        (lambda c: c.update(head_layers=-1), "head_layers must be ≥ 0, got -1"),
        (lambda c: c["backbone"].update(width="wide"), "backbone.width: expected a number, got text"),
        (lambda c: c["backbone"].update(architecture="vgg"), "vgg"),
        (lambda c: c.update(class_names=["nut", "nut"]), "'nut' is both 0 and 1"),
        (lambda c: c["feature_network"].update(graph="bifpm"), "bifpm"),
    ],
)
def test_configs_that_cannot_be_are_refused(file: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    assert named in refusal(with_config(file, change))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"licence": "MIT"}, "licence"),
        ({"architecture": None}, "architecture"),
        ({"architecture": "segmenter"}, "segmenter"),
        ({"architecture": "classifier"}, "feature_network"),
        ({"version": "1", "architecture": None}, "kind"),
        ({"version": "1", "architecture": None, "kind": "segmenter"}, "segmenter"),
        ({"version": "1", "architecture": None, "kind": "classifier"}, "feature_network"),
        ({"config": None}, "config"),
        ({"config": "{"}, "not valid JSON"),
        ({"config": "[]"}, "expected keys with values, got a list"),
        ({"version": None}, "version"),
    ],
)
def test_headers_that_cannot_be_are_refused(file: Path, changes: dict[str, str | None], named: str) -> None:
    assert named in refusal(with_header(file, **changes))


def test_missing_extra_and_misshapen_tensors_are_named(file: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["box_head.predict.pointwise.bias"]
        tensors["backbone.stem.conv.wieght"] = torch.ones(2)
        tensors["feature_network.coarser.bn.bias"] = torch.ones(3, 2)

    message = refusal(with_tensors(file, change))
    assert "1 missing: box_head.predict.pointwise.bias" in message
    assert "1 unexpected: backbone.stem.conv.wieght" in message
    assert "1 of the wrong shape: feature_network.coarser.bn.bias: expected (12,), got (3, 2)" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("backbone.stem.conv.weight"), "1 missing"),
        (lambda t: t.update(more=torch.ones(1)), "1 unexpected"),
        (lambda t: t.update({"backbone.stem.bn.bias": torch.ones(())}), "1 of the wrong shape"),
    ],
)
def test_each_misfit_is_refused_by_itself(file: Path, change: Callable[[dict[str, Tensor]], object], said: str) -> None:
    assert said in refusal(with_tensors(file, change))


def test_a_long_list_of_missing_tensors_is_cut(file: Path) -> None:
    total = len(load_file(file))
    message = refusal(with_tensors(file, lambda tensors: tensors.clear() or tensors.update(x=torch.ones(1))))
    assert f"{total} missing" in message
    assert f"and {total - 4} more" in message


# Files that are damaged, or something else.


def test_truncated_files_are_refused(file: Path) -> None:
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (1, 7, 8, 9, 100, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refusal(file)
    file.write_bytes(whole + b"\0")
    refusal(file)


@given(content=st.binary(min_size=1, max_size=64), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x89HDF"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused_whatever_they_begin_with(tmp_path: Path, head: bytes, content: bytes) -> None:
    path = tmp_path / "random.pth"
    path.write_bytes(head + content)
    with pytest.raises(CheckpointError, match="random"):
        open_source(path)


@cache
def pickled(in_a_zip: bool) -> bytes:
    """A checkpoint's bytes, the same at every call: PyTorch writes addresses of memory into old ones."""
    content = io.BytesIO()
    torch.save({"weight": torch.ones(3, 2)}, content, _use_new_zipfile_serialization=in_a_zip)
    return content.getvalue()


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_pickles_are_refused_or_give_tensors(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever byte is wrong, there are tensors, or a CheckpointError with the file's name; nothing else is raised."""
    path = tmp_path / "damaged.pth"
    content = bytearray(pickled(data.draw(st.booleans())))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        read_tensors(path)
    except CheckpointError as error:
        said = str(error)
    else:
        said = str(path)
    assert str(path) in said


@pytest.mark.parametrize("read", [load_model, open_source])
def test_paths_without_a_weight_file_are_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "picture.pth").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "readme.md").write_text("# weights")
    cases = {
        "empty.safetensors": "is empty",
        "picture.pth": "not a weight file",
        "readme.md": "not a weight file",
        "absent.safetensors": "No such file",
        ".": "Is a directory",
    }
    for name, said in cases.items():
        with pytest.raises(CheckpointError, match=said):
            read(tmp_path / name)


def test_foreign_safetensors_get_the_way_to_use_them(tmp_path: Path) -> None:
    path = tmp_path / "timm.safetensors"
    save_file({"conv_stem.weight": torch.ones(32, 3, 3, 3)}, path)
    assert "phidet convert timm.safetensors" in refusal(path)
    assert open_source(path).kind == "timm"
    save_file({"encoder.0.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r"no layout that phidet knows \(keys like encoder.0.weight\)"):
        open_source(path)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("container", ["zip", "legacy", "bare", "bare, newest protocol"])
def test_code_in_a_pickle_does_not_run(container: str, tmp_path: Path) -> None:
    """All instructions that might are in test_torch_pickle.py."""
    mark, path = tmp_path / "the code ran", tmp_path / "model.pth"
    content = {"conv_stem.weight": torch.ones(2), "extra": Payload(mark)}
    if container.startswith("bare"):
        path.write_bytes(pickle.dumps(Payload(mark), 2 if container == "bare" else pickle.HIGHEST_PROTOCOL))
        with pytest.raises(CheckpointError, match="holds no tensors by name: expected a state dict, got mkdir"):
            open_source(path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
        assert open_source(path).tensors.keys() == {"conv_stem.weight"}
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists(), "the payload is real"


def test_a_pickle_without_tensors_is_refused(tmp_path: Path) -> None:
    for content, said in (({"epoch": 3}, "dict"), ([torch.ones(2)], "list"), (torch.ones(2), "Tensor"), ({}, "dict")):
        torch.save(content, tmp_path / "model.pth")
        with pytest.raises(CheckpointError, match=f"no tensors by name: expected a state dict, got {said}"):
            open_source(tmp_path / "model.pth")


# Writing: all or nothing.


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    step: str, file: Path, tiny: EfficientDet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = file.read_bytes()
    other = create_model(tiny.config)
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, fail)
        with pytest.raises(CheckpointError, match=r"cannot write .*: No space left on device. Nothing was changed"):
            save_model(other, file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]
    save_model(other, file)
    assert file.read_bytes() != before
    assert os.listdir(file.parent) == [file.name]


def test_an_interrupted_write_leaves_the_old_file(
    file: Path, tiny: EfficientDet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(create_model(tiny.config), file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize(
    ("target", "said"), [("absent/x", "no folder"), ("folder", "directory"), ("file/x", "no folder")]
)
def test_impossible_targets_are_refused(target: str, said: str, tiny: EfficientDet, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"cannot write .*{said}"):
        save_model(tiny, tmp_path / target)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert not os.listdir(tmp_path / "folder")


# create_model(pretrained=file).


def test_a_file_brings_its_weights_to_a_config(file: Path, tiny: EfficientDet) -> None:
    model = create_model(tiny.config, pretrained=file)
    assert model.config == tiny.config
    assert same_tensors(weights_of(model), weights_of(tiny))
    renamed = create_model(tiny.config, class_names=["a", "b", "c"], image_size=256, pretrained=file)
    assert renamed.config.class_names == ("a", "b", "c")
    assert renamed.config.image_size_hw == (256, 256)
    assert same_tensors(weights_of(renamed), weights_of(tiny))


def test_another_class_count_is_refused_with_both_counts(file: Path, tiny: EfficientDet) -> None:
    with pytest.raises(CheckpointError) as caught:
        create_model(tiny.config, num_classes=5, pretrained=file)
    message = str(caught.value)
    assert "predicts 3 classes" in message
    assert "asked for 5" in message
    assert "replace_head=True" in message
    assert "leave the class count out" in message


def test_replace_head_starts_the_class_predictor_afresh_and_nothing_else(file: Path, tiny: EfficientDet) -> None:
    model = create_model(tiny.config, num_classes=5, pretrained=file, replace_head=True)
    old, new = weights_of(tiny), weights_of(model)
    differing = [name for name in new if not torch.equal(new[name], old[name])]
    assert differing == ["class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias"]
    torch.testing.assert_close(new[differing[1]].sigmoid(), torch.full((9 * 5,), 0.01))
    assert new[differing[0]].std() > 0
    report = load_into(create_model(tiny.config, num_classes=5), open_source(file), replace_head=True)
    assert sorted(report.fresh) == sorted(differing)
    assert report.loaded == len(new) - 2
    assert "the class predictor starts fresh" in str(report)


def test_a_predictor_of_another_kind_of_shape_is_a_misfit(file: Path, tiny: EfficientDet) -> None:
    broken = with_tensors(file, lambda tensors: tensors.update({"class_head.predict.pointwise.bias": torch.ones(())}))
    for replace_head in (False, True):
        with pytest.raises(CheckpointError, match=r"wrong shape: class_head.*bias: expected \(27,\), got \(\)"):
            load_into(create_model(tiny.config), open_source(broken), replace_head)


def test_replace_head_without_need_replaces_nothing(file: Path, tiny: EfficientDet) -> None:
    model = create_model(tiny.config, num_classes=3, pretrained=file, replace_head=True)
    assert same_tensors(weights_of(model), weights_of(tiny))


def fresh(config: ModelConfig) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return weights_of(create_model(config))


@pytest.mark.parametrize("origin", ["phidet", "timm"])
def test_a_classifier_file_gives_its_backbone_alone(origin: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights"
    config = create_model("efficientdet-lite0").config
    classifier = create_classifier("efficientnet-lite0")
    if origin == "phidet":
        randomise(classifier)
        save_model(classifier, path)
    else:
        peer = timm.create_model("tf_efficientnet_lite0")
        randomise(peer)
        torch.save(peer.state_dict(), path)
        classifier = create_classifier("efficientnet-lite0", pretrained=path)
    before = fresh(config)
    torch.manual_seed(5)
    model = create_model(config, pretrained=path)
    trained = weights_of(classifier)
    for name, tensor in weights_of(model).items():
        expected = trained if name.startswith("backbone.") else before
        assert torch.equal(tensor, expected[name]), name
    assert model.config == config
    report = load_into(model, open_source(path))
    assert report.part == "backbone"
    assert report.loaded == sum(name.startswith("backbone.") for name in before)
    assert len(report.ignored) == 7, "the head: a convolution, four of a batch norm, a linear layer's two"


def test_a_deeper_backbone_is_refused(tmp_path: Path) -> None:
    """All of Lite0's tensors stand in Lite1 under timm's names and with equal shapes, but half of Lite1 is not it."""
    path = tmp_path / "lite1.pth"
    torch.save(timm.create_model("tf_efficientnet_lite1").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"does not fit efficientdet-lite0:\n  \d+ unexpected: blocks.1.2."):
        create_model("efficientdet-lite0", pretrained=path)
    save_model(create_classifier("efficientnet-lite1"), path)
    with pytest.raises(CheckpointError, match="does not fit efficientdet-lite0"):
        create_model("efficientdet-lite0", pretrained=path)


def test_a_detector_file_in_a_classifier_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match="is a detector, tiny-classifier is a classifier"):
        create_classifier(peers.tiny_classifier(), pretrained=file)


def test_another_network_is_refused_by_name(file: Path, tiny: EfficientDet) -> None:
    with pytest.raises(CheckpointError, match=r"holds tiny, which is another network than efficientdet-d0.*load_model"):
        create_model("efficientdet-d0", pretrained=file)
    wider = replace(tiny.config, {"feature_network": FeatureNetworkConfig(channels=13, repeats=2), "name": "wider"})
    with pytest.raises(CheckpointError, match="holds tiny, which is another network than wider"):
        create_model(wider, pretrained=file)


def test_stochastic_depth_does_not_make_another_network(file: Path, tiny: EfficientDet) -> None:
    backbone = BackboneConfig(architecture="efficientnet", width=0.25, depth=0.3, drop_path=0.2)
    model = create_model(replace(tiny.config, {"backbone": backbone}), pretrained=file)
    assert same_tensors(weights_of(model), weights_of(tiny))


def test_a_failed_load_leaves_the_model_as_it_was(file: Path, tiny: EfficientDet) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        tensors["feature_network.coarser.bn.bias"] = torch.ones(3)

    causes: list[Callable[[dict[str, Tensor]], object]] = [
        swap,
        lambda tensors: tensors.pop("box_head.predict.pointwise.bias"),
        lambda tensors: tensors.update(more=torch.ones(1)),
    ]
    model = create_model(tiny.config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    content = file.read_bytes()
    for cause in causes:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="does not fit tiny"):
            load_into(model, open_source(with_tensors(file, cause)))
        assert same_tensors(dict(model.state_dict()), before)
    file.write_bytes(content)
    other = create_model(tiny.config, num_classes=2)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="predicts 3 classes"):
        load_into(other, open_source(file))
    assert same_tensors(dict(other.state_dict()), before)


def test_classifier_files_bring_their_weights_to_a_config(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    config = peers.tiny_classifier()
    saved = create_classifier(config)
    save_model(saved, path)
    kept = create_classifier(config, pretrained=path)
    assert kept.config == config
    assert same_tensors(weights_of(kept), weights_of(saved))
    with pytest.raises(CheckpointError, match="predicts 3 classes, tiny-classifier was asked for 2"):
        create_classifier(config, num_classes=2, pretrained=path)
    replaced = create_classifier(config, num_classes=2, pretrained=path, replace_head=True)
    differing = [n for n, t in weights_of(replaced).items() if not torch.equal(t, weights_of(saved)[n])]
    assert differing == ["linear.weight", "linear.bias"]
    narrower = replace(config, {"head_channels": 20, "name": "narrower"})
    with pytest.raises(CheckpointError, match="holds tiny-classifier, which is another network than narrower"):
        create_classifier(narrower, pretrained=path)


def test_classifiers_differ_in_more_than_stochastic_depth(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    saved = create_classifier(peers.tiny_classifier())
    save_model(saved, path)
    backbone = BackboneConfig(architecture="efficientnet", width=0.25, depth=0.3, drop_path=0.2)
    config: ClassifierConfig = replace(saved.config, {"backbone": backbone})
    assert same_tensors(weights_of(create_classifier(config, pretrained=path)), weights_of(saved))


def test_safetensors_reads_our_files_by_itself(file: Path, tiny: EfficientDet) -> None:
    assert same_tensors(load(file.read_bytes()), {name: t.contiguous() for name, t in weights_of(tiny).items()})
