"""Makes the tables of README.md and docs/ from the records, and puts them where their markers are.

python docs/tables.py
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from typing import Any

from marked import blocks, replaced, table

from truenorm.lab.report.claims.record import read_claims
from truenorm.lab.report.claims.words import effect
from truenorm.lab.report.grid import CONTRASTS, groups
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import BASELINE, StudySummary, cell, compared, only_summary, summaries
from truenorm.lab.report.tables import study_conclusion
from truenorm.metrics.intervals import Interval
from truenorm.record import Record
from truenorm.show import Table, plain

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.name != "explain.md"
)
"""All that have tables, but for docs/explain.md, which `truenorm explain --markdown` prints."""

BUILT_IN = (BASELINE, "cumulative", "update_bn")
"""The methods that torch has: its default momentum, `momentum=None`, and a pass over the data."""

NEAR = 1.0
"""Points of accuracy within which a method is published beside the best."""

Lines = tuple[str, ...]


def published(summary: StudySummary, mentioned: Sequence[str] = ()) -> tuple[str, ...]:
    """The methods that a published table must have, in the order of the record.

    Those that torch has built in, those within one point of the best on the same weights, the best
    member of the sweep of momenta, and those that the text mentions. Members of the sweep are one
    method with a parameter, so that only its best is wanted.

    Args:
        summary: of a setting.
        mentioned: in the text around the table.
    """
    accuracy = {arm: _mean(summary.interval(arm, "accuracy", 100)) for arm in summary.same_weights}
    swept = [arm for arm in accuracy if arm.startswith("static-")]
    best = max(accuracy.values())
    near = [arm for arm in accuracy if arm not in swept and accuracy[arm] >= best - NEAR]
    wanted = {*BUILT_IN, *near, max(swept, key=lambda arm: accuracy[arm]), *mentioned}
    return tuple(arm for arm in accuracy if arm in wanted)


def digits_in_short() -> Lines:
    """What `make study` ends with."""
    return ("```", *plain(study_conclusion(summaries(read_study(_record("digits"))))).splitlines(), "```")


def fashion_mnist() -> Lines:
    """Batch 64 on Fashion-MNIST."""
    summary = _study("fashion-mnist")
    columns = ("", "accuracy %", "− `static-0.1`", "NLL", "− `static-0.1`")
    rows = [
        (_called(arm, summary), *_outcome(summary, arm))
        for arm in (*published(summary, ("static-0.5", "static-0.9")), *summary.networks)
    ]
    return table(columns, rows)


def long_tailed() -> Lines:
    """The four metrics where classes are of different sizes."""
    summary = _study("fashion-mnist-imbalance-50")
    metrics = ("sensitivity", "specificity", "f_score")
    columns = ("%", "accuracy", "− `static-0.1`", "sensitivity", "specificity", "F")
    rows = [
        (
            _called(arm, summary),
            _number(summary, arm, "accuracy", 100),
            _judged(summary, arm),
            *(_number(summary, arm, metric, 100) for metric in metrics),
        )
        for arm in (*published(summary), *summary.networks)
    ]
    return table(columns, rows)


_BATCH_4 = ("static-0.33", "dmbn", "sequential")


def mnist_batch_4() -> Lines:
    """The study's own names, accuracy and likelihood, both schedules."""
    both = _batch_4()
    columns = (
        "accuracy % (− `static-0.1`)",
        *(f"{schedule}{what}" for schedule in both for what in ("", ": NLL")),
    )
    rows = [
        (
            _called(arm, both["cosine"]),
            *(text for one in both.values() for text in (_with_difference(one, arm), _number(one, arm, "nll"))),
        )
        for arm in _union(both.values(), _BATCH_4)
    ]
    return table(columns, rows)


