"""From rows to tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from on_gpu.record import Row, of_kind
from on_gpu.shapes import BY_NAME, FUSIONS, RESNET50


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and cells."""

    title: str
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def markdown(self, level: str = "##") -> str:
        """Aligned, to be read as it is too."""
        head, *body = ([cell.replace("|", "\\|") for cell in line] for line in (self.header, *self.cells))
        widths = [max(3, *(len(line[i]) for line in (head, *body))) for i in range(len(head))]
        lines = (head, ["-" * width for width in widths], *body)
        return "\n".join([f"{level} {self.title}", "", *(_line(line, widths) for line in lines), ""])


def environment_line(rows: Sequence[Row]) -> str:
    """The machine in one line."""
    for row in of_kind(rows, "environment"):
        known = ("name", "torch", "triton", "cuda", "cudnn", "python", "multiprocessors", "l2", "memory", "cores")
        return ", ".join(f"{key} {row[key]}" if key != "name" else str(row[key]) for key in known if row.get(key))
    return "unknown machine"


def calibration(rows: Sequence[Row]) -> Table:
    """Bandwidth by size."""
    found = of_kind(rows, "calibrate", ok=True)
    kinds = [(what, temperature) for what in ("copy", "read") for temperature in ("cold", "warm")]
    tensors = sorted({_tensor(row) for row in found})
    cells = []
    for tensor in tensors:
        line = [f"{tensor / 1e6:.1f}"]
        for what, temperature in kinds:
            seen = [r for r in found if (r["what"], r["temperature"], _tensor(r)) == (what, temperature, tensor)]
            line.append(f"{seen[-1]['gbps'] / 1000:.2f}" if seen else "")
        cells.append(tuple(line))
    header = ("MB a tensor", *(f"{what}, {temperature}, TB/s" for what, temperature in kinds))
    return Table("Bandwidth", header, tuple(cells))


def correctness(rows: Sequence[Row]) -> list[Table]:
    """How many checks there were, and what ours misses float64 by over what torch does."""
    values = of_kind(rows, "correctness", check="values")
    counted = []
    for dtype, layout in sorted({(row["dtype"], row["layout"]) for row in values}):
        seen = [row for row in values if (row["dtype"], row["layout"]) == (dtype, layout)]
        counted.append(
            (
                f"{dtype} {layout}",
                *(str(sum(row["ok"] is ok for row in seen)) for ok in (True, False, None)),
            )
        )
    special = [row for row in of_kind(rows, "correctness") if row["check"] != "values"]
    counted += [(row["check"], *(str(int(row["ok"] is ok)) for ok in (True, False, None))) for row in special]
    ratios = []
    for offset in sorted({row["offset"] for row in values}):
        for quantity in ("y", "mean", "var", "dx", "dweight", "dbias", "dresidual"):
            for peer in ("native", "cudnn"):
                seen = [
                    (found["ours"], found[peer])
                    for row in values
                    if row["offset"] == offset and (found := row.get("errors", {}).get(quantity)) and peer in found
                ]
                pairs = [pair for pair in seen if all(isinstance(error, int | float) for error in pair)]
                if not pairs:
                    continue
                mean = math.exp(sum(math.log(max(b, 1e-12) / max(a, 1e-12)) for a, b in pairs) / len(pairs))
                lines = (f"{offset:g}", quantity, peer, str(len(seen)), f"{max(a for a, _ in pairs):.1e}")
                ratios.append((*lines, f"{max(b for _, b in pairs):.1e}", f"{mean:.2f}"))
    header = ("mean/std", "quantity", "torch's", "cases", "worst, ours", "worst, torch's", "torch's over ours")
    return [
        Table("Correctness against float64", ("checks", "right", "wrong", "not checked"), tuple(counted)),
        Table("Errors beside torch's (geometric mean of the ratios)", header, tuple(ratios)),
    ]


