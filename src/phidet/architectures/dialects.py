"""The dialects in which these weights exist in the world; see :mod:`phidet.architectures.dialect`."""

from __future__ import annotations

from phidet.architectures.backbones.dialects import LUKEMELAS, TIMM, TORCHVISION
from phidet.architectures.dialect import Config, Dialect, Layout, Slot
from phidet.architectures.efficientdet.dialect_automl import AUTOML
from phidet.architectures.efficientdet.dialect_effdet import EFFDET
from phidet.architectures.efficientdet.dialect_zylo117 import ZYLO117

DETECTOR_DIALECTS = (AUTOML, EFFDET, ZYLO117)
BACKBONE_DIALECTS = (TIMM, LUKEMELAS, TORCHVISION)
DIALECTS = {dialect.name: dialect for dialect in (*DETECTOR_DIALECTS, *BACKBONE_DIALECTS)}

__all__ = ["BACKBONE_DIALECTS", "DETECTOR_DIALECTS", "DIALECTS", "Config", "Dialect", "Layout", "Slot"]
