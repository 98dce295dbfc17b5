"""The sentences of the doctor, made from its values; nothing reads them back."""

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from truenorm.doctor import remedy as remedies
from truenorm.doctor.remedy import Remedy, RepairStatistics, RetrainWith, SetEps, Step, When
from truenorm.metrics.intervals import Interval
from truenorm.show import number

if TYPE_CHECKING:
    from truenorm.doctor.finding import Finding
    from truenorm.doctor.outcome import Looked, Outcome, RuledOut
    from truenorm.doctor.repair import Repair


def some(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many there are beside; a number alone is called a layer.

    Example:
        >>> some("abcde"), some("1")
        ('a, b, c and 2 more', 'layer 1')
    """
    labels = [f"layer {name}" if name.isdigit() else name for name in names]
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"


def times(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> times(1, "layer"), times(3, "batch")
        ('1 layer', '3 batches')
    """
    plural = noun + ("es" if noun.endswith(("ch", "s", "x")) else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def with_gain(value: float, gain: Interval, digits: int = 3) -> str:
    """A score with what it gained.

    Example:
        >>> with_gain(0.75, Interval(0.5, 0.1, 9))
        '0.75 (+0.5 ± 0.1)'
    """
    width = "" if gain.half_width is None else f" ± {number(gain.half_width, 2)}"
    return f"{number(value, digits)} ({'+' if gain.mean >= 0 else '−'}{number(abs(gain.mean), 2)}{width})"


# Findings


def sentence(finding: "Finding") -> str:
    """What was found, with its numbers."""
    evidence = finding.evidence
    texts = {
        "layers": some(finding.layers),
        "are": "is" if len(finding.layers) == 1 else "are",
        "hold": "holds" if len(finding.layers) == 1 else "hold",
        "explained": finding.explained,
    }
    template = _SENTENCES[finding.cause]
    return (template if isinstance(template, str) else template(evidence)).format(**{**texts, **_texts(evidence)})


def _texts(e: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence, with what is shown in words of its own."""
    texts = dict(e)
    if "offset" in e:
        texts["affine"] = _affine(e["scale"], e["offset"], e["reverse"])
    if "dropouts" in e:
        texts["dropouts"] = some(f"{name} {rate:g}" for name, rate in zip(e["dropouts"], e["rates"], strict=True))
    if "other_eps" in e:
        texts["other_eps"] = ", ".join(f"{eps:g}" for eps in e["other_eps"])
    if e.get("batches") is not None:
        texts["batches_counted"] = times(e["batches"], "batch")
    if "modules" in e:
        texts["where"] = some(
            f"{name} ({kind})" if name else f"the forward of {kind}"
            for name, kind in zip_longest(e["modules"], e["classes"], fillvalue=e["classes"][-1])
        )
    if "metric" in e:
        texts["scored"] = _scored(e)
    if "order" in e:
        texts["order"] = ", ".join(map(str, e["order"]))
    return texts


_EXPLAINED = "{explained:.0%} of the shift is explained by it"


def _initial_values(e: Mapping[str, Any]) -> str:
    if e["momentum"] is not None:
        return (
            "momentum {momentum:g}, {batches_counted}: {left:.0%} of the initial 0 and 1 is still stored; "
            f"{_EXPLAINED}"
        )
    return (
        "the running statistics look like a mixture with the initial 0 and 1, which weigh about {left:.0%} (nothing "
        f"says how many batches were counted); {_EXPLAINED}"
    )


def _lag(e: Mapping[str, Any]) -> str:
    window = "" if e["momentum"] is None else " (momentum {momentum:g}: a window of {window:.0f} batches)"
    return (
        "no cause that was tried explains it. The shift is larger behind the first layer, as where the weights change "
        f"faster than the running average follows{window}: this was not measured; a learning rate that ends at zero, "
        "or a pass at the end, would prevent that"
    )


def _scored(e: Mapping[str, Any]) -> str:
    """What a remedy scores, beside the network as it is and the best repair."""
    if e["metric"] is None:
        return "; nothing was scored, so this is not known to help"
    repaired = "" if e["repaired"] is None else f", repaired {e['repaired']:.4g}"
    return f" ({e['metric']} {e['after']:.4g}; as it is {e['before']:.4g}{repaired})"


def _order_of_classes(e: Mapping[str, Any]) -> str:
    order = (
        "with every class moved by {shift}" if e["shift"] is not None else "with the classes in the order {order}"
    ) + ("" if len(e["order"]) < 10 or e["shift"] is not None else " …")
    return (
        "accuracy is {before:.1%}, chance {chance:.1%}, "
        f"and {order} it is {{after:.1%}}: labels and outputs count the classes in different orders"
    )


def _updated_in_part(e: Mapping[str, Any]) -> str:
    value = "variance" if e["buffer"] == "running_var" else "mean"
    number = 1 if value == "variance" else 0
    return (
        f"the {value} was never updated: {{buffer}} is exactly {number} in every layer, while the other buffer moved; "
        f"{_EXPLAINED}"
    )


_CONVENTIONS = {
    "1/σ": "inverse standard deviations",
    "σ": "standard deviations",
    "1/σ²": "inverse variances",
}


def _not_the_variance(e: Mapping[str, Any]) -> str:
    return f"running_var holds {_CONVENTIONS[e['stored']]} ({{stored}}) instead of variances; {_EXPLAINED}"


def _weights(e: Mapping[str, Any]) -> str:
    return (
        "the first layer is right, and those behind it are as if training had used {weight} for the weights γ of batch "
        "norm: {explained:.0%} of the shift is gone with it{scored}"
    )


def _frozen_statistics(e: Mapping[str, Any]) -> str:
    how = "held by truenorm.freeze" if e["held"] else "in eval() while the model trains"
    return (
        "{layers} {are} frozen " + f"({how}), and the running statistics there are wrong, up to {{shift:.2g}} σ: "
        "a repair leaves frozen layers as they are"
    )


def _sorted_batches(e: Mapping[str, Any]) -> str:
    even = e["heaviest"] is None
    what = "the variance between classes is not in them" if even else "class {heaviest} weighs {weight:.0%} in them"
    return (
        f"the statistics are those of batches of one class each, not of the data: {what}; {_EXPLAINED} (sorted or "
        "sharded loaders, passes over sorted data in train())"
    )


def _preprocessing(e: Mapping[str, Any]) -> str:
    how = "with their channels reversed" if e["reverse"] else "as negatives" if e["scale"] < 0 else "scaled or shifted"
    return (
        f"the images match those of training {how}: with {{affine}} {{explained:.0%}} of the shift is gone, in all "
        "layers{scored}"
    )


def _averaged_weights(e: Mapping[str, Any]) -> str:
    if "models" in e:
        return (
            "these are averaged weights ({models} models), and the statistics are copies of the last one's: they "
            "belong to other weights"
        )
    return (
        "what reaches the layers varies less than what is stored: in {channels:.0%} of the channels, by a factor of "
        "{factor:.2f} in the middle layer; so it is with weights that were averaged (SWA, EMA, teacher, merged) and "
        "kept the statistics of others"
    )


def _updated_twice(e: Mapping[str, Any]) -> str:
    if "steps" in e:
        return (
            "{batches:,} batches were counted in {steps:,} steps of the optimizer, {ratio:.2g} for each: activation "
            "checkpointing runs forwards twice, and forwards in train() beside the training count too (with gradients "
            "accumulated over two batches it is right)"
        )
    doubt = "" if e["data"] else " (or they are called twice per forward: data would tell)"
    return (
        "{layers} counted {batches:,} batches, other layers {others:,}: {ratio:.2g} updates for each; activation "
        f"checkpointing runs a segment's forward twice{doubt}"
    )


def _eps(e: Mapping[str, Any]) -> str:
    framework = " ({framework})" if e["framework"] else ""
    return (
        f"eps is {{other_eps}}, and {{eps:g}}{framework} fits the stored statistics: with it {{explained:.0%}} of the "
        "shift is gone{scored} (a quarter of the variances of a layer lie below {lower_quartile:.2g})"
    )


def _track_running_stats(e: Mapping[str, Any]) -> str:
    if e["stored"]:
        return (
            "track_running_stats is False in {layers}, which store statistics: in train() they normalise by the batch "
            "and never update, in eval() by what was stored before; that is not frozen"
        )
    return (
        "{layers} keep no statistics (track_running_stats=False): in eval() too each output depends on the other "
        "samples of its batch, and a batch of one fails"
    )


def _tiny_batches(e: Mapping[str, Any]) -> str:
    if e["convention"] is None:
        return "the data come in batches of {batch_size}: trained with such, batch norm itself is the harm"
    return (
        "it was trained with batches of about {batch_size}: what batch norm loses in training itself, no statistics "
        "give back"
    )


def _program(e: Mapping[str, Any]) -> str:
    until = " until eval() is called" if e["made"] == "scripted" else ", and eval() does not change that"
    return f"the program was {{made}} in training mode: its batch norm normalises by the batch it is given{until}"


_SENTENCES: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "not finite": "NaN or inf is stored in {layers} ({channels} of {of_channels} channels in the first): one bad batch "
    "stays in a running average for ever",
    "negative variance": "a negative variance ({lowest:.3g}) is stored in {layers}: eval() takes its square root; "
    "E[x²] − E[x]² in float32, or an average of weights that went over the buffers, does that",
    "half precision": "the statistics of {layers} are {dtype}: running averages stall in it, and variances above "
    "65,504 or below 6e-8 do not fit float16; keep batch norm in float32 (model.float() on these layers)",
    "never updated": "{layers} {hold} the initial mean 0 and variance 1, and no batch was counted: never trained, or "
    "loaded from a checkpoint without running statistics",
    "initial values": _initial_values,
    "momentum 0": "momentum is 0 in {layers}: running statistics never move from 0 and 1 (torch's momentum is the "
    "weight of the new batch; Keras's is 1 − it)",
    "folded statistics": "{layers} {hold} mean 0 and variance 1, and no other statistics score better: so it is where "
    "statistics were folded into γ and β",
    "momentum": "momentum is {momentum:g} in {layers}: the statistics are those of the last {window:.2g} batches "
    "(torch's momentum is the weight of the new batch; Keras's {momentum:g} is {keras:.3g} here)",
    "sampling noise": "with momentum {momentum:g} the statistics rest on {window:.0f} batches; they are {sigma:.2g} σ "
    "off in the mean of layers, which is the noise of batches of about {samples} samples",
    "lag": _lag,
    "variance convention": "the stored variances behind other batch norms are {ratio:.2f} times those of batches of "
    "{batch_size} ({batch_size}/({batch_size} − 1) is {unbiased:.2f} for a vector): torch stores n/(n − 1) times the "
    f"variance it trains with; {_EXPLAINED}",
    "sorted batches": _sorted_batches,
    "preprocessing": _preprocessing,
    "domain": "no cause that was tried explains it. The first layer, which only data and its own weights reach, is "
    "{shift:.2g} σ off, as where these data are unlike those of training (another domain, other noise, augmentation, "
    "or several populations in training, as a discriminator sees): this was not measured",
    "another momentum in training": "the running statistics are as if momentum had been {fits:.3g} in training: after "
    "{batches_counted} {left:.0%} of the initial 0 and 1 is left; the network that was built here has {momentum:g}; "
    f"{_EXPLAINED}",
    "randomness": "something is random in train() and not in eval(), beginning in {where}, and batch norm stores its "
    f"noise; {_EXPLAINED}",
    "training mode": "train() and eval() differ beside batch norm, beginning in {where}, and batch norm stores what it "
    f"sees in train(); {_EXPLAINED}",
    "updated in part": _updated_in_part,
    "common factor": "means and variances are {factor:.4g} times those of the data, in all layers: one constant factor "
    f"(Caffe's files have it in a third blob, by which both are to be divided); {_EXPLAINED}",
    "not the variance": _not_the_variance,
    "weights of batch norm": _weights,
    "frozen statistics": _frozen_statistics,
    "order of classes": _order_of_classes,
    "unexplained": "none that was tried explains it: momentum and count, conventions of other frameworks, randomness "
    "in train(), sorted or tiny batches, other inputs; training data, or the optimizer (optimizer=), would tell more",
    "dropout": "dropout ({dropouts}) stands before batch norm: its noise is in the stored variances and not in eval(); "
    f"{_EXPLAINED}",
    "averaged weights": _averaged_weights,
    "pruned weights": "{zeros:.0%} of the weights are exactly 0, and the statistics are off: they were taken before "
    "the network was pruned",
    "updated twice": _updated_twice,
    "called several times": lambda e: (
        "{layers} {are} called more than once per forward: in training each call normalises by its own batch, in "
        f"eval() all by one pair of statistics{'' if e['shift'] is None else ' ({shift:.2g} σ off what arrives)'}"
    ),
    "frozen parameters": "γ and β of {layers} do not learn, the rest does, and the running statistics are free: every "
    "forward in train() moves them away from the weights they belong to",
    "frozen by eval()": "{layers} {are} in eval() while the model trains: the next model.train() wakes them",
    "eps": _eps,
    "track_running_stats": _track_running_stats,
    "tiny batches": _tiny_batches,
    "dead channels": "{channels} of {of_channels} channels hardly vary on these data (variance below {below:g}), in "
    "{layers}: they are left out of the comparison, and tell nothing to the network",
    "bias before batch norm": "a bias stands right before {layers}: batch norm subtracts it again; bias=False saves it",
    "weight decay": "γ and β are decayed (weight_decay {weight_decay:g}): usual, and rarely wanted; put them into a "
    "parameter group without",
    "synchronised alone": "SyncBatchNorm runs in a single process: nothing is synchronised",
    "program in training mode": _program,
    "last batch of one": "the last of {batches} batches holds one sample: training on it fails for vectors and is "
    "noise for images; use drop_last=True",
}


# Remedies

_CODE: Mapping[str, str] = {
    "a norm for each call": "give each call a batch norm of its own (the other layers can stay shared)",
    "eval before export": "call model.eval() before it is exported",
    "eval before scripting": "call model.eval() before it is scripted",
    "float32 statistics": "keep batch norm in float32",
    "no bias": "build the layer before batch norm with bias=False",
    "no decay": "put γ and β into a parameter group without weight decay",
    "drop the last batch": "load training data with drop_last=True",
    "convert statistics": "convert running statistics to torch's convention when they are ported",
    "no synchronisation": "build the network with BatchNorm instead of SyncBatchNorm, or run several processes",
}

_TRAINING: Mapping[str, str] = {
    "shuffle": "shuffle what trains or recalibrates",
    "dropout last": "put dropout behind the last batch norm",
    "train on such data": "if these are the data it will meet, repair on them; else train on such data",
}


def advice(remedy: Remedy) -> str:
    """A remedy as a line of Python or a sentence.

    Example:
        >>> advice(RepairStatistics(needs_score=True)), advice(SetEps(eps=1e-3))
        ('truenorm.repair(model, train_loader, score=...)', 'build the network with eps=0.001')
    """
    match remedy:
        case remedies.DiagnoseAgain(needs_score=needs_score):
            return f"truenorm.diagnose(model, val_loader{', score=...' if needs_score else ''})"
        case RepairStatistics(needs_score=needs_score):
            return f"truenorm.repair(model, train_loader{', score=...' if needs_score else ''})"
        case remedies.Preprocess(scale=scale, offset=offset, reverse=reverse):
            return f"preprocess as in training; {_affine(scale, offset, reverse)} comes near"
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
        case remedies.CountOnce(layer=layer):
            return (
                "train under truenorm.watch(model), which knows repeated forwards, or set the momentum of "
                f"{layer} to 1 − √(1 − m)"
            )
        case remedies.Freeze(layers=layers):
            names = layers if isinstance(layers, str) else list(layers)
            return f"truenorm.freeze(model, {names!r}) before training: it survives train()"
        case remedies.Unfreeze(layers=layers, held=held):
            names = layers if isinstance(layers, str) else list(layers)
            return (
                f"truenorm.unfreeze(model, {names!r})"
                if held
                else f"unfreeze {some([layers] if isinstance(layers, str) else layers)}: call model.eval() or "
                "model.train() on the whole network"
            )
        case remedies.SetWeight(weight=weight):
            return f"set the weights γ of batch norm to {weight}, as training had them"
        case remedies.ReorderClasses():
            return "give labels and outputs the same order of classes; the running statistics are not the fault"
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


def _affine(scale: float, offset: Iterable[float], reverse: bool) -> str:
    x = "x[:, [2, 1, 0]]" if reverse else "x"
    return f"{scale:.4g} · {x} {', '.join(f'{value:+.3g}' for value in offset)}"


# Conclusions

_NOT_SCORED = "the effect of a repair is unknown: the batches hold no labels that fit the output; pass score="


def verdict(outcome: "Outcome") -> str:
    """The verdict as one sentence."""
    off = f"{outcome.off} of {outcome.layers} layers are off"
    no_estimates = "no layer keeps statistics; " if outcome.data else "without data: "
    improved = ", ".join(f"{part.metric} {part.before:.4g} → {part.after:.4g}" for part in outcome.improved)
    kind = outcome.kind
    if kind in ("harmless", "sound") and outcome.unknown:
        layers = "the layers that are understood" if kind == "sound" else f"{off} beyond noise, and no other statistics"
        tail = " hold the statistics of these data, up to noise" if kind == "sound" else " do better"
        return f"{layers}{tail}; nothing is known of {some(outcome.unknown)}, which may be batch norm of another make"
    if outcome.undecided is not None:
        open_gain = outcome.undecided
        return (
            f"not decided: {off} beyond noise, and what a repair gives ({open_gain.metric} {open_gain.gain:+.2g} ± "
            f"{open_gain.half_width:.2g}) is within noise; about {open_gain.samples:,} scored samples would decide"
        )
    return {
        "no batch norm": "it is not batch norm: the network has none",
        "other remedy": "something else than statistics is wrong, and changing it does better than any repair",
        "frozen": f"frozen layers hold wrong statistics, and repairing them helps: {improved} (same weights, held-out "
        "samples)",
        "no defect": f"{no_estimates}nothing wrong is seen",
        "defect": f"{no_estimates}something is wrong in any case",
        "damaged": f"running statistics are invalid; {_NOT_SCORED}",
        "not scored": f"{off}; {_NOT_SCORED}",
        "repairable": f"the running statistics are wrong, and repairing them helps: {improved} (same weights, held-out "
        "samples)",
        "not repairable": "something is wrong that other statistics do not repair",
        "harmless": f"it is not batch norm: {off} beyond noise, and no other statistics do better",
        "sound": "it is not batch norm: the running statistics are those of these data, up to noise",
    }[kind]


def ruled_out(part: "RuledOut") -> str:
    """Why something is not the fault."""
    if part.what == "statistics":
        return f"statistics: no other gives more than {part.change:+.2g} of {part.metric}"
    if part.what == "dropout":
        return f"dropout: on, as in train(), {part.metric} changes by {part.change:+.2g}"
    return "if the training data score much better than these, it is overfitting, or other data"


def looked(at: "Looked") -> tuple[str, ...]:
    """What was looked at, and what was left out."""
    if not at.measured:
        return ("not run: what is seen without data says enough",)
    others = "the same" if at.same else f"{at.scored:,} others"
    scored = f"{others} scored" if at.scored else "none scored"
    if at.kind is not None:
        scored += f", labels taken for {at.kind if at.kind != 'values' else 'values of the output'}"
    first = f"{at.measured:,} samples measured and {scored}, in batches of {at.batch_size} (limit {at.limit})"
    layers = {
        "no batch reached": at.unreached,
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
