"""Tables and verdicts from rows made up for it."""

import json

from inline_snapshot import snapshot
from on_gpu import summary
from on_gpu.measuring import kernel_rows
from on_gpu.plan import timed_first
from on_gpu.record import Deadline, Record
from on_gpu.shapes import layers, network_floor_bytes
from on_gpu.tables import network, troubles
from on_gpu.timing import Timing
from on_gpu.verdicts import near_copy, network_microseconds, sound, verdicts

BANDWIDTH = 4e6  # bytes a microsecond: 4 TB/s


def time(p50):
    return Timing(p50=p50, p10=p50, p90=p50, captured=True)


def rows(*, ours=1.1, eager=2.0, compiled=1.5, cases=None):
    """A device on which a copy reaches its bandwidth, and each implementation takes so many times as long."""
    made = [{"kind": "environment", "name": "pretended", "torch": "2"}]
    made += [
        {
            "kind": "calibrate",
            "what": "copy",
            "temperature": "cold",
            "bytes": 8,
            "gbps": BANDWIDTH / 1000,
            "ok": True,
            "error": None,
        }
    ]
    for case in cases or timed_first():
        floor = case.floor / BANDWIDTH
        times = {"ours": ours * floor, "eager": eager * floor, "compile": compiled * floor, "copy": floor}
        made += kernel_rows(case, {name: time(taken) for name, taken in times.items()}, ours_ok=True)
    return made


def said(found):
    return {verdict.asked: verdict.met for verdict in verdicts(found)}


def test_verdicts_when_all_is_well():
    found = rows()
    found += [{"kind": "correctness", "check": "a NaN is kept", "case": "a NaN is kept", "ok": True, "error": None}]
    for impl, ms, peak in (
        ("eager", 100.0, 20e9),
        ("eager + ours", 90.0, 20.1e9),
        ("compile", 95.0, 18e9),
    ):
        found.append(
            {
                "kind": "endtoend",
                "impl": impl,
                "batch": 256,
                "ms_p50": ms,
                "images_per_second": 1.0,
                "peak_bytes": peak,
                "losses": [7.0, 6.9 + ms / 1e4],
                "ok": True,
            }
        )
    found += [
        {"kind": "losses", "impl": f"eager, seed {seed}", "losses": [7.0, 6.5 + seed / 10], "ok": True}
        for seed in (1, 2)
    ]
    assert all(verdict.met for verdict in verdicts(found)), [str(verdict) for verdict in verdicts(found)]
    mean, seen, of = near_copy(found)
    assert (round(mean, 4), seen, of) == (round(1 / 1.1, 4), 16, 16)
    floor = network_floor_bytes("bf16", "forward+backward") / BANDWIDTH
    assert abs(network_microseconds(found, "ours") / floor - 1.1) < 1e-6


def test_verdicts_when_it_is_not():
    found = rows(ours=1.6, compiled=1.5, eager=1.55)
    found += [{"kind": "correctness", "check": "values", "case": "this one", "ok": False, "error": "off: y"}]
    met = said(found)
    assert met["every check of correctness and determinism is right"] is False
    assert met["faster than eager at every shape"] is False
    assert met["faster than torch.compile on all batch norms of ResNet-50"] is False
    correct, _, eager, *_ = map(str, verdicts(found))
    assert correct == snapshot(
        "FAIL: every check of correctness and determinism is right: 0 of 1 checks; wrong: this one"
    )
    assert eager == snapshot(
        "FAIL: faster than eager at every shape: 0 of 32 cases; not: bf16 NHWC 64 @112 relu forward+backward (0.97), bf16 NHWC 64 @56 relu forward+backward (0.97), bf16 NHWC 128 @56 relu forward+backward (0.97), bf16 NHWC 256 @56 bn forward+backward (0.97), bf16 NHWC 128 @28 relu forward+backward (0.97), bf16 NHWC 256 @28 relu forward+backward (0.97), bf16 NHWC 512 @28 bn forward+backward (0.97), bf16 NHWC 256 @14 relu forward+backward (0.97), bf16 NHWC 512 @14 relu forward+backward (0.97), bf16 NHWC 1024 @14 bn forward+backward (0.97), bf16 NHWC 512 @7 relu forward+backward (0.97), bf16 NHWC 2048 @7 bn forward+backward (0.97) and 20 more"
    )


def test_what_is_missing_is_not_measured():
    assert {verdict.met for verdict in verdicts([])} == {None}
    some = rows(cases=timed_first()[:3])
    met = said(some)
    assert met["faster than torch.compile on all batch norms of ResNet-50"] is None
    assert met["faster than eager at every shape"] is None
    assert near_copy(some)[1:] == (3, 16)


