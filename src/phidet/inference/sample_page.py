"""A page to move through a generator: mix styles per scale, and walk between images; one file, no server."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from phidet.core.files import write_atomic
from phidet.detections.boxes import FloatArray
from phidet.inference.generator import ImageGenerator, Images, image_grid, mix

SOURCES, STEPS = 6, 9
"""Images that are mixed, and places on each side of the plane between four of them."""
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
.image {{ width: {big}px; height: {big}px; background-repeat: no-repeat; image-rendering: pixelated }}
.row {{ display: flex; gap: 2rem; align-items: center; flex-wrap: wrap }}
label {{ display: block; margin: .4rem 0 }} input[type=range] {{ width: 16rem; vertical-align: middle }}
</style></head><body>
<h1>{title}</h1>
<h2>Mix styles</h2>
<p>Each scale of the image takes its style from one of {sources} images: coarse layers from 4 pixels on decide shape and
place, middle ones parts, fine ones colour and grain.</p>
<div class="row"><div id="mixed" class="image"></div><div>
<label>coarse <input type="range" id="coarse" min="0" max="{last}" value="0"></label>
<label>middle <input type="range" id="middle" min="0" max="{last}" value="0"></label>
<label>fine <input type="range" id="fine" min="0" max="{last}" value="0"></label></div></div>
<h2>Walk through w</h2>
<p>The corners are four of those images; between them w is interpolated.</p>
<div class="row"><div id="walked" class="image"></div><div>
<label>across <input type="range" id="across" min="0" max="{end}" value="0"></label>
<label>down <input type="range" id="down" min="0" max="{end}" value="0"></label></div></div>
<script>
const sources = {sources}, steps = {steps}, side = {big};
const sheets = {{ mixed: ["{mixed}", sources], walked: ["{walked}", steps] }};
const value = id => Number(document.getElementById(id).value);
for (const [id, [data, columns]] of Object.entries(sheets)) {{
  const style = document.getElementById(id).style;
  style.backgroundImage = `url(data:image/png;base64,${{data}})`;
  style.backgroundSize = `${{columns * side}}px auto`;
}}
function show(id, column, row) {{
  document.getElementById(id).style.backgroundPosition = `-${{column * side}}px -${{row * side}}px`;
}}
function draw() {{
  show("mixed", value("fine"), value("coarse") * sources + value("middle"));
  show("walked", value("across"), value("down"));
}}
for (const input of document.querySelectorAll("input")) input.addEventListener("input", draw);
draw();
</script></body></html>
"""


def write_page(generator: ImageGenerator, path: Path, seed: int, class_id: int | None, psi: float) -> Path:
    """Writes one HTML file with everything in it; returns its path."""
    sources = generator.styles(generator.latents(SOURCES, seed), class_id, psi)
    size = generator.config.num_layers
    cuts = max(2, size // 3 // 2 * 2), max(4, 2 * size // 3 // 2 * 2)
    places = np.stack(np.meshgrid(*[np.arange(SOURCES)] * 3, indexing="ij"), -1).reshape(-1, 3)
    coarse, middle, fine = (sources[places[:, i]] for i in range(3))
    # Without gaps, as the page cuts single images out again.
    mixed = image_grid(generator.images(mix(mix(coarse, middle, cuts[0]), fine, cuts[1])), SOURCES, gap=0)
    walked = image_grid(generator.images(_plane(sources[:4])), STEPS, gap=0)
    big = max(generator.config.image_size_hw[0], 256)
    text = _PAGE.format(
        title=f"{generator.config.name}{'' if class_id is None else ': ' + generator.config.class_names[class_id]}",
        big=big, sources=SOURCES, steps=STEPS, last=SOURCES - 1, end=STEPS - 1,
        mixed=_encoded(mixed), walked=_encoded(walked),
    )  # fmt: skip
    write_atomic(path, text.encode())
    return path


def _plane(corners: FloatArray) -> FloatArray:
    """Bilinear mixtures of four styles, row by row."""
    shares = np.linspace(0, 1, STEPS, dtype=np.float32)
    y, x = (each.reshape(-1, 1, 1) for each in np.meshgrid(shares, shares, indexing="ij"))
    above = corners[0] + x * (corners[1] - corners[0])
    below = corners[2] + x * (corners[3] - corners[2])
    plane: FloatArray = (above + y * (below - above)).astype(np.float32)
    return plane


def _encoded(image: Images) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
