"""Detection on streams: several images at a time, and the answers in their order all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phidet.cli.detect import at_once_within_memory
from phidet.core.errors import CheckpointError, InputError
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.images.sources import SourceImage, Unusable
from phidet.inference.stream import detect_stream

SETTINGS = PostprocessSettings()
PATIENCE_S = 60.0


def items(count: int, unusable: Sequence[int] = ()) -> Iterator[SourceImage | Unusable]:
    """Images whose brightness is their number."""
    for i in range(count):
        if i in unusable:
            yield Unusable(f"{i}", InputError("no image"))
        else:
            yield SourceImage(f"{i}", PurePosixPath(f"{i}.png"), np.full((4, 4, 3), i, np.uint8))


class Sees:
    """Says how bright an image is, as a score; refuses those in ``broken``."""

    class_names = ("thing",)

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.broken, self.batches = broken, list[int]()

    def detect(self, arrays: Sequence[Any], settings: PostprocessSettings | None = None) -> list[Detections]:
        self.batches.append(len(arrays))
        if any(array[0, 0, 0] in self.broken for array in arrays):
            raise InputError("it cannot be used")
        return [self.found(int(array[0, 0, 0])) for array in arrays]

    def found(self, number: int) -> Detections:
        box = np.array([[0, 0, 1, 1]], np.float32)
        return Detections(box, np.array([number / 256], np.float32), np.zeros(1, np.int64), ("thing",), (4, 4))


class LastFirst(Sees):
    """Answers the second of every two images before the first: only a pool of two threads gets on."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = [threading.Event() for _ in range(64)]

    def detect(self, arrays: Sequence[Any], settings: PostprocessSettings | None = None) -> list[Detections]:
        number = int(arrays[0][0, 0, 0])
        if number % 2 == 0:
            assert self.answered[number + 1].wait(PATIENCE_S)
        found = super().detect(arrays, settings)
        self.answered[number].set()
        return found


def numbers(answers: Iterator[Any]) -> list[str]:
    """Sources, and where there are detections, what was seen; "!" for unusable ones."""
    shown = []
    for answer in answers:
        if isinstance(answer, Unusable):
            shown.append(f"{answer.source}!")
        else:
            assert round(float(answer[1].scores[0]) * 256) == int(answer[0].source)
            shown.append(answer[0].source)
    return shown


@pytest.mark.parametrize("at_once", [0, 1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_order_is_kept_and_unusable_ones_stand_in_their_place(at_once: int, batch: int) -> None:
    detector = Sees(broken=[5, 11])
    found = numbers(detect_stream(detector, items(14, unusable=[0, 3, 4, 13]), SETTINGS, batch, at_once=at_once))
    assert found == ["0!", "1", "2", "3!", "4!", "5!", "6", "7", "8", "9", "10", "11!", "12", "13!"]
    assert max(detector.batches) == batch


def test_several_are_worked_on_at_a_time() -> None:
    assert numbers(detect_stream(LastFirst(), items(20), SETTINGS, at_once=2)) == [f"{i}" for i in range(20)]


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_memory_is_bounded_however_slow_the_reader_is(at_once: int) -> None:
    read: list[int] = []

    def counted() -> Iterator[SourceImage | Unusable]:
        for i, item in enumerate(items(50)):
            read.append(i)
            yield item

    answers = detect_stream(Sees(), counted(), SETTINGS, at_once=at_once)
    for i, _ in enumerate(answers):
        # In the queue, in the hand of the thread that fills it, and here.
        assert len(read) <= i + 1 + at_once + 2


def test_a_frame_of_a_camera_does_not_wait_for_the_next_one() -> None:
    read: list[int] = []

    def frames() -> Iterator[SourceImage | Unusable]:
        for i, item in enumerate(items(3)):
            read.append(i)
            yield item

    for i, _ in enumerate(detect_stream(Sees(), frames(), SETTINGS, at_once=0)):
        assert len(read) == i + 1


@pytest.mark.parametrize("at_once", [0, 2])
def test_an_error_of_the_network_comes_after_the_answers_before_it(at_once: int) -> None:
    class Breaks(Sees):
        def detect(self, arrays: Sequence[Any], settings: PostprocessSettings | None = None) -> list[Detections]:
            if arrays[0][0, 0, 0] == 3:
                raise CheckpointError("the network broke")
            return super().detect(arrays, settings)

    answers = detect_stream(Breaks(), items(9), SETTINGS, at_once=at_once)
    seen = numbers(islice(answers, 3))
    assert seen == ["0", "1", "2"]
    with pytest.raises(CheckpointError, match="the network broke"):
        next(answers)


def test_a_reader_that_leaves_ends_the_threads_and_the_sources() -> None:
    closed = threading.Event()

    def endless() -> Iterator[SourceImage | Unusable]:
        try:
            while True:
                yield from items(9)
        finally:
            closed.set()

    before = threading.active_count()
    answers = detect_stream(Sees(), endless(), SETTINGS, at_once=3)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("side", "batch", "cores", "wanted"),
    [
        (320, 1, 16, 16),
        (512, 1, 16, 8),
        (512, 4, 16, 2),
        (1024, 1, 16, 2),
        (1536, 1, 16, 1),
        (1536, 8, 2, 1),
        (320, 1, 0, 0),
    ],
)
def test_large_networks_run_fewer_at_a_time(side: int, batch: int, cores: int, wanted: int) -> None:
    assert at_once_within_memory(SimpleNamespace(image_size_hw=(side, side)), batch, cores) == wanted
    assert at_once_within_memory(None, batch, cores) == cores  # somebody's own detector
