"""Does `diagnose` name the cause first, does it leave healthy networks alone, and what does its advice regain?

Beside it torch's `update_bn` and fvcore's `update_bn_stats`, on the same batches. Thresholds were set on Fashion-MNIST.
"""

import argparse
import copy
import io
import random
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from broken_models import KINDS, Batches, Broken, Images, batches, healthy, norms
from rich.console import Console
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import truenorm as tn
from truenorm.data.sample import take_sample
from truenorm.doctor.remedy import Preprocess, RepairStatistics, SetEps, TrackStatistics
from truenorm.doctor.score import ACCURACY, LIKELIHOOD, scored
from truenorm.files import write_whole
from truenorm.metrics.intervals import paired
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table

HEALTHY = "healthy"
_FIRST_HEALTHY = 50_000


def examined(
    kind: str, broken: Broken, data: Images, *, shuffle: bool = False
) -> tuple[dict[str, Any], list[tuple[str, str, float]]]:
    """What `diagnose` finds; accuracy and loss on test images as it is, after its advice, after the peers."""
    validation: Any = [(broken.change(x), y) for x, y in batches(data.validation, 64)]
    if shuffle:
        images = TensorDataset(broken.change(data.validation[0]), data.validation[1])
        validation = DataLoader(images, batch_size=64, shuffle=True)
    test = take_sample([(broken.change(x), y) for x, y in batches(data.test, 500)], limit=10**6)
    diagnosis = tn.diagnose(broken.network, validation, optimizer=broken.optimizer)
    corrected = test.changed(preprocessed(diagnosis))
    assert corrected is not None
    training = [(broken.change(x), y) for x, y in batches(data.train, broken.batch)]
    rows: list[tuple[str, str, float]] = []
    arms = {"as it is": _nothing, "advice": advice(diagnosis), "update_bn": _update_bn, "fvcore": _fvcore}
    for arm, mend in arms.items():
        mended = copy.deepcopy(broken.network)
        try:
            mend(mended, training)
        except (AssertionError, RuntimeError, TypeError):  # fvcore takes no shared layers, and none without buffers
            continue
        result = scored(mended, corrected if arm == "advice" else test)
        assert result is not None
        rows += [(arm, "accuracy", result.mean(ACCURACY)), (arm, "loss", -result.mean(LIKELIHOOD))]
    case = {
        "kind": kind,
        "right": sorted(broken.causes),
        "severity": broken.severity,
        "named": [finding.cause for finding in diagnosis.causes],
        "explained": [
            None if finding.explained is None else round(finding.explained, 3) for finding in diagnosis.causes
        ],
        "alarm": not diagnosis.healthy,
    }
    return case, rows


def advice(diagnosis: tn.Diagnosis) -> Callable[[nn.Module, Batches], None]:
    """What is recommended, done: the repair, and what it says of eps and of switched-off tracking."""
    remedies = [step.remedy for step in diagnosis.steps]

    def mend(network: nn.Module, training: Batches) -> None:
        for remedy in remedies:
            for layer in norms(network):
                if isinstance(remedy, TrackStatistics):
                    layer.track_running_stats = True
                elif isinstance(remedy, SetEps):
                    layer.eps = remedy.eps
            if isinstance(remedy, RepairStatistics):
                tn.repair(network, training)

    return mend


def preprocessed(diagnosis: tn.Diagnosis) -> Callable[[Tensor], Tensor]:
    """The images as the advice on preprocessing has them."""
    for step in diagnosis.steps:
        if isinstance(step.remedy, Preprocess):
            return step.remedy.apply
    return lambda images: images


def _nothing(network: nn.Module, training: Batches) -> None:
    return


def _update_bn(network: nn.Module, training: Batches) -> None:
    update_bn(training, network)


