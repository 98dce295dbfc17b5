"""One batch-norm layer, worked by hand, for somebody who never saw one.

Every number comes out of torch's own layers, of ours and of `truenorm.stats` when the walk is made; none is
typed as text. Tests hold that a pencil gives the same, and that the lines of Python in it do, too.
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from truenorm.errors import InvalidInput
from truenorm.lab.explain.walk import Step, Walk
from truenorm.nn import BatchNorm1d
from truenorm.show import Table, number
from truenorm.stats import Moments, Statistics, estimation_shift, moments

EIGHT = (2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)
"""Mean 5, biased variance 4: round, so that a pencil can follow."""

PAIRS = ((1.0, 10.0), (1.0, 30.0), (5.0, 30.0), (5.0, 10.0))
"""Four samples of two channels that lie far apart; each of their values is one σ from its channel's mean."""

BATCHES = (0, 1, 2, 3, 10, 100)
"""After how many batches the running statistics are shown."""


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
        plain = layer(x_NC)
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
        steps = (
            _moments_of_the_batch(x_NC),
            _normalise(x_NC, plain, layer),
            _scale_and_shift(plain, layer(x_NC), weight, bias),
            _running_statistics(x_NC, momentum),
            _inference(x_NC, layer),
            _channels(torch.tensor(PAIRS)),
            _images(x_NC, plain),
            _next(),
        )
    return Walk(
        title="One batch-norm layer, by hand",
        opening=(
            f"What a batch-norm layer does with {len(values)} numbers in training, what it keeps of them, "
            "and what it gives at inference.",
            "Every number was computed by the layers themselves when this was printed; a pencil gives the same.",
        ),
        steps=steps,
    )


def _moments_of_the_batch(x_NC: Tensor) -> Step:
    found, n = moments(x_NC), len(x_NC)
    mean, var, unbiased = _say(found.mean), _say(found.var), _say(x_NC.var(correction=1))
    off = x_NC - found.mean
    square = off.square()
    return Step(
        title="1. The moments of the batch",
        sentences=(
            f"The batch holds {n} samples of one channel: shape ({n}, 1), which torch calls (N, C).",
            "In training the layer first takes the mean m and the variance v of the batch.",
            f"v is the biased variance: the squares are divided by n = {n}.",
            f"Divided by n − 1 they give the unbiased one, {unbiased}: "
            "nothing is normalised by it, but torch stores it (step 4).",
        ),
        formulas=(
            f"m = ({_sum(x_NC)}) ÷ {n} = {_say(x_NC.sum())} ÷ {n} = {mean}",
            f"v = ({_sum(square)}) ÷ {n} = {_say(square.sum())} ÷ {n} = {var}",
            f"v · n ÷ (n − 1) = {var} · {n} ÷ {n - 1} = {unbiased}",
        ),
        code=(
            "import torch",
            f"x = torch.tensor({_literal(x_NC.flatten())}).reshape({n}, 1)",
            "var, mean = torch.var_mean(x, dim=0, correction=0)",
        ),
        tables=(_by_sample({"x": x_NC, "x − m": off, "(x − m)²": square}),),
    )


def _normalise(x_NC: Tensor, z_NC: Tensor, layer: nn.BatchNorm1d) -> Step:
    found = moments(x_NC)
    mean, var, last, small = _say(found.mean), _say(found.var), _say(x_NC[-1]), _small(layer.eps)
    return Step(
        title="2. Normalise",
        sentences=(
            "Subtract m, divide by √(v + ε): each sample is now so many standard deviations above or below the mean.",
            f"ε = {small} is there for a channel that is constant: it keeps the division finite.",
            "What comes out has mean 0 and, up to ε, variance 1, whatever scale came in.",
        ),
        formulas=(f"z = (x − m) ÷ √(v + ε) = ({last} − {_term(mean)}) ÷ √({var} + {small}) = {_say(z_NC[-1])}",),
        code=(f"layer = torch.nn.BatchNorm1d(1, momentum={layer.momentum})", "z = layer(x)"),
        tables=(_by_sample({"z": z_NC, "z²": z_NC.square()}),),
    )


