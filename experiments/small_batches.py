"""What is stored behind 0 to 5 batch norms at small batch, by torch's rule and by ours, and what it costs.

One training for each data set, batch size and seed, with our layers, which train as torch's do. What torch
would have stored comes from a watch on the same run: the weights are the same, differences are paired.
"""

import argparse
import io
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

import truenorm as tn
from truenorm.files import write_whole
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed, Scale
from truenorm.lab.images.sets import ImageSet, load
from truenorm.lab.networks.plain import mlp
from truenorm.lab.study.training import Recipe, predict, train
from truenorm.metrics.classification import scores
from truenorm.metrics.intervals import mean_interval, paired
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table

RATES = {2: 0.005, 4: 0.01, 8: 0.02, 16: 0.03, 32: 0.045, 64: 0.06}
"""Learning rate by batch size; not tuned."""
WIDTHS = (128,) * 6
EPOCHS = 6
LIMIT = 6000
ARMS = {"torch": "torch's rule", "ours": "ours"}


def trial(data: str, images: ImageSet, batch: int, seed: int) -> Iterator[Measurement]:
    """Train, then ask each way of storing for its variances and its accuracy."""
    name = trial_name(data, batch, seed)
    scale = Scale.of(images.train.images)
    feed = Feed(images.train, scale, batch, drop_single=True)
    torch.manual_seed(seed)
    network = mlp((1, 28, 28), 10, norm_layer=tn.nn.BatchNorm1d, widths=WIDTHS)
    recipe = Recipe(epochs=EPOCHS, lr=RATES[batch], optimizer="sgd", schedule="cosine", weight_decay=1e-4, seed=seed)
    with tn.watch(network, [tn.rules.Static((0.1,))]) as watched:
        train(network, feed, recipe)
    population = tn.measure(network, feed)
    stored = {"torch": watched["static-0.1"], "ours": tn.statistics(network), "pass": population}
    for arm, found in stored.items():
        with tn.using(network, found):
            logits = predict(network, Feed(images.test, scale, EVALUATION_BATCH))
        yield Measurement(name, arm, None, "accuracy", scores(logits, images.test.labels).accuracy, None, len(logits))
        for layer, moments in found.items():
            live = population[layer].var > 100 * 1e-5
            ratio = (moments.var.double() / population[layer].var)[live].median().item()
            yield Measurement(name, arm, layer, "stored/population variance", ratio, None, int(live.sum()))


def trial_name(data: str, batch: int, seed: int) -> str:
    return f"{data}-batch-{batch}-seed-{seed}"


def tables(record: Record) -> tuple[Table, ...]:
    """Variances and accuracies, from the record alone."""
    found = {(row.trial, row.arm, row.layer, row.metric): row.value for row in record.rows}
    layers = list(dict.fromkeys(row.layer for row in record.rows if row.layer))
    seeds = range(record.configuration["seeds"])
    made: list[Table] = []
    for data in record.configuration["data"]:

        def values(arm: str, batch: int, layer: str | None, metric: str, data: str = data) -> list[float]:
            return [found[trial_name(data, batch, seed), arm, layer, metric] for seed in seeds]

        rows = [
            (
                f"{batch}, {ARMS[arm]}",
                f"{batch / (batch - 1):.3f}",
                *(
                    f"{statistics.geometric_mean(values(arm, batch, layer, 'stored/population variance')):.2f}"
                    for layer in layers
                ),
            )
            for batch in record.configuration["batches"]
            for arm in ARMS
        ]
        columns = ("batch size", "n/(n−1)", *(f"behind {depth}" for depth in range(len(layers))))
        note = (
            "Median over channels, geometric mean over seeds; population: pooled moments of a pass at the batch size."
        )
        made.append(
            Table(title=f"{data}: stored / population variance", columns=columns, rows=tuple(rows), notes=(note,))
        )
        rows = []
        for batch in record.configuration["batches"]:
            torchs, ours, best = (
                [100 * value for value in values(arm, batch, None, "accuracy")] for arm in ("torch", "ours", "pass")
            )
            difference = paired(ours, torchs)
            cells = [mean_interval(torchs), mean_interval(ours), difference, paired(best, ours)]
            signs = ("", "", "+", "+")
            rows.append(
                (
                    str(batch),
                    *(
                        f"{cell.mean:{sign}.2f} ± {cell.half_width:.2f}"
                        for cell, sign in zip(cells, signs, strict=True)
                    ),
                )
            )
        columns = ("batch size", "torch's rule %", "ours %", "ours − torch's", "a pass − ours")
        note = f"{len(seeds)} seeds, ± 95 %, differences in points on the same weights; rates not tuned."
        made.append(Table(title=f"{data}: accuracy on test images", columns=columns, rows=tuple(rows), notes=(note,)))
    return tuple(made)


def printed(record: Record) -> str:
    """The tables as text."""
    output = Console(file=io.StringIO(), width=120, highlight=False)
    for table in tables(record):
        output.print(table)
    return output.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion_mnist"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(RATES), choices=list(RATES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=LIMIT, help="training images")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Measurement] = []
    trials: dict[str, dict[str, object]] = {}
    for data in options.data:
        images = load(data, None, limit=options.limit)
        for batch in options.batches:
            for seed in range(options.seeds):
                rows += trial(data, images, batch, seed)
                trials[trial_name(data, batch, seed)] = {"data": data, "batch": batch, "seed": seed}
                print(trial_name(data, batch, seed), file=sys.stderr, flush=True)
    record = Record(
        command=shlex.join(["python", *sys.argv]),
        rows=tuple(rows),
        configuration={
            "data": options.data,
            "batches": options.batches,
            "seeds": options.seeds,
            "limit": options.limit,
            "widths": list(WIDTHS),
            "epochs": EPOCHS,
            "lr": {str(batch): rate for batch, rate in RATES.items()},
        },
        trials=trials,
        versions=installed_versions("truenorm", "torch", "numpy"),
        machine=this_machine() | {"threads": 1},
    )
    record.save(options.out / "record.json")
    write_whole(options.out / "table.txt", printed(record).encode())
    print(printed(record), end="")


if __name__ == "__main__":
    main()
