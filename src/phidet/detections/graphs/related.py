"""What a graph network says of the detections of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phidet.detections.detections import Detections
from phidet.detections.graphs.frames import FRAME, matches_of
from phidet.detections.graphs.graph import DetectionGraph
from phidet.detections.graphs.groups import groups_of

GROUP = "group"
"""Field of objects: those of the same number, 0 or more, belong together; −1 for none."""


@dataclass(frozen=True, eq=False)
class Related:
    """Corrected detections, and what is known of pairs and of the whole.

    Attributes:
        graph: its nodes are the corrected detections, best first, with fields of what was changed
            (``detected_class_id``, ``detected_score``).
        together: (E,) 0…1 for each edge of ``graph``, the same in both directions: whether the two belong together;
            ``None`` if the network does not say.
        right: 0…1, whether the whole is complete and right; ``None`` if the network does not say.
    """

    graph: DetectionGraph
    together: npt.NDArray[np.float32] | None = None
    right: float | None = None

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """(N,) number of the group of each detection, as the pairs agree on it (:func:`groups_of`).

        Of two joined frames, a group is an object: a pair of one detection of each, or one alone.
        """
        if self.together is None:
            return None
        if FRAME in self.graph.detections.fields:
            matched = matches_of(np.asarray(self.graph.detections.fields[FRAME]), self.graph.edges, self.together)
            numbers = np.arange(len(self.graph))
            numbers[matched.max(axis=0)] = matched.min(axis=0)
            return np.unique(numbers, return_inverse=True)[1].astype(np.int64)
        return groups_of(self.graph.edges, self.together, len(self.graph))

    @property
    def detections(self) -> Detections:
        """The corrected detections; with the field ``group``, and with ``right``, which is the same for all."""
        found, groups = self.graph.detections, self.groups
        if groups is not None:
            found = found.with_fields({GROUP: groups})
        if self.right is not None:
            found = found.with_fields({"right": np.full(len(found), self.right, np.float32)})
        return found
