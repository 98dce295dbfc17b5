"""The tables of a diagnosis, from the rows of its record: the same in a terminal, in a notebook and from a file."""

from collections.abc import Mapping, Sequence

from truenorm.record import Measurement
from truenorm.show import Table, number

_BEFORE = ("stored", "as it is")
"""Names of the arm that is the network as it is."""
_LAYERS = {"off by": "shift.arriving", "own": "shift.own", "inherited": "shift.inherited", "moves output by": "effect"}
_SHOWN, _BAR = 12, 28


def tables_of(rows: Sequence[Measurement]) -> tuple[Table, ...]:
    """The layers, and the scores with other statistics; each where it was measured.

    Example:
        >>> [table.title for table in tables_of([Measurement("diagnosis", "stored", "bn", "shift.arriving", 0.5)])]
        ['stored statistics against those of the data, the most harmful first']
    """
    return (*_layers(rows), *_scores(rows))


def _layers(rows: Sequence[Measurement]) -> tuple[Table, ...]:
    layers: dict[str, dict[str, Measurement]] = {}
    for row in rows:
        if row.layer is not None:
            layers.setdefault(row.layer, {})[row.metric] = row
    offs = [measured["shift.arriving"].value for measured in layers.values() if "shift.arriving" in measured]
    if not offs:
        return ()
    longest = max(offs) or 1.0

    def cells(measured: Mapping[str, Measurement]) -> tuple[str, ...]:
        off, *others = (f"{measured[m].value:.2f}" if m in measured else "" for m in _LAYERS.values())
        arriving = measured.get("shift.arriving")
        floor = "" if arriving is None or arriving.error is None else f"{arriving.error:.2f}"
        bar = 0 if arriving is None else max(int(arriving.value > 0), round(_BAR * arriving.value / longest))
        own, inherited, effect = others
        return (f"{off} σ" if off else "", own, inherited, floor, effect, "█" * bar)

    more = len(layers) - _SHOWN
    return (
        Table(
            title="stored statistics against those of the data, the most harmful first",
            columns=("layer", "off by", "own", "inherited", "noise floor", "moves output by", ""),
            rows=tuple((layer, *cells(measured)) for layer, measured in list(layers.items())[:_SHOWN]),
            notes=(f"and {more} more layers, less harmful",) if more > 0 else (),
        ),
    )


def _scores(rows: Sequence[Measurement]) -> tuple[Table, ...]:
    arms: dict[str, dict[str, Measurement]] = {}
    for row in rows:
        if row.layer is None:
            arms.setdefault(row.arm, {})[row.metric] = row
    metrics = dict.fromkeys(m.removeprefix("gain.") for arm in arms.values() for m in arm if m.startswith("gain."))
    if not metrics:
        return ()

    def cell(arm: Mapping[str, Measurement], metric: str) -> str:
        score, gain = arm.get(metric), arm.get(f"gain.{metric}")
        if score is None:
            return "not finite"  # which no row can hold
        return number(score.value) + (f" ({_signed(gain)})" if gain is not None else "")

    before = [arm for arm in _BEFORE if arm in arms]
    names = [*before, *(arm for arm in arms if arm not in (*before, "batch")), *(["batch"] if "batch" in arms else [])]
    return (
        Table(
            title="the same weights with other statistics",
            columns=("statistics", *metrics),
            rows=tuple((_NAMES.get(name, name), *(cell(arms[name], metric) for metric in metrics)) for name in names),
            notes=("(gain, ± 95 %, paired)",),
        ),
    )


_NAMES: Mapping[str, str] = {
    "stored": "as it is",
    "joint": "joint (pooled, one pass)",
    "within": "joint, mean of the batches' variances",
    "sequential": "sequential (as inference sees it)",
    "batch": "each batch's own, as in train()",
}


def _signed(gain: Measurement) -> str:
    """A gain with its 95 % interval; a record holds the interval's standard error."""
    width = f" ± {number(1.96 * gain.error, 2)}" if gain.error else ""
    return f"{'+' if gain.value >= 0 else '−'}{number(abs(gain.value), 2)}{width}"