def mnist_batch_4_in_words() -> Lines:
    """The same methods for readers who do not know their names."""
    both = _batch_4()
    columns = (
        "statistics",
        "cosine rate: accuracy %",
        "− torch's default",
        "NLL",
        "constant rate: accuracy %",
        "− torch's default",
        "NLL",
    )
    rows = [
        (
            _in_words(arm, both["cosine"]),
            *(text for one in both.values() for text in _outcome(one, arm)[:3]),
        )
        for arm in _union(both.values(), _BATCH_4)
    ]
    return table(columns, rows)


def adaptive_and_pooled() -> Lines:
    """Is `adaptive` worse than `pooled-0.1`? By the lower end of the interval."""
    rows: list[Sequence[str]] = []
    for seeds, suffix in ((5, ""), (20, "-20-seeds")):
        both = [_study(f"mnist-batch-4-{schedule}{suffix}") for schedule in ("cosine", "constant")]
        found = [one.difference("adaptive", "accuracy", 100, to="pooled-0.1") for one in both]
        rows.append((f"{seeds} seeds", *(f"{_signed(each)} (lower end {_sign(each.low)})" for each in found if each)))
    return table(("`adaptive` − `pooled-0.1`, same weights", "cosine", "constant"), rows)


def matrix() -> Lines:
    """Means over settings of each contrast."""
    found = summaries(read_study(_record("matrix")))
    rows = [
        (
            label,
            str(len(those)),
            *(_bold(mean, tested=label == "all") for contrast in CONTRASTS for mean in [contrast.mean(those)]),
        )
        for label, those in {"all": found, **groups(found)}.items()
    ]
    names = (f"`{contrast.arm}` − `{contrast.to}`" for contrast in CONTRASTS)
    return table(("points of accuracy, mean ± 95 %", "settings", *names), rows)


def dynamic() -> Lines:
    """What layers give that choose their momentum, beside every other rule, setting by setting."""
    stream = (
        "static-0.01",
        "static-0.5",
        "cumulative",
        "pooled-0.1",
        "last-epoch",
        "adaptive",
        "dynamic",
        "dmbn-online",
    )
    arms = (*stream, "dmbn", "recalibrated")
    rows: list[Sequence[str]] = []
    for summary in summaries(read_study(_record("dynamic"))):
        shown = summary.beyond_noise(arms, "accuracy", 100)
        differences = summary.differences(arms)
        cells = (f"**{_signed(differences[arm])}**" if arm in shown else _signed(differences[arm]) for arm in arms)
        rows.append((summary.setting.label, cell(summary.interval("static-0.1", "accuracy", 100), 2), *cells))
    return table(("points of accuracy", "`static-0.1`", *(f"`{arm}`" for arm in arms)), rows)


def badly_shuffled() -> Lines:
    """The same where batches come badly shuffled."""
    found = _experiment("badly_shuffled").table(_record("badly-shuffled"))
    return table(found.columns, found.rows)


_BESIDE = "what-was-found-beside-the-literature"
_FASHION = "fashion-mnist-batch-64-cosine-rate-dynamic-momentum-bn-bfn-everything-else"


