"""Choose among statistics, layer by layer, with a reference."""

import math
from collections.abc import Mapping

import torch

from truenorm.errors import InvalidInput
from truenorm.stats.moments import Moments
from truenorm.stats.provenance import Provenance
from truenorm.stats.shift import DEAD_BELOW
from truenorm.stats.statistics import Statistics


def choose(candidates: Mapping[float, Statistics], reference: Statistics) -> Statistics:
    r"""Give each layer the candidate nearest to the reference: the dissertation's DMBN for a sweep of momenta.

    Each layer l takes the momentum k that minimises its own shift, means plus standard deviations, free of
    scale:

    $$ \arg\min_k \; \mathrm{mean}_c \frac{(\hat\mu_{kc} - \mu_c)^2 + (\hat\sigma_{kc} - \sigma_c)^2}{\sigma_c^2} $$

    It needs the population statistics to choose; who has those can assign them and has no shift at all.

    Args:
        candidates: momentum → the statistics tracked with it.
        reference: the population's, such as `measure(model, loader)`.

    Returns:
        statistics whose `momenta` say what each layer took; ties go to the first candidate.

    Raises:
        InvalidInput: no candidates, or a layer that a candidate lacks.

    Source: dynamic momentum BN, "Understanding Batch-Normalization in Deep Neural Networks" (2025).

    Example:
        >>> import torch
        >>> def of(mean: float) -> Statistics:
        ...     return Statistics({"bn": Moments(torch.tensor([mean]), torch.ones(1))})
        >>> choose({0.1: of(3.0), 0.01: of(1.0)}, of(0.5)).momenta
        {'bn': 0.01}
    """
    if not candidates:
        raise InvalidInput("nothing to choose from: no candidate statistics were given")
    for momentum, candidate in candidates.items():
        for layer in reference:
            if layer not in candidate:
                raise InvalidInput(f"the candidate of momentum {momentum:g} lacks layer {layer!r} of the reference")
    momenta = {
        layer: min(candidates, key=lambda momentum: _sortable(squared_error(candidates[momentum][layer], truth)))
        for layer, truth in reference.items()
    }
    return Statistics(
        {layer: candidates[momentum][layer] for layer, momentum in momenta.items()},
        momenta=momenta,
        provenance=Provenance(rule="each layer its momentum of least shift"),
    )


def squared_error(stats: Moments, reference: Moments) -> float:
    """The quantity that `choose` minimises; mean over live channels (all, if none is live).

    Example:
        >>> import torch
        >>> truth = Moments(torch.zeros(2), torch.full((2,), 4.0))
        >>> squared_error(Moments(torch.full((2,), 2.0), torch.full((2,), 16.0)), truth)
        2.0
    """
    stats = Moments(stats.mean.to(reference.mean.device), stats.var.to(reference.var.device))
    var = reference.var.double()
    live = var > DEAD_BELOW
    if not bool(live.any()):
        live = torch.ones_like(live)
        var = var.clamp_min(DEAD_BELOW)
    mean_error = (stats.mean.double() - reference.mean.double()).square()
    std_error = (stats.std.double() - reference.std.double()).square()
    return ((mean_error + std_error) / var)[live].mean().item()


def _sortable(error: float) -> float:
    """Statistics that are no numbers come last; NaN would be the least of whatever it is compared with."""
    return math.inf if math.isnan(error) else error
