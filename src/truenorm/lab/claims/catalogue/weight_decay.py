"""L2 and a bias on layers before batch norm."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truenorm.lab.claims.accuracy import ACCURACY, accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference, value
from truenorm.lab.claims.networks import Bias, dense, initialised
from truenorm.lab.claims.training import few_images, scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import BatchNorm, NormLayer

TRAINED_ON, BATCH = 512, 64
"""Images: so few that a network can learn them by heart, and L2 has something to prevent."""

IMAGES = 20_000
"""Shown in each training."""

RATES = (2.0**-9, 2.0**-7, 2.0**-5, 2.0**-3, 2.0**-1)
EFFECTIVE = 2.0**-5
"""The rate where the effective one is the same with L2 as without: what the rate is while weights are as at first."""

DECAYS = (0.002, 0.02)
JUDGED = 0.02
"""Weight decay: an L2 penalty of λ ‖w‖² has the gradient 2 λ w, so that this is λ = 0.01."""

BEST, FIXED = "best rate", "fixed effective rate"


def _biased_batch_norm(channels: int) -> nn.Module:
    """As layers have it whose bias nobody took away: the bias, and batch norm behind it."""
    return nn.Sequential(Bias(channels), BatchNorm(channels))


MAKERS: Mapping[str, NormLayer] = {"none": Bias, "bn": _biased_batch_norm}
_DECAY_OF: Mapping[str, tuple[str, float]] = {
    **{norm: (norm, 0.0) for norm in MAKERS},
    **{f"{norm}-l2-{decay:g}": (norm, decay) for norm in MAKERS for decay in DECAYS},
}
"""Arm → its norm and its weight decay."""


def cells(context: ClaimsContext) -> list[Cell]:
    steps = _epochs(context) * len(few_images(context, TRAINED_ON, BATCH))
    lrs = RATES[1:4:2] if context.quick else RATES
    with_norm = [arm for arm, (norm, _) in _DECAY_OF.items() if norm == "bn"]
    return [
        *grid(_DECAY_OF, lrs=lrs, steps=steps, rate=[BEST]),
        *grid(with_norm, lrs=(EFFECTIVE,), steps=steps, rate=[FIXED]),
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    norm, decay = _DECAY_OF[trial.arm]
    network = initialised(lambda: dense(context, MAKERS[norm]), trial.seed)
    feed, weights = few_images(context, TRAINED_ON, BATCH), hidden_weights(network)
    before = _length(weights)
    with decayed(weights, decay, fixed=trial.where["rate"] == FIXED):
        trained(network, feed, trial, on_step, epochs=_epochs(context))
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    yield from trial.scores(scored(network, context, "test"), "accuracy", "nll")
    yield trial.row("length", _length(weights) / before)
    images, labels = next(iter(feed))
    yield trial.row("halved", change_when_halved(network, images))
    yield trial.row("bias", bias_gradient(network, images, labels))


def _epochs(context: ClaimsContext) -> int:
    return max(1, IMAGES // (3 if context.quick else 1) // TRAINED_ON)


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """Of all linear layers but that of the classes: those that a norm, or a bias in its place, stands behind."""
    linear = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    return linear[:-1]


@contextmanager
def decayed(weights: Iterable[Tensor], decay: float, *, fixed: bool) -> Generator[None]:
    r"""In the block, backward passes add the gradient of an L2 penalty; optionally they keep the effective rate.

    $$ g \leftarrow s\,(g + \mathrm{decay}\; w) \qquad s = 1 \text{ or } \|w\|^2 / \|w_0\|^2 $$

    Behind a norm only the direction of w counts, and the rate at which that turns goes with 1 / ‖w‖² (the effective
    rate). With the second s a step is as large as that rate asks for, however long w has become.

    Args:
        weights: of layers, each with a length of its own.
        decay: of the weights, at each step times the rate.
        fixed: whether the effective rate is to stay what it is now.

    Source: van Laarhoven 2017.
    """

    def hook(first: Tensor) -> Callable[[Tensor], None]:
        def change(weight: Tensor) -> None:
            assert weight.grad is not None
            weight.grad.add_(weight.detach(), alpha=decay)
            if fixed:
                weight.grad.mul_(weight.detach().square().sum() / first)

        return change

    handles = [weight.register_post_accumulate_grad_hook(hook(weight.detach().square().sum())) for weight in weights]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def change_when_halved(network: nn.Module, images: Tensor) -> float:
    r"""How much the output changes if the weights of all hidden layers are halved, of its size.

    $$ \frac{\mathrm{rms}(y - y')}{\mathrm{rms}(y)} $$

    In training mode, in float64; the network is left as it was.
    """
    network, images = deepcopy(network).double().train(), images.double()
    with torch.no_grad():
        before = network(images)
        for weight in hidden_weights(network):
            weight.mul_(0.5)
        return ((network(images) - before).norm() / before.norm()).item()


def bias_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The size of the gradient of the hidden layers' biases, of that of their weights; in training mode, in float64."""
    network = deepcopy(network).double().train()
    biases = [module.bias for module in network.modules() if isinstance(module, Bias)]
    weights = hidden_weights(network)
    loss = F.cross_entropy(network(images.double()), labels)
    gradients = torch.autograd.grad(loss, [*biases, *weights])
    return _length(gradients[: len(biases)]) / _length(gradients[len(biases) :])


def _length(values: Iterable[Tensor]) -> float:
    return torch.cat([each.detach().flatten() for each in values]).norm().item()


CLAIM = Claim(
    number=17,
    name="weight-decay",
    title="L2 and a bias are of use in a layer before batch norm",
    sentence="""A dense layer gets an L2 penalty on its weights, which regularises the network, and a bias; batch
        normalization follows it.""",
    sources=("the code of one tutorial",),
    literature="""Van Laarhoven 2017: behind a norm the size of the weights is of no effect, so that L2 does not
        regularise there; it keeps the weights small, and the effective learning rate, which goes with 1/‖w‖², large.
        A bias before batch norm is taken away with the mean: that is arithmetic.""",
    literature_verdict="does not hold",
    plainly="""L2 pulls the weights of a layer towards 0: a network with small weights gives smoother answers, and
        learns less by heart. But batch norm divides what the layer gives by its own size: whether the weights are large
        or small, the same comes out. And a number that is added to all values goes away with their mean.""",
    hypothesis=f"""With L2 ({JUDGED:g} of weight decay) the network is at least half a point more accurate than without:
        each at its own best rate, and at the same effective rate. If all weights are halved, the output changes by 1 %
        at least; and the gradient of the biases is at least 1 % of that of the weights.""",
    control="""The same network with the same weights and rates without L2. And the same without norm, where L2, the
        size of the weights and the bias are what they are said to be.""",
    measure=f"""An MLP with four hidden layers of 128, each with a bias, trained on {TRAINED_ON} images only; L2 on
        the weights of the hidden layers. Accuracy on test images. Best rate: of rates by factors of four, on validation
        images. Fixed effective rate: rate {EFFECTIVE:g}, for each layer and step times ‖w‖² of what that was at first.
        Then, on training images in training mode and in float64: the change of the output when all hidden weights are
        halved, and the gradients.""",
    arms={
        "none": "no norm, no L2",
        **{f"none-l2-{decay:g}": f"no norm, weight decay {decay:g}" for decay in DECAYS},
        "bn": "batch norm, no L2",
        **{f"bn-l2-{decay:g}": f"batch norm, weight decay {decay:g}" for decay in DECAYS},
    },
    parts=(
        *(
            accuracy_part(
                name=f"L2, {rate}",
                says=f"accuracy, weight decay {JUDGED:g} − none, batch norm, {rate}",
                effect=difference("accuracy", f"bn-l2-{JUDGED:g}", "bn", rate=rate),
                margin=0.005,
            )
            for rate in (BEST, FIXED)
        ),
        Part(
            name="the size of the weights",
            says="change of the output when all weights before batch norm are halved",
            effect=value("halved", "bn", rate=BEST),
            margin=0.01,
            unit="points",
        ),
        Part(
            name="the bias",
            says="gradient of the biases before batch norm, of that of the weights",
            effect=value("bias", "bn", rate=BEST),
            margin=0.01,
            unit="points",
        ),
    ),
    primary=f"L2, {BEST}",
    why_primary="""The sentence says of L2 that it regularises, and names no condition: whoever adds it, or leaves it
        away, may choose the rate that suits.""",
    columns=(
        ACCURACY,
        Column(metric="nll", heading="NLL"),
        Column(metric="length", heading="length of the weights, of that at first"),
        Column(metric="halved", heading="output changed by halving %", unit="points", digits=1),
        Column(metric="bias", heading="gradient of biases, of weights' %", unit="points", digits=1),
    ),
    picture=accuracy_picture(
        panels="rate",
        text="""What L2 gains without norm is the distance between the first three; with batch norm between the next
            three. At a fixed effective rate L2 can act by the size of the weights alone.""",
    ),
    cells=cells,
    run=run,
)
