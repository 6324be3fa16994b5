"""What a notebook shows of detections: the image while it exists, and a table."""

from __future__ import annotations

import base64
import gc
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phidet import Detector
from phidet.core.errors import InputError
from phidet.detections.detections import Detections


def one(label: str = "a<b>") -> Detections:
    return Detections(np.array([[4, 4, 20, 16]]), np.array([0.5]), np.array([0]), (label,), (32, 40), {"n": [7]})


def gray() -> np.ndarray:
    return np.full((32, 40, 3), 90, np.uint8)


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_image_is_drawn_and_the_table_says_the_same(tmp_path: Path) -> None:
    image = gray()
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    for source in (path, str(path), image, Image.fromarray(image)):
        found = one().of_image(source)
        assert pixels(found._repr_png_()).tolist() == np.asarray(found.draw(image)).tolist()
        html = found._repr_html_()
        [data] = re.findall('src="data:image/jpeg;base64,(.*?)"', html)
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        assert np.abs(drawn - np.asarray(found.draw(image))).mean() < 4  # JPEG's loss
        assert "<td>a&lt;b&gt;</td><td>0.5</td><td>4.0, 4.0, 20.0, 16.0</td><td>7</td>" in html
        assert "http" not in html
        assert found[:1].image is source or found[:1].image == source  # slices and filters keep it
        assert found == one()


def test_detections_do_not_keep_pixels_alive() -> None:
    image = gray()
    found = one().of_image(image)
    assert found.image is image
    del image
    gc.collect()
    assert found.image is None
    assert found._repr_png_() is None
    assert found._repr_html_().startswith("<div><table>")


def test_what_is_gone_or_another_image_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    found = one().of_image(path)
    assert found._repr_png_() is None
    Image.fromarray(gray()[:16]).save(path)
    assert found._repr_png_() is None  # of another size by now
    with pytest.raises(InputError, match="expected the image that was detected on"):
        found.show()
    with pytest.raises(InputError, match=r"give it, as in found\.show\('photo\.jpg'\)"):
        one().show()
    assert one().of_image("https://example.org/a.jpg").image is None  # showing fetches nothing


def test_large_images_and_long_tables_are_cut() -> None:
    boxes = np.tile(np.array([[0, 0, 9, 9]]), (30, 1))
    image = np.zeros((2_000, 3_000, 3), np.uint8)
    found = Detections(boxes, np.full(30, 0.5), np.zeros(30, int), (), (2_000, 3_000)).of_image(image)
    assert pixels(found._repr_png_()).shape == (683, 1024, 3)
    html = found._repr_html_()
    assert html.count("<tr>") == 21
    assert "<p>… and 10 more</p>" in html
    assert "<p>nothing found</p>" in Detections.empty()._repr_html_()


def test_show_is_below_the_cell_in_a_notebook_and_in_a_viewer_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(("viewer", image.size)))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    one().show(gray())
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    display = SimpleNamespace(display=lambda image: shown.append(("cell", image.size)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[arg-type]
    one().show(gray())
    del shell.kernel  # IPython in a terminal
    one().show(gray())
    assert shown == [("viewer", (40, 32)), ("cell", (40, 32)), ("viewer", (40, 32))]


def test_a_detector_says_which_image_it_was() -> None:
    detector = Detector("person")
    image = gray()
    assert detector(image).image is image
    assert [found.image is image for found in detector([image, image])] == [True, True]
    assert detector.detect([image])[0].image is None  # a server's way keeps nothing
