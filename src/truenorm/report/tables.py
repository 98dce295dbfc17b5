"""A study's record as tables."""

from collections import Counter

from truenorm.record import Record
from truenorm.report.summary import BASELINE, StudySummary, cell
from truenorm.show import Table, number

_CHOOSERS = ("dmbn", "dmbn-pooled", "adaptive", "dmbn-switch", "dmbn-online")


def study_tables(record: Record) -> tuple[Table, ...]:
    """The tables of a study: same weights, other networks, shift, momenta taken.

    Raises:
        InvalidRecord: the record is not of a study.
    """
    summary = StudySummary(record)
    tables = [_outcomes(summary, summary.same_weights, "same weights, other statistics", _notes(summary))]
    if summary.networks:
        arms = (BASELINE, *summary.networks)
        note = "These change the weights: same budget, same rates tried, differences paired by seed only."
        tables.append(_outcomes(summary, arms, "other networks, statistics as torch keeps them", (note,)))
    tables.append(_shifts(summary))
    if any(summary.momenta_of(arm, layer) for arm in _CHOOSERS for layer in summary.layers):
        tables.append(_momenta(summary))
    return tuple(tables)


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


def _notes(summary: StudySummary) -> tuple[str, ...]:
    configuration = summary.record.configuration
    data = configuration["data_summary"]
    seeds = len(summary.seeds_of(BASELINE, "accuracy"))
    notes = [
        f"{data['name']}: {data['train']:,} images to train on, {data['validation']:,} to choose by, "
        f"{data['test']:,} to test; {seeds} seed{'s' if seeds > 1 else ''}; mean ± 95 % interval over seeds.",
        "− static-0.1: paired by seed, on the same weights.",
    ]
    if configuration["test_balanced"]:
        notes.append("The test set is balanced: sensitivity is accuracy, and specificity follows from it.")
    if not summary.record.complete:
        notes.append("The study was not finished: fewer trials than asked for.")
    return (*notes, *summary.record.notes)


def _shifts(summary: StudySummary) -> Table:
    references = ("joint", "sequential", "arriving")
    rows = tuple(
        (
            arm,
            *(cell(summary.interval(arm, f"shift.{reference}"), 4) for reference in references),
            *(_mean(summary, arm, f"{plain}.joint") for plain in ("esm_mean", "esm_var")),
        )
        for arm in (*summary.same_weights, *(arm for arm in summary.networks if summary.seeds_of(arm, "shift.joint")))
    )
    floors = [summary.noise_floor(reference) for reference in references]
    told = ", ".join(f"{ref} {number(floor, 2)}" for ref, floor in zip(references, floors, strict=True) if floor)
    if summary.record.configuration["reference"] == "test":
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


def _momenta(summary: StudySummary) -> Table:
    arms = [arm for arm in _CHOOSERS if any(summary.momenta_of(arm, layer) for layer in summary.layers)]
    rows = tuple((layer, *(_counted(summary.momenta_of(arm, layer)) for arm in arms)) for layer in summary.layers)
    return Table(
        title="momentum each layer took",
        columns=("layer", *arms),
        rows=rows,
        notes=("torch's momentum, the weight of the new batch (Keras's is 1 − ours); ×: in so many seeds.",),
    )


def _counted(momenta: list[float]) -> str:
    counts = Counter(number(momentum) for momentum in momenta)
    if len(momenta) < 2:
        return ", ".join(counts)
    return ", ".join(f"{momentum} ×{times}" for momentum, times in sorted(counts.items(), key=lambda i: float(i[0])))
