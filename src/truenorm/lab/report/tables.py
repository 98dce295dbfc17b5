"""A study's record as tables."""

from collections import Counter
from collections.abc import Sequence

from truenorm.lab.report.grid import diverged, grid_conclusion, overviews
from truenorm.lab.report.summary import BASELINE, REFERENCES, StudySummary, cell, compared, conclusion
from truenorm.show import Table, number

_CHOOSERS = ("dmbn", "dmbn-pooled", "adaptive", "dmbn-switch", "dmbn-online")


def study_tables(summaries: Sequence[StudySummary]) -> tuple[Table, ...]:
    """The tables of a study: same weights, other networks, shift, momenta taken; of several settings their overview."""
    return overviews(summaries) if len(summaries) > 1 else setting_tables(summaries[0])


def study_conclusion(summaries: Sequence[StudySummary]) -> str:
    """The sentence below the tables: what differs, and what is within noise."""
    return grid_conclusion(summaries) if len(summaries) > 1 else conclusion(summaries[0])


def setting_tables(summary: StudySummary) -> tuple[Table, ...]:
    """The tables of the only setting of a record that has results."""
    same = _outcomes(summary, summary.same_weights, "same weights, other statistics", _notes(summary, alone=True))
    arms = (*summary.same_weights, *summary.networks)
    return (same, *network_tables(summary), _shifts(summary, arms), *momentum_tables(summary))


def arms_table(summary: StudySummary, *, alone: bool) -> Table:
    """The first table without the sweep, of which a chart says more.

    Args:
        summary: of a setting.
        alone: whether no other setting of the record has results, so that there is no overview.
    """
    arms = (BASELINE, *compared(summary))
    return _outcomes(summary, arms, "same weights, other statistics", _notes(summary, alone=alone))


def sweep_tables(summary: StudySummary) -> tuple[Table, ...]:
    """The rest of it: torch's running statistics with each momentum."""
    arms = tuple(arm for arm in summary.same_weights if arm.startswith("static-"))
    note = "torch's momentum, the weight of the new batch (Keras's is 1 − ours); the weights are the same."
    if len(arms) < 2:
        return ()
    return (_outcomes(summary, arms, "torch's running statistics by momentum", (note,)),)


def network_tables(summary: StudySummary) -> tuple[Table, ...]:
    """Networks of their own, where there are some."""
    if not summary.networks:
        return ()
    arms = (BASELINE, *summary.networks)
    note = "These change the weights: same budget, same rates tried, differences paired by seed only."
    return (_outcomes(summary, arms, "other networks, statistics as torch keeps them", (note,)),)


def _outcomes(summary: StudySummary, arms: tuple[str, ...], title: str, notes: tuple[str, ...]) -> Table:
    rows = tuple(
        (
            arm,
            cell(summary.interval(arm, "accuracy", 100), 2),
            cell(summary.difference(arm, "accuracy", 100), 2, signed=True),
            cell(summary.interval(arm, "f_score", 100), 2),
            cell(summary.interval(arm, "sensitivity", 100), 2),
            cell(summary.interval(arm, "specificity", 100), 2),
            cell(summary.interval(arm, "nll"), 3),
            cell(summary.difference(arm, "nll"), 3, signed=True),
        )
        for arm in arms
    )
    columns = (
        "arm",
        "accuracy %",
        "− static-0.1",
        "F-score %",
        "sensitivity %",
        "specificity %",
        "NLL",
        "− static-0.1",
    )
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _notes(summary: StudySummary, *, alone: bool) -> tuple[str, ...]:
    data = summary.images
    seeds = len(summary.seeds)
    notes = [
        f"{summary.data}: {data.train:,} images to train on, {data.validation:,} to choose by, "
        f"{data.test:,} to test; {seeds} seed{'s' if seeds > 1 else ''}; mean ± 95 % interval over seeds.",
        "− static-0.1: paired by seed, on the same weights.",
    ]
    if data.balanced:
        notes.append("The test set is balanced: sensitivity is accuracy, and specificity follows from it.")
    notes += _rates(summary)
    if not summary.study.record.complete:
        notes.append("The study was not finished: fewer trials than asked for.")
    if alone and (many := summary.study.num_asked) > 1:
        label = summary.setting.label
        notes.append(f"1 of {many} settings has results{f': {label}' if label else ''}.")
    # What became of the others is said in the overview, if there is one.
    told = diverged(summary.study.settings if alone else (summary.setting,))
    return (*notes, *told, *summary.study.record.notes)


