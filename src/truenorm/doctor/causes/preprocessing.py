"""Images that were scaled or shifted otherwise in training: 0..1 against 0..255, other means."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from truenorm.data.sample import Sample
from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding, Value
from truenorm.doctor.remedy import Preprocess
from truenorm.doctor.score import ACCURACY, AS_IS, OWN, is_gain
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

_MOST_CHANNELS = 4
_SAMPLES = 256


def find(case: Case) -> Iterable[Finding]:
    """What reaches the first layer is linear in the images (a convolution, a linear map): a·x + δ is fitted."""
    first = next(iter(case.joint))
    sample = case.sample
    if case.arriving is None or first not in case.stored or case.layers[first].untouched:
        return
    if sample is None or sample.joined is None or first in case.repeated:
        return
    images = sample.joined.images
    if images is None or not images.is_floating_point() or images.ndim != 4 or images.shape[1] > _MOST_CHANNELS:
        return
    part = sample.rows(torch.arange(min(_SAMPLES, len(sample))))
    fit = _fitted(case, part, first)
    if fit is None:
        return
    scale, offset, explained = fit
    moved = float(offset.abs().max()) > 0.1 * float(images.std())
    if explained < _FITS or (abs(scale - 1) < 0.1 and not moved):
        return
    view = offset.reshape(1, -1, 1, 1)

    def mend(x: Tensor) -> Tensor:
        return scale * x + view.to(x)

    mended = sample.changed(mend)
    assert mended is not None
    # What was fitted in the first layer must mend the others as well.
    names = [name for name in case.joint if name in case.stored]
    before = distance(case.stored, case.arriving, names)
    explained = min(explained, 1 - distance(case.stored, case.measure(mended, flow="eval"), names) / before)
    helps, scores = _gain(case, mend)
    if explained < _FITS or not helps:
        return
    offsets = tuple(offset.tolist())
    yield Finding(
        cause="preprocessing",
        evidence={"scale": scale, "offset": offsets, **scores},
        explained=explained,
        remedy=Preprocess(scale=scale, offset=offsets),
    )


_FITS = 0.85
"""Share of the shift that a·x + δ must explain: other domains are explained by half."""


def _gain(case: Case, mend: Callable[[Tensor], Tensor]) -> tuple[bool, dict[str, Value]]:
    """Do images so mended score better, and by how much? True where nothing is scored."""
    mended = None if case.held_out is None or AS_IS not in case.scores else case.held_out.changed(mend)
    after = None if mended is None else case.judged(mended)
    if after is None:
        return True, {"metric": None}
    before = case.scores[AS_IS]
    metric = ACCURACY if ACCURACY in after.values else OWN
    return is_gain(after.gain(before)), {
        "metric": metric,
        "before": before.mean(metric),
        "after": after.mean(metric),
    }


def _fitted(case: Case, part: Sample, first: str) -> tuple[float, Tensor, float] | None:
    """a, δ (by image channel), and how much of the first layer's shift a·x + δ explains."""

    def arriving(sample: Sample | None) -> Moments:
        assert sample is not None
        return case.measure(sample, flow="eval")[first]

    assert part.joined is not None
    images = part.joined.input
    plain, at_zero = arriving(part), arriving(part.changed(torch.zeros_like))
    unit = float(images.std().clamp_min(1e-6))
    responses: list[Tensor] = []
    for channel in range(images.shape[1]):

        def shifted(x: Tensor, channel: int = channel) -> Tensor:
            changed = x.clone()
            changed[:, channel] += unit
            return changed

        responses.append((arriving(part.changed(shifted)).mean - plain.mean).double())
    stored = case.stored[first]
    live = plain.var > 1e-6
    if not bool(live.any()):
        return None
    scale = float(torch.exp(((stored.var.double().clamp_min(1e-12) / plain.var.double()).log() / 2)[live].median()))
    centre = at_zero.mean.double()
    rest = stored.mean.double() - (scale * (plain.mean.double() - centre) + centre)
    matrix = torch.stack(responses, 1) / stored.std.double().clamp_min(1e-6)[:, None]
    target = rest / stored.std.double().clamp_min(1e-6)
    offset = torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0]
    predicted = Moments(
        scale * (plain.mean.double() - centre) + centre + torch.stack(responses, 1) @ offset,
        plain.var.double() * scale**2,
    )
    truth = Statistics({first: plain})
    before = distance(case.stored, truth)
    after = distance(case.stored, Statistics({first: predicted}))
    return scale, offset * unit, 1 - after / before if before > 0 else 0.0
