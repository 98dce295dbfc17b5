"""A study's record as tables."""

from collections import Counter
from collections.abc import Sequence

from truenorm.lab.report.grid import diverged, grid_conclusion, overviews, unfinished
from truenorm.lab.report.summary import BASELINE, REFERENCES, StudySummary, cell, compared, conclusion
from truenorm.lab.report.wording import counted
from truenorm.show import Table, number

_LESS_BASELINE = f"− {BASELINE}"
_OUTCOMES = (
    ("accuracy %", "accuracy", 100, 2),
    (_LESS_BASELINE, "accuracy", 100, 2),
    ("F-score %", "f_score", 100, 2),
    ("sensitivity %", "sensitivity", 100, 2),
    ("specificity %", "specificity", 100, 2),
    ("NLL", "nll", 1, 3),
    (_LESS_BASELINE, "nll", 1, 3),
)
"""Heading, metric, scale and decimals of each column."""
_MOMENTUM = "torch's momentum, the weight of the new batch (Keras's is 1 − ours)"
_CHOOSERS = ("dmbn", "dmbn-pooled", "adaptive", "dmbn-switch", "dmbn-online")


def study_tables(summaries: Sequence[StudySummary]) -> tuple[Table, ...]:
    """The tables of a study: same weights, other networks, shift, momenta taken; of several settings their overview."""
    if len(summaries) > 1:
        return overviews(summaries)
    (summary,) = summaries
    same = arms_table(summary, alone=True, arms=summary.same_weights)
    shifts = _shifts(summary, (*summary.same_weights, *summary.networks))
    return (same, *network_tables(summary), shifts, *momentum_tables(summary))


def study_conclusion(summaries: Sequence[StudySummary]) -> str:
    """The sentence below the tables: what differs, and what is within noise."""
    return grid_conclusion(summaries) if len(summaries) > 1 else conclusion(summaries[0])


def arms_table(summary: StudySummary, *, alone: bool, arms: Sequence[str] = ()) -> Table:
    """The first table, on a page without the sweep, of which a chart says more.

    Args:
        summary: of a setting.
        alone: whether no other setting of the record has results, so that there is no overview.
        arms: its rows; all but the sweep, if none are given.
    """
    rows = arms or (BASELINE, *compared(summary))
    return _outcomes(summary, rows, "same weights, other statistics", _notes(summary, alone=alone))


def sweep_tables(summary: StudySummary) -> tuple[Table, ...]:
    """The rest of it: torch's running statistics with each momentum."""
    arms = tuple(arm for arm in summary.same_weights if arm.startswith("static-"))
    if len(arms) < 2:
        return ()
    return (
        _outcomes(
            summary, arms, "torch's running statistics by momentum", (f"{_MOMENTUM}; the weights are the same.",)
        ),
    )


def network_tables(summary: StudySummary) -> tuple[Table, ...]:
    """Networks of their own, where there are some."""
    if not summary.networks:
        return ()
    arms = (BASELINE, *summary.networks)
    note = "These change the weights: same budget, same rates tried, differences paired by seed only."
    return (_outcomes(summary, arms, "other networks, statistics as torch keeps them", (note,)),)


def _outcomes(summary: StudySummary, arms: Sequence[str], title: str, notes: tuple[str, ...]) -> Table:
    def text(arm: str, heading: str, metric: str, scale: int, digits: int) -> str:
        if heading == _LESS_BASELINE:
            return cell(summary.difference(arm, metric, scale), digits, signed=True)
        return cell(summary.interval(arm, metric, scale), digits)

    columns = ("arm", *(heading for heading, *_ in _OUTCOMES))
    rows = tuple((arm, *(text(arm, *column) for column in _OUTCOMES)) for arm in arms)
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _notes(summary: StudySummary, *, alone: bool) -> tuple[str, ...]:
    images, record = summary.images, summary.study.record
    notes = [
        f"{summary.data}: {images.train:,} images to train on, {images.validation:,} to choose by, "
        f"{images.test:,} to test; {counted(len(summary.seeds), 'seed')}; mean ± 95 % interval over seeds.",
        f"{_LESS_BASELINE}: paired by seed, on the same weights.",
    ]
    if images.balanced:
        notes.append("The test set is balanced: sensitivity is accuracy, and specificity follows from it.")
    notes += [*_rates(summary), *unfinished(record)]
    if alone and (many := summary.study.num_asked) > 1:
        label = summary.setting.label
        notes.append(f"1 of {many} settings has results{f': {label}' if label else ''}.")
    # What became of the others is said in the overview, if there is one.
    return (*notes, *diverged(summary.study.settings if alone else [summary.setting]), *record.notes)


def _rates(summary: StudySummary) -> tuple[str, ...]:
    """Which learning rate each network took, where several were tried."""
    tried = summary.study.record.configuration.get("lr")
    if not isinstance(tried, list | tuple) or len(tried) < 2:
        return ()
    chosen: dict[str, set[float]] = {}
    for trial in summary.setting.trials.values():
        if trial.get("lr") is not None:
            chosen.setdefault(str(trial.get("norm")), set()).add(trial["lr"])
    listed = ", ".join(f"{norm} {' and '.join(map(number, sorted(rates)))}" for norm, rates in chosen.items())
    return (f"Learning rates chosen on validation images: {listed}.",) if listed else ()


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
            *(
                number(plain.mean) if (plain := summary.interval(arm, metric)) else ""
                for metric in ("esm_mean.joint", "esm_var.joint")
            ),
        )
        for arm in arms
        if arm not in summary.networks or summary.seeds_of(arm, "shift.joint")
    )
    floors = {reference: summary.noise_floor(reference) for reference in REFERENCES}
    listed = ", ".join(f"{reference} {number(floor, 2)}" for reference, floor in floors.items() if floor)
    source = "Scored against training images."
    if summary.study.record.configuration["reference"] == "test":
        source = "LEAKAGE: scored against test images, as asked; these figures cannot be used to choose anything."
    notes = (
        "joint, sequential: off the population statistics in units of σ; arriving: off what reaches the layer at "
        "inference, inherited error included. Mean over layers.",
        f"{source} Noise floor: {listed}." if listed else source,
        "ESM: plain L2 norms over channels against joint, means and variances.",
    )
    columns = ("arm", "joint σ", "sequential σ", "arriving σ", "ESM mean", "ESM variance")
    return Table(title="estimation shift", columns=columns, rows=rows, notes=notes)


def momentum_tables(summary: StudySummary) -> tuple[Table, ...]:
    """What the arms chose that choose for each layer; none where no such arm was asked for."""
    arms = [arm for arm in _CHOOSERS if any(summary.momenta_of(arm, layer) for layer in summary.layers)]
    if not arms:
        return ()
    rows = tuple((layer, *(_counted(summary.momenta_of(arm, layer)) for arm in arms)) for layer in summary.layers)
    note = f"{_MOMENTUM}; ×: in so many seeds."
    return (Table(title="momentum each layer took", columns=("layer", *arms), rows=rows, notes=(note,)),)


def _counted(momenta: list[float]) -> str:
    counts = Counter(number(momentum) for momentum in momenta)
    if len(momenta) < 2:
        return ", ".join(counts)
    return ", ".join(f"{momentum} ×{times}" for momentum, times in sorted(counts.items(), key=lambda i: float(i[0])))
