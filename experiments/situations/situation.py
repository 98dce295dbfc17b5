"""A network in a situation that a user meets, what is right to say of it, and whether an answer is right."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

NOT_PLANTED = frozenset(
    {
        "lag",
        "domain",
        "averaged weights",
        "preprocessing",
        "initial values",
        "sampling noise",
        "momentum",
        "variance convention",
        "tiny batches",
        "sorted batches",
        "dropout",
        "eps",
        "pruned weights",
        "updated twice",
    }
)
"""Causes that rest on a measured shift: untrue wherever they were not planted."""


CALLED: Mapping[str, frozenset[str]] = {
    "scale": frozenset({"common factor", "not the variance"}),
    "variance_not_updated": frozenset({"updated in part"}),
    "gamma_unused": frozenset({"weights of batch norm"}),
    "missing_statistics": frozenset({"never updated"}),
    "frozen_wrong": frozenset({"frozen statistics"}),
    "randomness": frozenset({"randomness", "dropout"}),
    "labels": frozenset({"order of classes"}),
    "channel_order": frozenset({"preprocessing"}),
    "initial values": frozenset({"initial values", "another momentum in training"}),
    "overwritten": frozenset({"overwritten", "unexplained"}),
    "mixture": frozenset({"mixture"}),
    "padding": frozenset({"padding"}),
    "batches of one": frozenset({"batches of one"}),
    "by the batch": frozenset({"by the batch"}),
}
"""What right answers are called in `truenorm.doctor.causes.CAUSES`: they were written before there were such causes.

- `scale`: all stored numbers are in another convention: off by a common factor, 1/σ or σ in the place of σ².
- `variance_not_updated`: the means moved, the variances are still the initial 1.
- `gamma_unused`: γ of the file was not used in training.
- `missing_statistics`: the state dict had parameters and no buffers.
- `frozen_wrong`: the layers are held still, and what they hold is not right.
- `randomness`: something in the network is random in training only, be it dropout as a function, dropped tokens, noise
  on the input or dropped paths.
- `labels`: labels are numbered otherwise than outputs.
- `channel_order`: the channels of the images come in another order.
- `no_batch_norm`: there is no batch norm in it; no finding is due.
- `initial values`: they are still in the statistics; where the network has another momentum than the run had, that one
  may be named.
- `overwritten`: the buffers of one layer were written over, and nothing else is wrong; that it is unexplained is true.
- `mixture`: in training two populations went through a layer, and what is stored is of both together.
- `padding`: what is stored has padded positions in it, more of them than the data have.
- `batches of one`: training divided each sample by its own statistics, as instance norm does, and no stored ones can.
- `by the batch`: in eval() too a layer divides by the batch, so that a sample's output depends on those beside it.
"""

UNTRUE = NOT_PLANTED | {
    "mixture",
    "padding",
    "batches of one",
    "by the batch",
    "called several times",
    "never updated",
    "updated in part",
    "momentum 0",
    "common factor",
    "not the variance",
    "weights of batch norm",
    "track_running_stats",
    "frozen statistics",
    "order of classes",
    "training mode",
    "randomness",
}
"""All that is untrue, as a note too, wherever it was not planted; the further kinds begin with it."""


def causes_of(names: Iterable[str]) -> frozenset[str]:
    """The causes that are meant.

    Example:
        >>> sorted(causes_of({"labels", "eps"}))
        ['eps', 'order of classes']
    """
    return frozenset(cause for name in names for cause in CALLED.get(name, frozenset({name})))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is right to say, whatever the words.

    Causes have the names of `truenorm.doctor.causes.CAUSES`, or those of `CALLED`, which were chosen before there were
    such causes.

    Args:
        healthy: whether there is no reason for an alarm.
        first: right answers for the first cause that is no note. Empty: none is due, and any is right that is not
            untrue.
        remedy: kinds of remedy (classes of `truenorm.doctor.remedy`) of which the first thing to do must be one.
            Empty: any but the useless ones. Advice on preprocessing is carried out, and must bring it back.
        useless: remedies that do not bring it back, neither now nor as the second step.
        forbidden: causes that are untrue here, also as harmless ones and as notes.
        repair_gain: whether `truenorm.repair` on training batches brings it back. If not, it must do no harm.
        refusal: an error of truenorm's own that speaks of batch norm is as good as an answer.
        refusal_words: any of them has to be in it. Empty: no more is asked of a refusal.
        named: layers that have to be named, be it in a cause, as the one that is most off, or in a refusal.
    """

    healthy: bool
    first: frozenset[str] = frozenset()
    remedy: frozenset[str] = frozenset()
    useless: frozenset[str] = frozenset()
    forbidden: frozenset[str] = NOT_PLANTED
    repair_gain: bool = False
    refusal: bool = False
    refusal_words: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Situation:
    """A network, what a user gives to `truenorm.diagnose`, and what is right.

    Args:
        name: the kind.
        variant: in which form.
        seed: of everything that is random in it.
        model: the network, as the user has it.
        data: held-out batches, as the user gives them.
        options: of `diagnose`: `score`, `forward`. `repair` gets the same.
        training: batches for a repair.
        measure: how good a network is in eval(), by the situation's own measure; more is better.
        reached: what is reached once the fault is mended.
        noise: of the measure.
        right: what is right to say and do.
    """

    name: str
    variant: str
    seed: int
    model: nn.Module
    data: Iterable[Any]
    training: Iterable[Any]
    measure: Callable[[nn.Module], float]
    reached: float
    right: Expected
    noise: float = 0.02
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


