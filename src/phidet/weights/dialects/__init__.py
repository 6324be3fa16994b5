"""The dialects in which these weights exist in the world; see :mod:`phidet.weights.dialects.base`."""

from __future__ import annotations

from phidet.weights.dialects.automl import AUTOML
from phidet.weights.dialects.base import Config, Dialect, Layout, Slot
from phidet.weights.dialects.effdet import EFFDET
from phidet.weights.dialects.pytorch_backbones import LUKEMELAS, TIMM, TORCHVISION
from phidet.weights.dialects.zylo117 import ZYLO117

DETECTOR_DIALECTS = (AUTOML, EFFDET, ZYLO117)
BACKBONE_DIALECTS = (TIMM, LUKEMELAS, TORCHVISION)
DIALECTS = {dialect.name: dialect for dialect in (*DETECTOR_DIALECTS, *BACKBONE_DIALECTS)}

__all__ = ["BACKBONE_DIALECTS", "DETECTOR_DIALECTS", "DIALECTS", "Config", "Dialect", "Layout", "Slot"]
