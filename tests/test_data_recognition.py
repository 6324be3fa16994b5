"""A layout is chosen because files hold what it says; what lies beside the data decides nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import data_factory as factory
from phidet.cli.main import main
from phidet.core.errors import InputError, UnknownNameError
from phidet.data.doctor.unused import unused_files
from phidet.data.layouts import open_data

POM = '<?xml version="1.0"?><project><modelVersion>4.0.0</modelVersion></project>'
AUX = "<PAMDataset><Metadata><MDI key='AREA_OR_POINT'>Area</MDI></Metadata></PAMDataset>"
APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        \xff\xfe\0\0"


def yolo_with_yaml(root: Path) -> Path:
    factory.yolo(root / "images/train", root / "labels/train")
    factory.data_yaml(root / "data.yaml", train="images/train", val="images/train")
    return root


def bare_yolo(root: Path) -> Path:
    factory.yolo(root / "images/train", root / "labels/train")
    factory.write_text(root / "classes.txt", "\n".join(factory.CLASSES))
    return root


def voc_beside_images(root: Path) -> Path:
    for p in factory.PICTURES:
        factory.save_image(root / "train" / p.name, p)
        factory.write_text(root / "train" / Path(p.name).with_suffix(".xml"), factory.xml(p))
    return root


MADE: list[tuple[str, Callable[[Path], Path]]] = [
    ("yolo", yolo_with_yaml),
    ("yolo", bare_yolo),
    ("coco", factory.coco),
    ("coco", factory.roboflow_coco),
    ("voc", factory.voc),
    ("voc", voc_beside_images),
    ("tfrecord", factory.tfrecord),
]


def beside_any_data(root: Path) -> None:
    """Files of other tools, each of which has the ending of labels."""
    for name, text in {
        "pom.xml": POM,
        ".idea/misc.xml": "<project/>",
        ".idea/inspectionProfiles/Project.xml": "<component/>",
        "src/AndroidManifest.xml": "<manifest/>",
        "overview.aux.xml": AUX,
        "docker-compose.yml": "services: {app: {image: '{{ image }}'}}",
        "broken.yaml": "{% raw %}: [",
        "args.yaml": "task: detect\nmodel: yolo.pt\ndata: data.yaml\nnames: null\n",
        ".pre-commit-config.yaml": "repos: []",
        "package.json": '{"name": "x", "images": ["a.png"], "categories": []}',
        "notes.json": '{"categories": [{"id": 0, "name": "ant"}], "info": {"year": 2024}}',
        "runs/metrics.json": '{"AP": 0.5}',
        "requirements.txt": "numpy==2.0\n",
        "README.txt": "These are 12 images of insects\n",
        "logs/events.out": "0 0.5 0.5 0.1 0.1\n",
        "model-00001-of-00002.safetensors": "weights",
    }.items():
        factory.write_text(root / name, text)
    factory.write_text(root / "train/.ipynb_checkpoints/_annotations.coco-checkpoint.json", '{"images": [], "annot')
    factory.save_image(root / "images/train/.ipynb_checkpoints/one-checkpoint.png", factory.PICTURES[0])
    for name in ("._data.yaml", "._pom.xml", "._train.json", "images/train/._one.png", "labels/train/._one.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(APPLE)
    shutil.copytree(root / "train", root / "__MACOSX/train")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1\xff")
    factory.save_image(root / "@eaDir/one.png/SYNOPHOTO_THUMB_M.png", factory.PICTURES[0])


@pytest.mark.parametrize(("layout", "make"), MADE)
def test_stray_files_do_not_change_what_is_read(tmp_path: Path, layout: str, make: Callable[[Path], Path]) -> None:
    root = make(tmp_path / "data")
    beside_any_data(root)
    folder = open_data(root)
    assert folder.layout == layout
    assert folder.splits == open_data(make(tmp_path / "clean")).splits
    factory.check(folder.read("train"))
    listed = [name for name in unused_files(folder, [folder.read("train")], []) if "train/" in name]
    assert [name for name in listed if not name.startswith("valid/")] == []


def test_an_empty_label_file_is_named_where_there_is_nothing_else(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "_annotations.coco.json").touch()
    with pytest.raises(InputError, match=r"in no layout that phidet knows.*Empty: \S+/_annotations\.coco\.json$"):
        open_data(tmp_path)


@pytest.mark.parametrize(("layout", "make"), MADE)
def test_an_archive_that_unpacked_into_a_folder_in_a_folder(
    tmp_path: Path, layout: str, make: Callable[[Path], Path]
) -> None:
    make(tmp_path / "outer/inner/data")
    (tmp_path / "outer/__MACOSX").mkdir()
    folder = open_data(tmp_path / "outer")
    assert (folder.layout, folder.path) == (layout, tmp_path / "outer/inner/data")
    factory.check(folder.read("train"))


def test_two_layouts_that_fit_are_named_and_the_option_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factory.voc(yolo_with_yaml(factory.coco(tmp_path)))
    says = (
        r"fits 3 layouts, Pascal VOC \(Annotations/empty\.xml\) and YOLO \(data\.yaml\) and "
        r"COCO JSON \(annotations/instances_train\.json\): "
        r"choose one with --layout voc or --layout yolo or --layout coco"
    )
    with pytest.raises(InputError, match=says):
        open_data(tmp_path)
    for layout in ("coco", "voc", "yolo"):
        folder = open_data(tmp_path, layout=layout)
        assert folder.layout == layout
        factory.check(folder.read("train"))
    with pytest.raises(InputError, match=r"holds no data in the layout tfrecord \(TFRecord\)"):
        open_data(tmp_path, layout="tfrecord")
    with pytest.raises(UnknownNameError, match="Did you mean yolo"):
        open_data(tmp_path, layout="yollo")  # type: ignore[arg-type]
    assert main(["doctor", str(tmp_path), "--fast"]) == 3
    assert "choose one with" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path), "--fast", "--layout", "coco"]) == 0
    assert "COCO JSON" in capsys.readouterr().out
    assert main(["convert-data", str(tmp_path), str(tmp_path / "out"), "--to", "coco", "--layout", "voc"]) == 0
    assert "(voc)" in capsys.readouterr().out


def test_folders_of_classes_are_read_as_whole_images_where_that_is_asked_for(tmp_path: Path) -> None:
    for class_name in ("ant", "bee"):
        factory.save_image(tmp_path / class_name / "one.png", factory.PICTURES[0])
    with pytest.raises(InputError, match="--task classify"):
        open_data(tmp_path)
    dataset = open_data(tmp_path, layout="folders").read("all")
    assert dataset.class_names == ("ant", "bee")
    assert dataset.annotations(1).boxes_xyxy.tolist() == [[0, 0, 64, 32]]


def test_labels_that_are_damaged_are_named_where_nothing_else_fits(tmp_path: Path) -> None:
    factory.voc(tmp_path / "voc", split=None)
    for file in (tmp_path / "voc/Annotations").iterdir():
        file.write_text(file.read_text()[:30])
    folder = open_data(tmp_path / "voc")
    assert folder.layout == "voc"
    with pytest.raises(InputError, match="not XML that can be read"):
        folder.read("all")
    factory.write_text(tmp_path / "coco/train.json", json.dumps(factory.coco_json())[:-40])
    with pytest.raises(InputError, match="is not JSON"):
        open_data(tmp_path / "coco").read("train")
    factory.yolo(tmp_path / "yolo/images", tmp_path / "yolo/labels")
    factory.write_text(tmp_path / "yolo/data.yaml", "train: images\nnames: [ant, bee\n")
    with pytest.raises(InputError, match=r"cannot read .*data\.yaml"):
        open_data(tmp_path / "yolo")
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec/train.tfrecord").write_bytes(b"\xff" * 99)
    with pytest.raises(InputError, match="is damaged, or not a TFRecord"):
        open_data(tmp_path / "rec").read("train")


def test_a_damaged_file_beside_whole_data_of_another_layout_decides_nothing(tmp_path: Path) -> None:
    root = factory.coco(tmp_path)
    factory.write_text(root / "data.yaml", "names: [")
    factory.write_text(root / "Annotations/x.xml", "<annotation><object>")  # begins well: VOC by content
    (root / "old.tfrecord").write_bytes(b"\xff" * 99)
    shutil.rmtree(root / "Annotations")
    factory.check(open_data(root).read("train"))


def test_stray_xml_among_annotations(tmp_path: Path) -> None:
    root = factory.voc(tmp_path, split=None)
    factory.write_text(root / "Annotations/pom.xml", POM)
    factory.write_text(root / "Annotations/one.png.aux.xml", AUX)
    factory.check(open_data(root).read("all"))


def test_data_below_a_hidden_folder_are_data(tmp_path: Path) -> None:
    root = yolo_with_yaml(tmp_path / ".cache/__MACOSX/data")
    factory.check(open_data(root).read("train"))
    listed = [f"{root}/images/train/{p.name}" for p in factory.PICTURES]
    factory.write_text(root / "list.txt", "\n".join(listed))
    factory.data_yaml(root / "data.yaml", train="list.txt")
    factory.check(open_data(root).read("train"))


@pytest.mark.parametrize(
    ("case", "labels", "class_of"),
    [
        ("01-labels-beside-in-images", "*.txt", re.compile(r"^(\d+) ", re.MULTILINE)),
        ("09-voc-subfolders", "Annotations/**/*.xml", re.compile("<name>(.*?)</name>")),
    ],
)
def test_counts_of_the_cases_are_those_of_their_label_files(
    shared: Path, case: str, labels: str, class_of: re.Pattern[str]
) -> None:
    """What these two cases expect differs, and what is right here is in docs/decisions/0022."""
    data = shared / "cases/train" / case / "data"
    written = Counter(name for file in data.rglob(labels) for name in class_of.findall(file.read_text()))
    assert written.total() == 18
    folder = open_data(data)
    dataset = folder.read("train" if "train" in folder.splits else folder.splits[0])
    read = Counter(dataset.all_annotations.class_ids.tolist())
    names = {name: i for i, name in enumerate(dataset.class_names)} | {str(i): i for i in range(2)}
    assert read == {names[name]: count for name, count in written.items()}
    assert (len(dataset), dataset.problems) == (6, [])
