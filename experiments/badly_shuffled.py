"""What layers that choose their momentum are worth where batches come badly shuffled, beside fixed momenta and a pass.

One training for each order and seed, watched, with layers of `tracking="dynamic"`: the weights are the same for all
ways of having statistics, differences are paired. Orders: shuffled; images in the order of their classes through a
shuffle buffer, as of a stream of files; shuffled, but the last epoch in the order of classes.
"""

import argparse
import io
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

import truenorm as tn
from truenorm.files import write_whole
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed, Scale
from truenorm.lab.images.sets import ImageSet, load
from truenorm.lab.networks.norms import choose_momenta
from truenorm.lab.networks.plain import cnn, mlp
from truenorm.lab.study.training import predict, rate_factor
from truenorm.metrics.classification import scores
from truenorm.metrics.intervals import mean_interval, paired
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table

BATCH, EPOCHS, LIMIT, RATE = 64, 6, 6000, 0.02
BUFFER = 1000
"""Images from which the next one is drawn, where they come in the order of their classes."""

ORDERS = ("shuffled", "shuffle buffer", "sorted last epoch")
FIXED = ("static-0.1", "static-0.01", "pooled-0.1", "pooled-0.01")
ARMS = (*FIXED, "dynamic", "pass")
NETWORKS = {"mlp": lambda shape: mlp(shape, 10, widths=(128, 64)), "cnn": lambda shape: cnn(shape, 10)}


def order_of(labels: Tensor, order: str, epoch: int, generator: torch.Generator) -> Tensor:
    """The images of an epoch, by number, as they come."""
    if order == "shuffled" or (order == "sorted last epoch" and epoch < EPOCHS - 1):
        return torch.randperm(len(labels), generator=generator)
    by_class = labels.argsort(stable=True).tolist()
    if order == "sorted last epoch":
        return torch.tensor(by_class)
    buffer, found = by_class[:BUFFER], []
    for number in [*by_class[BUFFER:], *[None] * len(buffer)]:
        place = int(torch.randint(len(buffer), (), generator=generator))
        found.append(buffer[place])
        if number is None:
            buffer.pop(place)
        else:
            buffer[place] = number
    return torch.tensor(found)


def trial(network_name: str, order: str, images: ImageSet, seed: int) -> Iterator[Measurement]:
    """Train in this order, then ask each way of having statistics for its accuracy."""
    name = trial_name(network_name, order, seed)
    scale = Scale.of(images.train.images)
    feed = Feed(images.train, scale, BATCH, drop_single=True)
    torch.manual_seed(seed)
    network = NETWORKS[network_name](tuple(images.train.images.shape[1:]))
    choose_momenta(network)
    optimizer = SGD(network.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor("cosine", EPOCHS * len(feed)))
    generator = torch.Generator().manual_seed(seed)
    with tn.watch(network, [tn.rules.Static((0.1, 0.01)), tn.rules.Pooled((0.1, 0.01))]) as watched:
        for epoch in range(EPOCHS):
            for x, y in feed.in_order(order_of(images.train.labels, order, epoch, generator)):
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
                schedule.step()
    found = {arm: watched[arm] for arm in FIXED} | {"dynamic": tn.statistics(network)}
    for layer, momentum in found["dynamic"].momenta.items():
        yield Measurement(name, "dynamic", layer, "momentum", momentum)
    generator.manual_seed(seed)
    shuffled = list(feed.in_order(torch.randperm(len(images.train), generator=generator)))
    found["pass"] = tn.measure(network, shuffled)
    for arm, statistics in found.items():
        with tn.using(network, statistics):
            logits = predict(network, Feed(images.test, scale, EVALUATION_BATCH))
        yield Measurement(name, arm, None, "accuracy", scores(logits, images.test.labels).accuracy, None, len(logits))


def trial_name(network: str, order: str, seed: int) -> str:
    return f"{network}, {order}, seed {seed}"


def table(record: Record) -> Table:
    """Accuracies and paired differences, from the record alone."""
    found = {(row.trial, row.arm): 100 * row.value for row in record.rows if row.metric == "accuracy"}
    seeds = range(record.configuration["seeds"])
    rows: list[tuple[str, ...]] = []
    for network in record.configuration["networks"]:
        for order in record.configuration["orders"]:
            values = {arm: [found[trial_name(network, order, seed), arm] for seed in seeds] for arm in ARMS}
            usual = mean_interval(values["static-0.1"])
            others = [paired(values[arm], values["static-0.1"]) for arm in ARMS[1:]]
            cells = (f"{other.mean:+.2f} ± {other.half_width:.2f}" for other in others)
            rows.append((network, order, f"{usual.mean:.2f} ± {usual.half_width:.2f}", *cells))
    return Table(
        title=f"{record.configuration['data']}: accuracy on test images %, and differences to static-0.1 in points",
        columns=("network", "order of batches", *ARMS),
        rows=tuple(rows),
        notes=(f"{len(seeds)} seeds, ± 95 %, paired: each row has the same weights. The pass: shuffled images.",),
    )


def printed(record: Record) -> str:
    """The table as text."""
    output = Console(file=io.StringIO(), width=140, highlight=False)
    output.print(table(record))
    return output.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=5, help="two or more: differences have intervals")
    parser.add_argument("--limit", type=int, default=LIMIT, help="training images")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load(options.data, None, limit=options.limit)
    rows: list[Measurement] = []
    trials: dict[str, dict[str, object]] = {}
    for network in NETWORKS:
        for order in ORDERS:
            for seed in range(options.seeds):
                rows += trial(network, order, images, seed)
                trials[trial_name(network, order, seed)] = {"network": network, "order": order, "seed": seed}
                print(trial_name(network, order, seed), file=sys.stderr, flush=True)
    record = Record(
        command=shlex.join(["python", *sys.argv]),
        rows=tuple(rows),
        configuration={
            "data": options.data,
            "networks": list(NETWORKS),
            "orders": list(ORDERS),
            "seeds": options.seeds,
            "limit": options.limit,
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "lr": RATE,
            "buffer": BUFFER,
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
