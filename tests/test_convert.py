"""``phidet convert``: which model a file is, what is written, and what is left alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import timm
import torch

import peers
from conftest import randomise
from peers import same_tensors
from phidet import convert, create_classifier, create_model, load_model, save_model
from phidet.architectures.costs import build_on_meta
from phidet.architectures.dialect import Dialect
from phidet.architectures.efficientdet.config import ASPECTS_2020
from phidet.architectures.efficientdet.dialect_effdet import EFFDET
from phidet.architectures.efficientdet.dialect_zylo117 import ZYLO117
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.efficientdet.published import detector_config
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError, UnknownNameError
from phidet.weights.convert import identify, writable_dialects
from phidet.weights.dialects import known_dialects
from phidet.weights.load import open_source
from phidet.weights.mapping import to_theirs, weights_of

LITE0 = "efficientdet-lite0"


def hollow(name: str, dialect: Dialect, path: Path) -> Path:
    """A foreign file of that model's shapes in which every tensor is one stored number: d6 in a megabyte."""
    config = detector_config(name)
    shapes = to_theirs(weights_of(build_on_meta(config)), dialect, config)
    torch.save({key: torch.zeros(()).expand(tensor.shape) for key, tensor in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``lite0.pth`` of effdet with three classes, and ``lite0.safetensors`` made of it."""
    place = tmp_path_factory.mktemp("convert")
    peer = peers.effdet_model(LITE0, (128, 128), num_classes=3)
    randomise(peer)
    torch.save(peer.state_dict(), place / "lite0.pth")
    convert(place / "lite0.pth", place / "lite0.safetensors", LITE0)
    return place


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Path:
    return folder / "lite0.pth"


@pytest.fixture(scope="module")
def own(folder: Path) -> Path:
    return folder / "lite0.safetensors"


def test_a_converted_file_is_the_model(foreign: Path, own: Path) -> None:
    model = load_model(own)
    assert isinstance(model, EfficientDet)
    assert same_tensors(weights_of(model), weights_of(create_model(LITE0, pretrained=foreign)))
    expected = detector_config(LITE0)
    assert model.config.name == LITE0
    assert model.config.class_names == ("class-0", "class-1", "class-2")
    assert model.config.anchors.aspects_wh == ASPECTS_2020
    assert model.config.preprocess == expected.preprocess
    assert model.config.image_size_hw == expected.image_size_hw


def test_there_and_back_gives_the_tensors_of_the_source(foreign: Path, own: Path, tmp_path: Path) -> None:
    report = convert(own, tmp_path / "back.pth", to="effdet")
    original = torch.load(foreign, weights_only=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert same_tensors(back, {k: v for k, v in original.items() if not k.endswith("num_batches_tracked")})
    assert report == (own, "phidet", LITE0, tmp_path / "back.pth", "effdet", len(back), "")
    convert(tmp_path / "back.pth", tmp_path / "again.safetensors", LITE0)
    assert (tmp_path / "again.safetensors").read_bytes() == own.read_bytes()


def test_from_one_foreign_dialect_to_another(foreign: Path, own: Path, tmp_path: Path) -> None:
    report = convert(foreign, tmp_path / "zylo.pth", LITE0, to="zylo117")
    assert (report.kind, report.to) == ("effdet", "zylo117")
    convert(tmp_path / "zylo.pth", tmp_path / "ours.safetensors", LITE0)
    assert (tmp_path / "ours.safetensors").read_bytes() == own.read_bytes()


@pytest.mark.parametrize(("name", "dialect"), [("efficientdet-lite3x", EFFDET), ("efficientdet-d7x", ZYLO117)])
@pytest.mark.slow
def test_the_model_is_found_by_its_tensors(name: str, dialect: Dialect, tmp_path: Path) -> None:
    assert identify(open_source(hollow(name, dialect, tmp_path / "hollow.pth"))).name == name


@pytest.mark.slow
def test_d6_and_d7_have_the_same_tensors_so_somebody_must_say(tmp_path: Path) -> None:
    path = hollow("efficientdet-d6", EFFDET, tmp_path / "d6.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "d6.safetensors")
    message = str(caught.value)
    assert "matches efficientdet-d6 and efficientdet-d7 equally well" in message
    assert "--model" in message
    assert os.listdir(tmp_path) == ["d6.pth"]
    scales = [identify(open_source(path), f"efficientdet-{name}").anchors.scale for name in ("d6", "d7")]
    assert scales == [4, 5]


def test_classifiers_are_found_with_their_class_count(tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    torch.save(peer.state_dict(), tmp_path / "ten.pth")
    report = convert(tmp_path / "ten.pth", tmp_path / "ten.safetensors")
    assert (report.kind, report.model) == ("timm", "efficientnet-lite0")
    model = load_model(tmp_path / "ten.safetensors")
    assert model.config.num_classes == 10
    assert torch.equal(model.linear.weight, peer.classifier.weight)


def test_a_config_of_ones_own_converts(tmp_path: Path) -> None:
    """Nothing published has these tensors, but our file says what they are."""
    model = create_model(peers.tiny_detector())
    save_model(model, tmp_path / "tiny.safetensors")
    report = convert(tmp_path / "tiny.safetensors", tmp_path / "tiny.pth", to="effdet")
    assert report.model == "tiny"
    again = create_model(peers.tiny_detector(), pretrained=tmp_path / "tiny.pth")
    assert same_tensors(weights_of(again), weights_of(model))
    with pytest.raises(CheckpointError, match="fits no published model"):
        convert(tmp_path / "tiny.pth", tmp_path / "back.safetensors")


def test_the_reader_of_a_port_is_told_about_other_anchors(own: Path, tmp_path: Path) -> None:
    """The port assumes the aspects of 2020; a model trained here has today's."""
    save_model(create_model(peers.tiny_detector()), tmp_path / "new.safetensors")
    for to in ("effdet", "zylo117"):
        note = convert(tmp_path / "new.safetensors", tmp_path / "theirs.pth", to=to).note
        assert f"{to} assumes aspects (1.4, 0.7)" in note
        assert "1.414" in note
        assert convert(own, tmp_path / "theirs.pth", to=to).note == ""
    assert convert(tmp_path / "new.safetensors", tmp_path / "copy.safetensors").note == ""


# What is asked for must make sense.


def test_every_dialect_but_the_official_one_can_be_written() -> None:
    assert set(writable_dialects()) == {"phidet", *known_dialects()} - {"automl"}


def test_wrong_names_get_the_nearest(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'efficientdet-lite9'\. Did you mean efficientdet-lite"):
        convert(foreign, tmp_path / "x.safetensors", "efficientdet-lite9")
    with pytest.raises(UnknownNameError, match="unknown model 'efficientnet-b0'"):
        convert(foreign, tmp_path / "x.safetensors", "efficientnet-b0")
    with pytest.raises(UnknownNameError, match=r"unknown dialect to write 'efdet'\. Did you mean effdet, "):
        convert(foreign, tmp_path / "x.pth", LITE0, to="efdet")
    with pytest.raises(UnknownNameError, match="unknown dialect to write 'automl'"):
        convert(foreign, tmp_path / "x.h5", LITE0, to="automl")
    assert not os.listdir(tmp_path)


def test_another_model_than_the_file_holds_is_refused(foreign: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lite0\.pth \(effdet\) does not fit efficientdet-lite1"):
        convert(foreign, tmp_path / "x.safetensors", "efficientdet-lite1")
    with pytest.raises(CheckpointError, match="holds efficientdet-lite0, not efficientdet-lite1"):
        convert(own, tmp_path / "x.safetensors", "efficientdet-lite1")
    with pytest.raises(CheckpointError, match="timm format has no key for 'feature_network"):
        convert(own, tmp_path / "x.pth", to="timm")
    assert not os.listdir(tmp_path)


def test_the_suffix_says_what_is_written(foreign: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name it x\.safetensors"):
        convert(foreign, tmp_path / "x.pth", LITE0)
    with pytest.raises(ConfigError, match=r"name it x\.pth"):
        convert(own, tmp_path / "x.safetensors", to="effdet")


# What is there stays there.


def test_the_source_is_not_touched(foreign: Path, own: Path, tmp_path: Path) -> None:
    for path, target, to in ((foreign, "a.safetensors", "phidet"), (own, "a.pth", "effdet")):
        before, stamp = path.read_bytes(), path.stat().st_mtime_ns
        convert(path, tmp_path / target, LITE0, to)
        assert path.read_bytes() == before
        assert path.stat().st_mtime_ns == stamp


def test_a_source_does_not_become_its_own_target(foreign: Path, own: Path, tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(foreign)
    cases = ((foreign, foreign, "zylo117"), (own, own, "phidet"), (foreign, tmp_path / "link.pth", "zylo117"))
    for path, target, to in cases:
        before = path.read_bytes()
        with pytest.raises(ConfigError, match=r"is the file to read.* name another file"):
            convert(path, target, LITE0, to)
        assert path.read_bytes() == before


def test_an_old_target_stays_until_the_new_one_is_whole(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for target, to in ((tmp_path / "old.pth", "effdet"), (tmp_path / "old.safetensors", "phidet")):
        target.write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(CheckpointError, match="No space left on device"):
                convert(own, target, to=to)
        assert target.read_bytes() == b"old"
        convert(own, target, to=to)
        assert open_source(target).kind == to
    assert sorted(os.listdir(tmp_path)) == ["old.pth", "old.safetensors"]


def test_missing_folders_and_files_are_named(own: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write .*absent/x\.pth: there is no folder"):
        convert(own, tmp_path / "absent/x.pth", to="effdet")
    with pytest.raises(CheckpointError, match=r"cannot read weights from .*absent\.pth: No such file"):
        convert(tmp_path / "absent.pth", tmp_path / "x.safetensors")


# The command.


def test_the_command_reports_what_it_did(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    assert main(["convert", str(foreign), str(target)]) == 0
    tensors = len(weights_of(create_model(LITE0)))
    assert capsys.readouterr().out == (
        f"read  {foreign} (effdet): efficientdet-lite0, {tensors} tensors\nwrote {target} (phidet)\n"
    )
    assert load_model(target).config.num_classes == 3


def test_the_command_prints_its_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(create_model(peers.tiny_detector()), tmp_path / "new.safetensors")
    assert main(["convert", str(tmp_path / "new.safetensors"), str(tmp_path / "x.pth"), "--to", "effdet"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("note  effdet files do not carry anchors")


def test_the_command_fails_in_one_message(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out.safetensors")
    (tmp_path / "empty.pth").touch()
    cases = [
        ([str(tmp_path / "empty.pth"), target], 4, "is empty"),
        ([str(foreign), target, "--model", "efficientdet-lite1"], 4, "does not fit efficientdet-lite1"),
        ([str(foreign), target, "--model", "lite"], 2, "unknown model 'lite'"),
        ([str(foreign), target, "--to", "onnx"], 2, "unknown dialect to write 'onnx'"),
        ([str(foreign), str(foreign), "--to", "effdet"], 2, "the source stays as it is"),
    ]
    for arguments, code, said in cases:
        assert main(["convert", *arguments]) == code
        printed = capsys.readouterr()
        assert printed.err.startswith("phidet: ")
        assert said in printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
        assert not Path(target).exists()


def test_classifiers_of_one_network_convert_to_both_spellings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_classifier("efficientnet-lite0", num_classes=2)
    randomise(model)
    save_model(model, tmp_path / "ours.safetensors")
    for to, stem in (("timm", "conv_stem.weight"), ("lukemelas", "_conv_stem.weight")):
        convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to=to)
        written = torch.load(tmp_path / "theirs.pth", weights_only=True)
        assert torch.equal(written[stem], model.backbone.stem.conv.weight)
        loaded = create_classifier("efficientnet-lite0", pretrained=tmp_path / "theirs.pth")
        assert same_tensors(weights_of(loaded), weights_of(model))
