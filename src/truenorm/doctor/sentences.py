"""What findings say, with their numbers; nothing reads the sentences back."""

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from truenorm.doctor.phrases import affine, some, times

if TYPE_CHECKING:
    from truenorm.doctor.finding import Finding


def sentence_of(finding: "Finding") -> str:
    """What was found, with its numbers."""
    evidence = finding.evidence
    texts = {
        "layers": some(finding.layers),
        "are": "is" if len(finding.layers) == 1 else "are",
        "normalise": "normalises by the batch that it gets"
        if len(finding.layers) == 1
        else "normalise by the batch that they get",
        "hold": "holds" if len(finding.layers) == 1 else "hold",
        "share": "" if finding.explained is None else _share(finding.explained),
    }
    template = _SENTENCES[finding.cause]
    return (template if isinstance(template, str) else template(evidence)).format(**{**texts, **_texts(evidence)})


def _share(value: float) -> str:
    """In percent, never rounded up to all of it.

    Example:
        >>> _share(0.4), _share(0.9996)
        ('40%', 'over 99%')
    """
    return "over 99%" if 0.99 < value < 1 else f"{value:.0%}"


def _texts(e: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence, with what is shown in words of its own."""
    texts = dict(e)
    if "offset" in e:
        texts["affine"] = affine(e["scale"], e["offset"], e["reverse"])
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
    if "compared" in e:
        texts["compared_layers"] = times(e["compared"], "compared layer")
    if "metric" in e:
        texts["scored"] = _scored(e)
    if "order" in e:
        texts["order"] = ", ".join(map(str, e["order"]))
    return texts


_EXPLAINED = "{share} of the shift is explained by it"


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
        f"faster than the running average follows{window}: this was not measured. If so, a learning rate that ends at "
        "zero, or a repair at the end of training, prevents it"
    )


_FOLLOWED = 5
"""Windows of a running average after which it has followed."""


def _domain(e: Mapping[str, Any]) -> str:
    data = (
        "training saw other data (another domain, other noise, augmentation), or several populations went through it "
        "in each step (real and generated, a teacher's or target's pass), of which a mixture is stored; or more "
        "padding was counted than there is here, or less"
    )
    if e["momentum"] is None or e["batches"] is None or (e["momentum"] and e["batches"] > _FOLLOWED * e["window"]):
        why = data
    elif not e["momentum"]:
        why = f"either {data}, or they did not follow: momentum is 0"
    else:
        why = (
            f"either {data}, or they did not follow: momentum {{momentum:g}} is a window of {{window:,.0f}} batches, "
            "and {batches:,} were counted"
        )
    return (
        "no cause that was tried explains it. The first layer, which only data and its own weights reach, is "
        f"{{shift:.2g}} σ off: its running statistics are unlike these data. That may be because {why}; this was not "
        "measured"
    )


def _scored(e: Mapping[str, Any]) -> str:
    """What a remedy scores, beside the network as it is and the best repair."""
    if e["metric"] is None:
        return "; nothing was scored, so this is not known to help"
    repaired = "" if e["repaired"] is None else f", repaired {e['repaired']:.4g}"
    return f" ({e['metric']} {e['after']:.4g}; as it is {e['before']:.4g}{repaired})"


def _order_of_classes(e: Mapping[str, Any]) -> str:
    order = (
        "with output k read as class (k + {shift}) mod {classes}"
        if e["shift"] is not None
        else "with the outputs read as the classes {order}"
    ) + ("" if len(e["order"]) < 10 or e["shift"] is not None else " …")
    return (
        "accuracy is {before:.1%}, chance {chance:.1%}, "
        f"and {order} it is {{after:.1%}}: labels and outputs count the classes in different orders"
    )


def _updated_in_part(e: Mapping[str, Any]) -> str:
    value = "variance" if e["buffer"] == "running_var" else "mean"
    number = 1 if value == "variance" else 0
    return (
        f"{{buffer}} is exactly {number} in {{layers}}, while the other buffer moved: the {value} was never updated, "
        f"or reset, or not loaded; {_EXPLAINED}"
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
        "the first layer is hardly off, and those behind it are as if training had used {weight} for the weights γ of "
        "batch norm: {share} of the shift is gone with it{scored}"
    )


def _frozen_statistics(e: Mapping[str, Any]) -> str:
    how = {
        "freeze": "held by truenorm.freeze",
        "eval": "in eval() inside a network in train()",
        "class": f"by a class that never trains: {', '.join(e['classes'])}",
    }[e["by"]]
    return (
        "{layers} {are} frozen " + f"({how}), and the running statistics there are wrong, up to {{shift:.2g}} σ: "
        "a repair leaves frozen layers as they are"
    )


def _always_by_the_batch(e: Mapping[str, Any]) -> str:
    if not e["classes"]:
        return (
            "in eval() an output depends on the other samples of its batch, though every batch norm that was found "
            "divides by what it stores: something else in the network takes its batch"
        )
    unused = "the stored statistics are not used" if e["alone"] else "the stored statistics are only a part of it"
    stored = unused if e["stored"] else "no statistics are stored"
    return (
        "in eval(), too, {layers} " + f"({', '.join(e['classes'])}) {{normalise}}: {stored}, and an "
        "output depends on the other samples of its batch"
    )


def _sorted_batches(e: Mapping[str, Any]) -> str:
    even = e["heaviest"] is None
    what = "the variance between classes is not in them" if even else "class {heaviest} weighs {weight:.0%} in them"
    return (
        f"the statistics are as if of batches of one class each, not of the data: {what}; {_EXPLAINED} (sorted or "
        "sharded loaders, passes over sorted data in train())"
    )


def _preprocessing(e: Mapping[str, Any]) -> str:
    how = "as negatives" if e["scale"] < 0 else "scaled or shifted"
    if e["reverse"]:
        how = "with their channels reversed" if e["scale"] > 0 else "as negatives with their channels reversed"
    repaired = e["metric"] is not None and e["repaired"] is not None and e["repaired"] >= e["after"]
    other = "; other data in training (augmented, or a second population) can look the same" if repaired else ""
    return (
        f"the images match those of training {how}: with {{affine}} {{share}} of the shift is gone over the layers "
        f"that were compared{{scored}}{other}"
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
        f"eps is {{other_eps}}, and {{eps:g}}{framework} fits the stored statistics: with it {{share}} of the "
        "shift is gone{scored}; a quarter of the variances of a layer lie below {lower_quartile:.2g}"
    )


def _track_running_stats(e: Mapping[str, Any]) -> str:
    if e["stored"]:
        return (
            "track_running_stats is False in {layers}, which store statistics: in train() they normalise by the batch "
            "and never update, in eval() by what was stored before; that is not frozen"
        )
    return (
        "{layers} keep no statistics (track_running_stats=False): in eval() too each output depends on the other "
        "samples of its batch (and one value per channel fails)"
    )


def _tiny_batches(e: Mapping[str, Any]) -> str:
    if e["convention"] is None:
        return "the data come in batches of {batch_size}: where training has such batches, too, batch norm may do harm"
    return (
        "it was trained with batches of about {batch_size}: what batch norm loses in training itself, no statistics "
        "give back"
    )


def _unexplained(e: Mapping[str, Any]) -> str:
    if e.get("alone"):
        return (
            "no cause that was tried explains it: {layers} alone is far off by itself, as where one layer was not "
            "loaded, or was written over, or replaced"
        )
    return (
        "no cause that was tried explains it; a diagnosis on training data, or with the optimizer (optimizer=), would "
        "tell more"
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
    "statistics were folded into γ and β, and in a network that was not trained yet",
    "momentum": "momentum is {momentum:g} in {layers}: if training used it, the statistics rest on about {window:.2g} "
    "batches (torch's momentum is the weight of the new batch; Keras's {momentum:g} is {keras:.3g} here)",
    "sampling noise": "with momentum {momentum:g} the statistics rest on {window:.0f} batches; they are as noisy as "
    "with batches of about {samples} samples ({sigma:.2g} σ in the mean over layers): if yours were larger, it is "
    "something else",
    "lag": _lag,
    "variance convention": "the stored variances behind other batch norms are {ratio:.2f} times those of batches of "
    "{batch_size} ({batch_size}/({batch_size} − 1) is {unbiased:.2f} for a vector): torch stores n/(n − 1) times the "
    f"variance it trains with; {_EXPLAINED}",
    "sorted batches": _sorted_batches,
    "preprocessing": _preprocessing,
    "domain": _domain,
    "another momentum in training": "the running statistics are as if momentum had been about {fits:.2g} in training, "
    "which leaves about {left:.0%} of the initial 0 and 1 after {batches_counted}; the network here has "
    f"{{momentum:g}}, which would leave {{expected:.0%}}; {_EXPLAINED}",
    "randomness": "something is random in train() and not in eval(), beginning in {where}, and batch norm stores its "
    f"noise; {_EXPLAINED}",
    "training mode": "train() and eval() differ beside batch norm, beginning in {where}, and batch norm stores what it "
    f"sees in train(); {_EXPLAINED}",
    "updated in part": _updated_in_part,
    "common factor": "means and variances are about {factor:.3g} times those of the data, in {compared_layers}: "
    "one constant factor (Caffe's files have it in a third blob, by which both are to be divided); "
    f"{_EXPLAINED}",
    "not the variance": _not_the_variance,
    "weights of batch norm": _weights,
    "frozen statistics": _frozen_statistics,
    "order of classes": _order_of_classes,
    "unexplained": _unexplained,
    "dropout": "dropout ({dropouts}) stands before batch norm: its noise is in the stored variances and not in eval(); "
    f"{_EXPLAINED}",
    "averaged weights": _averaged_weights,
    "pruned weights": "{zeros:.0%} of the weights are exactly 0, and the statistics are off: if the network was pruned "
    "after training, they are of the weights before",
    "updated twice": _updated_twice,
    "called several times": "{layers} {are} called {calls} times per forward, on populations that are {apart:.2g} σ "
    "apart: in training each call normalises by its own batch, and what is stored is a mixture that fits none of them",
    "frozen parameters": "γ and β of {layers} do not learn while other parameters do, and the running statistics there "
    "are free: every forward in train() draws them to the data it sees",
    "frozen by eval()": "{layers} {are} in eval() while the model trains: the next model.train() wakes them",
    "frozen by class": lambda e: (
        f"{{layers}} {{are}} frozen by class ({', '.join(e['classes'])}): training never changes what is stored there"
    ),
    "by the batch": _always_by_the_batch,
    "eps": _eps,
    "track_running_stats": _track_running_stats,
    "tiny batches": _tiny_batches,
    "batches of one": "the data come one by one, and in train(), where each sample is normalised by itself, the "
    "network does better than with any stored statistics{scored}: it was trained so, and works as instance norm",
    "dead channels": "{channels} of {of_channels} channels vary little on these data (variance below {below:g}), in "
    "{layers}: the shift does not count them",
    "bias before batch norm": "a bias feeds straight into {layers}: batch norm subtracts it again; bias=False saves it",
    "weight decay": "γ and β are decayed (weight_decay {weight_decay:g}): usual, and rarely wanted; put them into a "
    "parameter group without",
    "synchronised alone": "SyncBatchNorm runs in a single process: nothing is synchronised",
    "program in training mode": _program,
    "last batch of one": "the last of {batches} batches holds one sample: if training data end so, training on it "
    "fails for vectors and is noise for images; use drop_last=True",
}
