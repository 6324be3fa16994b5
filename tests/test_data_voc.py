"""Pascal VOC as tools leave it: file names that lie, folders, lists of all kinds, fractions, encodings, hostile XML."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.readers.voc import AnnotationFiles

BOX = (26, 87, 60, 114)


def save(path: Path, size_wh: tuple[int, int] = (160, 120)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh).save(path)
    return path


def xml(
    file_name: str | None = None,
    box: Sequence[float | str] = BOX,
    size_wh: tuple[int, int] | None = (160, 120),
    class_name: str = "cat",
) -> str:
    sides = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    size = "" if size_wh is None else f"<size><width>{size_wh[0]}</width><height>{size_wh[1]}</height></size>"
    named = "" if file_name is None else f"<filename>{file_name}</filename>"
    return f"<annotation>{named}{size}<object><name>{class_name}</name><bndbox>{sides}</bndbox></object></annotation>"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def voc(root: Path, images: Sequence[str], split: str | None = None) -> Path:
    """Annotation files of the names of images, which they name rightly."""
    for name in images:
        save(root / "JPEGImages" / name)
        write((root / "Annotations" / name).with_suffix(".xml"), xml(name))
    if split is not None:
        write(root / "ImageSets/Main/train.txt", split)
    return root


def boxes(dataset: Dataset) -> dict[str, list[list[float]]]:
    return {str(n): dataset.annotations(i).boxes_xyxy.tolist() for i, n in enumerate(dataset.names)}


# Where lists of splits lie


@pytest.mark.parametrize(
    ("folder", "train", "val"),
    [
        ("Annotations", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
        ("annotations", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
        ("Annotations", "imagesets/main/train.txt", "imagesets/main/val.txt"),
        ("Annotations", "ImageSets/Main/train.TXT", "ImageSets/Main/val.TXT"),
        ("Annotations", "ImageSets/train.txt", "ImageSets/val.txt"),
        ("annotations", "train.txt", "valid.txt"),  # PaddleDetection's, with pairs of paths
    ],
)
def test_lists_of_splits_are_found(folder: str, train: str, val: str, tmp_path: Path) -> None:
    voc(tmp_path, [f"{i}.jpg" for i in range(4)])
    (tmp_path / "Annotations").rename(tmp_path / folder)
    pairs = "/" not in train
    for file, names in ((train, (0, 1)), (val, (2, 3))):
        lines = [f"JPEGImages/{i}.jpg {folder}/{i}.xml" if pairs else str(i) for i in names]
        write(tmp_path / file, "\n".join(lines))
    data = open_data(tmp_path)
    assert data.splits == (Path(train).stem, Path(val).stem)
    assert [sorted(data.read(split).names) for split in data.splits] == [
        ["JPEGImages/0.jpg", "JPEGImages/1.jpg"],
        ["JPEGImages/2.jpg", "JPEGImages/3.jpg"],
    ]
    assert data.read(data.splits[0]).problems == []


def test_a_text_about_something_else_is_no_list_of_a_split(tmp_path: Path) -> None:
    voc(tmp_path, ["0.jpg"])
    write(tmp_path / "train.txt", "how to train\n")
    assert open_data(tmp_path).splits == ("all",)


# What tools write beside the box


@pytest.mark.parametrize(
    ("written", "hard"),
    [("0", False), ("1", True), ("False", False), ("true", True), ("Unspecified", False), ("", False)],
)
def test_difficult_in_words(tmp_path: Path, written: str, hard: bool) -> None:
    save(tmp_path / "JPEGImages/0.jpg")
    text = xml("0.jpg").replace("</object>", f"<difficult>{written}</difficult></object>")
    write(tmp_path / "Annotations/0.xml", text)
    assert open_data(tmp_path).read("all").annotations(0).difficult.tolist() == [hard]


def test_difficult_that_is_neither_is_named(tmp_path: Path) -> None:
    voc(tmp_path, ["0.jpg", "1.jpg"])
    text = xml("0.jpg").replace("</object>", "<difficult>perhaps</difficult></object>")
    write(tmp_path / "Annotations/0.xml", text)
    dataset = open_data(tmp_path).read("all")
    assert [p.kind for p in dataset.problems] == ["label unreadable"]
    assert "difficult: could not convert string to float: 'perhaps'; left out" in dataset.problems[0].what


def test_a_turned_box_becomes_the_upright_one_around_it(tmp_path: Path) -> None:
    """As CVAT writes it."""
    save(tmp_path / "JPEGImages/0.jpg", (160, 120))
    turned = "<attributes><attribute><name>rotation</name><value>270.0</value></attribute></attributes></object>"
    text = xml("0.jpg", (20, 50, 120, 60), (160, 120)).replace("</object>", turned)
    write(tmp_path / "Annotations/0.xml", text)
    dataset = open_data(tmp_path).read("all")
    assert boxes(dataset) == {"JPEGImages/0.jpg": [[65, 5, 75, 105]]}
    assert [p.kind for p in dataset.problems] == ["box turned"]


def test_names_are_compared_without_a_namespace(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/0.jpg")
    text = xml("0.jpg", (1, 2, 30, 40)).replace("<annotation>", '<annotation xmlns="http://example.com/voc">')
    write(tmp_path / "Annotations/0.xml", text)
    dataset = open_data(tmp_path).read("all")
    assert (boxes(dataset), dataset.class_names) == ({"JPEGImages/0.jpg": [[1, 2, 30, 40]]}, ("cat",))


# Which image the labels are about


def test_boxes_stay_with_the_image_of_the_files_own_name_and_a_stale_file_name_is_named(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"JPEGImages/{i}.jpg")
        write(tmp_path / f"Annotations/{i}.xml", xml(f"{(i + 1) % 4}.jpg", (i, 10, 50, 60)))
    dataset = open_data(tmp_path).read("all")
    assert boxes(dataset) == {f"JPEGImages/{i}.jpg": [[i, 10, 50, 60]] for i in range(4)}
    assert [p.kind for p in dataset.problems] == ["image misnamed"] * 4
    assert dataset.problems[0].where.endswith("0.xml")
    assert (
        "<filename> is 1.jpg, but this file has the name of 0.jpg: its boxes are used for 0.jpg"
        in dataset.problems[0].what
    )


def test_the_size_decides_where_only_the_named_image_has_it(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/0.jpg", (80, 60))
    save(tmp_path / "JPEGImages/photo.jpg")
    write(tmp_path / "Annotations/0.xml", xml("photo.jpg"))
    dataset = open_data(tmp_path).read("all")
    assert dataset.names.tolist() == ["JPEGImages/photo.jpg"]
    assert "used for photo.jpg, which has the size that is labelled" in dataset.problems[0].what


@pytest.mark.parametrize("file_name", ["old.jpg", "C:\\Users\\Ann\\old.jpg", "", None, "0", "0.jpeg", "day/0.png"])
def test_a_file_name_that_is_no_image_here_is_nothing_to_speak_of(tmp_path: Path, file_name: str | None) -> None:
    save(tmp_path / "JPEGImages/0.jpg")
    write(tmp_path / "Annotations/0.xml", xml(file_name))
    dataset = open_data(tmp_path).read("all")
    assert (dataset.names.tolist(), dataset.problems) == (["JPEGImages/0.jpg"], [])


def test_without_an_image_of_its_own_name_the_named_one_is_meant_unless_it_has_labels(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/photo.jpg")
    write(tmp_path / "Annotations/label-7.xml", xml("E:\\set\\photo.JPG"))
    dataset = open_data(tmp_path).read("all")
    assert (dataset.names.tolist(), dataset.problems) == (["JPEGImages/photo.jpg"], [])
    write(tmp_path / "Annotations/photo.xml", xml("photo.jpg", (1, 2, 30, 40)))
    dataset = open_data(tmp_path).read("all")
    assert boxes(dataset) == {"JPEGImages/photo.jpg": [[1, 2, 30, 40]]}
    assert [p.kind for p in dataset.problems] == ["image missing"]
    assert "<filename> is photo.jpg, which has labels of its own" in dataset.problems[0].what


@pytest.mark.parametrize("file_name", ["1", "1.png", "old/1.JPG"])
def test_a_stale_file_name_is_named_in_any_spelling(tmp_path: Path, file_name: str) -> None:
    for i in range(2):
        save(tmp_path / f"JPEGImages/{i}.jpg")
    write(tmp_path / "Annotations/0.xml", xml(file_name))
    dataset = open_data(tmp_path).read("all")
    assert (dataset.names.tolist(), [p.kind for p in dataset.problems]) == (["JPEGImages/0.jpg"], ["image misnamed"])


def test_files_that_are_named_after_the_whole_name_of_the_image(tmp_path: Path) -> None:
    for name in ("0.jpg", "1.png"):
        save(tmp_path / "JPEGImages" / name)
        write(tmp_path / f"Annotations/{name}.xml", xml())
    write(tmp_path / "ImageSets/Main/train.txt", "0\n1.png\n")
    dataset = open_data(tmp_path).read("train")
    assert (dataset.names.tolist(), dataset.problems) == (["JPEGImages/0.jpg", "JPEGImages/1.png"], [])


def test_of_two_images_with_one_stem_the_file_name_means_one(tmp_path: Path) -> None:
    for name in ("0.jpg", "0.png"):
        save(tmp_path / "JPEGImages" / name)
    write(tmp_path / "Annotations/0.xml", xml("0.png"))
    assert open_data(tmp_path).read("all").names.tolist() == ["JPEGImages/0.png"]
    write(tmp_path / "Annotations/0.xml", xml("other.png"))
    with pytest.raises(InputError, match=r"2 images could be it, 0\.jpg, 0\.png; left out"):
        open_data(tmp_path).read("all")


@pytest.mark.parametrize("file_name", ["{}/0.jpg", "0.jpg"])
@pytest.mark.parametrize(
    "split", [None, "day/0\nnight/0\n", "day/0.jpg\nnight/0.jpg", "JPEGImages/day/0.jpg\n.\\night\\0"]
)
def test_folders_below_annotations(tmp_path: Path, file_name: str, split: str | None) -> None:
    for x, folder in enumerate(("day", "night")):
        save(tmp_path / f"JPEGImages/{folder}/0.jpg")
        write(tmp_path / f"Annotations/{folder}/0.xml", xml(file_name.format(folder), (x, 10, 50, 60)))
    if split is not None:
        write(tmp_path / "ImageSets/Main/train.txt", split)
    dataset = open_data(tmp_path).read("train" if split is not None else "all")
    assert boxes(dataset) == {f"JPEGImages/{f}/0.jpg": [[x, 10, 50, 60]] for x, f in enumerate(("day", "night"))}
    assert dataset.problems == []


def test_flat_annotations_of_images_in_folders_and_the_other_way_round(tmp_path: Path) -> None:
    save(tmp_path / "a/JPEGImages/day/0.jpg")
    write(tmp_path / "a/Annotations/0.xml", xml("0.jpg"))
    assert open_data(tmp_path / "a").read("all").names.tolist() == ["JPEGImages/day/0.jpg"]
    save(tmp_path / "b/JPEGImages/0.jpg")
    write(tmp_path / "b/Annotations/day/0.xml", xml("0.jpg"))
    assert open_data(tmp_path / "b").read("all").names.tolist() == ["JPEGImages/0.jpg"]


def test_an_image_in_a_folder_of_another_name_is_another_image(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/night/0.jpg")
    save(tmp_path / "JPEGImages/day/1.jpg")
    for i in range(2):
        write(tmp_path / f"Annotations/day/{i}.xml", xml(f"{i}.jpg"))
    dataset = open_data(tmp_path).read("all")
    assert dataset.names.tolist() == ["JPEGImages/day/1.jpg"]
    assert [(p.kind, Path(p.where).name) for p in dataset.problems] == [("image missing", "0.xml")]


@pytest.mark.parametrize("image", ["P0.JPG", "p0.Png"])
def test_capital_endings(tmp_path: Path, image: str) -> None:
    save(tmp_path / "JPEGImages" / image)
    write(tmp_path / f"Annotations/{Path(image).stem}.XML", xml(image))
    assert open_data(tmp_path).read("all").names.tolist() == [f"JPEGImages/{image}"]
    write(tmp_path / "ImageSets/Main/train.txt", Path(image).stem)
    assert open_data(tmp_path).read("train").names.tolist() == [f"JPEGImages/{image}"]


def test_decomposed_names_and_classes(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Kühe") for form in ("NFC", "NFD"))
    save(tmp_path / f"JPEGImages/{decomposed}.jpg")
    save(tmp_path / "JPEGImages/b.jpg")
    write(tmp_path / f"Annotations/{composed}.xml", xml(f"{composed}.jpg", class_name=composed))
    write(tmp_path / "Annotations/b.xml", xml("b.jpg", class_name=decomposed))
    write(tmp_path / "ImageSets/Main/train.txt", f"{decomposed}\nb\n")
    dataset = open_data(tmp_path).read("train")
    assert (len(dataset), dataset.problems, dataset.class_names) == (2, [], (composed,))


def test_the_folder_in_the_labels_decides_between_images_of_one_name(tmp_path: Path) -> None:
    for x, folder in enumerate(("day", "night")):
        save(tmp_path / f"JPEGImages/{folder}/0.jpg")
        text = xml("0.jpg", (x, 10, 50, 60)).replace("<filename>", f"<folder>{folder}</folder><filename>")
        write(tmp_path / f"Annotations/{folder}_0.xml", text)
    expected = {f"JPEGImages/{f}/0.jpg": [[x, 10, 50, 60]] for x, f in enumerate(("day", "night"))}
    assert boxes(open_data(tmp_path).read("all")) == expected


def test_what_lies_around_the_data_is_not_searched(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/0.jpg")
    save(tmp_path / "1.jpg")
    for i in range(2):
        write(tmp_path / f"data/{i}.xml", xml(f"{i}.jpg"))
    dataset = open_data(tmp_path / "data").read("all")
    assert [dataset.source(i) for i in range(len(dataset))] == [tmp_path / "1.jpg"]
    assert [Path(p.where).name for p in dataset.problems] == ["0.xml"]


# Lists


@pytest.mark.parametrize(
    "line",
    [
        "with space",
        "with space.jpg",
        "with space.xml",
        "with space 1",
        "with space  -1",
        "JPEGImages/with space.jpg",
        "./with space",
        "/home/ann/VOC2012/JPEGImages/with space.jpg",
        "C:\\VOC\\Annotations\\with space.xml",
        "/somewhere/else/with space.png",
        "With Space.JPG",
    ],
)
def test_lines_of_lists(tmp_path: Path, line: str) -> None:
    voc(tmp_path, ["with space.jpg", "v1.2 frame.jpg"])
    listed = write(tmp_path / "list.txt", f"{line}\n\nv1.2 frame\n")
    annotations = tmp_path / "Annotations"
    assert AnnotationFiles(annotations).listed(listed) == [
        annotations / "with space.xml",
        annotations / "v1.2 frame.xml",
    ]


def test_lists_of_pairs_and_names_that_are_not_there(tmp_path: Path) -> None:
    voc(tmp_path, ["a.jpg", "b.jpg"])
    annotations = tmp_path / "Annotations"
    lines = "JPEGImages/a.jpg Annotations/a.xml\nb.jpg b.xml\nc 1\nd a\n"
    expected = [annotations / f"{name}.xml" for name in ("a", "b", "c", "d a")]
    assert AnnotationFiles(annotations).listed(write(tmp_path / "list.txt", lines, "utf-16")) == expected
    write(tmp_path / "ImageSets/Main/train.txt", lines)
    dataset = open_data(tmp_path).read("train")
    assert dataset.names.tolist() == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert [Path(p.where).name for p in dataset.problems] == ["c.xml", "d a.xml"]


def test_lists_of_one_class_are_no_splits_and_other_names_with_underscores_are(tmp_path: Path) -> None:
    voc(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    for name, text in {
        "train": "a\nb\n", "cat_train": "a 1\nb -1\n", "traffic_light_train": "a -1\nb 1\n", "my_val": "c\n"
    }.items():  # fmt: skip
        write(tmp_path / f"ImageSets/Main/{name}.txt", text)
    folder = open_data(tmp_path)
    assert folder.splits == ("my_val", "train")
    assert folder.read("my_val").names.tolist() == ["JPEGImages/c.jpg"]


def test_folders_of_splits_without_lists_are_splits_and_years_are_not(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        voc(tmp_path / "splits" / split, [f"{split}.jpg"])
    folder = open_data(tmp_path / "splits")
    assert (folder.train_split(), folder.val_split()) == ("train", "valid")
    assert folder.read("valid").names.tolist() == ["valid/JPEGImages/valid.jpg"]
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / "years" / year, ["a.jpg"])
    assert open_data(tmp_path / "years").splits == ("all",)


# Boxes


def test_boxes_in_fractions_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/0.jpg")
    write(tmp_path / "Annotations/0.xml", xml("0.jpg", (0.1625, 0.725, 0.375, 0.95), None))
    with pytest.raises(InputError, match=r"0\.xml, object 1: 1 of 1 boxes look like fractions"):
        open_data(tmp_path).read("all")


# Text


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", None),
        ("utf-8-sig", "utf-8"),
        ("utf-16", None),
        ("utf-16", "UTF-16"),
        ("utf-8", "utf-16"),  # .NET declares what it holds in memory
        ("utf-16-le", "utf-8"),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "windows-1252"),
        ("gb2312", "GB2312"),
        ("shift_jis", "Shift_JIS"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, declared: str | None) -> None:
    class_name = "牛" if encoding in ("gb2312", "shift_jis") else "Kühe"
    save(tmp_path / "JPEGImages/0.jpg")
    head = "" if declared is None else f'<?xml version="1.0" encoding="{declared}"?>\n'
    write(tmp_path / "Annotations/0.xml", head + xml("0.jpg", class_name=class_name), encoding)
    dataset = open_data(tmp_path).read("all")
    assert (dataset.class_names, dataset.problems) == ((class_name,), [])


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("", "is not UTF-8: byte 0xFC in line 1"),
        ('<?xml version="1.0" encoding="utf-8"?>\n', "is not UTF-8: byte 0xFC in line 2"),
        ('<?xml version="1.0" encoding="gb2312"?>\n', "'gb2312' codec can't decode"),
        ('<?xml version="1.0" encoding="rot13"?>\n', "rot13"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, head: str, says: str) -> None:
    voc(tmp_path, ["0.jpg", "1.jpg"])
    write(tmp_path / "Annotations/0.xml", head + xml("0.jpg", class_name="Kü"), "latin-1")
    dataset = open_data(tmp_path).read("all")
    assert dataset.names.tolist() == ["JPEGImages/1.jpg"]
    assert [p.kind for p in dataset.problems] == ["label unreadable"]
    assert says in dataset.problems[0].what


def test_files_in_an_encoding_of_several_bytes_are_recognised_beside_their_images(tmp_path: Path) -> None:
    save(tmp_path / "train/0.jpg")
    head = '<?xml version="1.0" encoding="gbk"?>\n<!-- 牛 -->\n'
    write(tmp_path / "train/0.xml", head + xml("0.jpg", class_name="牛"), "gbk")
    assert open_data(tmp_path).read("train").class_names == ("牛",)


def bomb() -> str:
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    return f'<!DOCTYPE a [<!ENTITY e0 "lol">{levels}]><annotation><filename>&e11;</filename></annotation>'


def external() -> str:
    return '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><filename>&x;</filename></annotation>'


def remote_dtd() -> str:
    return '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">' + xml("0.jpg")


def deep() -> str:
    return "<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>"


@pytest.mark.parametrize("hostile", [bomb, external, deep, remote_dtd])
def test_hostile_xml_is_one_problem_at_most(tmp_path: Path, hostile: Callable[[], str]) -> None:
    voc(tmp_path, ["0.jpg", "1.jpg"])
    write(tmp_path / "Annotations/0.xml", hostile())
    dataset = open_data(tmp_path).read("all")
    assert "JPEGImages/1.jpg" in dataset.names
    assert [p.kind for p in dataset.problems] in ([], ["label unreadable"])
