"""ATSS and task alignment, against the papers' algorithms written as loops; what the loss makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

import peers
from conftest import slowly
from phidet import create_model
from phidet.architectures.batch import Batch
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.dynamic import ATSS_CELLS, CANDIDATES, atss, task_aligned
from phidet.architectures.efficientdet.loss_config import LossConfig
from phidet.architectures.efficientdet.losses import AnchorLoss, detection_loss
from phidet.architectures.efficientdet.network import RawOutputs
from phidet.architectures.efficientdet.targets import Objects, assign_targets, objects_of
from phidet.architectures.processes import Processes
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import replace
from phidet.detections.boxes import decode

pytestmark = pytest.mark.usefixtures("unrendered")
ALONE = Processes(1, lambda total: total)
CONFIG = replace(peers.tiny_detector(), {"image_size_hw": (128, 128)})
LOSS = AnchorLoss(CONFIG, LossConfig())
ANCHORS = LOSS.anchors_xyxy


def some_objects(seed: int, images: int = 3, most: int = 6) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) and class ids (B, N); small and large, some over each other, the last image without any."""
    rng = np.random.default_rng(seed)
    boxes, ids = np.zeros((images, most, 4), np.float32), np.full((images, most), -1)
    for b in range(images - 1):
        for k in range(rng.integers(1, most + 1)):
            w, h = np.exp(rng.uniform(np.log(3), np.log(110), 2))
            x, y = rng.uniform(0, 128 - w), rng.uniform(0, 128 - h)
            boxes[b, k], ids[b, k] = (x, y, x + w, y + h), rng.integers(3)
    return torch.from_numpy(boxes), torch.from_numpy(ids)


def centre(box: Tensor) -> Tensor:
    return (box[:2] + box[2:]) / 2


@pytest.mark.parametrize("seed", [0, *slowly(1, 2, 3, 4)])
def test_atss_is_the_papers_algorithm(seed: int) -> None:
    objects = objects_of(*some_objects(seed))
    ours = atss(ANCHORS, LOSS.anchors_of_level, LOSS.per_cell, objects)
    assert sum(LOSS.anchors_of_level) == len(ANCHORS)
    expected = torch.full_like(ours, -1)
    overlap = torch.full(ours.shape, -1.0)
    alone = 0
    for row, box in enumerate(objects.boxes_xyxy):
        b = int(objects.image[row])
        candidates: list[int] = []
        start = 0
        for size in LOSS.anchors_of_level:
            of_level = range(start, start + size)
            distance = {a: float((centre(ANCHORS[a]) - centre(box)).square().sum()) for a in of_level}
            candidates += sorted(of_level, key=lambda a: distance[a])[: ATSS_CELLS * LOSS.per_cell]
            start += size
        ious = box_iou(ANCHORS[candidates], box[None])[:, 0]
        threshold = ious.mean() + ious.std()
        positive = []
        for a, iou in zip(candidates, ious.tolist(), strict=True):
            x, y = centre(ANCHORS[a]).tolist()
            if iou >= threshold and box[0] < x < box[2] and box[1] < y < box[3]:
                positive.append((a, iou))
        if not positive:
            a, iou = candidates[int(ious.argmax())], float(ious.max())
            if iou > 0 and expected[b, a] < 0:
                positive, alone = [(a, iou)], alone + 1
        for a, iou in positive:
            if iou > overlap[b, a]:
                expected[b, a], overlap[b, a] = row, iou
    assert torch.equal(ours, expected)
    assert (ours[-1] == -1).all()
    learned = set(ours[ours >= 0].tolist())
    assert len(learned) >= 0.8 * len(objects.boxes_xyxy), "objects that others cover wholly aside"