def abstract() -> Lines:
    """What was found of each statement of the dissertation's abstract, with its interval and its record."""
    verdicts = {verdict.claim.number: verdict for verdict in read_claims(_record("claims/digits")).verdicts}
    fashion, batch_4, tail = _study("fashion-mnist"), _batch_4()["constant"], _study("fashion-mnist-imbalance-50")
    everywhere = {contrast.name: contrast.mean(summaries(read_study(_record("matrix")))) for contrast in CONTRASTS}
    best = max(
        (arm for arm in fashion.same_weights if arm.startswith("static-")), key=lambda arm: _accuracy(fashion, arm)
    )

    def claim(number: int) -> tuple[str, str, str]:
        primary = verdicts[number].primary
        found = f"{primary.ruling} (claim {number}: {primary.part.says})"
        return (
            found,
            _minus(effect(primary.effect, primary.part.unit)),
            "[claims](claims.md#what-was-found-beside-the-literature)",
        )

    def points(summary: StudySummary, arm: str, metric: str = "accuracy") -> str:
        difference = summary.difference(arm, metric, 100)
        assert difference is not None
        return f"{_signed(difference)} points"

    def mean(contrast: str) -> str:
        interval = everywhere[contrast]
        assert interval is not None
        return f"{_signed(interval)} points"

    matrix_record = "[36 settings](results/README.md#the-dissertations-matrix-at-a-small-size)"
    fashion_record = (
        "[Fashion-MNIST](results/README.md#fashion-mnist-batch-64-cosine-rate-dynamic-momentum-bn-bfn-everything-else)"
    )
    rows: list[Sequence[str]] = [
        ("Batch norm makes training faster", *claim(1)),
        ("It allows higher learning rates", *claim(2)),
        ("It regularises", *claim(3)),
        (
            "Estimation shift impairs inference",
            "not seen at batch 64 with a cosine rate (MLP): a pass over the data − torch's momentum 0.1",
            points(fashion, "recalibrated"),
            fashion_record,
        ),
        (
            "",
            "it does at batch 4 (MLP of six layers, MNIST, constant rate): the same",
            points(batch_4, "recalibrated"),
            "[MNIST, batch 4](results/README.md#mnist-batch-4-torchs-factor-nn1)",
        ),
        (
            "First, one static momentum for all layers is swept",
            f"the best of 16, chosen with the test images in sight ({best}), − 0.1",
            points(fashion, best),
            fashion_record,
        ),
        (
            "Then each layer gets the momentum of least shift (DMBN), which is better",
            "within noise on all of Fashion-MNIST, MLP, batch 64: `dmbn` − momentum 0.1",
            points(fashion, "dmbn"),
            fashion_record,
        ),
        (
            "",
            "in the mean over settings; none alone shows it, and two of the 36 give half of it: the same",
            mean("dmbn − static-0.1"),
            matrix_record,
        ),
        (
            "",
            "less than the pass that it needs to choose by: `dmbn` − that pass",
            mean("dmbn − recalibrated"),
            matrix_record,
        ),
        (
            "In most cases DMBN is above BN-BFN",
            "BN-BFN is below it in the mean over settings; none alone shows it: `bn-bfn` − `dmbn`",
            mean("bn-bfn − dmbn"),
            matrix_record,
        ),
        (
            "",
            "most of that is the network's, not DMBN's, with torch's momentum 0.1 in both: `bn-bfn` − `static-0.1`",
            mean("bn-bfn − static-0.1"),
            matrix_record,
        ),
        (
            "0.889 for DMBN and 0.853 for BN-BFN on Fashion-MNIST",
            f"the first, nearly ({_accuracy(fashion, 'dmbn'):.1f} %); the second not: `bn-bfn` − momentum 0.1",
            points(fashion, "bn-bfn"),
            fashion_record,
        ),
        (
            "",
            "under none of the protocols that were tried; a group of two values in each group norm overshoots it",
            "[each with its interval](hunt.md#what-was-found)",
            "[the hunt](hunt.md)",
        ),
        (
            "Judged by accuracy, sensitivity, specificity, F-score",
            "on balanced test images the first three say the same; long-tailed, F: `dmbn` − momentum 0.1",
            points(tail, "dmbn", "f_score"),
            "[long-tailed](results/README.md#the-same-long-tailed)",
        ),
        (
            "The momentum is dynamic while the averages are kept",
            "as a layer it needs no pass; no difference to momentum 0.1 is shown in eight settings",
            "[each with its interval](results/README.md#layers-that-choose-their-momentum)",
            "[layers that choose](results/README.md#layers-that-choose-their-momentum)",
        ),
        (
            "MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100; DNN, CNN, ResNet-50",
            "MLP, CNN, a thin ResNet-18; the first three (CIFAR-10: 2,000 images); CIFAR-100 and ResNet-50: not run",
            "",
            matrix_record,
        ),
    ]
    return table(("the abstract says, in our words", "what was found", "figure, 95 %", "record"), rows)


