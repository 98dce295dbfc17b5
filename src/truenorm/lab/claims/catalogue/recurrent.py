"""Batch norm in recurrent networks."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import log_ratio
from truenorm.lab.claims.networks import initialised
from truenorm.lab.claims.recurrent import NoNorm, RowLSTM, StepBatchNorm, StepLayerNorm, StepNorm
from truenorm.lab.claims.training import scored, scored_in_batches, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep

IMAGES = 20_000
"""Shown in each training."""

BATCH = 64
HIDDEN = 48


@dataclass(frozen=True, slots=True)
class Way:
    """One way of using batch norm in an LSTM.

    Args:
        per_step: whether each step has statistics of its own.
        gain: what γ starts at.
    """

    per_step: bool
    gain: float

    def norm_layer(self, steps: int) -> StepNorm:
        """What makes its norms."""
        return partial(StepBatchNorm, steps=steps if self.per_step else 1, gain=self.gain)

    @property
    def statistics(self) -> str:
        """Whose they are."""
        return "statistics for each step" if self.per_step else "statistics shared by all steps"


WAYS = {
    f"bn-{'per-step' if per_step else 'shared'}-{gain:g}": Way(per_step, gain)
    for per_step in (False, True)
    for gain in (1.0, 0.1)
}
"""Arm → what it does: all combinations, so that none was picked for what comes out."""

ARMS = {
    "none": "the LSTM without norm",
    "ln": "layer norm at the same places",
    **{arm: f"batch norm, {way.statistics}, γ starts at {way.gain:g}" for arm, way in WAYS.items()},
}


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(ARMS, lrs=context.rates(-5, 1), steps=context.steps(IMAGES, BATCH))


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: _network(context, trial.arm), trial.seed, gain=1.0)
    trained(network, context.feed("train", BATCH), trial, on_step, epochs=context.epochs(IMAGES))
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    test = context.feed("test", BATCH)
    order = torch.randperm(len(test.split), generator=torch.Generator().manual_seed(trial.seed))
    alone, by_batches = scored(network, context, "test"), scored_in_batches(network, test, order)
    yield from trial.scores(alone, "accuracy", "nll")
    yield trial.row("nll.batch", by_batches.nll, n=by_batches.num)
    yield trial.row("gap", math.log(alone.nll / by_batches.nll))


def _network(context: ClaimsContext, arm: str) -> nn.Module:
    layers = {"none": NoNorm, "ln": StepLayerNorm}
    norm_layer = layers[arm] if arm in layers else WAYS[arm].norm_layer(context.input_shape[1])
    return RowLSTM(context.input_shape, context.num_classes, norm_layer=norm_layer, hidden=HIDDEN)


CLAIM = Claim(
    number=12,
    name="recurrent",
    title="Batch norm is hard to use in recurrent networks",
    sentence="Batch normalization is hard to apply in recurrent networks, where statistics differ from step to step.",
    sources=("one of four tutorials",),
    literature="""Laurent 2016: on what comes from the hidden state it does not help; on what comes from the input it
        speeds up training. Cooijmans 2017: it works at both with statistics for each step and γ that starts at 0.1.""",
    literature_verdict="depends: statistics for each step",
    plainly="""A recurrent network reads its input piece by piece, here an image row by row, and uses the same layers at
        each step. Batch norm stores a mean and a standard deviation for inference, but those of the first step are not
        those of the last.""",
    hypothesis="""An LSTM has a test loss that is at least a tenth higher with batch norm than without, whichever way it
        is used.""",
    control="""The same LSTM with the same initial weights without norm; beside it, not judged, layer norm. Each at its
        own best rate.""",
    measure="""An LSTM over the rows of an image, batch norm on what comes from the input, from the hidden state and on
        the cell (Cooijmans 2017). All four ways of using it are judged: statistics shared by all steps or kept for
        each, γ that starts at 1 or at 0.1. Test loss in evaluation mode; beside it that by the statistics of the test
        batches themselves: where it is much smaller, the network learned well and the stored statistics are wrong.""",
    arms=ARMS,
    parts=tuple(
        Part(
            name=f"{'each step' if way.per_step else 'shared'} with γ {way.gain:g}",
            says=f"test loss, batch norm ÷ none, {way.statistics}, γ starts at {way.gain:g}",
            effect=log_ratio("nll", arm, "none"),
            margin=math.log(1.1),
            unit="factor",
        )
        for arm, way in WAYS.items()
    ),
    primary="shared with γ 1",
    why_primary="The sentence speaks of batch norm as it is: one set of statistics for a layer, γ that starts at 1.",
    columns=(
        Column(metric="accuracy", heading="accuracy %", unit="points", digits=1),
        Column(metric="nll", heading="NLL"),
        Column(metric="nll.batch", heading="NLL by statistics of the batch"),
        Column(metric="gap", heading="first over second", unit="factor"),
    ),
    picture=Picture(
        metric="nll",
        y="NLL on test images",
        log_y=True,
        text="""Further left is better. The four ways of using batch norm differ in whose statistics are stored, which
            matters at inference only, and in γ at the start, which matters in training.""",
    ),
    cells=cells,
    run=run,
)
