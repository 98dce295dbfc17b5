"""The momentum's own noise: so much weight on the last batches that their sampling shows."""

import math
import statistics
from collections.abc import Iterable

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding, some

LARGE = 0.45
"""From here on a momentum is one that was taken for a decay (0.9, 0.99), or Keras's."""


def find(case: Case) -> Iterable[Finding]:
    layers = {
        name: layer
        for name, layer in case.layers.items()
        if name in case.joint and name in case.stored and layer.momentum and not layer.untouched and not layer.damaged
    }
    if not layers or case.sample is None:
        return
    observed = floor = 0.0
    sizes: list[float] = []
    for name, layer in layers.items():
        assert layer.momentum is not None
        moments = case.joint[name]
        effect = moments.design_effect if moments.design_effect is not None else 1.0
        noise = effect + max(effect, 1.0)  # of one value per channel, in mean and spread
        positions = max(1.0, (moments.count or 1) / len(case.sample))
        here, below = distance(case.stored, case.joint, [name]), noise / max(1, moments.count or 1)
        observed += here / len(layers)
        floor += below / len(layers)
        sizes.append(layer.momentum / (2 - layer.momentum) * noise / positions / max(here - below, 1e-9))
    batch = statistics.median(sizes)
    largest = max(layers.values(), key=lambda layer: layer.momentum or 0.0)
    assert largest.momentum is not None
    if largest.momentum >= LARGE and observed > 2 * floor:
        where = [name for name, layer in layers.items() if (layer.momentum or 0) >= LARGE]
        yield Finding(
            cause="momentum",
            sentence=f"momentum is {largest.momentum:g} in {some(where)}: the statistics are those of the last "
            f"{(2 - largest.momentum) / largest.momentum:.2g} batches (torch's momentum is the weight of the new "
            f"batch; Keras's {largest.momentum:g} is {1 - largest.momentum:.3g} here)",
            share=0.84,
            layers=tuple(where),
        )
    elif 1 <= batch < 0.5 * case.sample.batch_size and observed > 4 * floor:
        yield Finding(
            cause="sampling noise",
            sentence=f"with momentum {largest.momentum:g} the statistics rest on "
            f"{(2 - largest.momentum) / largest.momentum:.0f} batches; they are {math.sqrt(observed):.2g} σ off in the "
            f"mean of layers, which is the noise of batches of about {max(2, round(batch))} samples",
            share=0.58,
        )
