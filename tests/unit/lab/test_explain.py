"""The walk against numpy and against a pencil: what it says, calculates, prints as code and tabulates."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from inline_snapshot import snapshot
from torch.testing import assert_close

import truenorm.lab.explain.layer as room
from truenorm.errors import InvalidInput
from truenorm.lab.explain.layer import BATCHES, EIGHT, PAIRS, explain
from truenorm.show import plain

PAGE = Path(__file__).parents[3] / "docs" / "explain.md"
EPS = 1e-5
WALKS = {
    "its own": (EIGHT, {"weight": 3.0, "bias": 1.0, "momentum": 0.1}),
    "negative": ((-3.0, 0.5, 10.0, 2.25), {"weight": -2.0, "bias": -0.5, "momentum": 0.25}),
    "longer": (tuple(float(k * k % 11) for k in range(12)), {"weight": 0.5, "bias": 0.0, "momentum": 0.9}),
    "momentum 1": ((0.0, 0.0, 0.0, 1.0), {"weight": 1.0, "bias": 7.0, "momentum": 1.0}),
}
every_walk = pytest.mark.parametrize(("values", "named"), WALKS.values(), ids=WALKS)


def said(cell):
    """What a cell says, as a number."""
    return float(cell.removesuffix("%")) / (100 if cell.endswith("%") else 1)


def same(cells, expected, digits=4):
    """Cells are these numbers, to the digits that are printed."""
    got = torch.tensor([said(cell) for cell in cells], dtype=torch.float64)
    want = torch.tensor(np.asarray(expected, dtype=np.float64).ravel())
    assert_close(got, want, rtol=0.51 * 10 ** (1 - digits), atol=1e-6)


def say(value):
    """A number as the sentences say it: four digits; what rounding left of a zero is 0."""
    return f"{round(float(value), 6) + 0.0:.4g}"


def samples_give(y):
    """The remark of step 3."""
    return f"The samples give {', '.join(map(say, np.ravel(y)))}: their mean is β = {say(np.mean(y))}."


def rows(step, table=0):
    """The cells of each row, by what the row is called."""
    return {name: cells for name, *cells in step.tables[table].rows}


def by_hand(values):
    """The batch, its mean, its biased and its unbiased variance."""
    x = np.array(values)
    (mean,), (var,), n = oracle.moments(x[:, None])
    return x, mean, var, oracle.unbiased(var, n)


def with_totals(x):
    return [*x, x.sum(), x.mean()]


# The numbers, step by step.


def check_moments(walk, values):
    x, mean, var, unbiased = by_hand(values)
    found = rows(walk.steps[0])
    same(found["x"], with_totals(x))
    same(found["x − m"], with_totals(x - mean))
    same(found["(x − m)²"], with_totals((x - mean) ** 2))
    results = [line.rpartition(" = ")[2] for line in walk.steps[0].formulas]
    same(results, [mean, var, unbiased])


def check_output(walk, values, named):
    x, mean, var, _ = by_hand(values)
    z = (x - mean) / np.sqrt(var + EPS)
    y = named["weight"] * z + named["bias"]
    found = rows(walk.steps[1])
    same(found["z"], with_totals(z))
    same(found["z²"], with_totals(z**2))
    assert walk.steps[2].remarks == (samples_give(y),)


def check_running(walk, values, named):
    _, mean, var, _ = by_hand(values)
    stream = oracle.stream_of([np.array(values)[:, None]])
    found, a = rows(walk.steps[3]), named["momentum"]
    assert list(found) == [*map(str, BATCHES), "1, truenorm.nn"]
    for t in BATCHES:
        stored = oracle.static(stream * t, a) if t else (np.zeros(1), np.ones(1))
        same(found[str(t)][:2], stored)
        assert said(found[str(t)][2]) == pytest.approx((1 - a) ** t, abs=0.00051)
        assert said(found[str(t)][3]) == pytest.approx(oracle.shift(*stored, [mean], [var]), abs=0.0051)
    same(found["1, truenorm.nn"], [mean, var, 0, 0])
    same(found["1, truenorm.nn"][:2], oracle.pooled(stream, a))


def check_inference(walk, values, named):
    x, mean, var, _ = by_hand(values)
    _, half_mean, half_var, _ = by_hand(x[len(x) // 2 :])
    stream = oracle.stream_of([x[:, None]])
    used = [(mean, var), (half_mean, half_var)]
    used += [oracle.static(stream * t, named["momentum"]) for t in (1, 10, 100)]
    used += [(mean, var)]
    found = rows(walk.steps[4]).values()
    for cells, (m, v) in zip(found, used, strict=True):
        same(cells, [m, v, named["weight"] * (x[-1] - m) / np.sqrt(v + EPS) + named["bias"]])


def check_images(walk, values):
    x, mean, var, _ = by_hand(values)
    images = x.reshape(-1, 1, 2, 2)
    *each, last = rows(walk.steps[6]).values()
    for cells, image in zip(each, images, strict=True):
        same(cells, [*image.ravel(), image.mean()])
    same(last, [*images.mean(0).ravel(), mean])
    z = (x[-1] - mean) / np.sqrt(var + EPS)
    ten = (10 * (x[-1] - mean)) / np.sqrt(100 * var + EPS)
    assert walk.steps[6].remarks[:2] == (
        "Batch norm takes the mean in the corner, not one for each image or for each pixel: z of the last pixel is "
        f"{say(z)}, as that of the last sample was {say(z)}.",
        f"A second channel of ten times these numbers has its own mean, {say(10 * mean)}, and variance, "
        f"{say(100 * var)}; z of its last pixel is {say(ten)}.",
    )


def check(walk, values, named):
    check_moments(walk, values)
    check_output(walk, values, named)
    check_running(walk, values, named)
    check_inference(walk, values, named)
    check_images(walk, values)


@every_walk
def test_every_number_is_numpys(values, named):
    check(explain(values, **named), values, named)


def test_its_own_batch_is_round():
    found = rows(explain().steps[1])
    assert found["z"] == ["-1.5", "-0.5", "-0.5", "-0.5", "0", "0", "1", "2", "0", "0"]
    assert [line.rpartition(" = ")[2] for line in explain().steps[0].formulas] == ["5", "4", "4.571"]
    assert rows(explain().steps[4])["train(), in the batch of 8"] == ["5", "4", "7"]


def test_each_channel_is_by_itself():
    x = np.array(PAIRS)
    mean, var, _ = oracle.moments(x)
    z = (x - mean) / np.sqrt(var + EPS)
    found = rows(explain().steps[5])
    for i in range(len(x)):
        same(found[f"sample {i + 1}"], [*x[i], *z[i]])
    same(found["mean"], [*mean, 0, 0])
    same(found["variance"], [*var, 1, 1])
    assert not np.allclose(z, (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)), "features would do as well"
    assert explain().steps[5].sentences[1] == (
        f"A mean along a row, {say(x[0].mean())} of sample 1, is not batch norm's."
    )


def unbiased_moments(x):
    values = torch.from_numpy(oracle.values_of(x))
    return room.Moments(values.mean(0), values.var(0), len(values))


@pytest.mark.parametrize(
    "planted",
    [
        ("moments", unbiased_moments),
        ("estimation_shift", lambda stored, truth: {"": type("Row", (), {"shift": 0.5})}),
        ("BatchNorm1d", torch.nn.BatchNorm1d),
        ("_evaluated", lambda layer, kept, sample: layer.eval()(sample)),
        ("_initial", lambda layer, x, batches: layer.momentum**batches),
        ("_format", lambda value: f"{float(value):.1f}"),
    ],
    ids=lambda planted: planted[0],
)
def test_this_comparison_sees_a_wrong_number(planted, monkeypatch):
    """Planted: an unbiased variance, another shift, torch's layer for ours, buffers not set, a digit too few."""
    values, named = WALKS["its own"]
    monkeypatch.setattr(room, *planted)
    with pytest.raises(AssertionError):
        check(explain(values, **named), values, named)