def failures(rows: Sequence[Row]) -> Table:
    """Every check that failed, every input that is refused."""
    seen = [row for row in of_kind(rows, "correctness") if row["ok"] is not True]
    cells = tuple((row["case"], "wrong" if row["ok"] is False else "not checked", str(row["error"])) for row in seen)
    return Table("Checks that failed or could not be made", ("case", "", "why"), cells)


def kernels(rows: Sequence[Row], *, dtype: str, layout: str, passed: str, temperature: str = "cold") -> Table | None:
    """Every shape of one type, layout and pass; None: there is none."""
    wanted = {"dtype": dtype, "layout": layout, "pass": passed, "temperature": temperature}
    found = of_kind(rows, "kernel", **wanted)
    if not found:
        return None
    cases = dict.fromkeys((row["shape"], row["fusion"]) for row in found)
    order = [(shape.name, fusion) for shape in RESNET50 for fusion in FUSIONS]
    native = any(row["impl"] == "eager, no cuDNN" for row in found)
    cells = []
    for shape, fusion in sorted(cases, key=order.index):
        by = {row["impl"]: row for row in found if (row["shape"], row["fusion"]) == (shape, fusion)}
        ours = by.get("ours", {})
        count = BY_NAME[shape].layers(fusion)
        line = [shape, fusion, str(count) if count else "", _us(ours), _gbps(ours), _ratio(ours, "ratio_copy")]
        for peer in ("eager", "eager, no cuDNN", "compile"):
            if peer != "eager, no cuDNN" or native:
                line += [_us(by.get(peer, {})), _over(by.get(peer, {}), ours)]
        cells.append((*line, "" if ours.get("ok") else str(ours.get("error") or "wrong")))
    header = ["shape", "", "layers", "ours, µs", "GB/s", "of a copy", "eager, µs", "over ours"]
    header += ["no cuDNN, µs", "over ours"] if native else []
    header += ["compile, µs", "over ours", "ours not sound"]
    title = f"{dtype} {layout}, {passed}, {temperature}"
    return Table(title, tuple(header), tuple(cells))


def split(rows: Sequence[Row]) -> Table:
    """Our kernels one by one."""
    cells = [
        (
            row["shape"],
            row["fusion"],
            row["kernel"],
            f"{row['launches']:g}",
            f"{row['us_p50']:.1f}",
            f"{row['bytes_floor'] / 1e6:.1f}",
            f"{row['gbps']:.0f}" if row["bytes_floor"] else "",
        )
        for row in of_kind(rows, "split")
    ]
    header = ("shape", "", "kernel", "launches", "µs", "floor, MB", "GB/s")
    return Table("Our kernels (profiler, bf16 NHWC, cold)", header, tuple(cells))


def network(rows: Sequence[Row]) -> list[Table]:
    """Training steps, and where their time goes."""
    last = {row["impl"]: row for row in of_kind(rows, "endtoend") if row["ok"]}
    failed = {row["impl"]: row for row in of_kind(rows, "endtoend") if not row["ok"] and row["impl"] not in last}
    eager = last.get("eager", {})
    cells = []
    for name, row in (last | failed).items():
        if not row["ok"]:
            cells.append((name, *[""] * 6, str(row["error"])))
            continue
        peak, base = row.get("peak_bytes"), eager.get("peak_bytes")
        off = apart(row["losses"], eager.get("losses", []))
        cells.append(
            (
                name,
                f"{row['ms_p50']:.2f}",
                f"{row['images_per_second']:.0f}",
                f"{eager['ms_p50'] / row['ms_p50']:.3f}" if eager else "",
                f"{peak / 1e9:.2f}" if peak else "",
                f"{peak / base:.3f}" if peak and base else "",
                f"{off:.4f}" if off is not None else "",
                "",
            )
        )
    for row in of_kind(rows, "losses"):
        off = apart(row.get("losses", []), eager.get("losses", []))
        cells.append((row["impl"], *[""] * 5, f"{off:.4f}" if off is not None else "", str(row.get("error") or "")))
    header = ("mode", "ms a step", "images/s", "eager over it", "peak, GB", "over eager", "loss off eager", "error")
    batch = eager.get("batch", "?")
    found = [Table(f"ResNet-50, batch {batch}, bf16 autocast, training steps", header, tuple(cells))]
    parts = of_kind(rows, "parts", ok=True)
    if parts:
        kinds = ("ours", "batch norm", "relu", "add", "compiled", "convolution", "other")
        lines = tuple((row["impl"], *(f"{row['us'].get(kind, 0) / 1000:.2f}" for kind in kinds)) for row in parts)
        title = "Where a step's time goes, ms (add: also where gradients meet, in every mode)"
        found.append(Table(title, ("mode", *kinds), lines))
    return found


