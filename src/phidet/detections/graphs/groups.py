"""Groups from what is said of pairs: correlation clustering."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from phidet.detections.graphs.edges import Edges

_LARGEST = 1 - 1e-6  # a pair that is quite sure must not outweigh all others for ever


def groups_of(edges: Edges, together: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.int64]:
    """(N,) number of the group of each of ``count`` nodes, numbered by their first nodes.

    Each pair votes with its log odds ln(p / (1 − p)). Groups are joined, those with the largest sum of votes between
    them first, as long as that is positive (greedy additive edge contraction, arXiv 1505.06973, section 4.1). So a
    single pair that is wrong joins two groups only if their other pairs do not speak against it.

    Args:
        edges: (2, E), both directions of each pair.
        together: (E,) 0…1, the same in both directions.
        count: number of nodes.
    """
    share = np.clip(together.astype(np.float64), 1 - _LARGEST, _LARGEST)
    votes: list[dict[int, float]] = [{} for _ in range(count)]
    for i, j, vote in zip(*edges.tolist(), np.log(share / (1 - share)).tolist(), strict=True):
        votes[i][j] = vote
    member = np.arange(count)
    queue = [(-vote, i, j) for i in range(count) for j, vote in votes[i].items() if i < j and vote > 0]
    heapq.heapify(queue)
    while queue:
        negative, i, j = heapq.heappop(queue)
        # Left over from before a group was joined: it is there anew with the sum of the votes.
        if votes[i].get(j) != -negative:
            continue
        # The second group becomes a part of the first, and its votes on others add to those of that.
        member[member == j] = i
        for other, vote in votes[j].items():
            del votes[other][j]
            if other != i:
                votes[i][other] = votes[other][i] = votes[i].get(other, 0.0) + vote
                if votes[i][other] > 0:
                    heapq.heappush(queue, (-votes[i][other], min(i, other), max(i, other)))
        votes[j] = {}
    return np.unique(member, return_inverse=True)[1].astype(np.int64)
