"""What the doctor measures: anchors against brute force, copies against all pairs, BCCD against a count of its XML."""

from __future__ import annotations

import io
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from doctor_data import Pixels, coco, encoded, scene, write
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.config import AnchorConfig
from phidet.architectures.efficientdet.coverage import best_ious, examine_coverage
from phidet.architectures.efficientdet.published import detector_config
from phidet.cli.main import main
from phidet.core.structs import replace
from phidet.data.doctor.decoding import ImageCheck, fingerprint
from phidet.data.doctor.duplicates import MOST_BITS, hamming, near_groups
from phidet.data.doctor.examine import examine
from phidet.data.doctor.facts import Bins, Recall
from phidet.data.doctor.fix import redundant_copies, write_fixed
from phidet.data.doctor.labels import class_name_twins, fit_scales, unions
from phidet.detections.boxes import pairwise_iou

LITE0 = detector_config("efficientdet-lite0")
D0 = detector_config("efficientdet-d0")


# ---------------------------------------------------------------- anchors
view = EFFICIENTDET.doctor_view


def test_best_iou_of_a_square_between_anchors_by_hand() -> None:
    # Level 3 of 128 pixels: anchors of 32×32 centred at 4, 12, …, so (64, 64) is 4 pixels off along both axes.
    config = AnchorConfig(scale=4, octaves=1, aspects_wh=((1.0, 1.0),))
    boxes = np.array([[48.0, 48, 80, 80], [44, 44, 76, 76], [44, 44, 60, 76]])
    expected = [28 * 28 / (2 * 32 * 32 - 28 * 28), 1.0, 0.5]
    assert best_ious(boxes, (128, 128), [3], config) == pytest.approx(expected)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    size_hw=st.sampled_from([(128, 128), (192, 320), (200, 328)]),
    scale=st.sampled_from([1.0, 3.0, 4.5]),
)
def test_best_iou_is_that_of_all_anchors(seed: int, size_hw: tuple[int, int], scale: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, 300, (60, 2))
    boxes = np.concatenate([low, low + np.exp(rng.uniform(0, 5.5, (60, 2)))], axis=1)
    config = AnchorConfig(scale=scale)
    every = generate_anchors(size_hw, range(3, 8), config).astype(np.float64)
    brute_force = pairwise_iou(boxes, every).max(axis=1)
    assert best_ious(boxes, size_hw, range(3, 8), config) == pytest.approx(brute_force, abs=1e-6)  # anchors are float32


def test_an_image_is_scaled_until_its_longer_side_fits() -> None:
    sizes = np.array([[480, 640], [640, 480], [100, 100], [1000, 100]], np.int32)
    assert fit_scales(sizes, (320, 320)) == pytest.approx([0.5, 0.5, 3.2, 0.32])
    assert fit_scales(sizes, (256, 512)) == pytest.approx([256 / 480, 0.4, 2.56, 0.256])