def _fvcore(network: nn.Module, training: Batches) -> None:
    from fvcore.nn.precise_bn import update_bn_stats

    network.train()
    update_bn_stats(network, [x for x, _ in training], num_iters=len(training))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many networks there were of each kind, and how many of them were judged as they should be, or not.

    Args:
        broken: networks with a fault.
        right: of these, whose right cause was named first.
        alarms: of these, that raised an alarm.
        healthy, false_alarms: networks without a fault, and those of them that raised an alarm.
        decoys, decoy_alarms: networks with a fault that is not batch norm's, and those of them that raised an alarm.
    """

    broken: int
    right: int
    alarms: int
    healthy: int
    false_alarms: int
    decoys: int
    decoy_alarms: int


def counts(record: Record) -> Counts:
    """From the record alone."""
    cases = record.trials.values()
    broken = [case for case in cases if _is_broken(case)]
    sound = [case for case in cases if case["kind"] == HEALTHY]
    decoys = [case for case in cases if not _is_broken(case) and case["kind"] != HEALTHY]
    return Counts(
        broken=len(broken),
        right=sum(map(_is_right, broken)),
        alarms=sum(case["alarm"] for case in broken),
        healthy=len(sound),
        false_alarms=sum(case["alarm"] for case in sound),
        decoys=len(decoys),
        decoy_alarms=sum(case["alarm"] for case in decoys),
    )


def changes(record: Record, arm: str, metric: str) -> list[float]:
    """What a repair changed on test images, for each broken network that it did not refuse."""
    values = {(row.trial, row.arm, row.metric): row.value for row in record.rows}
    return _changes([name for name, case in record.trials.items() if _is_broken(case)], values, arm, metric)


def tables(record: Record) -> tuple[Table, ...]:
    """Which cause was named first; what was regained."""
    cases = record.trials
    values = {(row.trial, row.arm, row.metric): row.value for row in record.rows}
    kinds = list(dict.fromkeys(case["kind"] for case in cases.values()))
    named: list[tuple[str, ...]] = []
    regained: list[tuple[str, ...]] = []
    for kind in kinds:
        members = {name: case for name, case in cases.items() if case["kind"] == kind}
        broken = any(map(_is_broken, members.values()))
        first = Counter((case["named"] or ["nothing"])[0] for case in members.values())
        right = sum(map(_is_right, members.values()))
        alarms = sum(case["alarm"] for case in members.values())
        said = ", ".join(f"{cause} {number}" for cause, number in first.most_common())
        named.append((kind, str(len(members)), str(right) if broken else "", str(alarms), said))
        if broken:
            regained.append((kind, *_regained(members, values)))
    broken_cases = [name for name, case in cases.items() if _is_broken(case)]
    found = counts(record)
    notes = (
        f"right cause first: {found.right} of {found.broken} ({share(found.right, found.broken)})",
        f"alarm: {found.alarms} of them; the others do no harm that shows",
        f"false alarms: {found.false_alarms} of {found.healthy} healthy networks "
        f"({share(found.false_alarms, found.healthy)}), {found.decoy_alarms} of {found.decoys} decoys",
    )
    named_first = Table(
        title="which cause was named first",
        columns=("what was done to it", "cases", "right first", "alarms", "named first, whether it alarmed or not"),
        rows=tuple(named),
        notes=notes,
    )
    if not broken_cases:
        return (named_first,)
    regained.append(("all", *_regained(broken_cases, values)))
    worst = [
        "worst harm, points of accuracy and loss: "
        + "; ".join(f"{arm} {_worst(broken_cases, values, arm)}" for arm in ARMS)
    ]
    return (
        named_first,
        Table(
            title="regained on test images: median points of accuracy (loss)",
            columns=("what was done to it", *ARMS, "advice − update_bn, points"),
            rows=tuple(regained),
            notes=(
                *worst,
                "What is advised was done: repair on training images, the eps named, the images preprocessed as said. "
                "The last column: mean over cases, paired, ± 95 %.",
            ),
        ),
    )


ARMS = ("advice", "update_bn", "fvcore")


def _regained(members: Iterable[str], values: dict[tuple[str, str, str], float]) -> tuple[str, ...]:
    cells: list[str] = []
    names = list(members)
    for arm in ARMS:
        points, losses = (_changes(names, values, arm, metric) for metric in ("accuracy", "loss"))
        told = f"{100 * statistics.median(points):+.1f} ({statistics.median(losses):+.3f})" if points else "refused"
        cells.append(told)
    both = [name for name in names if (name, "update_bn", "accuracy") in values]
    difference = paired(
        [100 * values[name, "advice", "accuracy"] for name in both],
        [100 * values[name, "update_bn", "accuracy"] for name in both],
    )
    return (*cells, f"{difference.mean:+.2f} ± {difference.half_width or 0:.2f}")


def _worst(members: Iterable[str], values: dict[tuple[str, str, str], float], arm: str) -> str:
    names = list(members)
    points, losses = min(_changes(names, values, arm, "accuracy")), max(_changes(names, values, arm, "loss"))
    return f"{100 * min(points, 0):+.1f}, {max(losses, 0):+.3f}"


def _is_broken(case: Mapping[str, Any]) -> bool:
    return any(case["right"])  # records of before name the empty cause


def _is_right(case: Mapping[str, Any]) -> bool:
    return bool(case["named"]) and case["named"][0] in case["right"]


def _changes(names: list[str], values: dict[tuple[str, str, str], float], arm: str, metric: str) -> list[float]:
    return [
        values[name, arm, metric] - values[name, "as it is", metric] for name in names if (name, arm, metric) in values
    ]


def share(number: int, of: int) -> str:
    """In percent, with the exact binomial interval."""
    if not of:
        return "none"
    found = binomtest(number, of).proportion_ci(method="exact")
    return f"{number / of:.1%}, 95 % interval {found.low:.1%} to {found.high:.1%}"


def printed(record: Record) -> str:
    """The tables as text."""
    output = Console(file=io.StringIO(), width=150, highlight=False)
    for table in tables(record):
        output.print(table)
    return output.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--draws", type=int, default=6, help="cases of each kind")
    parser.add_argument("--healthy", type=int, default=72)
    parser.add_argument("--barely", action="store_true", help="every second healthy network is barely trained")
    parser.add_argument("--shuffle", action="store_true", help="diagnose on a loader that shuffles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=3000, help="training images")
    parser.add_argument("--held-out", type=int, default=1000, help="images to diagnose on, and as many to test")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Images.of(options.data, train=options.train, held_out=options.held_out)
    trials: dict[str, dict[str, Any]] = {}
    rows: list[Measurement] = []

    def add(name: str, kind: str, broken: Broken) -> None:
        trials[name], found = examined(kind, broken, data, shuffle=options.shuffle)
        rows.extend(Measurement(name, arm, None, metric, value) for arm, metric, value in found)
        said = trials[name]["named"]
        mark = "" if trials[name]["alarm"] else "(no alarm)"
        print(name, "→", ", ".join(said) or "nothing", mark, file=sys.stderr, flush=True)

    for number, (kind, make) in enumerate(KINDS.items()):
        for draw in range(options.draws):
            seed = options.seed + 100 * draw + number
            add(f"{kind} #{draw}", kind, make(data, random.Random(seed), seed))
    for number in range(options.healthy):
        seed = options.seed + _FIRST_HEALTHY + number
        network, regime = healthy(data, random.Random(seed), seed, barely=options.barely and number % 2 > 0)
        add(f"{HEALTHY} #{number}", HEALTHY, Broken(network, set(), regime, batch=regime["batch"]))
    record = Record(
        command=shlex.join(["python", *sys.argv]),
        rows=tuple(rows),
        configuration={key: value for key, value in vars(options).items() if key != "out"},
        trials=trials,
        versions=installed_versions("truenorm", "torch", "fvcore"),
        machine=this_machine() | {"threads": 1},
    )
    record.save(options.out / "record.json")
    write_whole(options.out / "table.txt", printed(record).encode())
    print(printed(record), end="")


if __name__ == "__main__":
    main()
