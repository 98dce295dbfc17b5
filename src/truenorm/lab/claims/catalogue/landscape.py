"""The smoothness of the loss."""

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import ARMS, NETWORKS, NORMS, initialised
from truenorm.lab.claims.training import first, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep

IMAGES, BATCH = 90_000, 64
"""Shown at most, until the last level is passed, and at each step."""

RATE = 2.0**-6
"""Of all networks: where one is looked at depends on its loss alone."""

LEVELS = (0.8, 0.4, 0.2)
"""Where the loss is looked around: as soon as it is so much of what guessing gives."""

PROBE = 256
"""Images that the loss is taken over."""

STEPS = tuple(2.0**power for power in range(-9, -4))
"""How far one goes along the gradient, of the length of the weights; steps of the training are 1/1000 to 1/100."""

COMPARED = ("none", "bn", "ln")


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(COMPARED, lrs=(RATE,), steps=context.steps(IMAGES, BATCH), network=NETWORKS)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: NETWORKS[trial.where["network"]](context, NORMS[trial.arm]), trial.seed)
    probe = next(iter(first(context.feed("train", PROBE), PROBE)))
    descent = _Descent(network, probe, math.log(context.num_classes), on_step)
    with suppress(_Done):
        feed = context.feed("train", BATCH)
        trained(network, feed, trial, descent.step, epochs=context.epochs(IMAGES), schedule="constant")
    yield trial.row("arrived", len(descent.seen) / len(LEVELS))
    if len(descent.seen) == len(LEVELS):
        for metric in ("range", "change"):
            yield trial.row(metric, fmean(math.log(seen[metric]) for seen in descent.seen))


class _Done(Exception):
    """The last level has been passed."""


class _Descent:
    """Looks around at each level of the loss as it is passed.

    Attributes:
        seen: what was found at each level passed so far; see `around`.
    """

    def __init__(self, network: nn.Module, probe: tuple[Tensor, Tensor], guessing: float, on_step: OnStep) -> None:
        self._network, self._probe, self._guessing, self._on_step = network, probe, guessing, on_step
        self._copy = copy.deepcopy(network).train()  # whose running statistics nobody uses
        self.seen: list[Mapping[str, float]] = []

    def step(self) -> None:
        self._on_step()
        images, labels = self._probe
        with torch.no_grad():
            outputs = functional_call(self._copy, dict(self._network.named_parameters()), (images,))
            loss = F.cross_entropy(outputs, labels).item()
        while loss <= LEVELS[len(self.seen)] * self._guessing:
            self.seen.append(around(self._network, self._probe))
            if len(self.seen) == len(LEVELS):
                raise _Done


def around(network: nn.Module, probe: tuple[Tensor, Tensor]) -> dict[str, float]:
    r"""How the loss and its gradient change along the gradient, for steps in units of the length of the weights.

    $$ w(\rho) = w - \rho \, \|w\| \, \frac{g}{\|g\|} \qquad
       \mathrm{range} = \max_\rho L - \min_\rho L \qquad
       \mathrm{change} = \max_\rho \frac{\|g(\rho) - g\|}{\|g\|} $$

    w are the weights of all linear layers and convolutions but the last, g the gradient by them; the rest stays. If a
    norm stands behind each of them, their size is of no effect, but the gradient is the smaller the larger it is: a
    step of a fixed length would make any such network look smooth that has large weights. Neither number changes
    with that size.

    Args:
        network: with what it has learned; left as it is. Norms take the statistics of the images.
        probe: images and labels.

    Source: after Santurkar et al. 2018, who take steps of a fixed length.
    """
    network = copy.deepcopy(network).double().train()
    images, labels = probe[0].double(), probe[1]
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    hidden = [name for name, value in parameters.items() if value.ndim > 1][:-1]
    weights = {name: parameters[name] for name in hidden}

    def look(moved: Mapping[str, Tensor]) -> tuple[float, Tensor]:
        variable = {name: value.clone().requires_grad_() for name, value in moved.items()}
        loss = F.cross_entropy(functional_call(network, parameters | variable, (images,)), labels)
        gradients = torch.autograd.grad(loss, list(variable.values()))
        return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])

    here, gradient = look(weights)
    length = torch.cat([value.flatten() for value in weights.values()]).norm() / gradient.norm()
    parts = gradient.split([value.numel() for value in weights.values()])
    losses, changes = [here], list[float]()
    for step in STEPS:
        loss, there = look(
            {
                name: value - step * length * part.view_as(value)
                for (name, value), part in zip(weights.items(), parts, strict=True)
            }
        )
        losses.append(loss)
        changes.append(((there - gradient).norm() / gradient.norm()).item())
    return {"range": max(losses) - min(losses), "change": max(changes)}


CLAIM = Claim(
    number=6,
    name="landscape",
    title="Batch norm smooths the loss landscape",
    sentence="""Batch normalization makes the landscape of the loss smoother, so that gradients can be trusted further
        and larger steps be taken.""",
    sources=("Santurkar et al. 2018", "one of four tutorials"),
    literature="""Supported by Santurkar et al. 2018: along the gradient the loss and the gradient itself change less
        with batch norm; other normalizations do the same. They compare steps of a fixed length, which favours networks
        with larger weights where a norm takes their size away.""",
    literature_verdict="holds",
    plainly="""A network learns by going downhill, and feels only the slope where it stands. On smooth ground the slope
        a few steps further is nearly the same; on rough ground it is another. The question is whether batch norm makes
        the ground smoother.""",
    hypothesis="""At the same loss, along the gradient, the gradient changes by at least a fifth less with batch norm
        than without norm, and the loss varies by a fifth less.""",
    control="""The same network with the same initial weights without norm, and, not judged, with layer norm; the same
        rate for all. Networks are compared where their loss is the same, since batch norm gets down sooner and lower
        down everything is flatter.""",
    measure=f"""As soon as the loss of {PROBE} training images is {LEVELS[0]:.0%}, {LEVELS[1]:.0%} and
        {LEVELS[2]:.0%} of what guessing gives: steps along the gradient of 1/512 to 1/32 of the length of the hidden
        layers' weights (those of the training itself are 1/1000 to 1/100). Gradient: its largest change, of its size.
        Loss: from its least to its largest. Means over the three places; each network in training mode, in
        float64.""",
    arms={arm: ARMS[arm] for arm in COMPARED},
    parts=tuple(
        Part(
            name=f"{name} ({network})",
            says=f"{says}, none ÷ batch norm, {network}",
            effect=difference(metric, "none", "bn", network=network),
            margin=math.log(1.25),
            unit="factor",
        )
        for metric, name, says in (
            ("change", "the gradient", "largest change of the gradient along it"),
            ("range", "the loss", "range of the loss along the gradient"),
        )
        for network in NETWORKS
    ),
    primary="the gradient (cnn)",
    why_primary="""A function is smooth if its gradient changes little, and that is what lets one trust it further; a
        CNN is the ordinary network for images.""",
    columns=(
        Column(metric="change", heading="change of the gradient, of its size", unit="factor"),
        Column(metric="range", heading="range of the loss", unit="factor"),
        Column(metric="arrived", heading="levels passed %", unit="points", digits=0),
    ),
    picture=Picture(
        metric="change",
        y="change of the gradient along it, of its size",
        unit="factor",
        log_y=True,
        panels="network",
        text="""How much the slope changes within a few steps, each network at the same heights. Further left is
            smoother.""",
    ),
    cells=cells,
    run=run,
)