@pytest.mark.repeated
def test_coverage_is_brute_force_after_the_resize(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images = []
    for i in range(12):
        width, height = int(rng.integers(80, 400)), int(rng.integers(80, 400))
        low = rng.uniform(0, 60, (5, 2))
        boxes = np.concatenate([low, rng.uniform(2, 20 * (1 + i % 4), (5, 2))], axis=1)
        images.append((scene(i, (width, height)), [("cat", box.round(2).tolist()) for box in boxes]))
    dataset = examine(coco(tmp_path, {"train": images}, ["cat"]), view(D0), decode=False).datasets["train"]
    scaled = [
        dataset.annotations(i).boxes_xyxy.astype(np.float64) * min(512 / h, 512 / w)
        for i in range(12)
        for h, w in [dataset.size_hw(i)]
    ]
    boxes = np.concatenate(scaled)
    ious = pairwise_iou(boxes, generate_anchors((512, 512), range(3, 8), D0.anchors).astype(np.float64)).max(axis=1)
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    met = ious >= 0.5
    coverage = examine_coverage([dataset], D0)
    assert coverage is not None
    assert coverage.boxes == 60
    assert coverage.recall == Recall(
        all=round(met.mean(), 4),
        small=round(met[sides < 32].mean(), 4),
        medium=round(met[(sides >= 32) & (sides < 96)].mean(), 4),
        large=round(met[sides >= 96].mean(), 4),
    )
    assert coverage.mean_best_iou == round(ious.mean(), 4)
    assert coverage.smaller_than == {str(limit): int((sides < limit).sum()) for limit in (4, 8, 16)}
    for trial in coverage.tried:  # what is suggested keeps what it promises
        config = AnchorConfig(scale=trial.anchor_scale)
        if trial.what != "aspects":
            ratio = trial.image_size_hw[0] / 512
            again = generate_anchors(trial.image_size_hw, range(3, 8), config).astype(np.float64)
            assert trial.recall.all == round((pairwise_iou(boxes * ratio, again).max(axis=1) >= 0.5).mean(), 4)


def test_small_boxes_bring_the_suggestion_of_smaller_anchors_and_a_larger_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    images = []
    for i in range(10):
        corners = rng.uniform(0, 250, (10, 2)).round(1).tolist()
        images.append((scene(i, (320, 320)), [("cat", [x, y, 15.0, 15.0]) for x, y in corners]))
    report = examine(coco(tmp_path, {"train": images}, ["cat"]), view(LITE0), decode=False).report
    coverage = report.coverage
    assert coverage is not None
    assert coverage.recall.all == 0  # 225 of at least 24² pixels
    assert {trial.what for trial in coverage.better} == {"scale", "size"}
    assert all((trial.recall.all or 0) > 0.75 for trial in coverage.better)
    text = next(advice.text for advice in report.advice if "anchors of" in advice.text)
    assert "efficientdet-lite0 at 320×320 meet 0.0% of the boxes" in text
    assert "Try anchor scale" in text
    assert "image size" in text


# ---------------------------------------------------------------- copies


def checks_of(pictures: list[Pixels]) -> tuple[list[ImageCheck], np.ndarray]:
    checks = [ImageCheck(None, b"%d" % i, b"%d" % i, *fingerprint(pixels)) for i, pixels in enumerate(pictures)]
    return checks, np.array([pixels.shape[:2] for pixels in pictures], np.int32)


def with_patch(pixels: Pixels, x: int) -> Pixels:
    """The same place with something else in it."""
    changed = pixels.copy()
    changed[40:90, x : x + 40] = 255 - changed[40:90, x : x + 40] // 4
    return changed


def test_near_copies_are_found_and_other_images_are_not() -> None:
    originals = [scene(i, (320, 240)) for i in range(60)]
    pictures = list(originals)
    expected = []
    for i in range(0, 20, 2):
        expected.append([i, len(pictures), len(pictures) + 1])
        pictures.append(np.asarray(Image.open(io.BytesIO(encoded(originals[i], "JPEG", quality=50)))))
        pictures.append(np.asarray(Image.fromarray(originals[i]).resize((200, 150), Image.Resampling.BILINEAR)))
    for i in range(21, 41, 2):
        # Mirrored, and then encoded again or made smaller.
        expected.append([i, len(pictures), len(pictures) + 1])
        mirrored = Image.fromarray(originals[i][:, ::-1].copy())
        pictures.append(np.asarray(mirrored.resize((200, 150), Image.Resampling.BILINEAR)))
        pictures.append(np.asarray(Image.open(io.BytesIO(encoded(np.asarray(mirrored), "JPEG", quality=50)))))
        pictures += [with_patch(originals[i], 60), with_patch(originals[i], 200)]
        pictures.append(originals[i][:, :240].copy())  # a crop
        pictures.append(np.asarray(255 - originals[i]))
    assert near_groups(*checks_of(pictures)) == expected


def test_plain_images_are_not_taken_for_copies() -> None:
    rng = np.random.default_rng(0)
    plain = [np.full((60, 80, 3), 128, np.uint8) + rng.integers(0, 3, (60, 80, 3), dtype=np.uint8) for _ in range(5)]
    assert near_groups(*checks_of(plain)) == []


def test_every_pair_within_five_bits_is_compared() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    for i in range(1, 300):  # most near another one
        flips = rng.choice(64, rng.integers(0, 9), replace=False)
        if i % 4:
            hashes[i] = hashes[i - 1] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
    thumbnail = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    checks = [ImageCheck(None, b"x", b"%d" % i, int(h), 0, thumbnail) for i, h in enumerate(hashes)]
    found = {pair for group in near_groups(checks, np.full((300, 2), 9, np.int32)) for pair in combinations(group, 2)}
    direct = {
        (i, j) for i, j in combinations(range(300), 2) if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= MOST_BITS
    }
    assert len(direct) > 100
    assert direct <= found
    counts = hamming(hashes[:-1], hashes[1:]).tolist()
    assert counts == [(int(a) ^ int(b)).bit_count() for a, b in pairwise(hashes)]


def test_copies_tell_whether_their_labels_agree_and_leave_the_training_split(tmp_path: Path) -> None:
    box, other = [10.0, 10, 50, 50], [20.0, 10, 50, 50]
    splits = {
        "train": [(scene(1), [("cat", box)]), (scene(2), [("cat", box)]), (scene(3), []), (scene(3), [])],
        "val": [(scene(1), [("cat", box)]), (scene(9), [])],
        "test": [(scene(2), [("cat", other)]), (scene(9), [])],
    }
    folder = coco(tmp_path, splits, ["cat"])
    write(folder / "val" / "val-0.png", encoded(scene(1), compress_level=1))
    examination = examine(folder, view(LITE0))
    groups = {tuple(sorted(m.image for m in g.members)): g for g in examination.report.duplicate_images}
    raising_write_errors = {images: (group.kind, group.same_labels) for images, group in groups.items()}
    assert raising_write_errors == {
        ("train-0.png", "val-0.png"): ("same pixels", True),
        ("test-0.png", "train-1.png"): ("same bytes", False),
        ("train-2.png", "train-3.png"): ("same bytes", True),
        ("test-1.png", "val-1.png"): ("same bytes", True),
    }
    assert redundant_copies(examination) == {("train", 0), ("train", 1), ("train", 3), ("val", 1)}
    texts = " ".join(advice.text for advice in examination.report.advice)
    assert texts.count("LEAKAGE: 1 image is both in") == 3
    assert "1 image with several copies, labelled differently" in texts


def test_the_clean_copy_has_one_list_of_classes_where_the_splits_had_two(tmp_path: Path) -> None:
    box = [10.0, 10, 50, 50]
    coco(tmp_path / "data", {"train": [(scene(1), [("dog", box)])]}, ["cat", "dog"])
    folder = coco(tmp_path / "data", {"val": [(scene(2), [("dog", box), ("owl", box)])]}, ["dog", "owl"])
    examination = examine(folder, view(LITE0))
    assert examination.report.classes.lists_differ == ["val"]
    write_fixed(examination, tmp_path / "clean")
    clean = examine(tmp_path / "clean", view(LITE0)).report
    assert clean.classes.lists_differ == []
    assert [split.classes for split in clean.splits] == [
        {"cat": 0, "dog": 1, "owl": 0},
        {"cat": 0, "dog": 1, "owl": 1},
    ]


def test_a_union_is_a_split_made_of_others_and_train_that_holds_val_is_not() -> None:
    a, b, c = frozenset("ab"), frozenset("cd"), frozenset("ef")
    assert unions({"train": a, "val": b, "trainval": a | b, "test": c}) == {"trainval": ["train", "val"]}
    assert unions({"train": a | b, "val": b}) == {}
    assert unions({"train": a, "val": a}) == {}


def test_training_on_what_is_validated_on_is_leakage(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "images" / f"{i}.png", encoded(scene(i)))
        write(tmp_path / "labels" / f"{i}.txt", "0 0.5 0.5 0.3 0.3\n")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: images\nval: images\n")
    report = examine(tmp_path, view(LITE0)).report
    assert [(group.kind, group.splits) for group in report.duplicate_images] == [("same file", ["train", "val"])] * 4
    assert any("LEAKAGE: 4 images are both in train and in val" in advice.text for advice in report.advice)


# ---------------------------------------------------------------- labels


def test_class_names_that_are_one_name_written_differently() -> None:
    names = [
        "Cat",
        "cat ",
        "dog",
        "traffic light",
        "traffic_light",
        "boat",
        "boats",
        "class-1",
        "class-10",
        "bus",
        "猫",
    ]
    assert class_name_twins(names) == [["Cat", "cat "], ["traffic light", "traffic_light"], ["boat", "boats"]]


def test_counts_bins_and_classes_by_hand(tmp_path: Path) -> None:
    many = [("ant", [float(x), float(y), 4.0, 8.0]) for x in range(0, 100, 8) for y in range(0, 80, 9)]
    splits = {
        "train": [
            (scene(1), [("ant", [0.0, 0, 31, 32]), ("ant", [0.0, 0, 32, 32]), ("bee", [0.0, 0, 96, 96])]),
            (scene(2), many),
            (scene(3), []),
        ],
        "val": [(scene(4, (320, 240)), [("ant", [0.0, 0, 95, 96]), ("cow", [10.0, 10, 64, 64])])],
    }
    report = examine(coco(tmp_path, splits, ["ant", "bee", "cow", "dog"]), view(LITE0)).report
    train, val = report.splits
    assert train.classes == {"ant": 2 + len(many), "bee": 1, "cow": 0, "dog": 0}
    assert (train.images, train.images_without_objects, train.crowded_images) == (3, 1, 1)
    assert train.boxes == Bins(1 + len(many), 1, 1)
    assert train.boxes_at_input == Bins(len(many), 2, 1)  # 160×120 is doubled
    assert val.boxes == val.boxes_at_input == Bins(0, 2, 0)
    assert train.objects_per_image.largest == len(many) == 117
    assert report.classes.unused == ["dog"]
    assert report.classes.untrained == ["cow"]
    assert report.classes.unmeasured == ["bee"]
    assert report.classes.rare == {"bee": 1}
    assert any("1 image with more than 100 objects (up to 117)" in advice.text for advice in report.advice)


def test_objects_labelled_twice_are_those_above_iou_095_of_one_class_in_one_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = []
    for i in range(6):
        boxes = rng.uniform(25, 60, (30, 4)).round(1)
        boxes[10:20] = boxes[:10] + rng.uniform(0, 0.7, (10, 4)).round(2)
        images.append((scene(i), [(("cat", "dog")[j % 2], box.tolist()) for j, box in enumerate(boxes)]))
    examination = examine(coco(tmp_path, {"train": images}, ["cat", "dog"]), view(LITE0), decode=False)
    dataset = examination.datasets["train"]
    expected = set()
    for i in range(6):
        found = dataset.annotations(i)
        ious = pairwise_iou(found.boxes_xyxy, found.boxes_xyxy)
        for a, b in combinations(range(30), 2):
            if found.class_ids[a] == found.class_ids[b] and ious[a, b] > 0.95:
                expected.add((str(dataset.names[i]), a, b))
    assert len(expected) > 10
    assert {(d.image, d.first, d.second) for d in examination.report.duplicate_boxes} == expected


# ---------------------------------------------------------------- real data


@pytest.mark.repeated
def test_bccd_is_what_a_count_of_its_xml_says(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "data" / "bccd"
    report = examine(folder, view(LITE0)).report
    by_name = {split.name: split for split in report.splits}
    assert by_name["trainval"].made_of == ["train", "val"]
    for name, split in by_name.items():
        stems = (folder / "ImageSets" / "Main" / f"{name}.txt").read_text().split()
        texts = [(folder / "Annotations" / f"{stem}.xml").read_text() for stem in stems]
        counts = dict.fromkeys(split.classes, 0)
        flat = 0
        for text in texts:
            for object_ in text.split("<object>")[1:]:
                corner = {
                    key: int(re.search(rf"<{key}>(\d+)<", object_)[1]) for key in ("xmin", "ymin", "xmax", "ymax")
                }
                if corner["xmin"] == corner["xmax"] or corner["ymin"] == corner["ymax"]:
                    flat += 1
                else:
                    counts[re.search(r"<name>(\w+)<", object_)[1]] += 1
        assert (split.images, split.classes) == (len(stems), counts), name
        empty = [f for group in report.findings for f in group.items if group.kind == "box empty" and name in f.splits]
        assert len(empty) == flat == {"trainval": 2, "train": 1, "val": 1, "test": 0}[name]
    assert [group.kind for group in report.findings] == ["box empty"]
    # Two photographs of one field, a few pixels apart; I looked.
    (near,) = report.duplicate_images
    assert [member.image[-9:-4] for member in near.members] == ["00038", "00037"]
    assert main(["doctor", str(folder), "--fast"]) == 0
    assert "trainval is train + val" in capsys.readouterr().out


@pytest.mark.repeated
def test_coco128_has_labels_without_images_and_no_copies(shared: Path) -> None:
    report = examine(shared / "data" / "coco128" / "object_detection", view(LITE0)).report
    assert report.unused_files == [f"labels/train2017/000000000{number}.txt" for number in (656, 659)]
    assert (report.findings, report.duplicate_images, report.errors) == ([], [], 0)
    assert report.classes.unused == ["parking meter", "cow", "toaster", "hair drier"]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 3, "there is no data at nowhere"),
        (["."], 3, "is in no layout that phidet knows"),
        ([".", "--model", "efficientdet-light0"], 2, "Did you mean efficientdet-lite0"),
        ([".", "--image-size", "64"], 2, "smaller than the coarsest stride, 128"),
    ],
)
def test_mistakes_end_in_one_message(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *words]) == code
    assert message in capsys.readouterr().err


def test_model_and_size_decide_the_coverage(tmp_path: Path) -> None:
    folder = coco(tmp_path, {"train": [(scene(1), [("cat", [10.0, 10, 20, 20])])]}, ["cat"])
    small = examine(folder, view(replace(LITE0, {"image_size_hw": (128, 128)})), decode=False).report
    large = examine(folder, view(replace(LITE0, {"image_size_hw": (640, 640)})), decode=False).report
    assert small.splits[0].boxes_at_input == Bins(1, 0, 0)  # 16 pixels
    assert large.splits[0].boxes_at_input == Bins(0, 1, 0)  # 80 pixels
    assert small.coverage is not None
    assert large.coverage is not None
    assert (small.coverage.recall.small, large.coverage.recall.medium) == (0, 1)
    assert small.coverage.recall.large is None