def _accuracy(summary: StudySummary, arm: str) -> float:
    return _mean(summary.interval(arm, "accuracy", 100))


def stored_variance() -> Lines:
    """What is stored over the population's variance, on MNIST, behind 0, 1 and 5 batch norms."""
    shown = {row[0]: row for row in _small_batches()["mnist: stored / population variance"].rows}
    batches = list(dict.fromkeys(label.partition(",")[0] for label in shown))
    rows = [
        (batch, torchs[1], *(found[2 + depth] for found in (torchs, ours) for depth in (0, 1, 5)))
        for batch in batches
        for torchs, ours in [(shown[f"{batch}, torch's rule"], shown[f"{batch}, ours"])]
    ]
    depths = ("behind 0", "behind 1", "behind 5")
    sides = [f"{side}{depth}" for side in ("torch's rule, ", "ours, ") for depth in depths]
    return table(("batch size", "n/(n−1)", *sides), rows)


def small_batches() -> Lines:
    """Accuracy by batch size, on both data sets."""
    mnist, fashion = (
        {row[0]: row[1:4] for row in _small_batches()[f"{data}: accuracy on test images"].rows}
        for data in ("mnist", "fashion_mnist")
    )
    names = ("torch's rule", "ours", "difference")
    columns = ("batch size", *(f"{data}: {name}" for data in ("MNIST", "Fashion-MNIST") for name in names))
    return table(columns, [(batch, *map(_minus, (*mnist[batch], *fashion[batch]))) for batch in mnist])


def broken_models() -> Lines:
    """What `diagnose` said of networks whose fault was known, and what its advice regained."""
    doctor, record = _experiment("doctor"), _record("broken-models")
    found = doctor.counts(record)

    def regained(arm: str) -> str:
        points, loss = (doctor.changes(record, arm, metric) for metric in ("accuracy", "loss"))
        middle = f"median {100 * statistics.median(points):+.1f} points, loss {statistics.median(loss):+.3f}"
        worst = f"worst case {100 * min(points):+.1f} points, loss {max(loss):+.3f}"
        return _minus(f"{middle}; {worst}; {len(points)} networks")

    decoys = "decoys (dropout behind the last batch norm, overfitting, label noise)"
    rows = [
        ("the right cause named first", f"{found.right} of {found.broken} ({doctor.share(found.right, found.broken)})"),
        ("alarms among these", f"{found.alarms}; the other faults do no harm that shows on 500 images"),
        (
            f"alarms among {found.healthy} healthy networks",
            f"{found.false_alarms} ({doctor.share(found.false_alarms, found.healthy)})",
        ),
        (f"alarms among {found.decoys} {decoys}", str(found.decoy_alarms)),
        ("regained by the advice", regained("advice")),
        ("by torch's `update_bn` on the same batches", regained("update_bn")),
        ("by fvcore's `update_bn_stats`, where it does not refuse", regained("fvcore")),
    ]
    return table(("", "result"), rows)


def verdicts() -> Lines:
    """How the rule of the claims judges planted effects, with normal noise."""
    record = _record("verdicts")
    made = {each.title: each for each in _experiment("verdicts").tables(record)}
    several = {
        seeds: next(each for title, each in made.items() if title.startswith(f"{seeds} seeds, normal noise"))
        for seeds in record.configuration["seeds"]
    }
    names = next(iter(several.values())).columns[1:]
    columns = ("planted effect", *(f"{seeds} seeds: {name}" for seeds in several for name in names))
    rows = [
        (parts[0][0], *(text for part in parts for text in part[1:]))
        for parts in zip(*(each.rows for each in several.values()), strict=True)
    ]
    return table(columns, rows)


