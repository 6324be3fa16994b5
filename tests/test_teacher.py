"""Teachers: soft targets, how they are mixed with labels, and detectors that a description names."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from data_factory import CLASSES, Picture, coco, save_image
from described_detector import NAMES, described
from interrupted import interrupted_after
from phidet.architectures.base import Processes
from phidet.architectures.batch import Batch
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.loss_config import LossConfig
from phidet.architectures.efficientdet.losses import AnchorLoss
from phidet.architectures.efficientdet.network import RawOutputs
from phidet.architectures.efficientdet.targets import assign_targets
from phidet.core.errors import CheckpointError, ConfigError, InputError
from phidet.core.structs import replace
from phidet.data.unlabelled import read_unlabelled
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import read_image
from phidet.inference.described import DescribedDetector
from phidet.training.about import Request
from phidet.training.augmentation.detection import Example
from phidet.training.augmentation.mask_tensors import UNKNOWN
from phidet.training.fit import RunSettings
from phidet.training.loading import EpochSampler, TrainImages
from phidet.training.plan import plan_run
from phidet.training.recipe import Teaching
from phidet.training.run import carry_out, resume, run
from phidet.training.task import Task
from phidet.training.teacher import TaughtImages, TaughtObjects, class_lookup, objects_of, teach
from test_train_run import CLASSES as SQUARES
from test_train_run import write_squares

pytestmark = pytest.mark.usefixtures("unrendered")
ONE = Processes(1, lambda value: value)


def example(boxes: list[list[float]], ids: list[int]) -> Example:
    return Example(
        torch.zeros(3, 64, 96, dtype=torch.uint8),
        (64, 96),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(ids, dtype=torch.int64),
    )


def found(boxes: list[list[float]], soft: list[list[float]]) -> TaughtObjects:
    return TaughtObjects(np.array(boxes, np.float32).reshape(-1, 4), np.array(soft, np.float32).reshape(-1, 3))


BOXES = [[4.0, 4.0, 40.0, 40.0], [50.0, 10.0, 90.0, 60.0]]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_teacher_that_answers_with_the_labels_changes_nothing(weight: float) -> None:
    plain = example(BOXES, [2, 0])
    taught = teach(plain, found(BOXES, [[0, 0, 1], [1, 0, 0]]), 3, Teaching(weight=weight))
    assert torch.equal(taught.boxes_xyxy, plain.boxes_xyxy)
    assert torch.equal(taught.class_ids, plain.class_ids)
    assert taught.soft is not None
    assert torch.equal(taught.soft, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))

    # And so the loss and its gradient are those of the labels alone.
    config = replace(EFFICIENTDET.published_config("efficientdet-lite0", NAMES), {"image_size_hw": (128, 192)})
    for settings in (LossConfig(), LossConfig(label_smoothing=0.1, gamma=2.0, iou_kind="ciou")):
        loss = AnchorLoss(config, settings)
        generator = torch.Generator().manual_seed(0)
        anchors = len(loss.anchors_xyxy)
        logits = torch.randn(2, anchors, 3, generator=generator, dtype=torch.float64).requires_grad_()
        deltas = torch.randn(2, anchors, 4, generator=generator, dtype=torch.float64).mul_(0.3).requires_grad_()
        hw = torch.tensor([[64, 96]] * 2)
        boxes, ids = torch.stack([plain.boxes_xyxy] * 2), torch.stack([plain.class_ids] * 2)
        pixels = torch.stack([plain.pixels] * 2)
        values = []
        for soft in (None, torch.stack([taught.soft] * 2)):
            logits.grad = deltas.grad = None
            total = loss(RawOutputs(logits, deltas), Batch(pixels, hw, boxes, ids, soft), ONE)["loss"]
            total.backward()
            assert logits.grad is not None and deltas.grad is not None  # noqa: PT018
            values.append((total.detach(), logits.grad.clone(), deltas.grad.clone()))
        for hard, soft_value in zip(*values, strict=True):
            torch.testing.assert_close(soft_value, hard, rtol=1e-9, atol=1e-12)


def test_labels_are_mixed_with_the_teacher_and_what_it_alone_found_is_added() -> None:
    plain = example(BOXES, [2, 0])
    close = [5.0, 4.0, 41.0, 40.0]  # IoU 0.95 with the first label
    double = [8.0, 4.0, 44.0, 40.0]  # 0.8, a duplicate
    other = [0.0, 44.0, 20.0, 62.0]
    answers = found([close, double, other], [[0.2, 0, 0.6], [0, 0.4, 0], [0.1, 0.3, 0]])
    taught = teach(plain, answers, 3, Teaching(weight=0.25))
    assert taught.boxes_xyxy.tolist() == [*BOXES, other]  # the label's box, not the teacher's
    assert taught.class_ids.tolist() == [2, 0, 1]
    assert taught.soft is not None
    expected = [[0.05, 0, 0.75 + 0.25 * 0.6], [1, 0, 0], [0.1, 0.3, 0]]  # the second label was missed: it stays certain
    np.testing.assert_allclose(taught.soft.numpy(), expected, atol=1e-6)


def test_images_without_labels_or_without_answers() -> None:
    unlabelled = teach(example([], []), found(BOXES, [[0.2, 0.7, 0], [0.1, 0, 0.5]]), 3, Teaching())
    assert unlabelled.class_ids.tolist() == [1, 2]
    assert unlabelled.boxes_xyxy.tolist() == BOXES
    silent = teach(example(BOXES, [1, 1]), found([], []), 3, Teaching())
    assert silent.soft is not None
    assert silent.soft.tolist() == [[0, 1, 0], [0, 1, 0]]


def test_detections_of_several_classes_at_one_place_are_one_object() -> None:
    place, shifted, far = [10.0, 10, 50, 50], [11.0, 10, 51, 50], [60.0, 0, 90, 30]
    names = ("horse", "Dog", "bird", "CAT")  # names agree whatever the case; horses are unknown to the student
    detections = Detections(
        np.array([place, shifted, place, far, far], np.float32),
        np.array([0.9, 0.6, 0.3, 0.5, 0.2], np.float32),
        np.array([1, 3, 0, 2, 0]),
        names,
    )
    objects = objects_of(detections, class_lookup(names, NAMES), 3)
    np.testing.assert_allclose(objects.boxes_xyxy, [place, far])
    np.testing.assert_allclose(objects.soft, [[0.6, 0.9, 0], [0, 0, 0.5]])
    nothing = objects_of(Detections.empty(names), class_lookup(names, NAMES), 3)
    assert nothing.boxes_xyxy.shape == (0, 4)
    assert nothing.soft.shape == (0, 3)


def test_a_teacher_without_a_common_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows horse, the data have cat, dog, bird: no class of the same name"):
        class_lookup(("horse",), NAMES)


def test_less_certain_objects_weigh_less() -> None:
    """The box loss of an object is multiplied by the probability of its most probable class."""
    config = replace(EFFICIENTDET.published_config("efficientdet-lite0", NAMES), {"image_size_hw": (128, 192)})
    loss = AnchorLoss(config, LossConfig())
    anchors = len(loss.anchors_xyxy)
    outputs = RawOutputs(torch.full((1, anchors, 3), -30.0), torch.zeros(1, anchors, 4))
    boxes, ids = torch.tensor([BOXES[:1]]), torch.tensor([[2]])
    shown = torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96]]), boxes, ids

    positives = int(assign_targets(loss.anchors_xyxy, boxes, ids).num_positives)
    certain = float(loss(outputs, Batch(*shown), ONE)["box_loss"])
    half = float(loss(outputs, Batch(*shown, torch.tensor([[[0.0, 0.1, 0.5]]])), ONE)["box_loss"])
    # Both are divided by four times (the sum of certainties + 1).
    assert half * (0.5 * positives + 1) == pytest.approx(0.5 * certain * (positives + 1), rel=1e-5)


ALL = PostprocessSettings(score=0.05, multi_class=True)


def test_boxes_of_a_described_detector_are_in_pixels_of_the_image(tmp_path: Path) -> None:
    """An image of 128×64 is halved; a box of the network at (16, 8)–(32, 24) is at twice that, less the offset."""
    image = np.full((64, 128, 3), 200, np.uint8)
    rows = np.array([[[24, 16, 16, 16, 0.5, 0.8, 0.1, 0.0]]], np.float32)
    corner = DescribedDetector(described(tmp_path, rows, objectness=True)).detect([image], ALL)[0]
    np.testing.assert_allclose(corner.boxes_xyxy, [[32, 16, 64, 48]] * 2)
    np.testing.assert_allclose(corner.scores, [0.4, 0.05])
    assert corner.labels == ["cat", "dog"]
    # In the middle, the image begins at row 16 of the input.
    centre = DescribedDetector(described(tmp_path, rows, objectness=True, fit="centre")).detect([image], ALL)[0]
    np.testing.assert_allclose(centre.boxes_xyxy[0], [32, 0, 64, 16])
    stretched = DescribedDetector(described(tmp_path, rows, objectness=True, fit="stretch")).detect([image], ALL)[0]
    np.testing.assert_allclose(stretched.boxes_xyxy[0], [32, 8, 64, 24])


def test_forms_of_boxes_and_rows(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    corners = np.array([[[16, 8, 32, 24, 0.9, 0, 0]]], np.float32)
    detector = DescribedDetector(described(tmp_path, corners, boxes="xyxy"))
    plain = detector.detect([image], ALL)[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    assert detector(tmp_path / "image.png", ALL) == detector(image, ALL) == plain
    np.testing.assert_allclose(plain.boxes_xyxy, [[16, 8, 32, 24]])
    turned = corners.transpose(0, 2, 1).copy()
    again = DescribedDetector(described(tmp_path, turned, boxes="xyxy", transposed=True)).detect([image], ALL)[0]
    assert again == plain
    logits = np.array([[[16, 8, 32, 24, 2.0, -9, -9]]], np.float32)
    sure = DescribedDetector(described(tmp_path, logits, boxes="xyxy", logits=True)).detect([image], ALL)[0]
    np.testing.assert_allclose(sure.scores, [1 / (1 + np.exp(-2.0))], rtol=1e-6)
    # Strides 32 and 64: five cells, of which the fourth, of column 1 and row 1, has centre ((1 + .5) · 32, …).
    grid = np.full((1, 5, 7), 0, np.float32)
    grid[0, 3] = [0.5, 0.25, np.log(0.5), 0, 0, 0, 0.7]
    cells = DescribedDetector(described(tmp_path, grid, boxes="grid", strides=[32, 64])).detect([image], ALL)[0]
    np.testing.assert_allclose(cells.boxes_xyxy, [[40, 24, 56, 56]], atol=1e-4)
    assert cells.labels == ["bird"]


def test_what_a_description_gets_wrong_is_said(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    rows = np.zeros((1, 4, 9), np.float32)
    with pytest.raises(
        CheckpointError, match=r"returns \(1, 4, 9\), expected rows of 7 values: 4 for a box, 3 classes"
    ):
        DescribedDetector(described(tmp_path, rows)).detect([image])
    grid = np.zeros((1, 4, 7), np.float32)
    with pytest.raises(CheckpointError, match=r"returns 4 rows, and strides .* at 64×64 have 84 cells"):
        DescribedDetector(described(tmp_path, grid, boxes="grid")).detect([image])
    with pytest.raises(ConfigError, match=r"foreign\.json: .*unknown key colour$"):
        DescribedDetector(described(tmp_path, rows, colour="bgr"))
    with pytest.raises(InputError, match=r"the description .* cannot be read: No such file"):
        DescribedDetector(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match=r"unknown key box\. Did you mean boxes\?"):
        DescribedDetector(described(tmp_path, rows, box="xyxy"))
    with pytest.raises(CheckpointError, match=r"foreign\.json describes .*gone\.onnx, which is not there"):
        DescribedDetector(described(tmp_path, rows, model="gone.onnx"))
    with pytest.raises(ConfigError, match=r"foreign\.onnx takes \[1, 3, 64, 64\], .* describes \[1, 3, 32, 64\]"):
        DescribedDetector(described(tmp_path, rows, size_hw=[32, 64]))


def test_a_network_that_answers_no_numbers_is_not_one_that_finds_nothing(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    good = [16.0, 8.0, 32.0, 24.0, 0.9, 0.0, 0.0]
    for column in (0, 5):
        rows = np.array([[good, good]], np.float32)
        rows[0, 1, column] = np.nan
        with pytest.raises(CheckpointError, match=r"foreign\.onnx returns NaN instead"):
            DescribedDetector(described(tmp_path, rows, boxes="xyxy")).detect([image], ALL)
    # What no score reaches is not looked at: networks leave anything in rows that stand for nothing.
    unused = np.array([[good, [np.nan, 0, 0, 0, 0.0, 0, 0]]], np.float32)
    assert len(DescribedDetector(described(tmp_path, unused, boxes="xyxy")).detect([image], ALL)[0]) == 1
    sizes = np.array([[[40, 40, 8, 8, 0.9, 0, 0]]], np.float32)  # a centre and a size
    with pytest.raises(CheckpointError, match=r"boxes with x2 < x1 .* boxes 'xyxy': describe another form"):
        DescribedDetector(described(tmp_path, sizes, boxes="xyxy")).detect([image], ALL)
    for turned in (False, True):
        with pytest.raises(CheckpointError, match=r"returns \(\), expected rows of 7 values"):
            DescribedDetector(described(tmp_path, np.zeros((), np.float32), transposed=turned)).detect([image])


def test_classes_of_teacher_and_student_have_the_same_name_however_it_is_written() -> None:
    """As for rows of a class predictor: a teacher of ``traffic light`` teaches ``Traffic_Light``."""
    lookup = class_lookup(("car", "traffic light", "Stop Sign"), ("stop-sign", "Traffic_Light"))
    assert lookup.tolist() == [-1, 1, 0]


@pytest.mark.parametrize("split", ["instances_val", None])
def test_images_that_are_labelled_are_not_learned_without_their_labels(
    split: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The user keeps all images in one folder: those of either split are known by their content, under any name."""
    caplog.set_level(logging.INFO, "phidet")
    data = write_squares(tmp_path / "data", 8)
    rng, more = np.random.default_rng(1), tmp_path / "more"
    more.mkdir()
    for i, source in enumerate(sorted((data / "train").glob("*.png"))):
        (more / f"copy-{i}.png").write_bytes(source.read_bytes())
    for i in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(more / f"new-{i}.png")
    teacher = described(tmp_path, np.zeros((1, 1, 7), np.float32), classes=list(SQUARES))
    changes = {"epochs": 1, "batch_size": 2}
    request = Request(
        data=str(data), teacher=str(teacher), unlabelled=str(more), pretrained="none", image_size=128, changes=changes,
        val_split="none" if split is None else None,
    )  # fmt: skip
    train, val = plan_run(request, RunSettings(out=tmp_path / "run", workers=0)).data
    assert [Path(name).name for name in train.names[-2:]] == ["new-0.png", "new-1.png"]
    assert len(train) + (0 if val is None else len(val)) == 8 + 2
    assert "8 images are among the labelled ones" in caplog.text
    assert "unlabelled: 2 images, for the teacher to label" in caplog.text


