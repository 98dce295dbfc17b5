"""`truenorm claims`: a claim that takes a second, on a hundred digits."""

import json
import sys
from dataclasses import replace

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic_claims import claim, over_none

from truenorm import __version__
from truenorm.cli import app
from truenorm.cli.terminal import WIDE
from truenorm.lab.claims.claim import Cell, Column, Part, Picture
from truenorm.lab.claims.networks import ARMS, NORMS, dense, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.report.claims.record import read_claims
from truenorm.lab.report.claims.table import listing
from truenorm.lab.report.shown import shown
from truenorm.record import Record
from truenorm.show import plain

SMALL = "tiny --limit 100 --quick --processes 1 --out out".split()  # noqa: SIM905  # read as it is typed
STOPPED = "truenorm: interrupted; finished trials stay in out/trials, and the same command goes on from there"


def cells(context):
    return [Cell(arm=arm, lrs=(0.05, 0.2), steps=3 * len(context.feed("train", 32))) for arm in ("none", "bn")]


def run(trial, context, on_step):
    network = initialised(lambda: dense(context, NORMS[trial.arm], depth=1, width=12), trial.seed)
    trained(network, context.feed("train", 32), trial, on_step, epochs=3)
    found = scored(network, context, "validation" if trial.tuning else "test")
    yield trial.row("accuracy", found.accuracy, n=found.num)


TINY = claim(
    2,
    "tiny",
    (Part(name="digits", says="accuracy", effect=over_none("accuracy"), margin=0.01, unit="points"),),
    Picture(metric="accuracy", y="accuracy, %", text="Higher is better.", unit="points"),
    title="Batch norm learns faster",
    arms={arm: ARMS[arm] for arm in ("none", "bn")},
    columns=(Column(metric="accuracy", heading="accuracy %", unit="points", digits=2),),
    cells=cells,
    run=run,
)


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    """Only the tiny claim; called with a function that is asked before each trial."""

    def put(before=lambda trial: None):
        def watched(trial, context, on_step):
            before(trial)
            return run(trial, context, on_step)

        monkeypatch.setattr("truenorm.lab.claims.catalogue.CLAIMS", (replace(TINY, run=watched),))

    put()
    return put


@pytest.fixture
def measured(truenorm):
    """What the command ended with; its record is in `out`."""
    ended = truenorm("claims", *SMALL)
    assert (ended.code, ended.err) == (0, "")
    return ended


PAGE = "\npage: out/report.html\n"


def test_it_prints_what_the_record_shows_and_where_the_record_and_the_page_are(measured, shown_of, tmp_path):
    assert measured.out == f"{shown_of('out')}\nrecord: out/record.json{PAGE}"
    (verdict,) = read_claims(Record.load("out")).verdicts
    assert (verdict.claim.number, verdict.claim.title) == (2, "Batch norm learns faster")
    assert [(found.part.name, found.part.unit) for found in verdict.findings] == [("digits", "points")]
    assert (tmp_path / "out" / "report.html").read_text() == shown(Record.load("out")).page()


def test_a_report_gives_byte_for_byte_what_it_gave(measured, shown_of, truenorm, tmp_path):
    page = (tmp_path / "out" / "report.html").read_bytes()
    for place in ("out", "out/record.json"):
        (tmp_path / "out" / "report.html").unlink()
        ended = truenorm("report", place)
        assert (ended.code, ended.err, ended.out) == (0, "", shown_of("out") + PAGE)
        assert (tmp_path / "out" / "report.html").read_bytes() == page


def test_this_comparison_sees_another_record(measured, shown_of, tmp_path):
    """Planted: one effect one image larger."""
    path = tmp_path / "out" / "record.json"
    data = json.loads(path.read_text())
    before = shown_of("out")
    data["configuration"]["catalogue"][0]["effects"][0]["0"] += 1 / 359
    path.write_text(json.dumps(data))
    assert shown_of("out") != before


def test_svgs(measured, shown_of, truenorm, tmp_path):
    ended = truenorm("report", "out", "--svg", "charts")
    assert ended.out == f"{shown_of('out')}\ncharts: 1 in charts\n{PAGE}"
    assert [path.name for path in (tmp_path / "charts").iterdir()] == ["tiny.svg"]


def test_the_record_holds_the_line_that_does_it_again(measured, truenorm):
    first = Record.load("out")
    assert first.command == " ".join(["truenorm claims", *SMALL])
    truenorm(*first.command.split()[1:-1], "again")
    assert Record.load("again").rows == first.rows and first.complete


def test_several_records_are_refused(measured, truenorm):
    truenorm("claims", *SMALL[:-1], "again")
    assert truenorm("report", "out", "again").sentence == snapshot(
        "truenorm: out is a record of claims; side by side stand records of studies: draw it alone"
    )


def test_a_record_is_shown_by_a_version_whose_catalogue_lacks_the_claim(
    measured, shown_of, truenorm, monkeypatch, tmp_path
):
    printed = shown_of("out") + PAGE
    page = (tmp_path / "out" / "report.html").read_bytes()
    other = replace(TINY, title="Batch norm is another", parts=(replace(TINY.parts[0], name="all"),), primary="all")
    for catalogue in ((), (other,)):
        monkeypatch.setattr("truenorm.lab.claims.catalogue.CLAIMS", catalogue)
        ended = truenorm("report", "out")
        assert (ended.code, ended.err, ended.out) == (0, "", printed)
        assert (tmp_path / "out" / "report.html").read_bytes() == page


