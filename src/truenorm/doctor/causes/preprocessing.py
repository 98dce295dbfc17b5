"""Images that were prepared otherwise in training: 0..1 against 0..255, other means, channels reversed, negatives."""

from collections.abc import Iterable

import torch
from torch import Tensor

from truenorm.data.sample import Sample
from truenorm.doctor.advice import advised
from truenorm.doctor.causes.response import response_to_input
from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import Preprocess
from truenorm.doctor.score import AS_IS, Scored
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

_MOST_CHANNELS = 4
_SAMPLES = 256

_FITS = 0.85
"""Share of the shift that a·x + δ must explain: other domains are explained by half."""

_REFITS = 3

_NEAR = 0.2
"""How near to a usual range, or to mean 0 and deviation 1, images must come."""

_MOVED = 0.1
"""How far a scale is from 1, or an offset from 0 in σ of the images, to be named."""


def find(case: Case) -> Iterable[Finding]:
    """What reaches the first layer is linear in the images (a convolution, a linear map): a·x + δ is fitted to it.

    What was fitted in the first layer must explain the shift of all others as well.
    """
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
    names = case.compared
    arriving = case.measure(part, flow="eval")
    before = distance(case.stored, arriving, names)
    if before <= 0:
        return
    fits: list[tuple[float, Preprocess, Scored | None]] = []
    for remedy in _fitted(case, part, first, arriving[first]):
        changed = part.changed(remedy.apply)
        assert changed is not None
        explained = 1 - distance(case.stored, case.measure(changed, flow="eval"), names) / before
        moved = max(map(abs, remedy.offset)) > _MOVED * float(images.std()) or abs(remedy.scale - 1) > _MOVED
        if explained >= _FITS and (moved or remedy.reverse):
            fits.append((explained, remedy, _scored(case, part, remedy)))
    if not fits:
        return
    # The moments hardly tell a picture from its negative: the score does.
    explained, remedy, _ = max(fits, key=lambda fit: 0.0 if fit[2] is None else fit[2].first)
    advice = advised(case, _scored(case, case.held_out, remedy), remedy)
    # Another population that is this one scaled and shifted, a second one beside it or augmentation, looks the same.
    certain = remedy.reverse or remedy.scale < 0 or _is_usual(remedy.apply(images))
    if advice is not None and (certain or isinstance(advice.remedy, Preprocess)):
        yield Finding(
            cause="preprocessing",
            evidence={
                "scale": remedy.scale,
                "offset": remedy.offset,
                "reverse": remedy.reverse,
                **advice.evidence,
            },
            explained=explained,
            level=advice.level,
            remedy=advice.remedy,
        )


def _is_usual(images: Tensor) -> bool:
    """Are the images as preprocessing usually leaves them: standardised, or over 0 to 1, −1 to 1 or 0 to 255?"""
    channels = images.double().movedim(1, 0).flatten(1)
    mean, std = channels.mean(1), channels.std(1)
    if bool((mean.abs() < _NEAR).all()) and bool(((std - 1).abs() < _NEAR).all()):
        return True
    low, high = float(channels.min()), float(channels.max())
    return any(
        abs(low - a) < _NEAR * (b - a) and abs(high - b) < _NEAR * (b - a) for a, b in ((0, 1), (-1, 1), (0, 255))
    )


def _scored(case: Case, sample: Sample | None, remedy: Preprocess) -> Scored | None:
    """The score of samples with the remedy."""
    changed = None if sample is None else sample.changed(remedy.apply)
    return None if changed is None or AS_IS not in case.scores else case.judged(changed)


def _fitted(case: Case, part: Sample, first: str, now: Moments) -> Iterable[Preprocess]:
    """a and δ that fit the first layer, for both signs of a, and for reversed channels where there are three."""

    def arriving(sample: Sample | None) -> Moments:
        assert sample is not None
        return case.measure(sample, flow="eval")[first]

    found = response_to_input(case, first)
    if found is None:
        return
    response, centre, stored = found.matrix, found.at_zero, case.stored[first]
    channels = response.shape[1]
    std = stored.std.double().clamp_min(1e-6)

    def fit(plain: Moments, sign: float) -> tuple[float, Tensor, float]:
        """Scale, offset and what they explain, from what the first layer receives."""
        live = plain.var > 1e-6
        ratio = stored.var.double().clamp_min(1e-12) / plain.var.double().clamp_min(1e-12)
        scale = sign * float((ratio[live].log() / 2).median().exp()) if bool(live.any()) else sign
        scaled = scale * (plain.mean.double() - centre) + centre
        rest = (stored.mean.double() - scaled) / std
        offset = torch.linalg.lstsq(response / std[:, None], rest[:, None]).solution[:, 0]
        predicted = Moments(scaled + response @ offset, plain.var.double() * scale**2)
        return scale, offset, _explained(stored, now, predicted)

    for reverse in (False, True) if channels == 3 else (False,):
        plain = arriving(part.changed(lambda x: x.flip(1))) if reverse else now
        for sign in (1.0, -1.0):
            scale, offset, explained = fit(plain, sign)
            if explained <= _FITS:
                continue
            remedy = Preprocess(scale=scale, offset=tuple(offset.tolist()), reverse=reverse)
            for _ in range(_REFITS):  # with zero padding a constant has a variance at the borders
                again, more, _ = fit(arriving(part.changed(remedy.apply)), 1.0)
                moved = tuple(again * value + float(step) for value, step in zip(remedy.offset, more, strict=True))
                remedy = Preprocess(scale=again * remedy.scale, offset=moved, reverse=reverse)
            yield remedy


def _explained(stored: Moments, now: Moments, predicted: Moments) -> float:
    """Share of the first layer's shift that is gone with the fit."""
    before = distance(Statistics({"": stored}), Statistics({"": now}))
    return 1 - distance(Statistics({"": stored}), Statistics({"": predicted})) / before if before > 0 else 0.0
