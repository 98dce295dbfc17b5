"""How often the rule of `truenorm claims` is wrong, and what it finds, on numbers whose truth is known.

Catalogues as large as the real one are drawn, all of whose comparisons have one planted effect, in units of the
standard deviation between seeds; the margin is one of these. The rule itself judges them, from records like any other.
"""

import argparse
import io
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from truenorm.files import write_whole
from truenorm.lab.claims.catalogue import CLAIMS, FAMILY
from truenorm.lab.claims.claim import Claim, Part
from truenorm.lab.claims.measured import measured_claims
from truenorm.lab.claims.verdict import verdicts
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table

EFFECTS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
MARGIN = 1.0
SEEDS = (5, 10)
NOISE = {
    "normal": lambda draw, size: draw.normal(size=size),
    "heavy tails": lambda draw, size: draw.standard_t(3, size=size) / np.sqrt(3),
    "skewed": lambda draw, size: draw.exponential(size=size) - 1,
}
"""Name → numbers of mean 0 and standard deviation 1."""


def catalogue() -> list[Claim]:
    """As many claims of one comparison as the real catalogue has comparisons."""
    return [
        replace(CLAIMS[0], name=f"claim-{number}", number=number, parts=(part,), primary=part.name)
        for number in range(FAMILY)
        for part in [
            Part(
                name="it",
                says="a planted effect",
                effect=lambda evidence: evidence.by_seed("effect", "bn"),
                margin=MARGIN,
                unit="plain",
            )
        ]
    ]


def drawn(claims: list[Claim], values: np.ndarray) -> Record:
    """A record of claims by seeds."""
    rows: list[Measurement] = []
    trials: dict[str, dict[str, object]] = {}
    for claim, found in zip(claims, values, strict=True):
        for seed, value in enumerate(found):
            name = f"{claim.name}-{seed}"
            trials[name] = {"claim": claim.name, "arm": "bn", "seed": seed, "where": {}, "lr": None}
            rows.append(Measurement(name, "bn", None, "effect", float(value)))
    configuration = {"claims": [claim.name for claim in claims], "family": len(claims), "images": {"test": 1000}}
    return Record(command="", rows=tuple(rows), trials=trials, configuration=configuration)


def measured(seeds: int, noise: str, effect: float, catalogues: int) -> list[Measurement]:
    """How its claims were ruled, and how many catalogues have a ruling that is false."""
    claims, draw = catalogue(), np.random.default_rng(0)
    name = trial_name(seeds, noise, effect)
    counted = dict.fromkeys(("holds", "does not hold", "cannot tell"), 0)
    wrong = 0
    for _ in range(catalogues):
        values = effect + NOISE[noise](draw, (len(claims), seeds))
        record = drawn(claims, values)
        rulings = [verdict.ruling for verdict in verdicts(record, measured_claims(record, claims))]
        for ruling in rulings:
            counted[ruling] += 1
        wrong += ("holds" in rulings and effect <= 0) or ("does not hold" in rulings and effect >= MARGIN)
    total = catalogues * len(claims)
    rows = [Measurement(name, "rule", None, ruling, number / total, None, total) for ruling, number in counted.items()]
    return [*rows, Measurement(name, "rule", None, "false", wrong / catalogues, None, catalogues)]


def trial_name(seeds: int, noise: str, effect: float) -> str:
    return f"{noise}, {seeds} seeds, effect {effect:g}"


def tables(record: Record) -> tuple[Table, ...]:
    """A table for each number of seeds and kind of noise, from the record alone."""
    found = {(row.trial, row.metric): row.value for row in record.rows}
    columns = ("holds", "does not hold", "cannot tell")
    return tuple(
        Table(
            title=f"{seeds} seeds, {noise} noise, {record.configuration['family']} comparisons, margin 1",
            columns=("planted effect", *columns, "catalogues with a false ruling"),
            rows=tuple(
                (
                    f"{effect:g}",
                    *(f"{found[name, ruling]:.1%}" for ruling in columns),
                    f"{found[name, 'false']:.1%}" if effect <= 0 or effect >= MARGIN else "",
                )
                for effect in record.configuration["effects"]
                for name in [trial_name(seeds, noise, effect)]
            ),
        )
        for seeds in record.configuration["seeds"]
        for noise in record.configuration["noise"]
    )


def printed(record: Record) -> str:
    """The tables as text."""
    output = Console(file=(text := io.StringIO()), width=120, highlight=False)
    for table in tables(record):
        output.print(table)
    output.print(
        "Effects in standard deviations between seeds. A ruling is false if nothing was planted and it holds, or if an "
        "effect of the margin or more was planted and it does not. "
        f"{record.configuration['catalogues']:,} catalogues each."
    )
    return text.getvalue()


def main() -> None:
    """Draw, judge, and write the record and its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalogues", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[Measurement] = []
    trials: dict[str, dict[str, object]] = {}
    for seeds in SEEDS:
        for noise in NOISE:
            for effect in EFFECTS:
                name = trial_name(seeds, noise, effect)
                trials[name] = {"seeds": seeds, "noise": noise, "effect": effect}
                rows += measured(seeds, noise, effect, options.catalogues)
                print(name, file=sys.stderr, flush=True)
    record = Record(
        command=shlex.join(["python", *sys.argv]),
        rows=tuple(rows),
        configuration={
            "seeds": list(SEEDS),
            "noise": list(NOISE),
            "effects": list(EFFECTS),
            "family": FAMILY,
            "catalogues": options.catalogues,
        },
        trials=trials,
        versions=installed_versions("truenorm", "numpy", "scipy"),
        machine=this_machine(),
    )
    record.save(options.out / "record.json")
    write_whole(options.out / "table.txt", printed(record).encode())
    print(printed(record), end="")


if __name__ == "__main__":
    main()