def test_a_weight_is_bytes_times_layers():
    found = rows()
    for row in found:
        if row.get("impl") == "ours" and row["shape"] == "64 @56" and row["pass"] == "forward+backward":
            row["ratio_copy"] /= 2
    weights = {
        (shape.name, fusion): count
        * next(c.floor for c in timed_first() if (c.shape, c.fusion) == (shape.name, fusion))
        for shape, fusion, count in layers()
    }
    share = weights["64 @56", "relu"] / sum(weights.values())
    assert abs(near_copy(found)[0] - 0.5**share / 1.1) < 1e-9


def test_a_failed_check_marks_the_kernels_it_is_about():
    case = timed_first()[0]
    about = {"dtype": "bf16", "layout": "NHWC", "activation": "relu", "residual": False, "pass": "training"}
    failed = {"kind": "correctness", "check": "values", "case": "c", "ok": False, **about}
    assert not sound([failed], case)
    assert sound([failed | {"layout": "NCHW"}, failed | {"ok": None}], case)


def test_documents_list_every_shape_and_survive_errors(tmp_path):
    record = Record(tmp_path / "gpu.jsonl")
    for row in rows():
        record.add(row)
    case = timed_first()[0]
    failing = [
        *kernel_rows(case, {"ours": "OutOfMemoryError: no | pipe", "eager": time(5.0)}, ours_ok=True),
        {"kind": "endtoend", "impl": "compile", "ok": False, "error": "Unsupported: no"},
        {"kind": "losses", "impl": "eager again", "ok": False, "error": "TimeoutError: skipped"},
        {"kind": "skipped", "section": "rest", "count": 3, "first": "x"},
        {"kind": "process", "section": "rest", "error": "rest 0 ended with status -11"},
        {"kind": "error", "section": "rest", "case": "x", "error": "E: e"},
        {"kind": "slow", "case": "x", "seconds": 12.0},
        {"kind": "names", "dtype": "bf16", "layout": "NHWC", "kernels": ["a", "b"]},
        {"kind": "parts", "impl": "eager", "us": {"add": 10.0}, "ok": True},
        {
            "kind": "split",
            "shape": "64 @56",
            "fusion": "relu",
            "kernel": "finalize",
            "launches": 1.0,
            "us_p50": 2.0,
            "bytes_floor": 0,
            "gbps": 0.0,
        },
        {
            "kind": "correctness",
            "check": "values",
            "case": "c",
            "dtype": "bf16",
            "layout": "NHWC",
            "offset": 0.0,
            "ok": False,
            "error": "off: y",
            "errors": {"y": {"ours": float("nan"), "native": 1.0, "limit": 1.0, "ok": False}},
        },
    ]
    for row in failing:
        record.add(row)
    with record.path.open("a") as torn:
        torn.write('{"kind": "kern')
    read = record.rows()
    document = summary.document(read)
    for shape, fusion, _ in layers():
        assert f"| {shape.name}" in document
        assert any(line.startswith(f"| {shape.name}") and f"| {fusion}" in line for line in document.splitlines())
    assert "no \\| pipe" in document
    short, told = summary.short(read), troubles(read)
    assert told.cells == snapshot(
        (
            ("error", "x", "E: e"),
            ("process", "rest", "rest 0 ended with status -11"),
            ("skipped", "rest", "3, from: x"),
            ("slow", "x", "12 s"),
            ("not timed", "ours: 1, from: bf16 NHWC 64 @112 relu forward+backward cold", "OutOfMemoryError: no | pipe"),
        )
    )
    assert [table.cells for table in network(read) if table is not None] == snapshot(
        [
            (
                ("compile", "", "", "", "", "", "", "Unsupported: no"),
                ("eager again", "", "", "", "", "", "", "TimeoutError: skipped"),
            ),
            (("eager", "0.00", "0.00", "0.00", "0.01", "0.00", "0.00", "0.00"),),
        ]
    )
    for table in (told, *network(read)):
        assert table is None or table.markdown() in short
    *_, last = verdicts(read)
    assert (last.met, short.splitlines()[-1]) == (None, str(last))
    for name in ("prepare", "large", "kernels", "rest", "endtoend"):
        assert isinstance(summary.section(read, name), str)


def test_rows_are_json_whatever_the_figures(tmp_path):
    record = Record(tmp_path / "gpu.jsonl")
    record.add({"kind": "x", "a": float("inf"), "b": float("nan"), "c": 1 / 3})
    assert json.loads(record.path.read_text()) == {"kind": "x", "a": "inf", "b": "nan", "c": 0.333333}


def test_deadlines():
    now = [0.0]
    deadline = Deadline.after(10, clock=lambda: now[0])
    sooner = deadline.within(4)
    now[0] = 5.0
    assert (deadline.left(), sooner.left(), deadline.within(100).left()) == (5.0, -1.0, 5.0)
