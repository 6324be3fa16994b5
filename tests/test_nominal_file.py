"""Nominal lists as programs write them, and what is said of broken ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from phidet.core.errors import ConfigError, InputError
from phidet.data.nominal_file import NominalOptions, doubtful_unit, read_nominal
from phidet.detections.alignment.nominal import Nominal

KICAD_CSV = """Ref,Val,Package,PosX,PosY,Rot,Side
"C1","100n","C_0805_2012Metric",41.592500,-39.370000,90.000000,top
"R2","10k","R_0805_2012Metric",44.5,-40.25,0.0,bottom
"""
KICAD_POS = """### Footprint positions - created on 2024 ###
### Printed by KiCad version 7
## Unit = mm, Angle = deg.
## Side : All
# Ref     Val       Package                PosX       PosY       Rot  Side
C1        100n      C_0805_2012Metric   41.5925   -39.3700   90.0000  top
R2        10k       R_0805_2012Metric   44.5000   -40.2500    0.0000  bottom
## End
"""
ALTIUM = """Altium Designer Pick and Place Locations
C:\\boards\\Project Outputs\\Pick Place for board.csv

========================================================================================================================
File Design Information:

Date:       01/02/24
Time:       12:34
Revision:   Not in VersionControl
Variant:    No variations
Units used: mil

"Designator","Comment","Layer","Footprint","Center-X(mil)","Center-Y(mil)","Rotation","Description"
"C1","100n","TopLayer","CAP 0805","1637.5000","-1550.0000","90.00","Chip capacitor, X7R"
"R2","10k","BottomLayer","RES 0805","1751.9685","-1584.6457","0.00",""
"""
ALTIUM_SUFFIXES = """Designator,Footprint,Mid X,Mid Y,Ref X,Ref Y,Pad X,Pad Y,TB,Rotation,Comment
C1,0805,1637.5mil,-1550mil,0mil,0mil,1mil,1mil,T,90.00,100n
R2,0805,44.5mm,-40.25mm,0mm,0mm,1mm,1mm,B,0.00,10k
"""
EAGLE = """C1 41.5925 -39.37 90 100n C0805
R2   44.50 -40.25   0 10k R 0805
"""
ALTIUM_COLUMNS = """Designator Comment          Layer       Footprint     Center-X(mm) Center-Y(mm) Rotation Description
C1         100n             TopLayer    CAP 0805      41.5925      -39.3700     90       Chip capacitor
R2         10k              BottomLayer               44.5000      -40.2500     0
"""
PROTEL = """Designator Footprint               Mid X         Mid Y         Ref X         Ref Y TB      Rotation Comment

C1         0805                41.5925mm      -39.37mm         0mm         0mm  T         90.00 100n
R2         0805                 1751.9685mil   -1584.6457mil   0mm         0mm  B          0.00 10k
"""
EAGLE_PARTS = """Partlist

Exported from board.brd at 01/02/24 12:34

Part     Value          Package      Library   Position (mil)          Orientation

C1       100n           C0805        rcl       (1637.5 -1550)          R90
R2       10k            R0805        rcl       (1751.9685 -1584.6457)  MR0
"""
FUSION = """C1,41.5925,-39.37,R90,100n,C0805
R2,44.5,-40.25,MR0,10k,R0805
"""
PADS = """PartType,PartDecal,RefDes,Layer,Orient.,X (um),Y (um)
100n,C0805,C1,1,90°,41592.5,\u221239370
10k,R0805,R2,2,0,44500,-40250
"""
ALLEGRO = """REFDES,COMP_DEVICE_TYPE,SYM_NAME,SYM_X,SYM_Y,SYM_ROTATE,SYM_MIRROR
C1,100n,C0805,41.5925,-39.37,90,NO
R2,10k,R0805,44.5,-40.25,0,YES
"""
GEDA = """# X,Y in mm.
# RefDes, Description, Value, X, Y, rotation, top/bottom
C1,"C0805","100n",41.5925,-39.37,90,top
R2,"R0805","10k",44.5,-40.25,0,bottom
"""
SPANISH = """\ufeffDesignator;Comment;Center-X(mm);Center-Y(mm);Layer;Rotation
C1;100n;41,5925;-39,37;Top;90
R2;10k;44,5;-40,25;Bottom;0
"""
SCREAMING = """*Units used = INCH/ROTATION
*Designator, X-Loc, Y-Loc, Rotation, Side, Val
C1, 1.6375, -1.55, 90, Top, 100n

