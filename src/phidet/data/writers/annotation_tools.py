"""Labels as labelling tools import them: CVAT's XML and Label Studio's JSON."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from phidet.core.numbers import shortest_float
from phidet.data.dataset import Dataset

LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio puts before the path of an image on its own disk."""


def cvat_xml(dataset: Dataset) -> bytes:
    """The labels as "CVAT for images 1.1"; images by their names, boxes marked as made automatically."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for i, name in enumerate(dataset.names.tolist()):
        height, width = dataset.size_hw(i)
        image = ElementTree.SubElement(
            root, "image", {"id": str(i), "name": name, "width": str(width), "height": str(height)}
        )
        a = dataset.annotations(i)
        for box, class_id in zip(a.boxes_xyxy, a.class_ids.tolist(), strict=True):
            corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (str(shortest_float(side)) for side in box), strict=True))
            about = {"label": dataset.class_names[class_id], "source": "auto", "occluded": "0", "z_order": "0"}
            ElementTree.SubElement(image, "box", about | corners)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def label_studio_json(dataset: Dataset, model: str, prefix: str = LOCAL_FILES) -> bytes:
    """The labels as Label Studio's tasks with predictions; sides in percent of the image.

    Args:
        dataset: with the field ``score``; objects are certain without it.
        model: its name, the predictions' version.
        prefix: put before each image's name, which is quoted as in an address.
    """
    tasks = [_task(dataset, i, model, prefix) for i in range(len(dataset))]
    return json.dumps(tasks, ensure_ascii=False, indent=1).encode()


def _task(dataset: Dataset, index: int, model: str, prefix: str) -> dict[str, Any]:
    height, width = dataset.size_hw(index)
    a = dataset.annotations(index)
    scores = np.asarray(a.fields["score"]).tolist() if "score" in a.fields else [1.0] * len(a.class_ids)
    result = []
    for k, (box, class_id) in enumerate(zip(a.boxes_xyxy.tolist(), a.class_ids.tolist(), strict=True)):
        x1, y1, x2, y2 = box
        place = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
        result.append(
            {
                "id": f"{index}-{k}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": scores[k],
                "value": {key: 100 * value for key, value in place.items()}
                | {"rotation": 0, "rectanglelabels": [dataset.class_names[class_id]]},
            }
        )
    mean = sum(scores) / len(scores) if scores else 0.0
    image = prefix + quote(str(dataset.names[index]))
    return {"data": {"image": image}, "predictions": [{"model_version": model, "score": mean, "result": result}]}


def label_studio_config(class_names: tuple[str, ...]) -> bytes:
    """The labelling interface that goes with :func:`label_studio_json`."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    labels = ElementTree.SubElement(view, "RectangleLabels", {"name": "label", "toName": "image"})
    for name in class_names:
        ElementTree.SubElement(labels, "Label", {"value": name})
    ElementTree.indent(view)
    content: bytes = ElementTree.tostring(view, encoding="utf-8")
    return content