def losses(rows: Sequence[Row]) -> Table:
    """The first steps of every mode side by side."""
    seen = {row["impl"]: row["losses"] for row in rows if row["kind"] in ("endtoend", "losses") and row.get("losses")}
    steps = range(max(map(len, seen.values()), default=0))
    cells = tuple(
        (str(step + 1), *(f"{values[step]:.4f}" if step < len(values) else "" for values in seen.values()))
        for step in steps
    )
    return Table("Losses", ("step", *seen), cells)


def torchs_kernels(rows: Sequence[Row]) -> Table:
    """What torch's eager batch norm runs."""
    cells = tuple((f"{row['dtype']} {row['layout']}", "; ".join(row["kernels"])) for row in of_kind(rows, "names"))
    return Table("Kernels of torch's batch norm and ReLU, forward and backward", ("", "kernels"), cells)


def troubles(rows: Sequence[Row]) -> Table:
    """Errors, what was skipped, what took long, processes that ended early, times without a graph."""
    cells: list[tuple[str, ...]] = []
    cells += [("error", row["case"], row["error"]) for row in of_kind(rows, "error")]
    cells += [("process", row["section"], row["error"]) for row in of_kind(rows, "process")]
    cells += [("skipped", row["section"], f"{row['count']}, from: {row['first']}") for row in of_kind(rows, "skipped")]
    cells += [("slow", row["case"], f"{row['seconds']:g} s") for row in of_kind(rows, "slow")]
    loops = [row for row in of_kind(rows, "kernel", ok=True) if not row.get("captured", True)]
    for impl in dict.fromkeys(row["impl"] for row in loops):
        cases = [row["case"] for row in loops if row["impl"] == impl]
        cells.append(("no graph", f"{impl}: {len(cases)}, from: {cases[0]}", "timed by loops, with gaps"))
    failed: dict[tuple[str, str], list[str]] = {}
    for row in of_kind(rows, "kernel"):
        if row["error"]:
            failed.setdefault((row["impl"], row["error"]), []).append(row["case"])
    cells += [
        ("not timed", f"{impl}: {len(cases)}, from: {cases[0]}", error) for (impl, error), cases in failed.items()
    ]
    return Table("Troubles", ("", "where", "what"), tuple(cells))


def apart(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The most that two series are apart."""
    gaps = [abs(a - b) for a, b in zip(first, second, strict=False)]
    return max(gaps) if gaps else None


def _tensor(row: Row) -> int:
    return row["bytes"] // (2 if row["what"] == "copy" else 1)


def _us(row: Row) -> str:
    return f"{row['us_p50']:.1f}" if "us_p50" in row else ("error" if row.get("error") else "")


def _gbps(row: Row) -> str:
    return f"{row['gbps']:.0f}" if "gbps" in row else ""


def _ratio(row: Row, key: str) -> str:
    return f"{row[key]:.2f}" if key in row else ""


def _over(peer: Row, ours: Row) -> str:
    return f"{peer['us_p50'] / ours['us_p50']:.2f}" if "us_p50" in peer and "us_p50" in ours else ""


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"
