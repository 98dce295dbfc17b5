"""Internal covariate shift."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.networks import ACTIVATIONS, NORMS, dense, initialised
from truenorm.lab.claims.training import first, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import BatchNorm, NormLayer

IMAGES, BATCH = 15_000, 64
LOOKS = 10
"""How often shift is looked at while a network trains."""

PROBE = 256
"""Images that gradients are taken over."""

EQUAL = 2.0**-6
"""The rate for all networks where they are to take the same steps."""


class NoisyBatchNorm(BatchNorm):
    r"""Batch norm, and behind it noise whose mean and spread are drawn anew for each channel at each step of training.

    $$ y' = y \, s + a, \quad s \sim U(1, 1.25) + U(-0.1, 0.1), \quad a \sim U(-0.5, 0.5) + U(-0.1, 0.1) $$

    The first term is the channel's, the second the sample's. So what the next layer sees shifts all the time, and no
    norm takes that away.

    Source: after Santurkar et al. 2018.
    """

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        if not self.training:
            return out
        channels = torch.empty(2, out.shape[1])
        scale, shift = channels[0].uniform_(1, 1.25), channels[1].uniform_(-0.5, 0.5)
        jitter = torch.empty(2, *out.shape).uniform_(-0.1, 0.1)
        return out * (scale + jitter[0]) + shift + jitter[1]


MAKERS: Mapping[str, NormLayer] = {"none": NORMS["none"], "bn": NORMS["bn"], "bn-noise": NoisyBatchNorm}


def cells(context: ClaimsContext) -> list[Cell]:
    lrs = {"equal": (EQUAL,), "best": context.rates(-8, 0)}
    cells = grid(MAKERS, steps=context.steps(IMAGES, BATCH), activation=("ReLU", "sigmoid"), rate=lrs)
    return [replace(cell, lrs=lrs[cell.where["rate"]]) for cell in cells]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    activation, gain = ACTIVATIONS[trial.where["activation"]]
    network = initialised(lambda: dense(context, MAKERS[trial.arm], activation=activation), trial.seed, gain=gain)
    probe = next(iter(first(context.feed("train", PROBE), PROBE)))
    likeness = _Likeness(network, probe, context.steps(IMAGES, BATCH), on_step)
    step = on_step if trial.tuning else likeness.step
    losses = trained(
        network, context.feed("train", BATCH), trial, step, epochs=context.epochs(IMAGES), schedule="constant"
    )
    if trial.tuning:
        yield trial.row("score", -losses[-1])
        return
    yield trial.row("loss", math.log(losses[-1]))
    yield trial.row("likeness", fmean(likeness.values))


class _Likeness:
    """Now and then, what a step of the layers before does to the gradient of a layer.

    Attributes:
        values: at each look, the mean over layers of the cosine between the gradient as it was and as it is after the
            layers before have taken their step.
    """

    def __init__(self, network: nn.Module, probe: tuple[Tensor, Tensor], steps: int, on_step: OnStep) -> None:
        self._network, self._probe, self._on_step = network, probe, on_step
        self._at = {round(steps * (k + 0.5) / LOOKS) for k in range(LOOKS)}
        self._taken = 0
        self._before: dict[str, Tensor] = {}
        self.values: list[float] = []

    def step(self) -> None:
        self._on_step()
        self._taken += 1
        if self._taken in self._at:
            self.values.append(self._look())
        if self._taken + 1 in self._at:
            self._before = {name: value.detach().clone() for name, value in self._network.named_parameters()}

    def _look(self) -> float:
        """See `values`. On a copy, whose running statistics are not used."""
        network = copy.deepcopy(self._network).train()
        before, after = self._before, dict(self._network.named_parameters())
        layers = [name for name, value in before.items() if value.ndim == 2][1:-1]
        names = list(before)
        was = _gradients(network, before, layers, self._probe)
        likeness: list[float] = []
        for layer in layers:
            earlier = set(names[: names.index(layer)])
            mixed = {name: (after if name in earlier else before)[name].detach() for name in names}
            (now,) = _gradients(network, mixed, [layer], self._probe).values()
            likeness.append(F.cosine_similarity(was[layer].flatten(), now.flatten(), dim=0).item())
        return fmean(likeness)


def _gradients(
    network: nn.Module, parameters: Mapping[str, Tensor], layers: list[str], probe: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Gradients of some layers' weights, in float64: those of a network that hardly learns are tiny."""
    images, labels = probe
    weights = {name: parameters[name].double().requires_grad_() for name in layers}
    rest = {name: value.double() for name, value in parameters.items()}
    outputs = functional_call(network.double(), rest | weights, (images.double(),))
    gradients = torch.autograd.grad(F.cross_entropy(outputs, labels), list(weights.values()))
    return dict(zip(layers, gradients, strict=True))


