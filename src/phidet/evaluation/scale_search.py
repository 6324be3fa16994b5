"""The papers' two small searches behind the scaling laws, for other architectures or budgets.

EfficientNet (1905.11946, section 3.3, step 1): at φ = 1, try a grid of α, β, γ under α·β²·γ² ≈ 2. EfficientDet
(1911.09070, section 4.2): try six factors for the width of the feature network. Costs are counted on the candidate's
own network; its accuracy is known only after training, so it comes from a function that the caller passes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import msgspec

from phidet.architectures.backbones.config import BackboneArchitecture
from phidet.architectures.backbones.scaling import CompoundScaling
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.published import scaled_classifier_config
from phidet.architectures.costs import count_costs, total
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.published import Family, scaled_detector_config
from phidet.core.errors import ConfigError

WIDTH_FACTORS = (1.2, 1.25, 1.3, 1.35, 1.4, 1.45)


class CompoundCandidate(msgspec.Struct, frozen=True):
    """One α, β, γ: the cost that the law predicts and the network has, both relative to φ = 0."""

    scaling: CompoundScaling
    law_cost: float
    measured_cost: float
    parameters: int
    accuracy: float | None


class WidthCandidate(msgspec.Struct, frozen=True):
    """One width factor: channels, parameters and multiply-adds of the detector, the last relative to φ = 0."""

    factor: float
    channels: int
    parameters: int
    multiply_adds: int
    relative_cost: float
    accuracy: float | None


def search_compound(
    architecture: BackboneArchitecture = "efficientnet",
    *,
    budget: float = 2.0,
    tolerance: float = 0.1,
    step: float = 0.05,
    accuracy: Callable[[ClassifierConfig], float] | None = None,
) -> list[CompoundCandidate]:
    """Every α, β, γ of the grid whose law cost is within ``tolerance`` of ``budget``, best first.

    Ranked by accuracy if ``accuracy`` is given, else by how near the measured cost is to the budget.

    Args:
        architecture: what to scale, from its own φ = 0.
        budget: α·β²·γ², the factor by which one step of φ may raise the cost.
        tolerance: maximum deviation from the budget.
        step: spacing of the grid, which starts at 1.
        accuracy: from the candidate's config at φ = 1 to a number, more is better; called once per candidate.

    Raises:
        ConfigError: no candidate is within the tolerance.
    """
    found = []
    # Relative to the architecture's own φ = 0: the law is about ratios.
    base = total(count_costs(scaled_classifier_config(0, architecture))).multiply_adds
    for scaling in _grid(budget, tolerance, step):
        config = scaled_classifier_config(1, architecture, scaling)
        cost = total(count_costs(config))
        measured = accuracy(config) if accuracy else None
        found.append(CompoundCandidate(scaling, scaling.cost(), cost.multiply_adds / base, cost.parameters, measured))
    if not found:
        raise ConfigError(
            f"no α, β, γ on a grid of {step:g} comes within {tolerance:g} of α·β²·γ² = {budget:g}: "
            "widen the tolerance or refine the step"
        )
    return sorted(found, key=lambda c: (-(c.accuracy or 0), abs(c.measured_cost - budget)))


def search_width(
    of: Family | None = None,
    *,
    phi: float = 3.0,
    factors: tuple[float, ...] = WIDTH_FACTORS,
    accuracy: Callable[[ModelConfig], float] | None = None,
) -> list[WidthCandidate]:
    """The detector at ``phi`` with each width factor, best first.

    Ranked by accuracy if ``accuracy`` is given, else by cost.
    """
    found, of = [], of or Family()
    base = total(count_costs(scaled_detector_config(0, of))).multiply_adds
    for factor in factors:
        law = msgspec.structs.replace(of.law, width_factor=factor)
        config = scaled_detector_config(phi, msgspec.structs.replace(of, law=law))
        cost, channels = total(count_costs(config)), config.feature_network.channels
        relative, measured = cost.multiply_adds / base, accuracy(config) if accuracy else None
        found.append(WidthCandidate(factor, channels, cost.parameters, cost.multiply_adds, relative, measured))
    return sorted(found, key=lambda c: (-(c.accuracy or 0), c.multiply_adds))


def _grid(budget: float, tolerance: float, step: float) -> Iterator[CompoundScaling]:
    if not 0 < step <= 1 or tolerance <= 0 or budget < 1:
        raise ConfigError(
            "expected 0 < step ≤ 1, tolerance > 0 and budget ≥ 1, "
            f"got step {step}, tolerance {tolerance}, budget {budget}"
        )
    # No factor can exceed the budget itself, as the others are at least 1: this bounds the grid.
    count = int((budget + tolerance - 1) / step) + 1
    values = [round(1 + i * step, 6) for i in range(count)]
    for alpha, beta, gamma in itertools.product(values, repeat=3):
        scaling = CompoundScaling(alpha=alpha, beta=beta, gamma=gamma)
        # The grid's values are rounded, so that candidates on the very border would be in or out by chance.
        if abs(scaling.cost() - budget) <= tolerance + 1e-9:
            yield scaling
