"""Plots of metrics and sheets of mistakes: they can be drawn whatever comes, and show what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from conftest import slowly
from metrics_data import SIZE, a_dataset, detections, nothing, some_detections, thing, truth
from phidet.data.dataset import Dataset
from phidet.detections.draw import colour
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.confusion import confusion_matrix
from phidet.evaluation.curves import pr_curves
from phidet.evaluation.measure import measure
from phidet.evaluation.mistake_sheet import FOUND, TRUTH, draw_mistakes
from phidet.evaluation.mistakes import Mistake, worst_mistakes
from phidet.evaluation.plots import confusion_figure, pr_figure, size_figure
from phidet.evaluation.report_folder import write_evaluation
from phidet.images.style import save_figure


@pytest.mark.parametrize("classes", [1, 3, *slowly(29, 30, 120)])
@pytest.mark.repeated
def test_every_figure_can_be_drawn(classes: int, tmp_path: Path) -> None:
    dataset = a_dataset(1, images=6, classes=classes + 1, most=40)
    found = some_detections(dataset, 2)
    curves, matrix = pr_curves(dataset, found), confusion_matrix(dataset, found, 0.3)
    pictures = [
        pr_figure(curves),
        confusion_figure(matrix, dataset.class_names),
        size_figure(evaluate_coco(dataset, found)),
    ]
    for i, figure in enumerate(pictures):
        path = save_figure(figure, tmp_path / f"{i}.png")
        with Image.open(path) as image:
            assert min(image.size) > 300
    cells = pictures[1].axes[0].texts
    assert (len(cells) > 1) == (classes < 30)  # one is the subtitle


def test_metrics_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    for dataset in (truth([], []), truth([thing((10, 10, 60, 60))], [])):
        found = nothing(2)
        save_figure(pr_figure(pr_curves(dataset, found)), tmp_path / "pr.png")
        save_figure(confusion_figure(confusion_matrix(dataset, found, 0.3), dataset.class_names), tmp_path / "c.png")
        save_figure(size_figure(evaluate_coco(dataset, found)), tmp_path / "size.png")


def test_metrics_are_the_same_twice_and_say_their_values(tmp_path: Path) -> None:
    dataset = truth([thing((10, 10, 60, 60)), thing((100, 10, 150, 60))])
    found = [detections(((10, 10, 60, 60), 0.75, 0))]
    first, second = (
        save_figure(pr_figure(pr_curves(dataset, found)), tmp_path / f"{i}.png").read_bytes() for i in range(2)
    )
    assert first == second
    legend = [text.get_text() for text in pr_figure(pr_curves(dataset, found)).axes[0].get_legend().get_texts()]
    assert legend == [f"a\nAP50 {51 / 101:.3f}, best F1 0.67 at score 0.75"]
    cells = confusion_figure(confusion_matrix(dataset, found, 0.3), dataset.class_names).axes[0].texts
    assert [text.get_text() for text in cells if text.get_text()][:2] == ["0.50", "0.50"]
    bars = size_figure(evaluate_coco(dataset, found)).axes[0].texts
    assert [text.get_text() for text in bars].count("no objects") == 2


@pytest.mark.parametrize("background", [False, True])
def test_of_many_classes_a_matrix_shows_those_that_are_confused(background: bool) -> None:
    names = [f"class {i}" for i in range(150)]
    matrix = np.diag(np.full(150 + background, 7))
    matrix[149, 130] = 2
    figure = confusion_figure(matrix, names)
    rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    shown = [*range(98), 130, 149]
    assert rows == [f"class {i} ({9 if i == 149 else 7})" for i in shown] + ["nothing (7)"] * background
    shares = np.ma.filled(figure.axes[0].images[0].get_array(), 0)
    assert shares[99, 98] == pytest.approx(2 / 9), "of all that the class has, shown or not"


def test_a_report_on_nothing_is_whole(tmp_path: Path) -> None:
    """No image of the split could be decoded."""
    none = truth([thing((10, 10, 60, 60))]).subset([], "none")
    written = write_evaluation(tmp_path, measure("m", "d", none, []), none, [])
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    assert len(written) == 9


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """Four grey images on disk, one of them broken, with objects also at the border."""
    dataset = truth(
        [thing((10, 10, 60, 60)), thing((250, 150, 300, 200), "b")],
        [thing((0, 0, 300, 200))],
        [thing((100, 100, 102, 102))],
        [thing((10, 10, 60, 60))],
    )
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.new("RGB", SIZE[::-1], "#808080").save(path)
    paths[3].write_bytes(b"no picture")
    return Dataset(
        "photos",
        dataset.class_names,
        names=[str(name) for name in dataset.names],
        sources=paths,
        annotations=[dataset.annotations(i) for i in range(4)],
        sizes_hw=np.array([SIZE] * 4, np.int32),
    )


def share(sheet: Image.Image, which: int) -> float:
    """Of the pixels of the tiles that have a colour."""
    pixels: npt.NDArray[np.uint8] = np.asarray(sheet)[64:]
    return float((pixels == colour(which)).all(axis=-1).mean())


def test_a_sheet_shows_truth_and_detections_in_their_colours(photos: Dataset) -> None:
    found = [
        detections(((12, 10, 60, 60), 0.9, 1), ((200, 100, 250, 150), 0.8, 0)),
        detections(((0, 0, 300, 60), 0.7, 0)),
        detections(((-50, 80, 102, 220), 0.9, 0)),
        detections(((200, 100, 250, 150), 0.8, 0)),
    ]
    mistakes = worst_mistakes(photos, found, 0.5)
    assert {m.kind for m in mistakes} >= {"missed", "false positive", "wrong class", "poor box"}
    sheet = draw_mistakes(photos, found, mistakes)
    assert share(sheet, TRUTH) > 1e-3
    assert share(sheet, FOUND) > 1e-3
    only = Mistake(1, "false positive", 0.7, 0, None)
    whole = draw_mistakes(photos, found, [only])
    assert whole.width == draw_mistakes(photos, found, [only] * 3).width  # a heading needs its room
    missed = draw_mistakes(photos, found, [Mistake(0, "missed", 0.5, None, 1)])
    assert (share(missed, FOUND), share(missed, TRUTH) > 1e-3) == (0.0, True)


def test_a_sheet_without_mistakes_and_one_of_a_broken_image_can_be_drawn(photos: Dataset) -> None:
    assert draw_mistakes(photos, nothing(4), []).width > 500
    broken = draw_mistakes(photos, nothing(4), [Mistake(3, "missed", 0.5, None, 0)])
    assert share(broken, TRUTH) == 0
