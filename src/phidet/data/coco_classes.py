"""The class names of COCO as the published detectors use them: 90 slots, ten of which no category fills."""

COCO_CLASS_NAMES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "unused-12", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep"),
    *("cow", "elephant", "bear", "zebra", "giraffe", "unused-26", "backpack", "umbrella", "unused-29", "unused-30"),
    *("handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat"),
    *("baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "unused-45", "wine glass", "cup"),
    *("fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog"),
    *("pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "unused-66", "dining table", "unused-68"),
    *("unused-69", "toilet", "unused-71", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave"),
    *("oven", "toaster", "sink", "refrigerator", "unused-83", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""Index i is COCO's category id i + 1; an ``unused-N`` slot is the id N that COCO never assigned."""

COCO_80: tuple[str, ...] = tuple(name for name in COCO_CLASS_NAMES if not name.startswith("unused-"))
"""The 80 categories alone, in the same order, as most other detectors have them."""