# The arithmetic, with a pencil.

SIGNS = str.maketrans({"·": "*", "÷": "/", "−": "-", "√": "s", "²": "?"})


def sides(line):
    """The sides of a line of arithmetic that are numbers, calculated."""
    parts = [part for part in line.split(" = ") if not re.search(r"[^\d\s.+()·÷−√e-]", part)]
    return [eval(part.translate(SIGNS), {"s": math.sqrt}) for part in parts]


def check_formulas(steps):
    for step in steps[:5]:
        assert step.formulas
        for line in step.formulas:
            found = sides(line)
            assert len(found) >= 2, line
            # What stands in a line is rounded to four digits, and the last side follows from it.
            assert found[:-1] == pytest.approx(found[-1:] * (len(found) - 1), rel=2e-3, abs=2e-3), line


@every_walk
def test_the_sides_of_each_line_are_equal(values, named):
    check_formulas(explain(values, **named).steps)


def test_this_comparison_sees_a_wrong_side():
    """Planted: 41 ÷ 8 for 40 ÷ 8."""
    first, *others = explain().steps
    line = first.formulas[0]
    wrong = replace(first, formulas=(line.replace("40 ÷ 8", "41 ÷ 8"),))
    assert wrong.formulas != first.formulas[:1]
    with pytest.raises(AssertionError, match="41 ÷ 8"):
        check_formulas([wrong, *others])


# The code.


