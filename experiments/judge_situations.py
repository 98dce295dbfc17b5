"""Is what `diagnose` says right in situations that users of batch norm meet?

Ten kinds, and ten further ones, each a file of `situations/` that builds small networks and says what is right. Judged
are the verdict, the cause that is named first, whether a cause is named that is untrue, the first thing to do, and what
`repair` gives by the situation's own measure.
"""

import argparse
import copy
import io
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from situations.kinds import FURTHER, KINDS
from situations.situation import Answer, Situation, judged
from torch import Tensor, nn

import truenorm as tn
from truenorm.doctor.remedy import Preprocess
from truenorm.errors import TruenormError
from truenorm.files import write_whole
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table

PARTS = ("verdict", "first", "untrue", "remedy", "repair")
ARMS = _AS_IS, _REPAIRED, _PREPROCESSED, _REACHED = "as it is", "repaired", "preprocessed", "once mended"


def answered(situation: Situation) -> tuple[Answer, list[tuple[str, str]]]:
    """What `diagnose` says and `repair` gives, each on a copy; the sentences with their headings."""
    before = situation.measure(copy.deepcopy(situation.model))
    repaired, crash = _repaired(situation)
    common: dict[str, Any] = {"before": before, "repaired": repaired, "crashed": ("repair",) if crash else ()}
    crashes = [("crashed", f"repair: {crash}")] if crash else []
    try:
        diagnosis = tn.diagnose(copy.deepcopy(situation.model), situation.data, **situation.options)
    except TruenormError as error:
        return Answer(**common, refused=str(error)), [*crashes, ("refused", str(error))]
    except Exception as error:
        common["crashed"] += ("diagnose",)
        return Answer(**common, refused=type(error).__name__), [*crashes, ("crashed", f"diagnose: {_in_a_line(error)}")]
    answer = Answer(
        **common,
        healthy=diagnosis.healthy,
        findings=tuple((str(finding.cause), str(finding.level)) for finding in diagnosis.findings),
        steps=tuple((type(step.remedy).__name__, step.when) for step in diagnosis.steps),
        preprocessed=_preprocessed(situation, diagnosis),
        named=_named(diagnosis),
    )
    return answer, [*crashes, *diagnosis.lines()]


def _repaired(situation: Situation) -> tuple[float | None, str]:
    """The measure after a repair, None where it was refused; an error that is not truenorm's own."""
    model = copy.deepcopy(situation.model)
    try:
        tn.repair(model, situation.training, **situation.options)
    except TruenormError:
        return None, ""
    except Exception as error:
        return None, _in_a_line(error)
    return situation.measure(model), ""


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _named(diagnosis: tn.Diagnosis) -> tuple[str, ...]:
    """Layers of causes, and the one that is most off by itself."""
    causes = [layer for finding in diagnosis.causes for layer in finding.layers]
    most = max(diagnosis.layers, key=lambda layer: layer.own, default=None)
    return tuple(dict.fromkeys([*causes, *([] if most is None else [most.layer])]))


def _preprocessed(situation: Situation, diagnosis: tn.Diagnosis) -> float | None:
    """The measure with images as the advice has them."""
    for step in diagnosis.steps:
        if isinstance(step.remedy, Preprocess):
            return situation.measure(Prepared(step.remedy, copy.deepcopy(situation.model)))
    return None


class Prepared(nn.Module):
    """A network behind the preprocessing that was advised."""

    def __init__(self, remedy: Preprocess, network: nn.Module) -> None:
        super().__init__()
        self.remedy, self.network = remedy, network

    def forward(self, x: Tensor) -> Any:
        return self.network(self.remedy.apply(x))


def examined(situation: Situation) -> tuple[dict[str, Any], dict[str, float]]:
    """A trial of the record, and what was measured."""
    answer, sentences = answered(situation)
    judgement = judged(situation.right, answer, reached=situation.reached, noise=situation.noise)
    trial = {
        "kind": situation.name,
        "variant": situation.variant,
        "seed": situation.seed,
        "expected": {name: sorted(v) if isinstance(v, frozenset) else v for name, v in asdict(situation.right).items()},
        "healthy": answer.healthy,
        "findings": [list(finding) for finding in answer.findings],
        "steps": [list(step) for step in answer.steps],
        "refused": answer.refused,
        "named": list(answer.named),
        "crashed": list(answer.crashed),
        "judgement": {
            "verdict": judgement.verdict,
            "first": judgement.first,
            "untrue": list(judgement.untrue),
            "remedy": judgement.remedy,
            "repair": judgement.repair,
            "right": judgement.right,
        },
        "sentences": [list(sentence) for sentence in sentences],
    }
    values = {
        _AS_IS: answer.before,
        _REPAIRED: answer.repaired,
        _PREPROCESSED: answer.preprocessed,
        _REACHED: situation.reached,
    }
    return trial, {arm: value for arm, value in values.items() if value is not None}