class NotBuilt(Exception):
    """The network did not come out as the situation needs it: a fault of the situation, not of an answer."""


def require(holds: bool, otherwise: str) -> None:
    """What a situation rests on, by numbers.

    Raises:
        NotBuilt: it does not hold.
    """
    if not holds:
        raise NotBuilt(otherwise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said and what a repair gave, as plain values.

    Args:
        healthy: None where there was no diagnosis.
        findings: causes with their levels, in their order.
        steps: classes of remedies, and when.
        before, repaired: by the situation's own measure, on a copy. None: the repair was refused.
        preprocessed: the same with images as the advice on preprocessing has them. None: no such advice.
        refused: the sentence of an error of truenorm's own.
        named: layers of causes, and the one that is most off.
        crashed: functions that ended with an error that is not truenorm's own; their part of an answer is wrong.
    """

    healthy: bool | None = None
    findings: tuple[tuple[str, str], ...] = ()
    steps: tuple[tuple[str, str], ...] = ()
    before: float
    repaired: float | None = None
    preprocessed: float | None = None
    refused: str | None = None
    named: tuple[str, ...] = ()
    crashed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether an answer is right, part by part."""

    verdict: bool
    first: bool
    untrue: tuple[str, ...]
    remedy: bool
    repair: bool

    @property
    def right(self) -> bool:
        """In every part."""
        return self.verdict and self.first and not self.untrue and self.remedy and self.repair


def judged(right: Expected, answer: Answer, *, reached: float, noise: float) -> Judgement:
    """Compare an answer with what is right; what a refusal leaves open is right if a refusal is.

    Example:
        >>> right = Expected(healthy=False, first=frozenset({"scale"}), repair_gain=True)
        >>> said = Answer(healthy=False, findings=(("lag", "cause"),), steps=(), before=0.2, repaired=0.9)
        >>> judged(right, said, reached=0.9, noise=0.02)
        Judgement(verdict=True, first=False, untrue=('lag',), remedy=False, repair=True)
    """
    if "diagnose" in answer.crashed:
        repair = _repair(right, answer, reached, noise)
        return Judgement(verdict=False, first=False, untrue=(), remedy=False, repair=repair)
    if answer.refused is not None:
        fine = right.refusal and "batch norm" in plain(answer.refused)
        fine = fine and all(name in answer.refused for name in right.named)
        fine = fine and (not right.refusal_words or any(word in answer.refused for word in right.refusal_words))
        return Judgement(
            verdict=fine, first=fine, untrue=(), remedy=fine, repair=_repair(right, answer, reached, noise)
        )
    forbidden = set(map(plain, right.forbidden))
    return Judgement(
        verdict=answer.healthy is right.healthy,
        first=_first(right, answer) and right.named <= set(answer.named),
        untrue=tuple(cause for cause, _ in answer.findings if plain(cause) in forbidden),
        remedy=_remedy(right, answer, reached - noise),
        repair=_repair(right, answer, reached, noise),
    )


def plain(name: str) -> str:
    """A name without regard to case, underscores and hyphens.

    Example:
        >>> plain("no_batch-Norm")
        'no batch norm'
    """
    return name.replace("_", " ").replace("-", " ").lower()


def _first(right: Expected, answer: Answer) -> bool:
    if not right.first:
        return True
    first = causes_of(right.first)
    causes = [cause for cause, level in answer.findings if level != "note"]
    if not causes and right.healthy:  # what is no fault may be said in a note
        causes = [cause for cause, _ in answer.findings]
        return not causes or any(cause in first for cause in causes)
    return bool(causes) and causes[0] in first


def _remedy(right: Expected, answer: Answer, enough: float) -> bool:
    if answer.preprocessed is not None and answer.preprocessed < enough:
        return False
    now = [kind for kind, when in answer.steps if when != "later"]
    if not now or any(kind in right.useless for kind in now):
        return False
    return not right.remedy or now[0] in right.remedy


def _repair(right: Expected, answer: Answer, reached: float, noise: float) -> bool:
    if "repair" in answer.crashed:
        return False
    if answer.repaired is None:
        return not right.repair_gain
    if right.repair_gain:
        return answer.repaired >= reached - noise
    return answer.repaired >= answer.before - noise
