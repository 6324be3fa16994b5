"""Images are known by what they are: held-out ones stay held out wherever the data lie, and copies are noticed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import data_factory as factory
import peers
from interrupted import interrupted_after
from phidet import train
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.fingerprint import fingerprint, fingerprints, label_fingerprints
from phidet.data.layouts import open_data
from phidet.data.mask_labels import NO_MASK, MaskLabel, image_label, polygons_label
from phidet.data.run_images import KnownImage, RunImages, known_images, places, read_run_images
from phidet.data.tfrecord_file import RecordImage
from phidet.training.run import resume
from test_train_run import QUICK, save_tiny, settings, write_squares

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


def test_a_fingerprint_is_of_the_content_and_not_of_the_name(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.png", "a copy.jpg", "other.png"))
    one.write_bytes(b"pixels")
    copy.write_bytes(b"pixels")
    other.write_bytes(b"pixelt")
    assert fingerprint(one) == fingerprint(copy)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(tmp_path / "missing.png") is None
    assert fingerprint(tmp_path) is None


@pytest.mark.parametrize("place", [0, 700_000, 2_999_999])
def test_a_large_file_is_known_by_its_ends_its_size_and_parts_of_it(place: int, tmp_path: Path) -> None:
    """64 parts of 16 KiB, of 3 MB: about a third. A change as long as the gap between parts is noticed anywhere."""
    content = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8)
    whole, changed, longer = (tmp_path / name for name in ("whole", "changed", "longer"))
    whole.write_bytes(content.tobytes())
    longer.write_bytes(content.tobytes() + b"\0")
    content[place : place + 50_000] ^= 1
    changed.write_bytes(content.tobytes())
    assert len({fingerprint(path) for path in (whole, changed, longer)}) == 3


def test_an_image_in_a_record_is_the_one_in_its_file(tmp_path: Path) -> None:
    """Encoded the same in both, under names that differ."""
    files = open_data(factory.coco(tmp_path / "coco")).read("train")
    records = open_data(factory.tfrecord(tmp_path / "records")).read("train")
    assert isinstance(records.source(0), RecordImage)
    assert fingerprints(files) == fingerprints(records)


def test_copies_are_told_apart_by_their_names_and_each_is_given_once(tmp_path: Path) -> None:
    dataset = open_data(factory.coco(tmp_path)).read("train")
    first = str(dataset.names[0])
    shutil.copyfile(tmp_path / "train" / first, tmp_path / "train" / str(dataset.names[1]))
    known = known_images(dataset)
    assert known[0].fingerprint == known[1].fingerprint
    assert places([known[1]], dataset) == [1]
    assert places([KnownImage(known[0].fingerprint, "moved.png")] * 3, dataset) == [0, 1, None]
    assert places([KnownImage(known[0].fingerprint, "moved.png"), known[0]], dataset) == [1, 0]


def test_the_record_survives_its_file_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    images = RunImages(
        (KnownImage("0" * 16, 'a,"b".png', "3" * 16), KnownImage("", "line\nbreak.png", "4" * 16)),
        (KnownImage("1" * 16, "ä.png"),),
        frozenset({"2" * 16}),
    )
    (tmp_path / "images.csv").write_bytes(images.to_csv())
    assert read_run_images(tmp_path) == images
    assert images.learned == {"0" * 16, "2" * 16}
    assert read_run_images(tmp_path / "nowhere") is None
    for damage in (
        b"",
        b"part,fingerprint\n",
        b"part,fingerprint,name\ntest,1,x\n",
        b"part,fingerprint,name\ntrain\n",
        b"part,fingerprint,name,labels\ntrain,1,x,2,3\n",
        b"\xff",
    ):
        (tmp_path / "images.csv").write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"images\.csv is damaged .*which images the run held out"):
            read_run_images(tmp_path)


def test_labels_have_a_fingerprint_of_what_they_say_and_not_of_where_they_are(tmp_path: Path) -> None:
    dataset = open_data(factory.coco(tmp_path / "one")).read("train")
    found = label_fingerprints(dataset)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert label_fingerprints(open_data(tmp_path / "other").read("train")) == found
    names = dataset.class_names
    swapped = dataset.relabelled([dataset.annotations(i) for i in range(len(dataset))], names[::-1])
    some = next(i for i in range(len(dataset)) if dataset.counts[i])
    a = dataset.annotations(some)
    others = [
        a._replace(boxes_xyxy=a.boxes_xyxy + np.float32(1e-3)),
        a._replace(crowd=~a.crowd),
        a._replace(difficult=~a.difficult),
        a.take(slice(1)) if len(a.crowd) > 1 else a.take(slice(0)),
    ]
    assert label_fingerprints(swapped)[some] != found[some]
    for changed in others:
        parts = [changed if i == some else dataset.annotations(i) for i in range(len(dataset))]
        now = label_fingerprints(dataset.with_annotations(parts))
        assert [i for i in range(len(dataset)) if now[i] != found[i]] == [some]


def test_masks_belong_to_the_fingerprint_of_labels_but_for_their_paths(tmp_path: Path) -> None:
    def made(*labels: MaskLabel) -> list[str]:
        collector = Collector("train", tmp_path, ["a"])
        objects = [RawObject("", (1, 1, 9, 9), "a", mask=label) for label in labels]
        collector.add("a.png", tmp_path / "a.png", (20, 20), objects)
        return label_fingerprints(collector.dataset())

    triangle = polygons_label([[1, 1, 9, 1, 9, 9]])
    assert made(image_label(tmp_path / "x.png", 3)) == made(image_label(tmp_path / "moved" / "x.png", 3))
    different = [
        made(NO_MASK), made(triangle), made(polygons_label([[1, 1, 9, 1, 9, 8]])),
        made(image_label(tmp_path / "x.png", 3)),
        made(image_label(tmp_path / "x.png", 4)), made(image_label(tmp_path / "x.png")),
    ]  # fmt: skip
    assert len({found for (found,) in different}) == len(different)


def test_a_run_refuses_labels_that_changed_and_goes_on_where_it_did_not_record_them(tiny: Path, tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data")
    changes = {"epochs": 2, **QUICK}
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        train(data, tiny, splits=(None, "none"), changes=changes, settings=settings(tmp_path / "run"))
    file = next(data.rglob("*.json"))
    original = file.read_text()
    content = json.loads(original)
    content["annotations"][3]["bbox"][2] -= 1
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"the labels of 1 image have changed since the run began, first those of "):
        resume(tmp_path / "run", settings(tmp_path / "run"))
    file.write_text(original)
    # As a run of an earlier version recorded its images.
    record = tmp_path / "run" / "images.csv"
    rows = list(csv.reader(record.read_text().splitlines()))
    record.write_text("".join(",".join(row[:3]) + "\n" for row in rows))
    resume(tmp_path / "run", settings(tmp_path / "run"))


def evaluated(model: Path, data: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["eval", str(model), str(data), "--json", *words]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_moved_data_are_measured_on_what_the_run_held_out(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Moved, in another layout, with more images, as labels alone or half of it: the very images, and no others."""
    data = write_squares(tmp_path / "data", 12)
    run = train(data, tiny, changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "run")).folder
    held_out = json.loads((run / "report" / "report.json").read_text())
    assert (held_out["summary"]["images"], held_out["trained_on"]) == (2, 0)
    data.rename(tmp_path / "moved")
    assert main(["convert-data", str(tmp_path / "moved"), str(tmp_path / "records"), "--to", "tfrecord"]) == 0
    capsys.readouterr()
    for place in (
        tmp_path / "moved",
        tmp_path / "records",
        tmp_path / "moved" / "annotations" / "instances_train.json",
    ):
        found = evaluated(run, place, capsys)
        assert found["coco"] == held_out["coco"]
        assert found["trained_on"] == 0
    assert "was trained on" not in caplog.text
    write_squares(tmp_path / "moved", 15)  # three more, and other labels for none
    assert evaluated(run, tmp_path / "moved", capsys)["coco"] == held_out["coco"]

    record = read_run_images(run)
    assert record is not None
    lost = tmp_path / "moved" / "train" / record.val[0].name
    lost.unlink()
    assert evaluated(run, tmp_path / "moved", capsys)["trained_on"] == 0
    assert "1 of the 2 images that the run held out are in" in caplog.text
    (tmp_path / "moved" / "train" / record.val[1].name).unlink()
    caplog.clear()
    assert evaluated(run, tmp_path / "moved", capsys)["trained_on"] == 10
    assert "was trained on 10 of these 13 images" in caplog.text