def counts(record: Record) -> dict[str, int]:
    """How many are right, by part and as a whole."""
    judgements = [trial["judgement"] for trial in record.trials.values()]
    return {part: sum(map(_holds, judgements, [part] * len(judgements))) for part in (*PARTS, "right")}


def _holds(judgement: Mapping[str, Any], part: str) -> bool:
    return not judgement[part] if part == "untrue" else bool(judgement[part])


def tables(record: Record) -> tuple[Table, ...]:
    """A row for each situation, from the record alone."""
    values = {(row.trial, row.arm): row.value for row in record.rows}
    rows: list[tuple[str, ...]] = []
    for name, trial in record.trials.items():
        judgement = trial["judgement"]
        causes = [cause for cause, level in trial["findings"] if level != "note"]
        numbers = (f"{values[name, arm]:.3f}" if (name, arm) in values else "" for arm in ARMS)
        crashed = "diagnose" in trial.get("crashed", ())  # not in the records of before
        said = "crashed" if crashed else "refused" if trial["refused"] else causes[0] if causes else "nothing"
        rows.append(
            (
                f"{name}: {trial['variant']}",
                *("yes" if _holds(judgement, part) else "NO" for part in ("verdict", "first")),
                said,
                ", ".join(judgement["untrue"]),
                *("yes" if _holds(judgement, part) else "NO" for part in ("remedy", "repair")),
                *numbers,
            )
        )
    found, total = counts(record), len(record.trials)
    return (
        Table(
            title="what was said in each situation",
            columns=(
                "situation",
                "verdict",
                "first",
                "named first",
                "untrue",
                "remedy",
                "repair",
                *ARMS,
            ),
            rows=tuple(rows),
            notes=(
                f"right in every part: {found['right']} of {total}",
                f"verdict: {found['verdict']}, first cause: {found['first']}, no untrue cause: {found['untrue']}, "
                f"remedy: {found['remedy']}, repair: {found['repair']} of {total}",
            ),
        ),
    )


def sentences(record: Record) -> Iterator[str]:
    """All that was said, a line each."""
    for name, trial in record.trials.items():
        yield f"\n{name}: {trial['variant']}"
        yield f"  right: {_in_words(trial['expected'])}"
        yield from (f"  {heading:8} {sentence}" for heading, sentence in trial["sentences"])


def _in_words(expected: Mapping[str, Any]) -> str:
    first = f"first {' or '.join(expected['first'])}" if expected["first"] else "no cause is due"
    return f"{'healthy' if expected['healthy'] else 'an alarm'}; {first}"


def printed(record: Record) -> str:
    """The table and the sentences as text."""
    output = Console(file=(text := io.StringIO()), width=200, highlight=False)
    for table in tables(record):
        output.print(table)
    for line in sentences(record):
        output.print(line, markup=False, soft_wrap=True)
    return text.getvalue()


def main() -> None:
    """Build, ask, judge; write the record and its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="parts of names of kinds, with commas between")
    parser.add_argument("--further", action="store_true", help="the ten further kinds instead of the first ten")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind; three are one of each variant")
    parser.add_argument("--out", type=Path, help="the record's file; the table goes beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [part for part in options.only.split(",") if part]
    known = FURTHER if options.further else KINDS
    kinds = [kind for kind in known if not wanted or any(part in kind for part in wanted)]
    if not kinds:
        parser.error(f"no such kind; there are {', '.join(known)}")
    trials: dict[str, dict[str, Any]] = {}
    rows: list[Measurement] = []
    for kind in kinds:
        for seed in range(options.seeds):
            name = f"{kind} #{seed}"
            trials[name], values = examined(known[kind](seed))
            rows += [Measurement(name, arm, None, "measure", value) for arm, value in values.items()]
            print(name, "right" if trials[name]["judgement"]["right"] else "WRONG", file=sys.stderr, flush=True)
    record = Record(
        command=shlex.join(["python", *sys.argv]),
        rows=tuple(rows),
        configuration={"only": options.only, "further": options.further, "seeds": options.seeds},
        trials=trials,
        versions=installed_versions("truenorm", "torch"),
        machine=this_machine() | {"threads": 1},
    )
    if options.out is not None:
        record.save(options.out)
        write_whole(options.out.with_suffix(".txt"), printed(record).encode())
    print(printed(record), end="")


if __name__ == "__main__":
    main()
