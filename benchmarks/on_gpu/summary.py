"""What is said of the rows: after a section, last of all, and in a document. Nothing here touches a device."""

from collections.abc import Iterable, Sequence

from on_gpu.record import Row
from on_gpu.tables import (
    Table,
    calibration,
    correctness,
    environment_line,
    failures,
    kernels,
    losses,
    network,
    split,
    torchs_kernels,
    troubles,
)
from on_gpu.verdicts import verdicts


def section(rows: Sequence[Row], name: str) -> str:
    """What is said after a section."""
    tables: dict[str, list[Table | None]] = {
        "prepare": [*correctness(rows), failures(rows)],
        "large": [failures(rows)],
        "kernels": [
            calibration(rows),
            *(kernels(rows, dtype="bf16", layout="NHWC", passed=p) for p in ("forward+backward", "forward")),
            split(rows),
        ],
        "rest": [
            *(kernels(rows, dtype="bf16", layout="NHWC", passed=p) for p in ("inference", "frozen")),
            kernels(rows, dtype="bf16", layout="NCHW", passed="forward+backward"),
        ],
        "endtoend": list(network(rows)),
    }
    return _joined(tables.get(name, []))


def short(rows: Sequence[Row]) -> str:
    """What is said last: the tables that decide, troubles, verdicts; short enough for the end of a log."""
    decisive = [kernels(rows, dtype="bf16", layout="NHWC", passed=p) for p in ("forward+backward", "forward")]
    tables = [failures(rows), troubles(rows), calibration(rows), *decisive, *network(rows)]
    lines = [environment_line(rows), "", _joined(tables, most=20), *map(str, verdicts(rows))]
    return "\n".join(lines) + "\n"


def document(rows: Sequence[Row]) -> str:
    """Every table, every shape: ready for docs/performance.md."""
    tables: list[Table | None] = [calibration(rows)]
    for temperature in ("cold", "warm"):
        for dtype in ("bf16", "fp16", "fp32"):
            for layout in ("NHWC", "NCHW"):
                for passed in ("forward+backward", "forward", "inference", "frozen"):
                    table = kernels(rows, dtype=dtype, layout=layout, passed=passed, temperature=temperature)
                    tables.append(table)
    tables += [split(rows), *network(rows), losses(rows), *correctness(rows), failures(rows)]
    tables += [torchs_kernels(rows), troubles(rows)]
    head = [
        "# On a GPU",
        "",
        f"`python benchmarks/gpu.py` on {environment_line(rows)}.",
        "",
        "Medians of replays of CUDA graphs, implementations in turn. *Of a copy*: the time in which torch copies as",
        "many bytes as the pass must move at least, over ours. *Over ours*: a peer's time over ours.",
        "*Cold*: inputs in rotation over more than 200 MB. *Warm*: behind a kernel that has just written the input,",
        "whose own time is taken off.",
        "",
        *(f"- {verdict}" for verdict in verdicts(rows)),
        "",
    ]
    return "\n".join(head) + _joined(tables)


def _joined(tables: Iterable[Table | None], most: int | None = None) -> str:
    said = []
    for table in tables:
        if table is not None and table.cells:
            some = Table(table.title, table.header, table.cells[:most])
            more = len(table.cells) - len(some.cells)
            said.append(some.markdown() + (f"... and {more} more\n" if more else ""))
    return "\n".join(said)
