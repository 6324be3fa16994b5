"""Detections as notebooks and viewers show them: the image with its objects, and a table."""

from __future__ import annotations

import base64
import io
import sys
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

from phidet.core.errors import InputError

if TYPE_CHECKING:
    from phidet.detections.convertible import DetectionsJson
    from phidet.detections.detections import Detections
    from phidet.images.decode import ImageLike

_LONGEST_SIDE = 1_024  # pixels of an image in a notebook, whose file keeps it
_MOST_ROWS = 20
_QUALITY = 90
_SHOWN = ("label", "score", "box_xyxy")


def show(found: Detections, image: ImageLike | None) -> None:
    """See :meth:`Detections.show`."""
    image = image if image is not None else found.image
    if image is None:
        raise InputError("the image that was detected on is not known any more: give it, as in found.show('photo.jpg')")
    drawn = found.draw(image)
    # Outside a notebook there is nothing to draw in but a window of the system's viewer.
    display = _notebook_display()
    if display is None:
        drawn.show()
    else:
        display(drawn)


def as_png(found: Detections) -> bytes | None:
    """The image with its objects as PNG; ``None`` where it is not there any more."""
    drawn = _drawn(found)
    if drawn is None:
        return None
    content = io.BytesIO()
    drawn.save(content, "PNG")
    return content.getvalue()


def as_html(found: Detections) -> str:
    """The image with its objects, where it is there, and a table of them; nothing is loaded from elsewhere."""
    parts = []
    drawn = _drawn(found)
    if drawn is not None:
        content = io.BytesIO()
        drawn.save(content, "JPEG", quality=_QUALITY, subsampling=0)  # else thin frames are blurred
        data = base64.b64encode(content.getvalue()).decode()
        parts.append(f'<img src="data:image/jpeg;base64,{data}" alt="{escape(repr(found))}">')
    parts.append(_table(found[:_MOST_ROWS].to_dict()))
    if len(found) > _MOST_ROWS:
        parts.append(f"<p>… and {len(found) - _MOST_ROWS:,} more</p>")
    return f"<div>{''.join(parts)}</div>"


def _table(found: DetectionsJson) -> str:
    rows = found["detections"]
    if not rows:
        return "<p>nothing found</p>"
    others = [name for name in rows[0] if name not in (*_SHOWN, "class_id", "mask")]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *_SHOWN, *others))
    body = "".join(
        f"<tr><th>{i}</th>" + "".join(f"<td>{escape(_cell(row[name]))}</td>" for name in (*_SHOWN, *others)) + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)


def _drawn(found: Detections) -> Image.Image | None:
    """The image with its objects, no larger than a notebook needs it."""
    image = found.image
    if image is None:
        return None
    try:
        drawn = found.draw(image)
    except InputError:  # the file is gone, or another one is there by now
        return None
    drawn.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return drawn


def _notebook_display() -> Any:
    """IPython's function that shows something below a cell; ``None`` outside a notebook."""
    # Never imported: in a notebook it is there already.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return sys.modules["IPython.display"].display