def claims() -> Lines:
    """The verdict on each claim, on both data sets, beside the literature's."""
    on_digits, on_fashion = (
        {verdict.claim.number: verdict for verdict in read_claims(_record(f"claims/{data}")).verdicts}
        for data in ("digits", "fashion-mnist")
    )
    rows = [
        (
            str(number),
            verdict.claim.title,
            _ruling(verdict),
            _ruling(on_fashion.get(number)),
            verdict.claim.literature_verdict,
        )
        for number, verdict in on_digits.items()
    ]
    return table(("", "claim", "digits", "Fashion-MNIST", "literature"), rows)


def claims_in_short(numbers: Sequence[int] = (2, 5, 7, 16)) -> Lines:
    """Some of the claims as the terminal shows them, each with all its comparisons; and the closing sentence."""
    lines = [line.rstrip() for line in (_folder("claims/digits") / "table.txt").read_text().splitlines()]
    heading = next(place for place, line in enumerate(lines) if line.startswith("  #"))
    paragraphs = "\n".join(lines[heading + 2 :]).split("\n\n")
    chosen = [part for number in numbers for part in paragraphs if part.startswith(f"{number:3} ")]
    return ("```", *lines[heading : heading + 2], *"\n\n".join(chosen).splitlines(), "…", lines[-1], "```")


def hunt() -> Lines:
    """Accuracies and gap under each protocol, and how it differs from the base protocol; bold: the gap is shown."""
    script = _experiment("hunt")
    (made,) = script.tables(_record("hunt"))
    rows = [
        (name, differs, *accuracies, _minus(f"**{gap}**" if found != "not shown" else gap), found, excluded)
        for name, *accuracies, gap, _, found, excluded, _ in made.rows
        for differs in [" ".join(script.PROTOCOLS[name].says.split())]
    ]
    return table(
        ("protocol", "what it is", "DMBN %", "BN-BFN %", "BN, momentum 0.1 %", "gap, points", "found", "2.5 or more"),
        rows,
    )


def hunt_in_short() -> Lines:
    """What was found, in sentences."""
    script = _experiment("hunt")
    return ("```", *wrap(script.conclusion(script.findings(_record("hunt"))), 120), "```")


_NOISE = "(noise)"


def watching() -> Lines:
    """What watching costs."""
    columns = {"plain again": f"plain over plain {_NOISE}", "16 momenta": "", "every stream rule": ""}
    return _ratios("watching", "network", {what: heading or what for what, heading in columns.items()})


def layers() -> Lines:
    """What our layers cost: time, and memory."""
    columns = {
        "step, torch's again": f"step, torch's over torch's {_NOISE}",
        "step, ours": "step, ours",
        "inference, torch's again": f"inference, torch's over torch's {_NOISE}",
        "inference, ours": "inference, ours",
        "peak memory of a step": "peak memory of a step",
    }
    return _ratios("layers", "network", columns)


def layers_that_choose() -> Lines:
    """What layers cost that choose their momentum."""
    return _ratios("dynamic", "network", {"torch's again": f"torch's over torch's {_NOISE}", "dynamic": "dynamic"})


def arms() -> Lines:
    """What the table of arms costs."""
    labels = {
        "mlp": "mlp 128-64, 20 epochs",
        "cnn": "cnn, 20 epochs",
        "resnet18-w16": "resnet18-w16, 4 epochs",
    }
    found = {what.partition(":")[0]: ratios for what, ratios in _benchmark("arms").items()}
    return table(("network (digits)", "one run over 17"), [(labels[name], _ratio(found[name])) for name in found])


def whole_study() -> Lines:
    """What a whole study costs."""
    found = {
        what.removeprefix("the study of ").removesuffix(", over its plain trainings"): ratios
        for what, ratios in _benchmark("study").items()
    }
    rows = [(f"{name} (the default)" if "mlp" in name else name, _ratio(ratios)) for name, ratios in found.items()]
    return table(("study (digits)", "whole study over its plain trainings"), rows)


