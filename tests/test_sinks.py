"""What is written reads back to what was found, and is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from phidet.core.errors import ConfigError, InputError, PhidetError, UnknownNameError
from phidet.core.files import cut
from phidet.data.layouts import open_data
from phidet.detections.detections import Detections
from phidet.detections.draw import colour
from phidet.detections.sinks import KINDS, open_sinks
from phidet.detections.sinks.base import short_enough
from phidet.images.sources import SourceImage, Unusable
from phidet.images.video import video_frames

NAMES = ("person", "tram stop", "../etc")
BOXES = [(10.25, 20.5, 60.0, 70.0), (0.0, 0.0, 99.0, 80.0), (90.0, 75.0, 120.0, 95.0)]


def picture(name: str = "a.jpg", frame: int | None = None, seed: int = 0) -> SourceImage:
    rows, columns = np.mgrid[:80, :100]
    pixels = np.stack([rows * 3, columns * 2, rows + columns + 10 * seed], axis=-1).astype(np.uint8)
    time_s = None if frame is None else frame / 10
    return SourceImage(f"in/{name}", PurePosixPath(name), pixels, frame, time_s)


def three() -> Detections:
    return Detections(np.array(BOXES), np.array([0.9, 0.5, 0.25]), np.array([0, 1, 2]), NAMES, (80, 100))


def nothing() -> Detections:
    return Detections.empty(NAMES, (80, 100))


def write(kind: str, out: Path, *items: tuple[SourceImage, Detections] | Unusable, names: Sequence[str] = NAMES) -> str:
    [sink] = open_sinks([kind], out, names)
    for item in items:
        if isinstance(item, Unusable):
            sink.skip(item)
        else:
            sink.add(*item)
    return sink.keep()


BROKEN = Unusable("in/b.jpg", InputError("in/b.jpg is damaged:\nvery"))


def test_json_lines(tmp_path: Path) -> None:
    said = write("json", tmp_path, (picture(), three()), BROKEN, (picture("v.mp4", 7), nothing()))
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    head = {"source": "in/a.jpg", "frame": None, "time_s": None}
    assert lines[0] == {**head, **json.loads(three().to_json())}
    assert lines[1] == {"source": "in/b.jpg", "error": "in/b.jpg is damaged:\ufffdvery"}
    assert lines[2] == {
        "source": "in/v.mp4", "frame": 7, "time_s": 0.7, "image_size_hw": [80, 100], "detections": []
    }  # fmt: skip
    assert said == str(tmp_path / "detections.jsonl")


def test_csv_has_a_line_for_each_object_and_commas_do_no_harm(tmp_path: Path) -> None:
    said = write("csv", tmp_path, (picture('a,"b".jpg'), three()), BROKEN, (picture("v.mp4", 3), three()))
    with (tmp_path / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0] == {
        "source": 'in/a,"b".jpg', "frame": "", "time_s": "", "class_id": "0", "label": "person", "score": "0.9",
        "x1": "10.25", "y1": "20.5", "x2": "60.0", "y2": "70.0", "image_width": "100", "image_height": "80",
    }  # fmt: skip
    assert (rows[3]["frame"], rows[3]["time_s"]) == ("3", "0.3")
    assert said.endswith("detections.csv (6 objects)")


def test_coco_results_evaluate_to_one_against_the_same_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["000000000139.jpg", "deep/7.png", "photo.jpg", "other/7.png", "9.jpg", "0.jpg"]
    write("coco", tmp_path, *((picture(name), three()) for name in names), BROKEN)
    images = json.loads((tmp_path / "coco-images.json").read_text())
    ids = {image["file_name"]: image["id"] for image in images["images"]}
    assert ids == {"000000000139.jpg": 139, "deep/7.png": 7, "photo.jpg": 1, "other/7.png": 2, "9.jpg": 9, "0.jpg": 3}
    assert [r.getMessage() for r in caplog.records] == [
        "other/7.png is not image 7 of the COCO results: an earlier image has that number"
    ]
    assert images["categories"] == [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    results = json.loads((tmp_path / "coco-results.json").read_text())
    assert results[0] == {"image_id": 139, "category_id": 1, "bbox": [10.25, 20.5, 49.75, 49.5], "score": 0.9}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = images | {
            "annotations": [
                {**r, "id": n, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for n, r in enumerate(results, 1)
            ]
        }
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "coco-results.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert evaluator.stats[0] == pytest.approx(1.0)


def test_coco_without_images_is_valid_json(tmp_path: Path) -> None:
    write("coco", tmp_path)
    assert json.loads((tmp_path / "coco-results.json").read_text()) == []
    assert json.loads((tmp_path / "coco-images.json").read_text())["images"] == []


def test_no_image_gets_the_number_that_another_file_is_called_by(tmp_path: Path) -> None:
    """Whatever came before it; so the results fit annotations that have those numbers."""
    items = [picture("clip.mp4", 0), picture("clip.mp4", 1), picture("(cover).png"), picture("1.png"), picture("3.png")]
    write("coco", tmp_path, *((item, three()) for item in items))
    images = json.loads((tmp_path / "coco-images.json").read_text())["images"]
    ids = [(image["file_name"], image.get("frame"), image["id"]) for image in images]
    assert ids == [
        ("1.png", None, 1), ("3.png", None, 3), ("clip.mp4", 0, 2), ("clip.mp4", 1, 4), ("(cover).png", None, 5)
    ]  # fmt: skip
    results = json.loads((tmp_path / "coco-results.json").read_text())
    assert [r["image_id"] for r in results] == [i for i in (1, 3, 2, 4, 5) for _ in range(3)]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "v.mp4", "v.mov", "v.mkv"])
def test_nothing_is_drawn_over_what_no_earlier_run_drew(name: str, tmp_path: Path) -> None:
    frame = 0 if name.startswith("v") else None
    if frame is not None:
        pytest.importorskip("av")
    for _ in range(2):  # its own file it may replace
        write("images", tmp_path, (picture(name, frame), three()))
    (tmp_path / name).write_bytes(b"somebody's")
    with pytest.raises(
        ConfigError, match=rf"{name} was not written by phidet, and would be overwritten: choose another"
    ):
        write("images", tmp_path, (picture(name, frame), three()))
    assert (tmp_path / name).read_bytes() == b"somebody's"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_crop_does_not_go_over_somebodys_image(tmp_path: Path) -> None:
    for _ in range(2):
        write("crops", tmp_path, (picture(), three()))
    (tmp_path / "crops" / "person" / "a-1.jpg").write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match=r"a-1\.jpg was not written by phidet"):
        write("crops", tmp_path, (picture(), three()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("letter", ["x", "ü", "漢"])
def test_a_name_as_long_as_can_be_is_cut(
    kind: str, letter: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = letter * (251 // len(letter.encode()))
    write(kind, tmp_path, *((picture(f"{long}.{ending}"), three()) for ending in ("png", "bmp", "jpg")))
    assert kind != "yolo" or len(caplog.records) == 2, "of three with one name, not of the first"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == {
        "images": 3,
        "yolo": 5,
        "crops": 9,
        "coco": 2,
        "instances": 3,
        "panoptic": 4,
        "semantic": 4,
    }.get(kind, 1)


def test_halves_of_letters_can_be_cut() -> None:
    """As Windows' names may have them, and Linux' names other bytes."""
    for odd in ("\ud83d", "\udcff"):
        assert cut(odd * 200) == ""
        assert len(short_enough(PurePosixPath(odd * 400 + ".jpg")).name) <= 220


def test_where_results_cannot_wait_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("phidet.detections.sinks.coco.TemporaryFile", full)
    with pytest.raises(PhidetError, match="No space left on device"):
        open_sinks(["coco"], tmp_path, NAMES)
    assert not list(tmp_path.iterdir())


def test_a_video_that_a_full_disk_cuts_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    [sink] = open_sinks(["images"], tmp_path, NAMES)
    sink.add(picture("v.mp4", 0), three())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PhidetError, match="No space left on device"):
        sink.add(picture("v.mp4", 0), three())  # the next video
    sink.discard()
    assert not list(tmp_path.iterdir())


def test_yolo_text_is_read_as_labels_by_the_reader_of_data_sets(tmp_path: Path) -> None:
    said = write("yolo", tmp_path, (picture(), three()), (picture("b.png"), nothing()), BROKEN)
    assert said.endswith("labels (2 files)")
    assert (tmp_path / "labels" / "b.txt").read_text() == ""
    lines = (tmp_path / "labels" / "a.txt").read_text().splitlines()
    assert lines[0] == "0 0.351250 0.565625 0.497500 0.618750 0.900000"
    assert (tmp_path / "classes.txt").read_text().splitlines() == list(NAMES)
    folder = tmp_path / "set"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(picture().image).save(folder / "images" / "a.jpg")
    without_scores = [line.rsplit(" ", 1)[0] for line in lines[:2]]
    (folder / "labels" / "a.txt").write_text("\n".join(without_scores))
    (folder / "data.yaml").write_text(f"train: images\nnames: {json.dumps(list(NAMES))}\n")
    read = open_data(folder).read("train").annotations(0)
    assert read.boxes_xyxy == pytest.approx(np.array(BOXES[:2]), abs=1e-3)
    assert read.class_ids.tolist() == [0, 1]


def test_crops_are_the_pixels_that_a_box_touches_in_a_folder_for_each_class(tmp_path: Path) -> None:
    shown = picture("deep/a.png")
    said = write("crops", tmp_path, (shown, three()), (picture("v.mp4", 12), three()), BROKEN)
    files = sorted(str(p.relative_to(tmp_path / "crops")) for p in tmp_path.rglob("*.*"))
    assert files == sorted(
        [f"{folder}/{name}-{n}.jpg" for name in ("deep/a", "v-000012")
         for n, folder in enumerate(("person", "tram stop", "_etc"), 1)]
    )  # fmt: skip
    assert said.endswith("crops (6 crops)")
    with Image.open(tmp_path / "crops" / "person" / "deep" / "a-1.jpg") as image:
        crop = np.asarray(image, np.int16)
    assert crop.shape == (50, 50, 3)  # 10.25 … 60 and 20.5 … 70
    assert np.abs(crop - shown.image[20:70, 10:60]).mean() < 6  # JPEG
    with Image.open(tmp_path / "crops" / "_etc" / "deep" / "a-3.jpg") as clipped:
        assert clipped.size == (10, 5)


@pytest.mark.parametrize(
    ("name", "written", "form"),
    [
        ("a.jpg", "a.jpg", "JPEG"),
        ("b/c.JPEG", "b/c.JPEG", "JPEG"),
        ("a.jfif", "a.jfif", "JPEG"),
        ("a.png", "a.png", "PNG"),
        ("a.webp", "a.webp", "WEBP"),
        ("a.bmp", "a.bmp.png", "PNG"),
        ("a.gif", "a.gif.png", "PNG"),
        ("photo", "photo.png", "PNG"),
    ],
)
def test_annotated_images_keep_their_names(name: str, written: str, form: str, tmp_path: Path) -> None:
    said = write("images", tmp_path, (picture(name), three()), BROKEN)
    [path] = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert path == tmp_path / written
    expected = np.asarray(three().draw(picture().image), np.int16)
    with Image.open(path) as image:
        assert image.format == form
        lost = np.abs(np.asarray(image, np.int16) - expected).mean()
    assert lost <= {"PNG": 0, "JPEG": 4, "WEBP": 10}[form]  # WebP has one colour for four pixels
    assert said == f"{tmp_path} (1 image)"


def test_what_a_format_cannot_hold_becomes_png(tmp_path: Path) -> None:
    wide = SourceImage("w.webp", PurePosixPath("w.webp"), np.zeros((2, 17_000, 3), np.uint8))
    write("images", tmp_path, (wide, Detections.empty(NAMES, (2, 17_000))))
    with Image.open(tmp_path / "w.webp.png") as image:
        assert image.size == (17_000, 2)


def test_equal_names_from_several_folders_stay_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [(picture(name, seed=seed), nothing()) for seed, name in enumerate(("a.png", "A.png", "a.png", "a-2.png"))]
    write("images", tmp_path, *items)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["A-2.png", "a-2-2.png", "a-3.png", "a.png"]
    for seed, name in enumerate(("a.png", "A-2.png", "a-3.png", "a-2-2.png")):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), picture(seed=seed).image)
    write("yolo", tmp_path / "y", (picture("b.png"), nothing()), (picture("b.jpg"), nothing()))
    assert [r.getMessage() for r in caplog.records] == [
        "the labels of in/b.jpg are in b-2.txt: another image has that name"
    ]
    assert sorted(p.name for p in (tmp_path / "y" / "labels").glob("*.txt")) == ["b-2.txt", "b.txt"]
    write("images", tmp_path / "p", (picture("c.bmp"), nothing()), (picture("c.bmp.png"), nothing()))
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["c.bmp-2.png", "c.bmp.png"]
    write("coco", tmp_path / "c", (picture("d.png"), nothing()), (picture("d.png"), nothing()))
    images = json.loads((tmp_path / "c" / "coco-images.json").read_text())["images"]
    named = [(image["file_name"], image["source"]) for image in images]
    assert named == [("d.png", "in/d.png"), ("d-2.png", "in/d.png")]


def test_drawn_images_keep_out_of_other_outputs(tmp_path: Path) -> None:
    """Images lie in folders of any name, also that of a kind of output."""
    names = ["panoptic/a.png", "Instances/a.png", "labels/a.png", "coco/a.png"]
    sinks = open_sinks(["images", "panoptic", "instances", "yolo"], tmp_path, NAMES)
    for name in names:
        for sink in sinks:
            sink.add(picture(name), three())
    for sink in sinks:
        sink.keep()
    drawn = ["panoptic-images/a.png", "Instances-images/a.png", "labels-images/a.png", "coco/a.png"]
    for name in drawn:
        with Image.open(tmp_path / name) as image:
            assert image.size == (100, 80)
    with Image.open(tmp_path / "panoptic/panoptic/a.png") as image:
        assert set(np.unique(np.asarray(image))) <= {0, 1, 2, 3}
    with Image.open(tmp_path / "instances/panoptic/a.png") as image:
        assert image.mode != "RGB"


def test_panoptic_names_tell_images_and_frames_apart(tmp_path: Path) -> None:
    one, other = picture("a.jpg"), picture("a.jpg")._replace(source="other/a.jpg")
    frames = [picture("clip.mp4", i) for i in range(2)]
    bad = picture("b\udcff.jpg")
    write("panoptic", tmp_path, *((item, three()) for item in (one, other, *frames, bad)))
    images = json.loads((tmp_path / "panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [
        "a.jpg", "a-2.jpg", "clip-000000.png", "clip-000001.png", "b\ufffd.jpg",
    ]  # fmt: skip
    assert [(image["source"], image.get("frame")) for image in images[1:4]] == [
        ("other/a.jpg", None), ("in/clip.mp4", 0), ("in/clip.mp4", 1),
    ]  # fmt: skip


def test_videos_are_drawn_on_frame_by_frame(tmp_path: Path) -> None:
    pytest.importorskip("av")
    grey = np.full((80, 100, 3), 90, np.uint8)
    frames = [SourceImage("v.avi", PurePosixPath("v.avi"), grey, i, i / 10) for i in range(5)]
    said = write("images", tmp_path, *((f, three()) for f in frames), (picture("z.jpg"), nothing()))
    assert said == f"{tmp_path} (1 image and 1 video)"
    read = list(video_frames(tmp_path / "v.avi.mp4"))
    assert [f.time_s for f in read] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert np.abs(read[2].image[30:60, 10:14].astype(int) - colour(0)).sum(axis=-1).min() < 120  # the frame's left side


@pytest.mark.parametrize("kind", KINDS)
def test_discarded_there_are_no_parts_and_what_was_there_stays(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path, (picture(), three()))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    [sink] = open_sinks([kind], tmp_path, NAMES)
    sink.skip(BROKEN)
    sink.discard()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_written_to_is_told(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PhidetError, match=r"cannot write .*file/.*: Not a directory"):
        write(kind, tmp_path / "file" / "x", (picture(), three()))


def test_unknown_kinds_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown kind of output 'image'\. Did you mean images"):
        open_sinks(["json", "image"], tmp_path / "out", NAMES)
    assert not (tmp_path / "out").exists()