def _rates(summary: StudySummary) -> tuple[str, ...]:
    """Which learning rate each network took, where several were tried."""
    tried = summary.study.record.configuration.get("lr")
    if not isinstance(tried, list | tuple) or len(tried) < 2:
        return ()
    chosen: dict[str, list[float]] = {}
    for trial in summary.setting.trials.values():
        rates = chosen.setdefault(str(trial.get("norm")), [])
        if trial.get("lr") is not None and trial["lr"] not in rates:
            rates.append(trial["lr"])
    told = ", ".join(f"{norm} {' and '.join(map(number, sorted(rates)))}" for norm, rates in chosen.items() if rates)
    return (f"Learning rates chosen on validation images: {told}.",) if told else ()


def shift_tables(summary: StudySummary) -> tuple[Table, ...]:
    """How far from the population's each way of having statistics is, without the sweep; none if not measured."""
    if not any(summary.rows_of(BASELINE, f"shift.{reference}") for reference in REFERENCES):
        return ()
    return (_shifts(summary, (BASELINE, *compared(summary), *summary.networks)),)


def _shifts(summary: StudySummary, arms: tuple[str, ...]) -> Table:
    rows = tuple(
        (
            arm,
            *(cell(summary.interval(arm, f"shift.{reference}"), 4) for reference in REFERENCES),
            *(_mean(summary, arm, f"{plain}.joint") for plain in ("esm_mean", "esm_var")),
        )
        for arm in arms
        if arm not in summary.networks or summary.seeds_of(arm, "shift.joint")
    )
    floors = [summary.noise_floor(reference) for reference in REFERENCES]
    told = ", ".join(f"{ref} {number(floor, 2)}" for ref, floor in zip(REFERENCES, floors, strict=True) if floor)
    if summary.study.record.configuration["reference"] == "test":
        source = "LEAKAGE: scored against test images, as asked; these figures cannot be used to choose anything."
    else:
        source = "Scored against training images."
    notes = (
        "joint, sequential: off the population statistics in units of σ; arriving: off what reaches the layer at "
        "inference, inherited error included. Mean over layers.",
        f"{source} Noise floor: {told}." if told else source,
        "ESM: plain L2 norms over channels against joint, means and variances.",
    )
    columns = ("arm", "joint σ", "sequential σ", "arriving σ", "ESM mean", "ESM variance")
    return Table(title="estimation shift", columns=columns, rows=rows, notes=notes)


def _mean(summary: StudySummary, arm: str, metric: str) -> str:
    found = summary.interval(arm, metric)
    return "" if found is None else number(found.mean)


def momentum_tables(summary: StudySummary) -> tuple[Table, ...]:
    """What the arms chose that choose for each layer; none where no such arm was asked for."""
    arms = [arm for arm in _CHOOSERS if any(summary.momenta_of(arm, layer) for layer in summary.layers)]
    if not arms:
        return ()
    rows = tuple((layer, *(_counted(summary.momenta_of(arm, layer)) for arm in arms)) for layer in summary.layers)
    note = "torch's momentum, the weight of the new batch (Keras's is 1 − ours); ×: in so many seeds."
    return (Table(title="momentum each layer took", columns=("layer", *arms), rows=rows, notes=(note,)),)


def _counted(momenta: list[float]) -> str:
    counts = Counter(number(momentum) for momentum in momenta)
    if len(momenta) < 2:
        return ", ".join(counts)
    return ", ".join(f"{momentum} ×{times}" for momentum, times in sorted(counts.items(), key=lambda i: float(i[0])))
