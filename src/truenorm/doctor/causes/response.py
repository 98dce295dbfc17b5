"""How the means of the first layer move with the mean of each feature of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truenorm.doctor.examine import Case

_MOST_FEATURES = 64
_CONSTANT = 2
"""Samples of a constant input: more would give the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """What a constant does to a layer's means.

    Args:
        at_zero: the means where the data are 0, of shape (C,).
        matrix: by how much they move where 1 is added to one feature of the data, of shape (C, features).
    """

    at_zero: Tensor
    matrix: Tensor


def response_to_input(case: Case, layer: str) -> Response | None:
    """What a constant does to the first layer's means, which are linear in the data: the same whatever these are.

    None where the data are no tensor of numbers with few features, or the network takes no constant.
    """
    sample = case.sample
    images = None if sample is None or sample.joined is None else sample.joined.images
    if sample is None or images is None or not images.is_floating_point() or images.ndim < 2:
        return None
    if images.shape[1] > _MOST_FEATURES:
        return None
    constant = sample.rows(torch.arange(min(_CONSTANT, len(sample))))
    unit = float(images.std().clamp_min(1e-6))

    def means(feature: int | None) -> Tensor:
        def change(x: Tensor) -> Tensor:
            changed = torch.zeros_like(x)
            if feature is not None:
                changed[:, feature] = unit
            return changed

        moved = constant.changed(change)
        assert moved is not None
        return case.measure(moved, flow="eval")[layer].mean.double()

    at_zero = means(None)
    moved = [(means(feature) - at_zero) / unit for feature in range(images.shape[1])]
    return Response(at_zero, torch.stack(moved, 1))