def _scale_and_shift(z_NC: Tensor, y_NC: Tensor, weight: float, bias: float) -> Step:
    last, γ, β, fresh = _say(z_NC[-1]), _say(weight), _say(bias), nn.BatchNorm1d(1)
    return Step(
        title="3. Scale and shift",
        sentences=(
            "Each channel has two numbers that are learned: γ (layer.weight) and β (layer.bias).",
            f"They begin at {_say(fresh.weight)} and {_say(fresh.bias)}, which changes nothing; "
            f"here they are {γ} and {β}.",
            "With γ = √(v + ε) and β = m the layer would give this batch back unchanged; the next has another m and v.",
        ),
        formulas=(f"y = γ · z + β = {γ} · {_term(last)} + {_term(β)} = {_say(y_NC[-1])}",),
        code=(
            f"torch.nn.init.constant_(layer.weight, {weight})",
            f"torch.nn.init.constant_(layer.bias, {bias})",
            "y = layer(x)",
        ),
        remarks=(f"The samples give {', '.join(map(_say, y_NC))}: their mean is β = {_say(y_NC.mean())}.",),
    )


def _running_statistics(x_NC: Tensor, momentum: float) -> Step:
    truth = moments(x_NC)
    stored = {t: _stored(nn.BatchNorm1d(1, momentum=momentum), x_NC, t) for t in BATCHES}
    initial = {t: _initial(nn.BatchNorm1d(1, momentum=momentum), x_NC, t) for t in BATCHES}
    ours = _stored(BatchNorm1d(1, momentum=momentum), x_NC, 1)
    ours_initial = _initial(BatchNorm1d(1, momentum=momentum), x_NC, 1)
    mean, var, unbiased = _say(truth.mean), _say(truth.var), _say(x_NC.var(correction=1))
    a, n, zero, one = _say(momentum), len(x_NC), _say(stored[0].mean), _say(stored[0].var)
    return Step(
        title="4. Running statistics",
        sentences=(
            "At inference a sample may come alone, and what it gives should not depend on what it comes with.",
            f"So in training the layer also keeps running_mean and running_var, which begin at {zero} and {one}.",
            f"Each batch moves them by momentum = {a}: in torch the weight of the new batch "
            f"(Keras means that of the old value, 1 − ours, and would say {_say(1 - momentum)}).",
            "Into running_var torch puts the unbiased variance.",
            f"The initial part is what is left of the {zero} and {one}. After the first batch:",
        ),
        formulas=(
            f"running_mean = (1 − {a}) · {zero} + {a} · {_term(mean)} = {_say(stored[1].mean)}",
            f"running_var = (1 − {a}) · {one} + {a} · {unbiased} = {_say(stored[1].var)}",
        ),
        code=(
            "layer.reset_running_stats()  # the calls above were batches, too",
            "for _ in range(10):",
            "    layer(x)",
        ),
        tables=(
            Table(
                title="",
                columns=("batches", "running_mean", "running_var", "initial part", "estimation shift"),
                rows=(
                    *(_stored_row(str(t), stored[t], initial[t], truth) for t in BATCHES),
                    _stored_row("1, truenorm.nn", ours, ours_initial, truth),
                ),
            ),
        ),
        remarks=(
            f"Every batch was these {n} numbers, so they are all the data there is: mean {mean} and variance {var} are "
            "the truth.",
            "Estimation shift is how far what is stored is from the truth, mean and variance in one number: "
            "0 is exact, 1 is off by about one σ of the data.",
            f"torch's running_var goes to {unbiased}: {n} ÷ {n - 1} times too much here, "
            "and right where batches are random samples of more.",
            "truenorm.nn.BatchNorm1d trains alike and stores the batch's own moments at first: here the truth.",
        ),
    )