def test_a_record_of_before_whose_claim_is_gone(measured, shown_of, truenorm, monkeypatch, tmp_path):
    """Records of an older truenorm hold the names of their claims only."""
    printed = shown_of("out") + PAGE
    path = tmp_path / "out" / "record.json"
    data = json.loads(path.read_text())
    del data["configuration"]["catalogue"]
    path.write_text(json.dumps(data))
    assert truenorm("report", "out").out == printed
    monkeypatch.setattr("truenorm.lab.claims.catalogue.CLAIMS", ())
    ended = truenorm("report", "out")
    assert (ended.code, ended.sentence) == (
        1,
        "truenorm: the record holds the claim 'tiny', which this truenorm does not know; show it with the version that "
        f"made it ({__version__})",
    )


def test_the_same_command_goes_on_where_it_stopped(measured, shown_of, truenorm, catalogue):
    def stop(trial):
        if trial.seed == 1:
            raise KeyboardInterrupt

    again = [*SMALL[:-1], "again"]
    catalogue(stop)
    ended = truenorm("claims", *again)
    assert (ended.code, ended.sentence) == (130, STOPPED.replace("out/", "again/"))
    assert not Record.load("again").complete
    assert read_claims(Record.load("again")).lacking == snapshot(
        "The measuring was not finished: there are fewer trials than asked for."
    )
    assert truenorm("report", "again").out == f"{shown_of('again')}\npage: again/report.html\n"
    catalogue()
    ended = truenorm("claims", *again)
    assert (ended.code, ended.err) == snapshot((0, "truenorm: 6 of 14 trials were finished before, in again/trials\n"))
    assert Record.load("again").rows == Record.load("out").rows


def test_ctrl_c_before_a_trial_has_ended(truenorm, catalogue, tmp_path):
    def stop(trial):
        raise KeyboardInterrupt

    catalogue(stop)
    ended = truenorm("claims", *SMALL)
    assert (ended.code, ended.sentence) == (130, STOPPED)
    assert not list((tmp_path / "out").rglob("*.json"))


# What needs no measuring.


def test_the_list(truenorm, golden, monkeypatch):
    monkeypatch.setattr("truenorm.lab.images.sets.load", lambda *args, **options: pytest.fail("it read data"))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    ended = truenorm("claims", "--list")
    assert (ended.code, ended.err) == (0, "")
    golden("claims-list.txt", ended.out)


def test_a_list_of_some(truenorm):
    assert truenorm("claims", "tiny", "--list").text == snapshot("""\
what is said about batch norm

 #   name   claim
 ───────────────────────────────────
 2   tiny   Batch norm learns faster

truenorm claims NAME … measures those
that are named; truenorm claims
measures all.
""")


def test_every_claim_there_is_has_a_line_of_the_list(truenorm, monkeypatch):
    monkeypatch.undo()
    from truenorm.lab.claims.catalogue import CLAIMS

    listed = listing(CLAIMS)
    assert truenorm("claims", "--list").text.rstrip() == plain(listed, WIDE)
    names = {number: name for number, name, _ in listed.rows}
    assert names == {str(one.number): one.name for one in CLAIMS}


def test_help(truenorm, golden):
    ended = truenorm("claims", "--help")
    assert (ended.code, ended.err) == (0, "")
    golden("help-claims.txt", ended.out)


def test_every_field_of_the_configuration_is_an_option():
    from truenorm.lab.claims.configuration import ClaimsConfig

    listed = {a.names[0] for a in app["claims"].assemble_argument_collection() if a.show}
    fields = {f"--{name.replace('_', '-')}" for name in ClaimsConfig.__dataclass_fields__}
    assert listed - {"NAMES"} == fields | {"--out", "--list", "--processes"}


# What is refused.


@pytest.fixture
def refused(truenorm, catalogue, tmp_path):
    """Exit code and sentence; nothing must have been done or written."""

    def run_refused(*arguments):
        catalogue(lambda trial: pytest.fail("it trained"))
        ended = truenorm("claims", *arguments)
        assert not list(tmp_path.rglob("*.json"))
        return ended.code, ended.sentence

    return run_refused


def test_an_unknown_name(refused):
    assert refused("tini") == snapshot((2, "truenorm: unknown claim 'tini'; did you mean 'tiny'? Known: tiny"))
    assert refused("tiny", "nothing like it", "--list")[0] == 2


def test_too_few_seeds(refused):
    assert refused("tiny", "--seeds", "4") == snapshot(
        (2, "truenorm: --seeds is 4; it takes 5 or more: fewer can hardly show anything")
    )


def test_no_process_at_all(refused):
    assert refused("tiny", "--processes", "0") == snapshot((2, "truenorm: --processes is 0; it takes 1 or more"))


def test_an_unknown_data_set(refused):
    assert refused("tiny", "--data", "digit") == snapshot(
        (
            2,
            "truenorm: unknown data set 'digit'; did you mean 'digits'? Known: cifar10, cifar100, digits, fashion_mnist, mnist",
        )
    )


def test_without_what_measures(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert refused(*SMALL) == snapshot(
        (
            2,
            "truenorm: scikit-learn is not installed; run: pip install 'altair>=6' 'datasets>=4.4' 'filelock>=3.20' 'jinja2>=3.1' 'pillow>=12' 'scikit-learn>=1.7' 'vl-convert-python>=1.9'",
        )
    )


def test_without_what_draws_it_says_so(truenorm, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "altair", None)
    ended = truenorm("claims", *SMALL)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == snapshot(
        "no page: altair is not installed; run: pip install 'altair>=6' 'jinja2>=3.1' 'vl-convert-python>=1.9', then: truenorm report out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["record.json", "trials"]