R2, 1.7519685, -1.5846457, 0, Bot, 10k
"""
JSON = """{"unit": "mm", "parts": [
 {"reference": "C1", "label": "100n", "x": 41.5925, "y": -39.37, "rotation": 90},
 {"reference": "R2", "label": "10k", "x": 44.5, "y": -40.25, "rotation": 0, "side": "bottom"}]}"""


def read(tmp_path: Path, text: str, name: str = "board.csv", options: NominalOptions | None = None) -> Nominal:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_nominal(path, options)


@pytest.mark.parametrize(
    ("text", "name", "unit", "in_mm"),
    [
        (KICAD_CSV, "kicad.csv", "mm", 1.0),
        (KICAD_POS, "board-top.pos", "mm", 1.0),
        (ALTIUM, "Pick Place for board.csv", "mil", 0.0254),
        (ALTIUM_SUFFIXES, "old.csv", "mm", 1.0),
        (ALTIUM_COLUMNS, "Pick Place for board.txt", "mm", 1.0),
        (PROTEL, "protel.txt", "mm", 1.0),
        (EAGLE, "board.mnt", "mm", 1.0),
        (EAGLE_PARTS, "partlist.txt", "mil", 0.0254),
        (FUSION, "PnP_board.csv", "mm", 1.0),
        (FUSION.replace(",", ";").replace(".", ","), "PnP_board.csv", "mm", 1.0),
        (PADS, "pads.csv", "mm", 1.0),
        (ALLEGRO, "place_txt.csv", "mm", 1.0),
        (GEDA, "board.xy", "mm", 1.0),
        (SPANISH, "decimal commas.csv", "mm", 1.0),
        (SPANISH.replace(";", "\t"), "tabs.txt", "mm", 1.0),
        (SCREAMING, "centroid.csv", "inch", 25.4),
        (JSON, "parts.json", "mm", 1.0),
        (KICAD_CSV.replace("\n", "\r\n"), "windows.csv", "mm", 1.0),
    ],
)
def test_the_same_two_parts_are_read_from_every_program(
    tmp_path: Path, text: str, name: str, unit: str, in_mm: float
) -> None:
    nominal = read(tmp_path, text, name)
    assert nominal.references == ("C1", "R2")
    assert nominal.labels == ("100n", "10k")
    assert nominal.unit == unit
    assert np.allclose(nominal.places * in_mm, [[41.5925, -39.37], [44.5, -40.25]], atol=1e-4)
    assert nominal.rotations.tolist() == [90, 0]
    if name != "board.mnt":  # has no sides
        assert nominal.sides == ("top", "bottom")
    assert nominal.y_up


def test_encodings_of_windows_programs(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        path = tmp_path / f"{encoding}.csv"
        path.write_text(KICAD_CSV, encoding=encoding)
        assert read_nominal(path).references == ("C1", "R2")
    path.write_text(KICAD_CSV.replace("100n", "0.1µF ±10 %"), encoding="cp1252")
    assert read_nominal(path).labels == ("0.1µF ±10 %", "10k")


def test_labels_come_from_the_column_that_is_asked_for(tmp_path: Path) -> None:
    with_class = "Ref,Val,Package,X,Y,Class\nC1,100n,0805,1,2,capacitor\n"
    assert read(tmp_path, with_class).labels == ("capacitor",)
    assert read(tmp_path, with_class, options=NominalOptions(label_column="package")).labels == ("0805",)
    with pytest.raises(InputError, match="no column 'Kind'; it has Ref, Val, Package, X, Y, Class"):
        read(tmp_path, with_class, options=NominalOptions(label_column="Kind"))


def test_a_unit_is_that_of_the_list_and_where_it_says_none_the_one_given(tmp_path: Path) -> None:
    mil = NominalOptions(unit="mil")
    for text, unit, place in (
        ("Ref,X,Y,Val\nC1,100,200,x\n", "mil", (100, 200)),
        ("Ref,X,Y,Val\nC1,2.54mm,200,x\n", "mil", (100, 200)),
        ("Ref,X (mm),Y (mm),Val\nC1,2.54,200mil,x\n", "mm", (2.54, 5.08)),
        ("# Unit = inch\nRef,X,Y,Val\nC1,0.1,25.4mm,x\n", "inch", (0.1, 1)),
    ):
        nominal = read(tmp_path, text, options=mil)
        assert nominal.unit == unit
        assert nominal.places[0] == pytest.approx(place)


def test_what_is_not_said_is_unknown(tmp_path: Path) -> None:
    nominal = read(tmp_path, "Ref,Val,X,Y,Rot\nC1,x,1,2,\nC2,x,3,4,45\n")
    assert math.isnan(nominal.rotations[0])
    assert nominal.rotations[1] == 45
    assert nominal.sides == ("top", "top")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header with columns for x and y, as in 'Ref,Val,Package,PosX,PosY,Rot,Side'; the file is empty"),
        ("hello\nworld\n", "no header with columns for x and y.*the file begins 'hello'"),
        ("Val,X,Y\nx,1,2\n", r"board.csv:1: no column for the parts' names \(Ref, Designator\) among Val, X, Y"),
        ("Ref,X,Y\nC1,1,2\n", r"no column for the parts' labels \(Class, Val\) among Ref, X, Y"),
        ("Ref,Val,X,Y\n", "has a header, but no parts"),
        ("Ref,Val,X,Y\nC1,a,1,2\nC2,b,1\n", "board.csv:3: 3 columns, expected 4 as in the header"),
        ("Ref,Val,X,Y\nC1,a,one,2\n", r"board.csv:2: column 3 \(X\): expected a number, got 'one'"),
        ("Ref,Val,X,Y\nC1,a,1,\n", r"board.csv:2: column 4 \(Y\): expected a number, got ''"),
        ("Ref,Val,X,Y\nC1,a,1,nan\n", r"board.csv:2: column 4 \(Y\): expected a number, got 'nan'"),
        ("Ref,Val,X,Y\nC1,a,1yd,2\n", r"column 3 \(X\): expected mm, mil or in after the number, got '1yd'"),
        ("Ref,Val,X,Y,Side\nC1,a,1,2,left\n", r"board.csv:2: column 5 \(Side\): expected top or bottom, got 'left'"),
        ("Ref,Val,X,Y\nC1,a,1,2\n\nC1,a,3,4\n", "board.csv:4: the reference 'C1' comes twice, first in line 2"),
        ("Ref,Val,X,Y\n,a,1,2\n", "board.csv:2: the part has no name"),
        ("# Ref Val X Y Rot\nC1 a 1\n", r"board.csv:2: column 4 \(Y\) is missing: the line has 3"),
        ("Ref,Val,X (yd),Y (yd)\nC1,a,1,2\n", r"board.csv:1: column 'X \(yd\)': expected a unit .* got 'yd'"),
        ("Ref,Val,X,Y,Rot\nC1,a,1,2,90mm\n", r"column 5 \(Rot\): expected degrees, got '90mm'"),
        ("Ref,Val,X,Y\nC1,a,1,5,2,5\n", r"board.csv:2: 6 columns, expected 4 as in the header: values with ',' in"),
        ("Ref,Val,X,Y\nC1,a,1,1e300\n", r"board.csv: C1 is at 1, 1e\+300: expected places below 1e\+09"),
        ("PK\x03\x04 Ref,Val,X,Y\n", "is a workbook or an archive: save the list as CSV"),
        ("Ref;Val;X;Y\nC1;a;1.637,50;2\n", r"board.csv:2: column 3 \(X\): expected a number, got '1.637,50'"),
    ],
)
def test_a_broken_list_is_said_with_file_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: expected a list of parts or an image of a right assembly"):
        read_nominal(tmp_path)


@pytest.mark.parametrize(
    ("spacing", "unit", "doubted"),
    [(2.5, "mm", None), (98.4, "mil", None), (0.1, "inch", None), (98.4, "mm", "98 mm"), (2.5, "mil", "0.064 mm")],
)
def test_a_unit_that_is_likely_another_one_is_doubted(spacing: float, unit: str, doubted: str | None) -> None:
    places = spacing * np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), axis=-1).reshape(-1, 2)
    names = tuple(f"R{i}" for i in range(12))
    nominal = Nominal(names, ("r",) * 12, places, np.zeros(12), ("top",) * 12, unit, y_up=True, source="a.csv")
    said = doubtful_unit(nominal)
    assert said == (doubted and f"parts stand {doubted} apart if a.csv is in {unit}: is that the unit of its places?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "parts.json: not valid JSON"),
        ('{"parts": []}', "parts.json has no parts"),
        ('[{"reference": "C1", "label": "a", "x": "1", "y": 2}]', r"Expected `float`, got `str` - at `\$\[0\].x`"),
        ('{"unit": "parsec", "parts": []}', "Invalid enum value 'parsec'"),
    ],
)
def test_broken_json_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text, "parts.json")


def test_labels_become_classes_by_name_label_or_reference(tmp_path: Path) -> None:
    nominal = read(tmp_path, "Ref,Class,X,Y\nC1,Capacitor,1,2\nR7,10k,3,4\nU3,LM358,5,6\nX1,?,7,8\n")
    names = ("capacitor", "resistor", "ic")
    assert nominal.with_classes(names).references == ("C1",)
    mapped = nominal.with_classes(names, {"R": "Resistor", "lm358": "ic"})
    assert list(zip(mapped.references, mapped.labels, strict=True)) == [
        ("C1", "capacitor"),
        ("R7", "resistor"),
        ("U3", "ic"),
    ]
    assert mapped.places.tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(ConfigError, match="R=diode: the model has no class 'diode'; it has capacitor, resistor, ic"):
        nominal.with_classes(names, {"R": "diode"})
    with pytest.raises(ConfigError, match=r"no label is a class of the model. Labels: Capacitor, 10k.*--classes"):
        nominal.with_classes(("dog",))
