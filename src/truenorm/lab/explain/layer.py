"""One batch-norm layer, worked by hand, for somebody who never saw one.

The text is `layer.md.template`. Every number in it comes out of torch's own layers, of ours and of `truenorm.stats`
when the walk is made; none is typed as text. Tests hold that a pencil gives the same, and that the lines of Python in
it do, too.
"""

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

import torch
from torch import Tensor, nn

from truenorm.errors import InvalidInput
from truenorm.lab.explain.walk import Walk
from truenorm.nn import BatchNorm1d
from truenorm.show import number
from truenorm.stats import Moments, Statistics, estimation_shift, moments

EIGHT = (2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)
"""Mean 5, biased variance 4: round, so that a pencil can follow."""

PAIRS = ((1.0, 10.0), (1.0, 30.0), (5.0, 30.0), (5.0, 10.0))
"""Four samples of two channels that lie far apart; each of their values is one σ from its channel's mean."""

BATCHES = (0, 1, 2, 3, 10, 100)
"""After how many batches the running statistics are shown."""

_Value = Tensor | float | str
_Values = Mapping[str, _Value]
"""Placeholder of the template → its number, or its text."""


def explain(values: Sequence[float] = EIGHT, *, weight: float = 3.0, bias: float = 1.0, momentum: float = 0.1) -> Walk:
    """Walk through one batch-norm layer, from the moments of a batch to inference.

    Args:
        values: the batch: one channel of 4, 8, 12 ... samples, not all the same.
        weight, bias: γ and β of the layer.
        momentum: weight of the new batch, torch's meaning (Keras's is 1 − ours), in (0, 1].

    Returns:
        the walk; its numbers are computed in this call.

    Raises:
        InvalidInput: the values do not make images of 2 × 2, are all the same or not finite, or no such momentum.

    Example:
        >>> explain().steps[0].formulas[0]
        'm = (2 + 4 + 4 + 4 + 5 + 5 + 7 + 9) ÷ 8 = 40 ÷ 8 = 5'
    """
    if not values or len(values) % 4 or len(set(values)) == 1 or not all(map(math.isfinite, values)):
        raise InvalidInput(f"the walk needs 4, 8, 12 ... finite numbers, not all the same; got {list(values)}")
    if not 0 < momentum <= 1:
        raise InvalidInput(f"momentum is the weight of the new batch, in (0, 1]; got {momentum}")
    x_NC = torch.tensor(values).reshape(-1, 1)
    layer = nn.BatchNorm1d(1, momentum=momentum)
    with torch.no_grad():
        z_NC = layer(x_NC)
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
        numbers = {
            **_training(x_NC, z_NC, layer(x_NC)),
            **_parameters(layer, weight, bias, momentum),
            **_running_statistics(x_NC, momentum),
            **_inference(x_NC, layer),
            **_channels(torch.tensor(PAIRS)),
            **_images(x_NC),
        }
        texts = {name: _text(value) for name, value in numbers.items()}
    terms = {f"{name}_term": _term(text) for name, text in texts.items()}
    template = files("truenorm.lab.explain").joinpath("layer.md.template").read_text(encoding="utf-8")
    return Walk(page=Template(template).substitute(texts | terms))


def _training(x_NC: Tensor, z_NC: Tensor, y_NC: Tensor) -> _Values:
    batch, n = moments(x_NC), len(x_NC)
    off = x_NC - batch.mean
    square = off.square()
    return {
        "n": str(n),
        "n_less_1": str(n - 1),
        "x": _literal(x_NC.flatten()),
        "x_last": x_NC[-1],
        "terms": _sum(x_NC),
        "total": x_NC.sum(),
        "mean": batch.mean,
        "squares": _sum(square),
        "total_of_squares": square.sum(),
        "var": batch.var,
        "unbiased": x_NC.var(correction=1),
        "samples": _by_sample({"x": x_NC, "x − m": off, "(x − m)²": square}),
        "z_last": z_NC[-1],
        "normalised": _by_sample({"z": z_NC, "z²": z_NC.square()}),
        "y": ", ".join(map(_format, y_NC)),
        "y_last": y_NC[-1],
        "y_mean": y_NC.mean(),
    }


def _parameters(layer: nn.BatchNorm1d, weight: float, bias: float, momentum: float) -> _Values:
    given, initial = {"weight": weight, "bias": bias, "momentum": momentum}, nn.BatchNorm1d(1)
    return {
        **given,
        **{f"{name}_exact": str(value) for name, value in given.items()},
        "weight_initial": initial.weight,
        "bias_initial": initial.bias,
        "momentum_of_keras": 1 - momentum,
        "eps": f"{layer.eps:f}".rstrip("0"),  # without exponent, as one writes it by hand
    }


def _running_statistics(x_NC: Tensor, momentum: float) -> _Values:
    truth = moments(x_NC)

    def row(norm: type[nn.BatchNorm1d], batches: int) -> tuple[_Value, ...]:
        running = _running(norm(1, momentum=momentum), x_NC, batches)
        initial = _initial(norm(1, momentum=momentum), x_NC, batches)
        shift = estimation_shift(Statistics({"": running}), Statistics({"": truth}))[""].shift
        return (running.mean, running.var, f"{initial:.1%}", f"{shift:.2f}")

    before, after = (_running(nn.BatchNorm1d(1, momentum=momentum), x_NC, batches) for batches in (0, 1))
    return {
        "mean_initial": before.mean,
        "var_initial": before.var,
        "mean_after_1": after.mean,
        "var_after_1": after.var,
        "running": _table(
            ("batches", "running_mean", "running_var", "initial part", "estimation shift"),
            {str(t): row(nn.BatchNorm1d, t) for t in BATCHES} | {"1, truenorm.nn": row(BatchNorm1d, 1)},
        ),
    }


