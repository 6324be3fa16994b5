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

_STUFF = (
    "92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain, 112 door-stuff, 118 floor-wood, "
    "119 flower, 122 fruit, 125 gravel, 128 house, 130 light, 133 mirror-stuff, 138 net, 141 pillow, "
    "144 platform, 145 playingfield, 147 railroad, 148 river, 149 road, 151 roof, 154 sand, 155 sea, 156 shelf, "
    "159 snow, 161 stairs, 166 tent, 168 towel, 171 wall-brick, 175 wall-stone, 176 wall-tile, 177 wall-wood, "
    "178 water-other, 180 window-blind, 181 window-other, 184 tree-merged, 185 fence-merged, "
    "186 ceiling-merged, 187 sky-other-merged, 188 cabinet-merged, 189 table-merged, 190 floor-other-merged, "
    "191 pavement-merged, 192 mountain-merged, 193 grass-merged, 194 dirt-merged, 195 paper-merged, "
    "196 food-other-merged, 197 building-other-merged, 198 rock-merged, 199 wall-other-merged, 200 rug-merged"
)
COCO_STUFF_NAMES: dict[int, str] = {
    int(number): name for number, _, name in (entry.partition(" ") for entry in _STUFF.split(", "))
}
"""COCO's panoptic categories that are stuff, by id."""