def test_a_published_network_finds_what_is_labelled(shared: Path, tmp_path: Path) -> None:
    """YOLOX-nano, described in one line, finds the largest person of the data where the label is."""
    data = shared / "data" / "coco-person"
    labels = json.loads((data / "annotations" / "instances_val.json").read_text())
    largest = max(labels["annotations"], key=lambda label: label["area"] * (not label["iscrowd"]))
    name = next(image["file_name"] for image in labels["images"] if image["id"] == largest["image_id"])
    network = str(shared / "peers" / "yolox_nano.onnx")
    about = {"model": network, "size_hw": [416, 416], "bgr": True, "boxes": "grid", "objectness": True}
    (tmp_path / "yolox.json").write_text(json.dumps(about))
    objects = DescribedDetector(tmp_path / "yolox.json").detect([read_image(data / "val" / name)])[0]
    x, y, width, height = largest["bbox"]
    persons = objects[np.array(objects.labels) == "person"]
    assert pairwise_iou(persons.boxes_xyxy, np.array([[x, y, x + width, y + height]], np.float32)).max() > 0.8


def test_a_run_learns_from_a_teacher_and_goes_on_with_it_to_the_last_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The teacher's objects are among the targets, and a run that was interrupted ends as one that was not."""
    rows = np.array([[[16, 8, 32, 24, 0.0, 0.7]]], np.float32)
    teacher = described(tmp_path, rows, boxes="xyxy", classes=["absent", "BEE"])
    request = Request(
        data=str(coco(tmp_path / "data")), teacher=str(teacher), pretrained="none", image_size=128, val_split="none",
        changes={"epochs": 2, "batch_size": 2},
    )  # fmt: skip
    plan = plan_run(request, RunSettings(out=tmp_path / "run", workers=0))
    assert plan.origin.request.teacher == str(teacher)
    task = Task(plan.model.config, *plan.data, plan.origin.request.teacher)
    caplog.set_level(logging.INFO, "phidet")
    batch = next(iter(task.loader(plan.recipe, 0, EpochSampler(4, 2, 0), 0)))
    assert f"teacher: {teacher}, which knows 1 of 3 classes, not {CLASSES[0]}, {CLASSES[2]}" in caplog.messages
    assert batch.soft is not None
    assert batch.soft.shape == (*batch.class_ids.shape, 3)
    assert torch.isclose(batch.soft[..., 1], torch.tensor(0.7)).sum() == 2  # one in each image

    # Images without labels come after the others, and are learned as the teacher answers.
    more = tmp_path / "more"
    save_image(more / "deep" / "five.png", Picture("five.png", (40, 40), ()))
    (more / "broken.png").write_bytes(b"no image")
    (more / "five.txt").write_text("0 0.5 0.5 1 1")
    request = msgspec.structs.replace(request, unlabelled=str(more))
    plan = plan_run(request, RunSettings(out=tmp_path / "run", workers=0))
    assert plan.data.train.names.tolist()[4:] == [str(more / "deep" / "five.png")]
    assert [problem.kind for problem in plan.data.train.problems] == ["image unreadable"]
    taught = TaughtImages(
        TrainImages(plan.data.train, (128, 128), plan.recipe.augmentation, 0),
        str(teacher),
        CLASSES,
        plan.recipe.teaching,
    )
    assert taught[0, 4].class_ids.tolist() == [1]

    whole = carry_out(plan).model.state_dict()
    cut = RunSettings(out=tmp_path / "cut", workers=0)
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        run(request, cut)
    resumed = resume(cut.out, cut).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_what_does_not_go_together_is_said_before_the_data_are_read() -> None:
    settings = RunSettings(out=Path("nowhere"))
    with pytest.raises(CheckpointError, match="there is no model 'gone'"):
        plan_run(Request(data="absent", teacher="gone"), settings)
    with pytest.raises(ConfigError, match="image size 96×96 is smaller than the coarsest stride, 128"):
        plan_run(Request(data="absent", image_size=96), settings)
    with pytest.raises(ConfigError, match="learned as empty: name a teacher"):
        plan_run(Request(data="absent", unlabelled="more"), settings)
    with pytest.raises(ConfigError, match="classifier networks cannot learn a teacher's uncertain objects"):
        plan_run(Request(data="absent", model="efficientnet-lite0", teacher="person"), settings)


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        read_unlabelled(tmp_path / "absent", NAMES)
    with pytest.raises(InputError, match="has no image that can be read"):
        read_unlabelled(tmp_path, NAMES)


def test_objects_that_a_teacher_adds_have_no_known_mask() -> None:
    plain = example(BOXES, [2, 0])
    masks = torch.zeros(2, 16, 24, dtype=torch.uint8)
    masks[0, 2:5, 2:5] = 1
    answers = found([[0.0, 44.0, 20.0, 62.0]], [[0.1, 0.3, 0]])
    taught = teach(plain._replace(masks=masks), answers, 3, Teaching())
    assert taught.masks is not None
    assert torch.equal(taught.masks[:2], masks)
    assert (taught.masks[2] == UNKNOWN).all()
    assert len(taught.masks) == len(taught.boxes_xyxy)
    alone = teach(example([], [])._replace(masks=masks[:0]), answers, 3, Teaching())
    assert alone.masks is not None
    assert (alone.masks == UNKNOWN).all()
    assert alone.masks.shape == (1, 16, 24)