def first_call() -> Lines:
    """What the first use costs, and what reading a watch costs."""
    found = _benchmark("first_call") | _benchmark("reading")
    return table(("", "ratio"), [(what, _ratio(ratios)) for what, ratios in found.items()])


def passes() -> Lines:
    """What passes over the data cost."""
    headings = {
        "joint over update_bn": "`measure`, joint, over torch's `update_bn`",
        "examination over evaluation": "the examination (eval flow) over plain evaluation",
        "sequential over evaluating the giant batch": "sequential over evaluating the same giant batch",
        "sequential over joint": "sequential over joint",
    }
    networks = {"mlp 500-300": "mlp 500-300", "cnn": "cnn", "residual": "residual, 7 batch norms"}
    found = _benchmark("doctor")
    rows = [(heading, *(_ratio(found[f"{name}: {what}"]) for name in networks)) for what, heading in headings.items()]
    return table(("", *networks.values()), rows)


TABLES: Mapping[str, Callable[[], Lines]] = {
    "mnist-batch-4-in-words": mnist_batch_4_in_words,
    "digits-in-short": digits_in_short,
    "claims-in-short": claims_in_short,
    "fashion-mnist": fashion_mnist,
    "long-tailed": long_tailed,
    "matrix": matrix,
    "abstract": abstract,
    "dynamic": dynamic,
    "badly-shuffled": badly_shuffled,
    "mnist-batch-4": mnist_batch_4,
    "adaptive-and-pooled": adaptive_and_pooled,
    "stored-variance": stored_variance,
    "small-batches": small_batches,
    "broken-models": broken_models,
    "verdicts": verdicts,
    "claims": claims,
    "hunt": hunt,
    "hunt-in-short": hunt_in_short,
    "watching": watching,
    "layers": layers,
    "layers-that-choose": layers_that_choose,
    "arms": arms,
    "whole-study": whole_study,
    "passes": passes,
    "first-call": first_call,
}
"""Name in the marker → what makes the lines of the table."""


def main() -> None:
    """Put every table into its document again."""
    for path in DOCUMENTS:
        text = before = path.read_text()
        for block in reversed(blocks(text)):  # from the end: places before it stay
            if block.name is not None:
                text = replaced(text, block, TABLES[block.name]())
        if text != before:
            path.write_text(text)
            print(f"changed: {path.relative_to(ROOT)}")


_LABELS = {
    "static-0.1": "torch's running statistics, momentum 0.1 (the default)",
    "cumulative": "torch's `momentum=None`: the average over the whole run",
    "dmbn": "each layer the momentum nearest to the population (dynamic momentum, DMBN), torch's variance",
    "dmbn-pooled": "the same among averages without n/(n−1)",
    "pooled-0.1": "truenorm's layers, momentum 0.1: no n/(n−1) (`pooled-0.1`)",
    "last-epoch": "average over the last epoch, no n/(n−1)",
    "adaptive": "average that chooses its momentum from the stream, no n/(n−1) (`adaptive`)",
    "update_bn": "torch's `update_bn` over the training images, in batches of {batch}",
    "recalibrated": "a pass over the training images, in batches of {batch}, no n/(n−1) (`recalibrated`)",
    "sequential": "what each layer sees at inference, exactly (`sequential`)",
    "bn-bfn": "another network: layer norm for every second batch norm (`bn-bfn`)",
    "gn": "another network: group norm",
}
_MOMENTUM = "torch's running statistics, momentum {momentum}"


def _in_words(arm: str, summary: StudySummary) -> str:
    text = _LABELS.get(arm, _MOMENTUM.format(momentum=arm.removeprefix("static-")))
    return text.format(batch=summary.setting.values["batch_size"])


def _called(arm: str, summary: StudySummary) -> str:
    """The study's name; with what must be known to read its row rightly."""
    batch = summary.setting.values["batch_size"]
    remarks = {
        "cumulative": " (torch's `momentum=None`)",
        "update_bn": f" (batches of {batch})",
        "recalibrated": f" (batches of {batch})",
    }
    return f"`{arm}`{' (another network)' if arm in summary.networks else remarks.get(arm, '')}"


