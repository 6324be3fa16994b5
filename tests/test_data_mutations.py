"""Labels with anything in any place: a data set of sound objects with its problems, or one message."""

from __future__ import annotations

import json
import random
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_factory as factory
from phidet.core.errors import InputError
from phidet.data.doctor.unused import unused_files
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import make_example, parse_example, scan, write_record

SEEDS = range(150)
ANYTHING: list[Any] = [
    None, True, -1, 0, 1.5, float("nan"), 10**400, "", "ü\ud800", "../..", "a\0b", "/", ".", "%00", "http://[",
    "x" * 5000, "two.png", "C:\\two.png", [], {}, [[]], {"a": 1},
]  # fmt: skip
TEXTS = ["", "..", "/", "nan", "1e999", "-5", "x" * 300, "two.png", "a/b/c.png", "C:\\", "http://x/one.png?a#b", "ant"]
MARKUP = ["<", ">", "&", "\0", "ü", '"', "</a>", "<object>", "%"]
LINES = [
    "one",
    "two",
    "../one",
    "/",
    ".",
    "..",
    "one.png 1",
    "with space",
    "x" * 500,
    "C:\\one",
    "\\",
    "a\0b",
    "one 1 1",
]
TOKENS = [
    "\0", "\n", ": ", "[", "]", "{", "}", "- ", "&a ", "*a", "!!python/object:x ", '"', "'", "..", "/", "\\", "1e999",
    "nan", "-1", "%", "<<: ", "? ", "| ", "~", "\t", "train: ", "names: ", "9" * 21, "ü", " = ",
]  # fmt: skip
VALUES: list[Any] = [[], [b""], [b"\xff"], [0], [-1], [2**62], [float("nan")], [1e30], [b"x", b"y"], [3, 4, 5]]
FEATURES = ["objects/bbox", "objects/label", "image", "image/object/group_of", "image/object/bbox/x1"]


def check(path: Path) -> None:
    """Laws that hold for every data set, whatever it was read from."""
    try:
        dataset = open_data(path).read("train")
    except InputError:  # nothing else ends reading
        return
    assert len(set(dataset.names.tolist())) == len(dataset)
    for i in range(len(dataset)):
        a, (height, width) = dataset.annotations(i), dataset.size_hw(i)
        assert np.isfinite(a.boxes_xyxy).all()
        assert np.isfinite(a.areas).all()
        assert (a.boxes_xyxy >= 0).all()
        assert (a.boxes_xyxy <= [width, height, width, height]).all()
        assert (a.boxes_xyxy[:, :2] < a.boxes_xyxy[:, 2:]).all()
        assert set(a.class_ids.tolist()) <= set(range(len(dataset.class_names)))
    assert all(problem.kind and problem.where and problem.what for problem in dataset.problems)


def mutated(content: Any, rng: random.Random) -> Any:
    """JSON with something removed, doubled or replaced at some depth."""
    content = deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        node = content
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            if isinstance(node[key], dict | list) and rng.random() > 0.25:
                node = node[key]
                continue
            change = rng.choice(["replace", "replace", "remove", "double"])
            if change == "replace":
                node[key] = deepcopy(rng.choice(ANYTHING))
            elif change == "remove":
                del node[key]
            elif isinstance(node, list):
                node.append(deepcopy(node[key]))
            break
    return content


def mutated_xml(text: str, rng: random.Random) -> str:
    """XML with markup inserted, something cut out, or another text in an element."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text))
        change = rng.choice(["insert", "cut", "text"])
        texts = list(re.finditer(">([^<]+)<", text))
        if change == "insert":
            text = text[:place] + rng.choice(MARKUP) + text[place:]
        elif change == "cut":
            text = text[:place] + text[place + rng.randint(1, 20) :]
        elif texts:
            found = rng.choice(texts)
            text = text[: found.start(1)] + rng.choice(TEXTS) + text[found.end(1) :]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations")


@pytest.mark.parametrize("seed", SEEDS)
def test_coco(folder: Path, seed: int) -> None:
    root = folder / "coco" if (folder / "coco").exists() else factory.coco(folder / "coco")
    content = factory.coco_json()
    content["categories"][0]["supercategory"] = "bee"
    text = json.dumps(mutated(content, random.Random(seed)))
    (root / "annotations" / "instances_train.json").write_text(text)
    check(root)


@pytest.mark.parametrize("seed", SEEDS)
def test_voc(folder: Path, seed: int) -> None:
    root = folder / "voc" if (folder / "voc").exists() else factory.voc(folder / "voc")
    rng = random.Random(seed)
    text = mutated_xml(factory.xml(factory.PICTURES[0]), rng)
    encoding = rng.choice(["utf-8", "utf-16", "latin-1", "utf-8-sig"])
    (root / "Annotations" / "one.xml").write_bytes(text.encode(encoding))
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(rng.sample(LINES, 4)))
    check(root)


@pytest.mark.parametrize("seed", SEEDS)
def test_yolo(folder: Path, seed: int) -> None:
    root, rng = folder / "yolo", random.Random(seed)
    if not root.exists():
        factory.yolo(root / "images/train", root / "labels/train")
    texts = {
        "data.yaml": "path: .\ntrain: train.txt\nkpt_shape: [2, 3]\nnames: {0: ant, 1: bee, 2: cat nap}\n",
        "obj.data": "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n",
        "obj.names": "ant\nbee\ncat nap\n",
        "train.txt": "images/train/one.png\n" + "\n".join(rng.sample(LINES, 2)),
        "labels/train/one.txt": factory.yolo_lines(factory.PICTURES[0]) + " 0.5 0.5 2 0.4 0.4 1\n",
    }
    for name, text in texts.items():
        for _ in range(rng.choice([0, 0, 1, 2])):
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice([*TOKENS, ""]) + text[place + rng.choice([0, 0, 1, 9]) :]
        (root / name).write_text(text, rng.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"]))
    if rng.random() < 0.3:
        (root / "data.yaml").unlink()
    check(root)
    try:
        data = open_data(root)
        dataset = data.read(data.splits[0])
    except InputError:
        return
    unused = unused_files(data, [dataset], [problem.where for problem in dataset.problems])
    assert not set(unused) & set(dataset.names.tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_tfrecord(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = next(factory.tfrecord(tmp_path).glob("*.tfrecord"))
    records = [parse_example(payload) for _, payload in scan(file)]
    with file.open("wb") as stream:
        for record in records:
            for _ in range(rng.randint(0, 2)):
                key = rng.choice([*record, *FEATURES])
                if rng.random() < 0.3:
                    record.pop(key, None)
                else:
                    record[key] = rng.choice(VALUES)
            write_record(stream, make_example(record))
    check(tmp_path)
