"""The sentences of the doctor, made from its values; nothing reads them back."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from truenorm.doctor import remedy as remedies
from truenorm.doctor.phrases import affine, some, times, with_gain
from truenorm.doctor.remedy import Remedy, RepairStatistics, RetrainWith, SetEps, Step, When
from truenorm.show import number

if TYPE_CHECKING:
    from truenorm.doctor.outcome import Looked, Outcome, RuledOut
    from truenorm.doctor.repair import Repair


_CODE: Mapping[str, str] = {
    "a norm for each call": "give each population a batch norm of its own (the other layers can stay shared), or put "
    "both into one forward",
    "eval before export": "call model.eval() before it is exported",
    "eval before scripting": "call model.eval() before it is scripted",
    "float32 statistics": "keep batch norm in float32",
    "no bias": "build the layer before batch norm with bias=False",
    "no decay": "put γ and β into a parameter group without weight decay",
    "drop the last batch": "load training data with drop_last=True",
    "convert statistics": "convert running statistics to torch's convention when they are ported",
    "stored statistics in eval": "let these layers divide by stored statistics in eval(): F.batch_norm(…, "
    "training=self.training)",
    "a norm that stores": "put batch norm with running statistics and the same weight and bias in their place, and "
    "measure them: truenorm.repair(model, train_loader)",
    "a sample alone in eval": "find what takes its batch in eval() (statistics of the batch in a forward, say), and "
    "let it use stored numbers there",
    "no synchronisation": "build the network with BatchNorm instead of SyncBatchNorm, or run several processes",
}

_TRAINING: Mapping[str, str] = {
    "shuffle": "shuffle what trains or recalibrates",
    "dropout last": "put dropout behind the last batch norm",
    "repair at the end": "repair after training: it ends with the noise of train() in the statistics",
    "save buffers": "save model.state_dict(), which holds the running statistics, not the parameters alone",
    "train on such data": "if training saw such data, raise the momentum or repair at its end; if not, train on data "
    "like those it will meet",
}


def advice(remedy: Remedy) -> str:
    """A remedy as a line of Python or a sentence.

    Example:
        >>> advice(RepairStatistics(needs_score=True)), advice(SetEps(eps=1e-3))
        ('truenorm.repair(model, train_loader, score=...)', 'build the network with eps=0.001')
    """
    match remedy:
        case remedies.DiagnoseAgain(needs_score=needs_score, samples=samples):
            more = "" if samples is None else f", limit={2 * samples}"
            return f"truenorm.diagnose(model, val_loader{more}{', score=...' if needs_score else ''})"
        case RepairStatistics() as repair:
            needed = {"forward": repair.needs_forward, "mask": repair.needs_mask, "score": repair.needs_score}
            more = "".join(f", {name}=..." for name, needs in needed.items() if needs)
            return f"truenorm.repair(model, train_loader{more})"
        case remedies.Preprocess(scale=scale, reverse=True) if abs(scale - 1) < 0.02:
            return "reverse the channels of the images, as training had them: x[:, [2, 1, 0]]"
        case remedies.Preprocess(scale=scale, offset=offset, reverse=reverse):
            return f"preprocess as in training; {affine(scale, offset, reverse)} comes near"
        case SetEps(eps=eps):
            return f"build the network with eps={eps:g}"
        case remedies.SetMomentum(momentum=momentum):
            return f"build the network with momentum={momentum:g}"
        case remedies.TrackStatistics(rebuild=True):
            return "build these layers with track_running_stats=True, load the weights, and repair"
        case remedies.TrackStatistics():
            return "set track_running_stats=True again, and truenorm.freeze(model) if they are to stay as they are"
        case remedies.CountOnce(layer=None):
            return (
                "put eval() around forwards that are not training, or train under truenorm.watch(model), which knows "
                "repeated forwards"
            )
        case remedies.CountOnce(layer=str(layer)):
            return (
                "train under truenorm.watch(model), which knows repeated forwards, or set the momentum of "
                f"{some([layer])} to 1 − √(1 − m)"
            )
        case remedies.Freeze(layers=layers):
            names = layers if isinstance(layers, str) else list(layers)
            return f"truenorm.freeze(model, {names!r}) before training: it survives train()"
        case remedies.Unfreeze(layers=layers, by="freeze"):
            return f"truenorm.unfreeze(model, {layers if isinstance(layers, str) else list(layers)!r})"
        case remedies.Unfreeze(layers=layers, by="eval"):
            names = some([layers] if isinstance(layers, str) else layers)
            return f"unfreeze {names}: call model.eval() or model.train() on the whole network"
        case remedies.Unfreeze(layers=layers):
            names = some([layers] if isinstance(layers, str) else layers)
            return f"put torch's batch norm with the same weights, bias and statistics in the place of {names}"
        case remedies.SetWeight(weight=weight):
            return f"set the weights γ of batch norm to {weight}, as training seems to have had them"
        case remedies.ReorderClasses():
            return "give labels and outputs the same order of classes"
        case remedies.NormaliseAlone():
            return (
                'truenorm.convert(model, to="instance"), which gives each sample what train() gives it alone; or train '
                "anew with larger batches"
            )
        case remedies.ConvertLayers(small_batch=None):
            return "train with truenorm.convert(model), which stores what eval() needs"
        case remedies.ConvertLayers(small_batch=size):
            return (
                "train with truenorm.convert(model), which stores what eval() needs; at batches of "
                f"{size} statistics are not all: {advice(RetrainWith())}"
            )
        case RetrainWith(norms=(first, *others)):
            return f'retrain with truenorm.convert(model, to="{first}")' + "".join(f' or to="{n}"' for n in others)
        case remedies.ChangeCode(what=what):
            return _CODE[what]
        case remedies.ChangeTraining(what=what):
            return _TRAINING[what]
        case remedies.Nothing(none_better=True):
            return "leave the statistics alone: none that was tried does better on these data"
        case _:
            return "leave the statistics alone"


_JOINTS: Mapping[When, str] = {"do": "", "then": "; then ", "later": "; next time: "}


def in_one_line(steps: Iterable[Step], say: Callable[[Remedy], str] = advice) -> str:
    """The steps as one sentence.

    Example:
        >>> in_one_line([Step(remedy=SetEps(eps=1e-3)), Step(remedy=RepairStatistics(), when="then")])
        'build the network with eps=0.001; then truenorm.repair(model, train_loader)'
    """
    return "".join(f"{_JOINTS[step.when]}{say(step.remedy)}" for step in steps)


# Conclusions

_NOT_SCORED = "the effect of a repair is unknown: the batches hold no labels that fit the output; pass score="


def verdict(outcome: "Outcome") -> str:
    """The verdict as one sentence."""
    kind = outcome.kind
    off = f"{outcome.off} of {times(outcome.layers, 'layer')} {'is' if outcome.off == 1 else 'are'} off"
    without = "no layer divides by stored statistics; " if outcome.data else "without data: "
    improved = ", ".join(
        f"{part.metric} {part.before:.4g} → {part.after:.4g}{' (worse)' if part.after < part.before else ''}"
        for part in outcome.improved
    )
    how = f"(same weights, {'the samples that were measured' if outcome.same else 'samples that were not measured'})"
    unknown = some(outcome.unknown)
    acquitted = {
        "harmless": f"it is not batch norm: {off} by more than chance in the sample, as running averages are, and no "
        "other statistics do better",
        "sound": "it is not batch norm: the running statistics are those of these data, up to noise",
    }
    if outcome.unknown:  # no acquittal of what was not looked at
        acquitted = {
            "harmless": f"{off} beyond noise, and no other statistics do better; nothing is known of {unknown}",
            "sound": "the layers that were compared hold the statistics of these data, up to noise; nothing is known "
            f"of {unknown}",
        }
    return {
        **acquitted,
        "no batch norm": "it is not batch norm: the network has none",
        "other remedy": "something else than statistics is wrong, and changing it does better than any repair",
        "frozen": f"frozen layers hold wrong statistics, and repairing them helps: {improved} {how}",
        "no defect": f"{without}nothing wrong is seen",
        "defect": f"{without}a fault or a suspicious setting is seen",
        "damaged": f"running statistics are invalid; {_NOT_SCORED}",
        "not scored": f"{off}; {_NOT_SCORED}",
        "repairable": f"the running statistics are wrong, and repairing them helps: {improved} {how}"
        if outcome.off
        else f"no layer is off beyond noise where it was compared, yet other statistics score better: {improved} {how}",
        "not repairable": "something is wrong that other statistics do not repair",
        "undecided": _undecided(outcome, off),
    }[kind]


def _undecided(outcome: "Outcome", off: str) -> str:
    hidden = outcome.undecided
    if hidden is None:
        return ""
    if hidden.half_width is None:
        return f"{off}; too few samples were scored to tell whether other statistics do better"
    return (
        f"not decided: {off} beyond noise, and what a repair gives ({hidden.metric} {hidden.gain:+.2g} ± "
        f"{hidden.half_width:.2g}) may be noise; about {hidden.samples:,} scored samples would decide"
    )


ELSEWHERE = "overfitting (does training score much better?), other data, or labels may be"
"""Where to look if it is not batch norm."""


def ruled_out(part: "RuledOut") -> str:
    """Why something is not the fault."""
    if part.what == "dropout":
        changes = " and ".join(f"{metric} by {change:+.2g}" for metric, change in part.changes)
        return f"dropout: on, as in train(), it changes {changes}"
    most = " and ".join(f"{metric} changes by {change:+.2g} at best" for metric, change in part.changes)
    return f"statistics: with others {most}"


def looked(at: "Looked") -> tuple[str, ...]:
    """What was looked at, and what was left out."""
    if not at.measured:
        return ("nothing was measured",)
    others = "the same" if at.same else f"{at.scored:,} other{'' if at.scored == 1 else 's'}"
    scored = f"{others} scored" if at.scored else "none scored"
    if at.scored and at.scores not in (at.scored, 0):
        scored += f" ({times(at.scores, 'score')})"
    if at.kind is not None:
        scored += f", labels taken for {at.kind if at.kind != 'values' else 'values of the output'}"
    first = f"{times(at.measured, 'sample')} measured and {scored}, in batches of {at.batch_size} (limit {at.limit})"
    layers = {
        "no batch reached": at.unreached,
        "left alone, for their statistics do not fit their input:": at.unfit,
        "reached in some passes only, and left out:": at.partly,
        "frozen, which a repair leaves as they are:": at.frozen,
        "called more than once per forward:": at.repeated,
    }
    return (first, *(f"{what} {some(names)}" for what, names in layers.items() if names))


def repaired(repair: "Repair") -> str:
    """What a repair did, with the scores before and after."""
    if repair.chosen is None:
        return "nothing was changed: no other statistics do better on held-out samples, beyond noise"
    changes = ", ".join(
        f"{metric} {number(repair.before[metric], 4)} → {with_gain(repair.scores[repair.chosen][metric], gain, 4)}"
        for metric, gain in repair.gains[repair.chosen].items()
    )
    return f"assigned {repair.chosen}: {changes}"


def measured(repair: "Repair") -> str:
    """What a repair measured and scored on."""
    scored = {
        "the measured": "the same",
        "others": f"{repair.scored:,} others",
        "given": f"{repair.scored:,} held out",
    }[repair.held_out]
    return f"measured on {repair.measured} samples in batches of {repair.batch_size}, scored on {scored}"