def some_answers(seed: int, images: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    deltas = 0.3 * torch.randn(images, len(ANCHORS), 4, generator=generator)
    logits = torch.randn(images, len(ANCHORS), 3, generator=generator)
    return decode(deltas, ANCHORS), logits


@pytest.mark.parametrize("seed", range(4))
def test_task_alignment_is_the_papers(seed: int) -> None:
    objects = objects_of(*some_objects(seed))
    answers, logits = some_answers(seed)
    scores = logits.sigmoid()
    owner, quality = task_aligned(ANCHORS, answers, scores, objects)
    expected, wanted = torch.full_like(owner, -1), torch.zeros_like(quality)
    for b in range(3):
        rows = (objects.image == b).nonzero()[:, 0].tolist()
        chosen: dict[int, list[tuple[int, float, float]]] = {}
        for row in rows:
            box, c = objects.boxes_xyxy[row], int(objects.class_ids[row])
            ious = box_iou(answers[b], box[None])[:, 0]
            x, y = ((ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2).T
            inside = ((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).nonzero()[:, 0].tolist()
            fit = {a: float(scores[b, a, c] * ious[a] ** 6) for a in inside}
            best = sorted(inside, key=lambda a: -fit[a])[:CANDIDATES]
            chosen[row] = [(a, fit[a], float(ious[a])) for a in best]
        for a in {a for found in chosen.values() for a, _, _ in found}:
            claims = [(iou, -row) for row, found in chosen.items() for x_, _, iou in found if x_ == a]
            expected[b, a] = -max(claims)[1]
        for row, found in chosen.items():
            kept = [(a, fit, iou) for a, fit, iou in found if expected[b, a] == row]
            largest = max((fit for _, fit, _ in kept), default=0.0)
            for a, fit, _ in kept:
                wanted[b, a] = fit / largest * max(iou for _, _, iou in kept) if largest > 0 else 0.0
    # Of anchors that fit equally, which is not a number that is chosen by rounding, any may be the thirteenth.
    same = owner == expected
    assert same.float().mean() > 0.9995
    torch.testing.assert_close(quality[same], wanted[same], rtol=1e-4, atol=1e-5)
    for row in set(owner[owner >= 0].tolist()):
        mine = owner[objects.image[row]] == row
        overlaps = box_iou(answers[objects.image[row]][mine], objects.boxes_xyxy[row][None])
        assert quality[objects.image[row]][mine].max() == pytest.approx(float(overlaps.max()), abs=1e-5)


def outputs(seed: int) -> RawOutputs:
    generator = torch.Generator().manual_seed(seed)
    shape = 3, len(ANCHORS)
    deltas = (0.3 * torch.randn(*shape, 4, generator=generator)).requires_grad_()
    return RawOutputs(torch.randn(*shape, 3, generator=generator).requires_grad_(), deltas)


def batch(seed: int) -> Batch:
    boxes, ids = some_objects(seed)
    return Batch(torch.zeros(3, 3, 128, 128, dtype=torch.uint8), torch.full((3, 2), 128), boxes, ids, None, None)


def test_the_usual_loss_is_what_it_was() -> None:
    answers, given = outputs(0), batch(0)
    targets = assign_targets(ANCHORS, given.boxes_xyxy, given.class_ids)
    before = detection_loss(answers, targets, ANCHORS, LossConfig())
    assert torch.equal(LOSS(answers, given, ALONE)["loss"], before.total)


@pytest.mark.parametrize("assignment", ["iou", "atss"])
def test_with_quality_a_class_learns_the_overlap_of_its_answer(assignment: str) -> None:
    answers, given = outputs(1), batch(1)
    settings = LossConfig(assignment=assignment, quality=True, box_weight=0.0)  # type: ignore[arg-type]
    loss = AnchorLoss(CONFIG, settings)
    found = loss(answers, given, ALONE)["class_loss"]
    objects: Objects = objects_of(given.boxes_xyxy, given.class_ids)
    if assignment == "atss":
        owner = atss(ANCHORS, loss.anchors_of_level, loss.per_cell, objects)
    else:
        targets = assign_targets(ANCHORS, given.boxes_xyxy, given.class_ids)
        place = {(int(b), int(n)): row for row, (b, n) in enumerate(zip(objects.image, objects.number, strict=True))}
        owner = torch.full_like(targets.matched, -1)
        for b, a in (targets.matched >= 0).nonzero().tolist():
            owner[b, a] = place[b, int(targets.matched[b, a])]
    # The quality focal loss by its definition, with the focal loss's weights.
    wanted = torch.zeros_like(answers.class_logits)
    boxes, total = decode(answers.box_deltas, ANCHORS), 0.0
    for b, a in (owner >= 0).nonzero().tolist():
        row = owner[b, a]
        q = float(box_iou(boxes[b, a][None].detach(), objects.boxes_xyxy[row][None]))
        wanted[b, a, objects.class_ids[row]] = q
        total += q
    p = answers.class_logits.sigmoid()
    entropy = F.binary_cross_entropy(p, wanted, reduction="none")
    weight = settings.alpha * wanted + (1 - settings.alpha) * (1 - wanted)
    expected = (weight * (wanted - p).abs() ** settings.gamma * entropy).sum() / (total + 1)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("assignment", ["atss", "task"])
def test_gradients_are_finite_and_only_through_the_answers(assignment: str) -> None:
    answers, given = outputs(2), batch(2)
    loss = AnchorLoss(CONFIG, LossConfig(assignment=assignment, quality=True, iou_kind="giou"))  # type: ignore[arg-type]
    found = loss(answers, given, ALONE)
    found["loss"].backward()
    for tensor in answers:
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
    # Of an image without objects no box is learned, and every class is background.
    assert not answers.box_deltas.grad[2].any()  # type: ignore[index]
    assert (answers.class_logits.grad[2] >= 0).all()  # type: ignore[index]
    none = given._replace(class_ids=torch.full_like(given.class_ids, -1))
    assert float(loss(answers, none, ALONE)["box_loss"].detach()) == 0


def test_what_is_no_assignment() -> None:
    with pytest.raises(ConfigError, match="assignment: expected iou, atss, task, got 'nearest'"):
        EFFICIENTDET.loss(CONFIG, {"assignment": "nearest"})
    with pytest.raises(UnknownNameError, match="nearest"):
        LossConfig(assignment="nearest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="quality"):
        EFFICIENTDET.loss(CONFIG, {"quality": "yes"})


@pytest.mark.parametrize("assignment", ["task", *slowly("atss")])
def test_it_learns_an_image_by_heart(assignment: str) -> None:
    """Forty steps on one image, twice in the batch: the loss is less than half, whatever the processor."""
    torch.manual_seed(0)
    model = create_model(CONFIG)
    settings = {"assignment": assignment, "quality": True, "iou_kind": "giou", "box_weight": 0.0, "iou_weight": 8.0}
    loss = EFFICIENTDET.loss(CONFIG, {**EFFICIENTDET.loss_settings, **settings})
    boxes = torch.tensor([[[10.0, 20, 60, 90], [70, 30, 110, 60]]]).repeat(2, 1, 1)
    ids = torch.tensor([[0, 2]]).repeat(2, 1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 128, 128), generator=generator).to(torch.uint8).repeat(2, 1, 1, 1)
    given = Batch(pixels, torch.full((2, 2), 128), boxes, ids, None, None)
    images = pixels.float() / 127 - 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    losses = []
    for _ in range(40):
        value = loss(model(images), given, ALONE)["loss"]
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(value.detach()))
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