def _less(evidence: Evidence) -> Mapping[int, float]:
    """Seed → logarithm of how much more the gradient is turned without norm than with batch norm."""
    none, bn = (evidence.by_seed("likeness", arm, activation="ReLU", rate="equal") for arm in ("none", "bn"))
    return {seed: math.log((1 - none[seed]) / (1 - bn[seed])) for seed in none if seed in bn and bn[seed] < 1}


def _lost(evidence: Evidence) -> Mapping[int, float]:
    """Seed → share of what batch norm gains in training loss (its logarithm) that noise takes away again.

    Of a seed in which it gains nothing there is no share.
    """
    gained = evidence.difference("loss", "none", "bn", activation="sigmoid", rate="best")
    lost = evidence.difference("loss", "bn-noise", "bn", activation="sigmoid", rate="best")
    return {seed: lost[seed] / gained[seed] for seed in gained if seed in lost and gained[seed] > 0}


CLAIM = Claim(
    number=5,
    name="covariate-shift",
    title="Batch norm works because it reduces internal covariate shift",
    sentence="""What a layer sees keeps changing as the layers before it learn (internal covariate shift); batch norm
        reduces that, and this is why training is faster.""",
    sources=("Ioffe & Szegedy 2015", "all four tutorials"),
    literature="""Contradicted by Santurkar et al. 2018: with noise behind every batch norm, which makes the shift worse
        than without norm, networks train as well; and the gradients' shift was not smaller with batch norm in
        theirs.""",
    literature_verdict="does not hold",
    plainly="""Each layer learns from what the layers before it pass on, and these change, too: it aims at a moving
        target. Two questions: does the target move less with batch norm? And is the gain gone if one makes it move
        again?""",
    hypothesis="""With batch norm, a step of the layers before turns a layer's gradient at least a fifth less; and noise
        behind batch norm, which brings the shift back, takes away half or more of what batch norm gains.""",
    control="""The same network without norm, and with batch norm followed by noise of another mean and spread for each
        channel at each step.""",
    measure=f"""MLP with four hidden layers of 128. Likeness: cosine between the gradient of a layer's weights before
        and after the layers below have taken their step, mean over layers and {LOOKS} moments of training; judged with
        ReLUs at the same rate for all (without norm sigmoids do not learn, and what does not move cannot shift). Gain:
        training loss after the last epoch, each network at its best rate, with sigmoids, which without norm stay at
        guessing. Constant rate after a warm-up.""",
    arms={
        "none": "no norm, only biases",
        "bn": "batch norm",
        "bn-noise": "batch norm, then noise that shifts at each step",
    },
    parts=(
        Part(
            name="less shift",
            says="how far a gradient is turned (1 − likeness), none ÷ batch norm, ReLU, equal rates",
            effect=_less,
            margin=math.log(1.25),
            unit="factor",
        ),
        Part(
            name="the gain coming from it",
            says="share of batch norm's gain in training loss that noise takes away, sigmoid",
            effect=_lost,
            margin=0.5,
            unit="points",
        ),
    ),
    primary="the gain coming from it",
    why_primary="The claim is why batch norm works; that it reduces the shift is only the premise.",
    columns=(
        Column(metric="likeness", heading="likeness of gradients"),
        Column(metric="loss", heading="training loss", unit="factor"),
    ),
    picture=Picture(
        metric="loss",
        y="training loss after the last epoch",
        unit="factor",
        log_y=True,
        panels="activation",
        at={"rate": "best"},
        text="""Further to the left is better trained. If the shift mattered, noise behind batch norm would undo its
            gain.""",
    ),
    cells=cells,
    run=run,
)
