"""Data sets with images of formats that are read by any name, of others, and with the few bits of a sensor in 16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_factory as factory
from odd_images import encoded, photo
from phidet.cli.main import main
from phidet.data.class_folders import open_class_folders
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import make_example, write_record
from pillow_formats import HAS_AVIF, pillow_files

FILES = pillow_files()


def problems(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [(p.kind, Path(p.where).name, p.what) for p in dataset.problems if p.kind != "class names missing"]


def with_psd(root: Path) -> Path:
    """The second image as Photoshop keeps it."""
    [path] = root.rglob("two.png")
    path.unlink()
    path.with_suffix(".psd").write_bytes(FILES["PSD"])
    return root


def test_images_of_formats_that_are_not_read_are_named_in_every_layout(tmp_path: Path) -> None:
    why = "is a PSD (Photoshop) file, which is not read: expected JPEG"
    factory.yolo(tmp_path / "yolo/images/train", tmp_path / "yolo/labels/train")
    dataset = open_data(with_psd(tmp_path / "yolo")).read("train")
    [(kind, where, what)] = problems(dataset)
    assert (len(dataset), kind, where) == (3, "image unreadable", "two.psd")
    assert why in what

    root = with_psd(factory.voc(tmp_path / "voc"))
    dataset = open_data(root).read("train")
    [(kind, where, what)] = problems(dataset)
    assert (len(dataset), kind, where) == (3, "image missing", "two.xml")
    assert what == "no image two in JPEGImages or beside it; two.psd is of a format that is not read; left out"

    labels = with_psd(factory.coco(tmp_path / "coco")) / "annotations/instances_train.json"
    content = json.loads(labels.read_text().replace("two.png", "two.psd"))
    for image in content["images"]:
        del image["width"], image["height"]
    labels.write_text(json.dumps(content))
    dataset = open_data(tmp_path / "coco").read("train")
    [(kind, _, what)] = problems(dataset)
    assert (len(dataset), kind) == (3, "image unreadable")
    assert why in what


def test_class_folders_name_what_they_do_not_search_for(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for picture in factory.PICTURES:
            factory.save_image(tmp_path / label / picture.name, picture)
    with_psd(tmp_path / "cat")
    (tmp_path / "dog/photo.jpg_large").write_bytes(FILES["JPEG"])
    (tmp_path / "dog/notes.md").write_text("text")
    dataset = open_class_folders(tmp_path).read("all")
    rest = "which is not searched for: convert it, or give it the ending of its format; left out"
    assert problems(dataset) == [
        ("image unreadable", "two.psd", f"PSD, {rest}"),
        ("image unreadable", "photo.jpg_large", f"JPEG without an image's ending, {rest}"),
    ]
    assert len(dataset) == 7


def test_the_doctor_lists_images_that_no_reader_searches_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factory.yolo(tmp_path / "images/train", tmp_path / "labels/train")
    for name, content in (("a.psd", b""), ("b.CR2", b""), ("c", FILES["PNG"]), ("d.bin", b"text"), ("e.avif", b"")):
        (tmp_path / name).write_bytes(content)
    main(["doctor", str(tmp_path), "--fast", "--json"])
    assert json.loads(capsys.readouterr().out)["unused_files"] == ["a.psd", "b.CR2", "c", "e.avif"]


@pytest.mark.parametrize("ending", ["avif", "jp2", "ppm", "mpo", "jpe", "dib", "apng", "heic"])
def test_every_ending_of_a_format_that_is_read_is_searched_for(tmp_path: Path, ending: str) -> None:
    """Also where the content is of another format."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / f"images/a.{ending}").write_bytes(encoded(photo(np.random.default_rng(0)), "PNG"))
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    dataset = next(iter(open_data(tmp_path).readers.values()))(None)
    assert [str(name) for name in dataset.names] == [f"images/a.{ending}"]
    assert dataset.image(0).shape == (60, 90, 3)


@pytest.mark.parametrize(
    ("largest", "bits", "said"),
    [(4095, 16, True), (1023, 16, True), (16383, 16, True), (20000, 16, False), (16, 8, True), (17, 8, False)],
)
def test_the_doctor_says_that_images_are_nearly_black(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], largest: int, bits: int, said: bool
) -> None:
    """The few bits of a sensor in a file of 16 are read as they are: nothing in the file tells which value is white."""
    factory.yolo(tmp_path / "images/train", tmp_path / "labels/train")
    values = np.random.default_rng(0).integers(0, largest + 1, (32, 64))
    values[0, 0] = largest
    Image.fromarray(values.astype(f"uint{bits}")).save(tmp_path / "images/train/one.png")
    main(["doctor", str(tmp_path), "--json"])
    report = json.loads(capsys.readouterr().out)
    found = [item for group in report["findings"] if group["kind"] == "image dark" for item in group["items"]]
    assert len(found) == said
    brightest = largest if bits == 8 else round(largest * 255 / 65535)
    for item in found:
        assert item["image"].endswith("one.png")
        assert item["what"].startswith(f"nearly black: no pixel is brighter than {brightest} of 255")
        assert ("16 bits" in item["what"]) == (bits == 16)
    advice = [a["text"] for a in report["advice"] if "nearly black" in a["text"]]
    assert len(advice) == said
    assert report["splits"][0]["images"] == 4  # they can be used all the same


@pytest.mark.parametrize("command", [["doctor"], ["convert-data", "--to", "tfrecord"]])
def test_what_libraries_in_c_say_of_an_image_is_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    factory.yolo(tmp_path / "images/train", tmp_path / "labels/train")
    content = bytearray(encoded(photo(np.random.default_rng(0)).convert("1"), "TIFF", compression="group4"))
    content[20:60] = bytes(byte ^ 0x55 for byte in content[20:60])  # libtiff writes a line for each row of these
    (tmp_path / "images/train/two.png").write_bytes(content)
    out = [str(tmp_path / "out")] if command[0] == "convert-data" else []
    main([*command, str(tmp_path), *out])
    assert "Fax4Decode" not in capfd.readouterr().err


def test_images_without_an_ending_get_one_that_is_searched_for(tmp_path: Path) -> None:
    """From TFRecords, whose images may be called anything."""
    decoded = {"JPEG2000": ".jp2", "PPM": ".ppm", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
    decoded |= {"AVIF": ".avif"} if HAS_AVIF else {}
    records = tmp_path / "train.tfrecord"
    with records.open("wb") as file:
        for form in decoded:
            image = {"image/encoded": [FILES[form]], "image/filename": [form.encode()]}
            box = {f"image/object/bbox/{side}": [edge] for edge, side in ((0.0, "xmin"), (0.0, "ymin"), (1.0, "xmax"))}
            label = {"image/object/class/label": [1], "image/object/class/text": [b"bee"]}
            write_record(file, make_example({**image, **box, "image/object/bbox/ymax": [1.0], **label}))
    assert main(["convert-data", str(records), str(tmp_path / "yolo"), "--to", "yolo"]) == 0
    dataset = open_data(tmp_path / "yolo").read("train")
    assert {Path(str(name)).name for name in dataset.names} == {f"{form}{ending}" for form, ending in decoded.items()}
    assert all(dataset.image(i).shape == (16, 16, 3) for i in range(len(dataset)))
