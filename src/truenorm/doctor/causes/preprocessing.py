"""Images that were scaled or shifted otherwise in training: 0..1 against 0..255, other means."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from truenorm.data.batches import has_images, images_in
from truenorm.data.sample import Sample
from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.score import ACCURACY, OWN, is_gain
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
    if not has_images(sample.joined):
        return
    images = images_in(sample.joined)
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] > _MOST_CHANNELS:
        return
    part = sample.rows(torch.arange(min(_SAMPLES, len(sample))))
    found = _fitted(case, part, first)
    if found is None:
        return
    scale, offset, share = found
    moved = float(offset.abs().max()) > 0.1 * float(images.std())
    if share < _FITS or (abs(scale - 1) < 0.1 and not moved):
        return
    view = offset.reshape(1, -1, 1, 1)

    def mend(x: Tensor) -> Tensor:
        return scale * x + view.to(x)

    mended = sample.changed(mend)
    assert mended is not None
    # What was fitted in the first layer must mend the others as well.
    names = [name for name in case.joint if name in case.stored]
    before = distance(case.stored, case.arriving, names)
    share = min(share, 1 - distance(case.stored, case.measure(mended, flow="eval"), names) / before)
    helps, figure = _gain(case, mend)
    if share < _FITS or not helps:
        return
    offsets = ", ".join(f"{value:+.3g}" for value in offset.tolist())
    yield Finding(
        cause="preprocessing",
        sentence=f"the images look like those of training scaled or shifted: with {scale:.4g} · x {offsets} "
        f"{share:.0%} of the shift is gone, in all layers{figure}",
        share=share,
        remedy="data",
        advice=f"preprocess as in training; {scale:.4g} · x {offsets} comes near",
    )


_FITS = 0.85
"""Share of the shift that a·x + δ must explain: other domains are explained by half."""


def _gain(case: Case, mend: Callable[[Tensor], Tensor]) -> tuple[bool, str]:
    """Do images so mended score better, and by how much? True where nothing is scored."""
    if case.held_out is None or "" not in case.scores:
        return True, ""
    mended = case.held_out.changed(mend)
    judged = None if mended is None else case.judged(mended)
    if judged is None:
        return True, ""
    metric = ACCURACY if ACCURACY in judged.values else OWN
    figure = f" ({metric} {judged.mean(metric):.3f} instead of {case.scores[''].mean(metric):.3f})"
    return is_gain(judged.gain(case.scores[""])), figure


def _fitted(case: Case, part: Sample, first: str) -> tuple[float, Tensor, float] | None:
    """a, δ (by image channel), and how much of the first layer's shift a·x + δ explains."""

    def arriving(sample: Sample | None) -> Moments:
        assert sample is not None
        return case.measure(sample, flow="eval")[first]

    images = images_in(part.joined)
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