def _inference(x_NC: Tensor, layer: nn.BatchNorm1d) -> Step:
    n, half, sample, truth = len(x_NC), x_NC[len(x_NC) // 2 :], x_NC[-1:], moments(x_NC)
    after = {t: _stored(nn.BatchNorm1d(1, momentum=layer.momentum), x_NC, t) for t in (1, 10, 100)}
    right = _evaluated(layer, truth, sample)
    rows = [
        _output_row(f"train(), in the batch of {n}", truth, layer.train()(x_NC)[-1]),
        _output_row(f"train(), with the last {len(half)} only", moments(half), layer(half)[-1]),
        *(
            _output_row(f"eval(), after {t} batch{'es' if t > 1 else ''}", kept, _evaluated(layer, kept, sample))
            for t, kept in after.items()
        ),
        _output_row("eval(), statistics of the data", truth, right),
    ]
    kept, γ, β, small = after[10], _say(layer.weight), _say(layer.bias), _small(layer.eps)
    wrong = _say(_evaluated(layer, kept, sample))
    z = f"({_say(sample)} − {_term(_say(kept.mean))}) ÷ √({_say(kept.var)} + {small})"
    return Step(
        title="5. Inference",
        sentences=(
            "eval() changes one thing: for m and v the layer now takes running_mean and running_var.",
            "What a sample gives no longer depends on the batch it is in, and is as right as what was stored.",
            f"For the last sample, {_say(sample)}, after 10 batches:",
        ),
        formulas=(f"y = {γ} · {z} + {_term(β)} = {wrong}",),
        code=(
            "layer.eval()",
            "after_ten = layer(x[-1:])",
            "layer.running_mean.copy_(mean), layer.running_var.copy_(var)  # step 1",
            "right = layer(x[-1:])",
        ),
        tables=(Table(title="", columns=("the last sample", "mean", "variance", "y"), rows=tuple(rows)),),
        remarks=(
            f"The same sample and the same weights, and y is {wrong} instead of {_say(right)}: "
            "so a network that is good in train() can be bad in eval().",
            "With the statistics of the data the layer gives what it gave in training.",
        ),
    )


def _channels(x_NC: Tensor) -> Step:
    n, channels = x_NC.shape
    found, z_NC = moments(x_NC), nn.BatchNorm1d(channels)(x_NC)
    rows = [(f"sample {i + 1}", *map(_say, (*x_NC[i], *z_NC[i]))) for i in range(n)]
    after = moments(z_NC)
    rows.append(("mean", *map(_say, (*found.mean, *after.mean))))
    rows.append(("variance", *map(_say, (*found.var, *after.var))))
    names = [f"channel {c + 1}" for c in range(channels)]
    return Step(
        title="6. Several channels: each by itself",
        sentences=(
            f"{n} samples of {channels} channels, [N, C] = {list(x_NC.shape)}. "
            "The mean runs down a column, over the batch.",
            f"A mean along a row, {_say(x_NC[0].mean())} of sample 1, is not batch norm's.",
        ),
        code=(
            f"pairs = torch.tensor({_literal(x_NC)})",
            f"z_pairs = torch.nn.BatchNorm1d({channels})(pairs)  # {channels} means, {channels} variances",
        ),
        tables=(Table(title="", columns=("", *names, *(f"z of {name}" for name in names)), rows=tuple(rows)),),
    )


def _images(x_NC: Tensor, z_NC: Tensor) -> Step:
    x_NCHW = x_NC.reshape(-1, 1, 2, 2)
    two = torch.cat([x_NCHW, 10 * x_NCHW], dim=1)
    z_two, found, n = nn.BatchNorm2d(2)(two), moments(two), len(x_NC)
    rows = [(f"image {i + 1}", *map(_say, image.flatten()), _say(image.mean())) for i, image in enumerate(x_NCHW)]
    rows.append(("mean", *map(_say, x_NCHW.mean(0).flatten()), _say(moments(x_NCHW).mean)))
    last = _say(nn.BatchNorm2d(1)(x_NCHW)[-1, 0, -1, -1])
    return Step(
        title="7. Images: [N, C, H, W]",
        sentences=(
            f"The same {n} numbers as {len(x_NCHW)} images of 2 × 2 pixels: [N, C, H, W] = {list(x_NCHW.shape)}.",
            "A channel is still one thing, so its mean runs over N, H and W together: "
            f"{len(x_NCHW)} · 2 · 2 = {n} values, one mean.",
        ),
        code=(
            f"images = x.reshape({len(x_NCHW)}, 1, 2, 2)",
            "z_images = torch.nn.BatchNorm2d(1)(images)  # z of step 2",
            "two = torch.cat([images, 10 * images], dim=1)  # a second channel",
            "z_two = torch.nn.BatchNorm2d(2)(two)",
        ),
        tables=(
            Table(
                title="",
                columns=("", "top left", "top right", "bottom left", "bottom right", "mean"),
                rows=tuple(rows),
            ),
        ),
        remarks=(
            "Batch norm takes the mean in the corner, not one for each image or for each pixel: "
            f"z of the last pixel is {last}, as that of the last sample was {_say(z_NC[-1])}.",
            f"A second channel of ten times these numbers has its own mean, {_say(found.mean[1])}, "
            f"and variance, {_say(found.var[1])}; z of its last pixel is {_say(z_two[-1, 1, -1, -1])}.",
            "With C channels there are C of everything: m, v, γ, β, running_mean, running_var.",
        ),
    )


def _next() -> Step:
    return Step(
        title="Next",
        sentences=(
            "truenorm diagnose looks at a network of yours: which layer stores what is not true, why, and what mending "
            "gives.",
            "truenorm claims measures what is said about batch norm, by training networks.",
        ),
    )


def _kept(layer: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None and var is not None
    return mean, var


def _stored(layer: nn.BatchNorm1d, x_NC: Tensor, batches: int) -> Moments:
    """What a layer stores after so many batches of the same."""
    for _ in range(batches):
        layer(x_NC)
    return Moments(*_kept(layer))


def _initial(layer: nn.BatchNorm1d, x_NC: Tensor, batches: int) -> float:
    """How much of what it began with a layer still stores: what is left of 1 when all that comes is 0."""
    _kept(layer)[0].fill_(1.0)
    return _stored(layer, torch.zeros_like(x_NC), batches).mean.item()


def _evaluated(layer: nn.BatchNorm1d, kept: Moments, sample: Tensor) -> Tensor:
    """What the layer gives in evaluation if this is what it stores."""
    mean, var = _kept(layer)
    mean.copy_(kept.mean)
    var.copy_(kept.var)
    return layer.eval()(sample)


def _stored_row(name: str, kept: Moments, initial: float, truth: Moments) -> tuple[str, ...]:
    shift = estimation_shift(Statistics({"": kept}), Statistics({"": truth}))[""].shift
    return (name, _say(kept.mean), _say(kept.var), f"{initial:.1%}", f"{shift:.2f}")


def _output_row(name: str, used: Moments, y: Tensor) -> tuple[str, ...]:
    return (name, _say(used.mean), _say(used.var), _say(y))


def _by_sample(rows: dict[str, Tensor]) -> Table:
    """A column for each sample, then their sum and mean."""
    n = len(next(iter(rows.values())))
    return Table(
        title="",
        columns=("sample", *(str(i + 1) for i in range(n)), "sum", "mean"),
        rows=tuple(
            (name, *map(_say, found), _say(found.sum()), _say(found.mean()))
            for name, found in ((name, value.flatten().double()) for name, value in rows.items())
        ),
    )


def _say(value: Tensor | float) -> str:
    """Four digits; what rounding left of a zero is 0, and so is −0."""
    return number(round(float(value), 6) + 0.0, 4)


def _small(value: float) -> str:
    """A number without exponent, as one writes it by hand."""
    return f"{value:f}".rstrip("0")


def _term(said: str) -> str:
    """A number behind an operator: in brackets if it is negative."""
    return f"({said})" if said.startswith("-") else said


def _sum(values: Tensor) -> str:
    return " + ".join(_term(_say(value)) for value in values.flatten())


def _literal(values: Tensor) -> str:
    """A list as Python reads it, and short: 2. for 2.0."""
    return re.sub(r"\.0\b", ".", str(values.tolist()))
