"""From rows to what was to be reached: is it?"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from on_gpu.peers import Case
from on_gpu.record import Row, of_kind
from on_gpu.shapes import BATCH, FUSIONS, RESNET50, layers, network_floor_bytes
from on_gpu.tables import apart

NEAR_COPY, MEMORY, BN_PARTS = 0.88, 1.02, 13.5 / 12.0
"""What is accepted: the mean ratio to a copy, memory over eager's, all batch norms of a step over their floor."""

DECISIVE = {"dtype": "bf16", "layout": "NHWC", "temperature": "cold", "pass": "forward+backward"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was asked for, whether it is so (None: not measured), and the figure."""

    asked: str
    met: bool | None
    figure: str

    def __str__(self) -> str:
        return f"{ {True: 'PASS', False: 'FAIL', None: 'NOT MEASURED'}[self.met] }: {self.asked}: {self.figure}"


def sound(rows: Iterable[Row], case: Case) -> bool:
    """Has no check failed of the same type, layout, fusion and sort of pass?"""
    activation, residual = FUSIONS[case.fusion]
    return not of_kind(
        rows,
        "correctness",
        dtype=case.dtype,
        layout=case.layout,
        activation=activation,
        residual=residual,
        ok=False,
        **{"pass": "frozen" if case.passed in ("inference", "frozen") else "training"},
    )


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Line by line what was to be reached."""
    return [_correct(rows), _near_copy(rows), _beats_eager(rows), _beats_compile(rows), *_network_verdicts(rows)]


def near_copy(rows: Sequence[Row]) -> tuple[float | None, int, int]:
    """Geometric mean of the ratios to a copy, each by the bytes of the layers that have it; how many of how many."""
    weights, logs, seen = 0.0, 0.0, 0
    for by, count in _by_layers(rows):
        ours = by.get("ours", {})
        if ours.get("ratio_copy"):
            weight = count * ours["bytes_floor"]
            weights += weight
            logs += weight * math.log(ours["ratio_copy"])
            seen += 1
    return (math.exp(logs / weights) if seen else None), seen, len(list(layers()))


def network_microseconds(rows: Sequence[Row], impl: str) -> float | None:
    """All batch norms of ResNet-50, forward and backward, from the times by shape; None: one is missing."""
    total = 0.0
    for by, count in _by_layers(rows):
        if "us_p50" not in by.get(impl, {}):
            return None
        total += count * by[impl]["us_p50"]
    return total


def _correct(rows: Sequence[Row]) -> Verdict:
    seen = [row for row in of_kind(rows, "correctness") if row["ok"] is not None]
    wrong = [row for row in seen if not row["ok"]]
    figure = f"{len(seen) - len(wrong)} of {len(seen)} checks"
    if wrong:
        figure += f"; wrong: {'; '.join(row['case'] for row in wrong[:4])}{' ...' if len(wrong) > 4 else ''}"
    return Verdict("every check of correctness and determinism is right", not wrong if seen else None, figure)


def _near_copy(rows: Sequence[Row]) -> Verdict:
    mean, seen, of = near_copy(rows)
    figure = f"{mean:.3f} ({seen} of {of})" if mean is not None else "no times"
    asked = f"bf16 NHWC forward+backward at {NEAR_COPY} of a copy's bandwidth (geometric mean by bytes)"
    met = None if mean is None or seen < of else mean >= NEAR_COPY
    return Verdict(asked, met, figure)


def _beats_eager(rows: Sequence[Row]) -> Verdict:
    found = [row for row in of_kind(rows, "kernel", impl="ours", temperature="cold") if row.get("ratio_eager")]
    slower = sorted((row for row in found if row["ratio_eager"] <= 1), key=lambda row: row["ratio_eager"])
    figure = f"{len(found) - len(slower)} of {len(found)} cases"
    if slower:
        listed = [f"{row['case'].removesuffix(' cold')} ({row['ratio_eager']:.2f})" for row in slower]
        figure += f"; not: {', '.join(listed[:12])}{f' and {len(listed) - 12} more' if len(listed) > 12 else ''}"
    complete = len({(row["shape"]) for row in found}) == len(RESNET50)
    return Verdict("faster than eager at every shape", False if slower else True if complete else None, figure)


def _beats_compile(rows: Sequence[Row]) -> Verdict:
    ours, theirs = network_microseconds(rows, "ours"), network_microseconds(rows, "compile")
    asked = "faster than torch.compile on all batch norms of ResNet-50"
    slower = [by["ours"]["case"] for by, _ in _by_layers(rows) if by.get("ours", {}).get("ratio_compile", 2) <= 1]
    also = f"; not at: {', '.join(slower)}" if slower else ""
    if ours is None or theirs is None:
        return Verdict(asked, None, f"not all {len(list(layers()))} combinations have both times{also}")
    return Verdict(asked, ours < theirs, f"{ours / 1000:.2f} ms to {theirs / 1000:.2f} ms{also}")


def _network_verdicts(rows: Sequence[Row]) -> list[Verdict]:
    last = {row["impl"]: row for row in of_kind(rows, "endtoend", ok=True)}
    found: list[Verdict] = []
    asked = "a training step of ResNet-50 no slower than the best peer's"
    mine = {name: row["ms_p50"] for name, row in last.items() if name in ("eager + ours", "compile + kernels")}
    theirs = {name: row["ms_p50"] for name, row in last.items() if name in ("eager", "compile")}
    if mine and len(theirs) == 2:
        (a, best), (b, peer) = (min(times.items(), key=lambda item: item[1]) for times in (mine, theirs))
        found.append(Verdict(asked, best <= peer, f"{a} {best:.2f} ms, {b} {peer:.2f} ms, ratio {peer / best:.3f}"))
    else:
        found.append(Verdict(asked, None, f"only {', '.join(last) or 'nothing'}"))
    if "eager" in last and "eager + ours" in last:
        a, b = last["eager + ours"], last["eager"]
        found.append(_faster_than_eager(a, b))
        found.append(_memory(a, b))
        found.append(_same_losses(rows, a, b))
    else:
        found.append(Verdict(f"memory of a step at most {MEMORY} of eager's", None, "no step of both"))
    found.append(_floor(rows))
    return found


def _faster_than_eager(a: Row, b: Row) -> Verdict:
    figure = f"{a['ms_p50']:.2f} ms to {b['ms_p50']:.2f} ms, ratio {b['ms_p50'] / a['ms_p50']:.3f}"
    return Verdict("a training step of ResNet-50 in eager mode faster with ours", a["ms_p50"] < b["ms_p50"], figure)


def _memory(a: Row, b: Row) -> Verdict:
    asked = f"memory of a step at most {MEMORY} of eager's"
    if not (a.get("peak_bytes") and b.get("peak_bytes")):
        return Verdict(asked, None, "no figure")
    ratio = a["peak_bytes"] / b["peak_bytes"]
    return Verdict(asked, ratio <= MEMORY, f"{ratio:.3f} ({a['peak_bytes'] / 1e9:.2f} GB)")


def _same_losses(rows: Sequence[Row], a: Row, b: Row) -> Verdict:
    asked = "losses of the first steps no further from eager's than eager's with other seeds are"
    band = [row["losses"] for row in of_kind(rows, "losses", ok=True) if "seed" in row["impl"]]
    again = [row["losses"] for row in of_kind(rows, "losses", ok=True) if "again" in row["impl"]]
    off = apart(a["losses"], b["losses"])
    wide = apart(*band) if len(band) == 2 else None
    if off is None or wide is None:
        return Verdict(asked, None, f"off by {off}")
    repeated = f", eager again {apart(again[0], b['losses']):.4f}" if again else ""
    return Verdict(asked, off <= wide, f"{off:.4f} to {wide:.4f}{repeated}")


def _floor(rows: Sequence[Row]) -> Verdict:
    """All batch norms of the network by shape, over their floor at the bandwidth that a copy has here."""
    asked = f"all batch norms of a ResNet-50 step within {BN_PARTS:.3f} of their floor"
    copies = of_kind(rows, "calibrate", what="copy", temperature="cold", ok=True)
    taken = network_microseconds(rows, "ours")
    if not copies or taken is None:
        return Verdict(asked, None, "no times of all shapes, or no bandwidth")
    best = max(row["gbps"] for row in copies)
    floor = network_floor_bytes("bf16", "forward+backward", BATCH) / best / 1e6
    figure = f"{taken / 1000:.2f} ms over {floor:.2f} ms at {best / 1000:.2f} TB/s: {taken / 1000 / floor:.3f}"
    eager = network_microseconds(rows, "eager")
    figure += f" (eager {eager / 1000:.2f} ms)" if eager else ""
    return Verdict(asked, taken / 1000 / floor <= BN_PARTS, figure)


def _by_layers(rows: Sequence[Row]) -> list[tuple[dict[str, Row], int]]:
    """Per combination of shape and fusion in the network: rows by implementation, and the number of layers."""
    found = of_kind(rows, "kernel", **DECISIVE)
    return [
        ({row["impl"]: row for row in found if (row["shape"], row["fusion"]) == (shape.name, fusion)}, count)
        for shape, fusion, count in layers()
    ]
