"""The doctor names everything that is wrong with a folder, and leaves it out of the clean copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from doctor_data import broken_yolo, coco, encoded, hashes, scene, write
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.published import detector_config
from phidet.cli.main import main
from phidet.core.errors import ConfigError
from phidet.data.doctor.examine import Examination, examine
from phidet.data.doctor.fix import write_fixed
from phidet.data.doctor.sheets import choose_samples, write_sheets
from phidet.data.layouts import open_data

LITE0 = detector_config("efficientdet-lite0")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], Examination]:
    folder = tmp_path_factory.mktemp("broken") / "data"
    expected = broken_yolo(folder)
    before = hashes(folder)
    examination = examine(folder, view(LITE0))
    assert hashes(folder) == before
    return folder, expected, examination


view = EFFICIENTDET.doctor_view


def found_by_stem(examination: Examination) -> dict[str, set[str]]:
    """What is said about each file."""
    report = examination.report
    said: dict[str, set[str]] = {}
    for group in report.findings:
        for finding in group.items:
            said.setdefault(Path(finding.where.split(",")[0]).stem, set()).add(group.kind)
    for images in report.duplicate_images:
        said.setdefault(Path(max(m.image for m in images.members if m.split == "val")).stem, set()).add(images.kind)
    for box in report.duplicate_boxes:
        said.setdefault(Path(box.image).stem, set()).add("box twice")
    for file in report.unused_files:
        said.setdefault(Path(file).stem, set()).add("unused")
    return said


def test_each_of_40_broken_things_is_named_and_nothing_else(
    broken: tuple[Path, dict[str, str], Examination],
) -> None:
    _, expected, examination = broken
    assert len(expected) == 40
    assert found_by_stem(examination) == {stem: {kind} for stem, kind in expected.items()}


def test_the_command_prints_each_of_them_with_its_file_and_ends_with_3(
    broken: tuple[Path, dict[str, str], Examination], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, expected, _ = broken
    assert main(["doctor", str(folder), "--most", "100"]) == 3
    out, err = capsys.readouterr()
    assert [stem for stem in expected if stem not in out] == []
    assert err == f"phidet: 1 error in {folder} that would break training, named above\n"
    advice = out[out.rindex("error    15 images cannot be decoded") :]
    assert "LEAKAGE: 1 image is both in train and in val" in " ".join(advice.split())
    assert "LEAKAGE? 1 image in train looks nearly like one in val" in " ".join(advice.split())
    order = [line.split()[0] for line in advice.splitlines() if not line.startswith(" ")]
    assert order == sorted(order, key=["error", "warning", "note"].index)


def test_json_holds_every_finding(
    broken: tuple[Path, dict[str, str], Examination], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, expected, examination = broken
    assert main(["doctor", str(folder), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert {group["kind"]: len(group["items"]) for group in report["findings"]} == {
        kind: list(expected.values()).count(kind)
        for kind in set(expected.values()) - {"near", "same bytes", "box twice", "unused"}
    }
    assert [member["image"] for member in report["duplicate_images"][0]["members"]] == [
        "images/train/good-1.png",
        "images/val/copied.png",
    ]
    train, val = report["splits"]
    headers = 8  # images that only decoding shows to be broken: their readers still count them
    clipped, twice = 1, 2
    assert train["classes"] == {"cat": 18 + clipped + 2 + twice + headers, "dog": 0}
    assert val["classes"] == {"cat": 4, "dog": 2}
    assert report["classes"]["untrained"] == ["dog"]
    assert len(report["advice"]) == len(examination.report.advice)


def test_two_examinations_say_the_same(broken: tuple[Path, dict[str, str], Examination]) -> None:
    folder, _, examination = broken
    assert examine(folder, view(LITE0)).report == examination.report


def test_fast_finds_what_headers_and_bytes_tell(broken: tuple[Path, dict[str, str], Examination]) -> None:
    folder, expected, _ = broken
    fast = found_by_stem(examine(folder, view(LITE0), decode=False))
    decoding = {stem for stem in expected if stem.startswith(("cut", "bad-checksum", "float", "wide", "head"))}
    assert fast == {
        stem: {kind} for stem, kind in expected.items() if kind != "near" and (stem not in decoding or stem in fast)
    }
    assert {"empty-file", "text", "html", "noise", "zeros", "copied", "nan", "not-there"} <= set(fast)
    assert "cut-jpeg" not in fast


def test_the_clean_copy_opens_without_a_finding_and_the_original_stays(
    broken: tuple[Path, dict[str, str], Examination], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, examination = broken
    before = hashes(folder)
    out = tmp_path / "clean"
    assert main(["doctor", str(folder), "--fix", str(out)]) == 3  # the exit code is about DATA
    assert "left out 8 that cannot be used, 1 copies, 1 boxes" in capsys.readouterr().err
    assert hashes(folder) == before
    clean = examine(out, view(LITE0)).report
    assert (clean.findings, clean.duplicate_boxes, clean.unused_files, clean.errors) == ([], [], [], 0)
    assert [group.kind for group in clean.duplicate_images] == ["near"]
    old = {split.name: split for split in examination.report.splits}
    new = {split.name: split for split in clean.splits}
    assert new["val"].images == old["val"].images == 4
    faulty = len(examination.faulty)
    assert new["train"].images == old["train"].images - faulty - 1  # good-1 stays in val, as copied
    assert new["train"].objects == old["train"].objects - faulty - 1 - 1  # and the box that is there twice
    assert new["val"].classes == {"cat": 4, "dog": 2}
    for name, dataset in ((n, open_data(out).read(n)) for n in new):
        for i in range(len(dataset)):
            assert dataset.image(i).shape[:2] == dataset.size_hw(i), name


def test_a_clean_copy_never_goes_into_the_data_or_over_something(
    broken: tuple[Path, dict[str, str], Examination], tmp_path: Path
) -> None:
    folder, _, examination = broken
    with pytest.raises(ConfigError, match=r"is inside the data at .* choose a folder elsewhere"):
        write_fixed(examination, folder / "clean")
    write(tmp_path / "full" / "file", "mine")
    with pytest.raises(ConfigError, match="expected a new or empty folder, and there is something in it"):
        write_fixed(examination, tmp_path / "full")
    assert main(["doctor", str(folder), "--fix", str(folder / "clean")]) == 2
    assert (tmp_path / "full" / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    assert not (folder / "clean").exists()


@pytest.mark.repeated
def test_the_sheets_of_one_seed_are_the_same_bytes_and_show_other_samples_for_another(
    broken: tuple[Path, dict[str, str], Examination], tmp_path: Path
) -> None:
    _, _, examination = broken
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_sheets(examination, tmp_path / name, seed=1 if name == "c" else 0)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert set(hashes(tmp_path / "a")) == {"samples-train.png", "samples-val.png", "suspicious.png"}
    assert hashes(tmp_path / "a")["samples-train.png"] != hashes(tmp_path / "c")["samples-train.png"]


def test_samples_show_every_class_before_they_show_one_again(tmp_path: Path) -> None:
    plain = [(scene(i), [("cat", [10.0, 10, 50, 50])]) for i in range(40)]
    rare = [(scene(100 + i), [(name, [10.0, 10, 50, 50])]) for i, name in enumerate(("dog", "owl", "yak"))]
    dataset = examine(coco(tmp_path, {"train": plain + rare}, ["cat", "dog", "owl", "yak"]), view(LITE0)).datasets[
        "train"
    ]
    for seed in range(5):
        chosen = choose_samples(dataset, {41}, seed, limit=6)
        shown = [dataset.annotations(i).class_ids.tolist()[0] for i in chosen]
        assert sorted(shown[:3]) == [0, 1 if 40 in chosen else 2, 3]
        assert 41 not in chosen
        assert len(set(chosen)) == 6


def test_an_image_of_another_size_than_its_labels_say_is_an_error_and_is_left_out(tmp_path: Path) -> None:
    images = [(scene(i), [("cat", [10.0, 10, 50, 50])]) for i in range(3)]
    folder = coco(tmp_path / "data", {"train": images, "val": [(scene(9), [("cat", [1.0, 1, 30, 40])])]}, ["cat"])
    write(folder / "train" / "train-1.png", encoded(scene(1, (200, 120))))
    for decode in (True, False):
        examination = examine(folder, view(LITE0), decode)
        (group,) = examination.report.findings
        assert (group.kind, group.items[0].where) == ("image size wrong", "train-1.png")
        assert group.items[0].what == "has 200×120 pixels, its labels say 160×120"
        assert examination.faulty == {("train", 1)}
        assert examination.report.advice[0].severity == "error"


def test_two_broken_files_are_errors_and_not_copies_of_each_other(tmp_path: Path) -> None:
    folder = coco(tmp_path, {"train": [(scene(i), [("cat", [10.0, 10, 50, 50])]) for i in range(3)]}, ["cat"])
    for i in range(2):
        write(folder / "train" / f"train-{i}.png", b"")
    for decode in (True, False):
        report = examine(folder, view(LITE0), decode).report
        assert [(group.kind, len(group.items)) for group in report.findings] == [("image unreadable", 2)]
        assert report.duplicate_images == []


def test_a_split_that_cannot_be_read_is_an_error_and_the_others_are_examined(tmp_path: Path) -> None:
    folder = coco(tmp_path, {"train": [(scene(1), [("cat", [10.0, 10, 50, 50])])]}, ["cat"])
    write(folder / "annotations" / "val.json", '{"images": [], "annotations": [')
    report = examine(folder, view(LITE0)).report
    assert [split.name for split in report.splits] == ["train"]
    assert report.findings[0].kind == "split unreadable"
    assert report.advice[0].severity == "error"
    assert "val.json is not JSON" in report.advice[0].text


@pytest.mark.repeated
def test_clean_data_ends_with_0_and_no_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = {
        split: [(scene(i), [("cat", [100.0, 60, 50, 50])]) for i in range(first, first + 25)]
        for split, first in (("train", 0), ("val", 100))
    }
    folder = coco(tmp_path / "data", splits, ["cat"])
    assert main(["doctor", str(folder), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("Nothing to complain about.\n")
    names = [Path(line.removeprefix("wrote ")).name for line in err.splitlines()]
    assert names == ["classes.png", "boxes.png", "samples-train.png", "samples-val.png"]
    for name in names:
        with Image.open(tmp_path / "out" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5
    shutil.rmtree(folder / "val")
    assert main(["doctor", str(folder)]) == 3
    assert "val of" in capsys.readouterr().out
