"""Damaged image files of every format: each gives a result or one line, and no other ending."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_fuzz import cases, decoded_files, fuzz
from phidet.images.decode import read_image
from phidet.images.decoders import DECODERS
from phidet.images.formats import format_of


def test_there_are_whole_files_of_every_decoder() -> None:
    pytest.importorskip("pi_heif")
    files = decoded_files(np.random.default_rng(0))
    assert {format_of(content) for variants in files.values() for content in variants} == set(DECODERS)
    for variants in files.values():
        assert {format_of(content) for content in variants} == {format_of(variants[0])}
        assert all(read_image(content).size for content in variants)


def test_cases_are_the_same_for_the_same_seed_and_differ_from_each_other() -> None:
    assert cases("decoded", 3, 60) == cases("decoded", 3, 60)
    assert len(set(cases("decoded", 3, 60)) | set(cases("decoded", 4, 60))) > 110


@pytest.mark.parametrize(("formats", "count"), [("decoded", 2000), ("all", 100)])
def test_damaged_files(tmp_path: Path, formats: str, count: int) -> None:
    endings = fuzz(formats, 0, count, tmp_path)
    assert sum(endings.values()) == count
    assert min(endings["result"], endings["refusal"]) > count / 50  # damage is neither too little nor too much


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formats", "seed", "count"), [*(("decoded", s, 20_000) for s in range(1, 6)), ("all", 6, 1000)]
)
def test_a_hundred_thousand_damaged_files(tmp_path: Path, formats: str, seed: int, count: int) -> None:
    endings = fuzz(formats, seed, count, tmp_path)
    assert sum(endings.values()) == count
    print(endings)