def run(walk):
    """What the names hold when all lines of code have run, one after another."""
    names = {}
    exec("\n".join(line for step in walk.steps for line in step.code), names)
    return {name: found.detach().numpy() for name, found in names.items() if isinstance(found, torch.Tensor)}


@every_walk
def test_the_lines_of_code_give_the_numbers(values, named):
    walk = explain(values, **named)
    got = run(walk)
    _, mean, var, _ = by_hand(values)
    same([str(got["mean"].item()), str(got["var"].item())], [mean, var])
    same(rows(walk.steps[0])["x"][:-2], got["x"])
    same(rows(walk.steps[1])["z"][:-2], got["z"])
    assert walk.steps[2].remarks == (samples_give(got["y"]),)
    found = rows(walk.steps[4])
    same(found["eval(), after 10 batches"][-1:], got["after_ten"])
    same(found["eval(), statistics of the data"][-1:], got["right"])
    assert_close(got["z_images"].ravel(), got["z"].ravel())
    assert_close(got["z_two"][:, :1], got["z_images"])
    channels = [cells[2:] for name, cells in rows(walk.steps[5]).items() if name.startswith("sample")]
    same([cell for cells in channels for cell in cells], got["z_pairs"])


# The words.


def test_what_the_sentences_claim():
    x, mean, var, unbiased = by_hand(EIGHT)
    walk = explain(weight=math.sqrt(var + EPS), bias=mean)
    assert walk.steps[2].remarks == (samples_give(x),)
    norm = torch.nn.BatchNorm1d(1)
    assert (norm.weight.item(), norm.bias.item(), norm.running_mean.item(), norm.running_var.item()) == (1, 0, 0, 1)
    words = explain().steps[3].remarks
    assert words[0] == (
        f"Every batch was these 8 numbers, so they are all the data there is: mean {mean:g} and variance {var:g} are "
        "the truth."
    )
    assert words[2] == (
        f"torch's running_var goes to {unbiased:.4g}: 8 ÷ 7 times too much here, and right where batches are random "
        "samples of more."
    )
    assert explain().steps[4].remarks[0] == snapshot(
        "The same sample and the same weights, and y is 10.45 instead of 7: so a network that is good in train() can be bad in eval()."
    )
    assert explain(momentum=0.25).steps[3].sentences[2] == snapshot(
        "Each batch moves them by momentum = 0.25: in torch the weight of the new batch (Keras means that of the old value, 1 − ours, and would say 0.75)."
    )


def test_the_page_is_what_is_computed_now():
    assert PAGE.read_text() == explain().markdown(), "if meant: truenorm explain --markdown > docs/explain.md"


def test_this_comparison_sees_another_batch():
    """Planted: the last sample is 10."""
    assert PAGE.read_text() != explain((*EIGHT[:-1], 10.0)).markdown()


def test_the_page_holds_everything():
    page, walk = PAGE.read_text(), explain()
    for step in walk.steps:
        assert f"\n## {step.title}\n" in page
        for text in (*step.sentences, *step.formulas, *step.code, *step.remarks):
            assert f"\n{text}\n" in page
    tables = re.findall(r"(?:^\|.*\|\n)+", page, flags=re.M)
    assert len(tables) == sum(len(step.tables) for step in walk.steps)
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    prose = re.sub(r"```.*?```", "", page, flags=re.S)
    assert not re.search(r"^(\d+[.)]|[-+*>]) ", prose, flags=re.M), "a sentence would become a list"


@pytest.mark.parametrize("width", [80, 150])
def test_a_terminal_shows_everything(width):
    shown = plain(explain(), width)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= min(width, 120)
    assert len(lines) < {80: 145, 150: 130}[width]
    assert "…" not in shown
    running = " ".join(shown.split())
    for step in explain().steps:
        for text in (step.title, *step.sentences, *step.remarks):
            assert text in running
        for text in (*step.formulas, *step.code):
            assert any(line.endswith(f" {text}") for line in lines), "no line of code or arithmetic is broken"
        for table in step.tables:
            assert all(" ".join(row).strip() in running for row in (table.columns, *table.rows))


def test_the_random_state_and_gradients_are_left_alone():
    before = torch.get_rng_state()
    explain()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 2.0, 3.0), (4.0,) * 8, (1.0, 2.0, 3.0, math.nan)], ids=str)
def test_a_batch_that_cannot_be_walked_through(values):
    with pytest.raises(InvalidInput, match=r"4, 8, 12 \.\.\. finite numbers, not all the same; got \["):
        explain(values)


def test_no_such_momentum():
    with pytest.raises(InvalidInput) as raised:
        explain(momentum=0.0)
    assert str(raised.value) == snapshot("momentum is the weight of the new batch, in (0, 1]; got 0.0")