def test_another_split_that_holds_training_images_is_named_with_their_number(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Copies under other names, in training, in its report and in a later evaluation."""
    data = write_squares(write_squares(tmp_path / "data", 6), 4, "val")  # the same generator: the first four are equal
    run = train(data, tiny, changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "run")).folder
    assert "4 of the 4 validation images are among those that the model learns" in caplog.text
    assert json.loads((run / "report" / "report.json").read_text())["trained_on"] == 4
    caplog.clear()
    assert evaluated(run, data, capsys)["trained_on"] == 4
    assert "was trained on 4 of these 4 images" in caplog.text


def test_what_a_model_learned_in_an_earlier_run_is_remembered(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_squares(tmp_path / "first", 6)
    runs = [tmp_path / name for name in ("one", "two")]
    quick = {"changes": {"epochs": 1, **QUICK}, "splits": (None, "none")}
    train(first, tiny, settings=settings(runs[0]), **quick)  # type: ignore[arg-type]
    second = tmp_path / "second"
    shutil.copytree(write_squares(tmp_path / "nine", 9), second)
    train(second, runs[0], settings=settings(runs[1]), **quick)  # type: ignore[arg-type]
    assert evaluated(runs[1], first, capsys)["trained_on"] == 6
    record = read_run_images(runs[1])
    assert record is not None
    assert len(record.train) == 9
    assert len(record.earlier) == 6
    assert not caplog.records or "validation images are among" not in caplog.text


def test_a_run_goes_on_where_its_data_lie_now(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In another place and layout, under names in another order: the same weights to the last bit."""
    data = write_squares(tmp_path / "data", 10)
    changes = {"epochs": 2, **QUICK}
    whole = train(data, tiny, changes=changes, settings=settings(tmp_path / "whole"))
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        train(data, tiny, changes=changes, settings=settings(tmp_path / "run"))
    data.rename(tmp_path / "moved")
    words = ["--resume", str(tmp_path / "run"), "--workers", "0", "--accelerator", "cpu"]
    assert main(["train", *words]) == 3
    message = capsys.readouterr().err
    assert "are no longer at" in message
    assert f"phidet train NEW_PLACE --resume {tmp_path / 'run'}" in message
    reorder(tmp_path / "moved")
    assert main(["train", str(tmp_path / "moved"), *words]) == 0
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["request"]["data"]
    assert kept == str(tmp_path / "moved"), "and from now on by itself"
    again = resume(tmp_path / "run", settings(tmp_path / "run"))
    assert peers.same_tensors(whole.model.state_dict(), again.model.state_dict())
    assert again.metrics == whole.metrics


def reorder(data: Path) -> None:
    """Lists the images of a COCO JSON the other way round, under other names."""
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"].reverse()
    for image in content["images"]:
        (data / "train" / image["file_name"]).rename(data / "train" / f"z{image['file_name']}")
        image["file_name"] = f"z{image['file_name']}"
    file.write_text(json.dumps(content))


def test_a_run_does_not_go_on_with_other_images(tiny: Path, tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", 8)
    run = train(data, tiny, splits=(None, "none"), changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "run"))
    (data / "train" / "3.png").write_bytes((data / "train" / "4.png").read_bytes())
    with pytest.raises(
        InputError, match=r"8 images for train, the run began with 8; 1 of them are missing or have cha"
    ):
        resume(run.folder, settings(run.folder))


def test_runs_of_earlier_versions_know_their_images_by_place(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """They recorded none: what they held out is drawn again, where the data are those that they name."""
    data = write_squares(tmp_path / "data")
    run = train(data, tiny, changes={"epochs": 1, **QUICK}, settings=settings(tmp_path / "run")).folder
    held_out = json.loads((run / "report" / "report.json").read_text())
    (run / "images.csv").unlink()
    for place in (data, data / "annotations" / "instances_train.json"):
        assert evaluated(run, place, capsys)["coco"] == held_out["coco"]
    assert evaluated(run, data, capsys, "--split", "train")["trained_on"] == 8
    caplog.clear()
    write_squares(data, 11)
    assert evaluated(run, data, capsys)["split"] == "train, held out"
    assert "has changed since the run began" in caplog.text
    elsewhere = write_squares(tmp_path / "elsewhere")
    with caplog.at_level("INFO", "phidet"):
        found = evaluated(run, elsewhere, capsys)
    assert (found["split"], found["trained_on"]) == ("train", None)
    assert "did not record its images" in caplog.text
    with pytest.raises(InputError, match="to train on, the run began with"):
        resume(run, settings(run))
