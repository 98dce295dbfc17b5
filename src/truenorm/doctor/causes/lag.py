"""Weights that moved on while the average lagged behind."""

from collections.abc import Iterable

from truenorm.doctor.causes.domain import from_the_data
from truenorm.doctor.causes.momentum import LARGE
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding


def find(case: Case) -> Iterable[Finding]:
    share = from_the_data(case)
    momenta = sorted({layer.momentum for layer in case.layers.values() if layer.momentum})
    if share is None or (momenta and momenta[0] >= LARGE):
        return  # a window of a batch or two does not lag
    window = f" (momentum {momenta[0]:g}: a window of {(2 - momenta[0]) / momenta[0]:.0f} batches)" if momenta else ""
    yield Finding(
        cause="lag",
        sentence="the shift grows behind the first layer and nothing else explains it: the weights moved on while the "
        f"running average lagged behind{window}; a learning rate that ends at zero, or a pass at the end, mends that",
        share=0.5 * (1 - share),
    )