def _inference(x_NC: Tensor, layer: nn.BatchNorm1d) -> _Values:
    half, sample, truth = x_NC[len(x_NC) // 2 :], x_NC[-1:], moments(x_NC)
    running = {t: _running(nn.BatchNorm1d(1, momentum=layer.momentum), x_NC, t) for t in (1, 10, 100)}

    def row(used: Moments, y: Tensor) -> tuple[Tensor, ...]:
        return (used.mean, used.var, y)

    rows = {
        f"train(), in the batch of {len(x_NC)}": row(truth, layer.train()(x_NC)[-1]),
        f"train(), with the last {len(half)} only": row(moments(half), layer(half)[-1]),
    }
    for t, stored in running.items():
        rows[f"eval(), after {t} batch{'es' if t > 1 else ''}"] = row(stored, _evaluated(layer, stored, sample))
    right = _evaluated(layer, truth, sample)
    rows["eval(), statistics of the data"] = row(truth, right)
    return {
        "mean_after_10": running[10].mean,
        "var_after_10": running[10].var,
        "y_after_10": _evaluated(layer, running[10], sample),
        "y_right": right,
        "outputs": _table(("the last sample", "mean", "variance", "y"), rows),
    }


def _channels(x_NC: Tensor) -> _Values:
    n, channels = x_NC.shape
    z_NC = nn.BatchNorm1d(channels)(x_NC)
    before, after = moments(x_NC), moments(z_NC)
    rows = {f"sample {i + 1}": (*x_NC[i], *z_NC[i]) for i in range(n)}
    rows |= {"mean": (*before.mean, *after.mean), "variance": (*before.var, *after.var)}
    names = [f"channel {c + 1}" for c in range(channels)]
    return {
        "num_pairs": str(n),
        "num_channels": str(channels),
        "pairs": _literal(x_NC),
        "mean_of_row": x_NC[0].mean(),
        "channels": _table(("", *names, *(f"z of {name}" for name in names)), rows),
    }


def _images(x_NC: Tensor) -> _Values:
    x_NCHW = x_NC.reshape(-1, 1, 2, 2)
    two = torch.cat([x_NCHW, 10 * x_NCHW], dim=1)
    of_two = moments(two)
    rows = {f"image {i + 1}": (*image.flatten(), image.mean()) for i, image in enumerate(x_NCHW)}
    rows["mean"] = (*x_NCHW.mean(0).flatten(), moments(x_NCHW).mean)
    return {
        "num_images": str(len(x_NCHW)),
        "pixels": _table(("", "top left", "top right", "bottom left", "bottom right", "mean"), rows),
        "z_pixel": nn.BatchNorm2d(1)(x_NCHW)[-1, 0, -1, -1],
        "mean_of_tenfold": of_two.mean[1],
        "var_of_tenfold": of_two.var[1],
        "z_of_tenfold": nn.BatchNorm2d(2)(two)[-1, 1, -1, -1],
    }


def _buffers(layer: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None and var is not None
    return mean, var


def _running(layer: nn.BatchNorm1d, x_NC: Tensor, batches: int) -> Moments:
    """Running statistics of a layer after so many batches of the same."""
    for _ in range(batches):
        layer(x_NC)
    return Moments(*_buffers(layer))


def _initial(layer: nn.BatchNorm1d, x_NC: Tensor, batches: int) -> float:
    """How much of its initial statistics a layer still has: what is left of 1 when all that comes is 0."""
    _buffers(layer)[0].fill_(1.0)
    return _running(layer, torch.zeros_like(x_NC), batches).mean.item()


def _evaluated(layer: nn.BatchNorm1d, running: Moments, sample: Tensor) -> Tensor:
    """The output in evaluation with these running statistics."""
    mean, var = _buffers(layer)
    mean.copy_(running.mean)
    var.copy_(running.var)
    return layer.eval()(sample)


def _by_sample(rows: Mapping[str, Tensor]) -> str:
    """A column for each sample, then their sum and mean."""
    values = {name: value.flatten().double() for name, value in rows.items()}
    samples = [str(i + 1) for i in range(len(next(iter(values.values()))))]
    totals = {name: (*value, value.sum(), value.mean()) for name, value in values.items()}
    return _table(("sample", *samples, "sum", "mean"), totals)


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[_Value]]) -> str:
    aligned = ("---", *("---:" for _ in columns[1:]))
    texts = [(name, *map(_text, cells)) for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, aligned, *texts))


def _text(value: _Value) -> str:
    return value if isinstance(value, str) else _format(value)


def _format(value: Tensor | float) -> str:
    """Four digits; what rounding left of a zero is 0, and so is −0."""
    return number(round(float(value), 6) + 0.0, 4)


def _term(text: str) -> str:
    """A number behind an operator: in brackets if it is negative."""
    return f"({text})" if text.startswith("-") else text


def _sum(values: Tensor) -> str:
    return " + ".join(_term(_format(value)) for value in values.flatten())


def _literal(values: Tensor) -> str:
    """A list as Python reads it, and short: 2. for 2.0."""
    return re.sub(r"\.0\b", ".", str(values.tolist()))