def _outcome(summary: StudySummary, arm: str) -> tuple[str, str, str, str]:
    """Accuracy, its difference to the baseline, likelihood, its difference."""
    return (
        _number(summary, arm, "accuracy", 100),
        _judged(summary, arm),
        _number(summary, arm, "nll"),
        _minus(cell(summary.difference(arm, "nll"), 3, signed=True)),
    )


def _with_difference(summary: StudySummary, arm: str) -> str:
    difference = _judged(summary, arm)
    return _number(summary, arm, "accuracy", 100) + (f" ({difference})" if difference else "")


def _judged(summary: StudySummary, arm: str) -> str:
    """The difference in points; bold beyond noise, by Holm over the methods that the study compares."""
    difference = summary.difference(arm, "accuracy", 100)
    beyond = summary.beyond_noise(compared(summary), "accuracy", 100)
    text = _signed(difference) if difference else ""
    return f"**{text}**" if arm in beyond else text


def _number(summary: StudySummary, arm: str, metric: str, scale: float = 1.0) -> str:
    return cell(summary.interval(arm, metric, scale), 2 if scale > 1 else 3)


def _bold(mean: Interval | None, *, tested: bool) -> str:
    text = _signed(mean) if mean else ""
    return f"**{text}**" if tested and mean and mean.excludes_zero else text


def _signed(interval: Interval) -> str:
    return _minus(cell(interval, 2, signed=True))


def _sign(value: float | None) -> str:
    return "" if value is None else _minus(f"{value:+.2f}")


def _minus(text: str) -> str:
    """The sign of the documents for that of Python."""
    return text.replace("-", "−")


def _mean(interval: Interval | None) -> float:
    return float("-inf") if interval is None else interval.mean


def _ruling(verdict: Any) -> str:
    return "" if verdict is None else "; ".join(part for part in (f"**{verdict.ruling}**", verdict.elsewhere) if part)


def _union(several: Any, mentioned: Sequence[str]) -> tuple[str, ...]:
    """The methods that the table of one of the records must have, and the networks."""
    several = tuple(several)
    wanted = {arm for one in several for arm in published(one, mentioned)}
    first = several[0]
    return (*(arm for arm in first.same_weights if arm in wanted), *first.networks)


def _ratios(record: str, first: str, columns: Mapping[str, str]) -> Lines:
    """A row for each network, a column for each measurement."""
    found = _benchmark(record)
    networks = dict.fromkeys(what.rpartition(": ")[0] for what in found)
    rows = [(name, *(_ratio(found[f"{name}: {what}"]) for what in columns)) for name in networks]
    return table((first, *columns.values()), rows)


def _ratio(ratios: Sequence[float]) -> str:
    """Median, and quartiles; four digits where it was measured once, as bytes are."""
    if len(ratios) == 1:
        return f"{ratios[0]:.4f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


@cache
def _benchmark(name: str) -> Mapping[str, Sequence[float]]:
    found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return {result["what"]: result["ratios"] for result in found["results"]}


@cache
def _record(name: str) -> Record:
    return Record.load(_folder(name))


@cache
def _study(name: str) -> StudySummary:
    return only_summary(read_study(_record(name)))


def _batch_4() -> dict[str, StudySummary]:
    return {schedule: _study(f"mnist-batch-4-{schedule}") for schedule in ("cosine", "constant")}


@cache
def _small_batches() -> Mapping[str, Table]:
    return {each.title: each for each in _experiment("small_batches").tables(_record("small-batches"))}


@cache
def _experiment(name: str) -> Any:
    """A script of experiments/, as it is when it runs."""
    sys.path.insert(0, str(ROOT / "experiments"))
    return import_module(name)


def _folder(name: str) -> Path:
    return ROOT / "docs" / "results" / name


if __name__ == "__main__":
    main()
