"""Claims measured: images, rates, trials, one record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path

import torch

from truenorm.errors import Diverged, InvalidInput, InvalidRecord, NotFinite, extra
from truenorm.files import ensure_writable
from truenorm.lab.claims.bench import Bench
from truenorm.lab.claims.claim import Cell, Claim
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.trial import Trial
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.lab.study.bench import pixels_digest
from truenorm.lab.study.configuration import digest
from truenorm.lab.study.grid import Keeper, Progress, Work, alongside
from truenorm.lab.study.store import Store
from truenorm.record import Record, installed_versions, this_machine

TUNING_SEEDS = (1000, 1001)
"""Rates are chosen with seeds of their own: what is reported had no part in the choice. When quick, with the first."""


def run_claims(
    config: ClaimsConfig,
    claims: Sequence[Claim],
    *,
    family: int,
    command: str,
    out: Path,
    processes: int = 1,
    progress: Progress = lambda what, done, total: None,
    resumed: Callable[[int, int], None] = lambda finished, total: None,
) -> Record:
    """Do all that the claims need, and write `record.json` in `out`, now and then and at the end.

    Finished trials lie in `out/trials`: the same command goes on from there.

    Args:
        config: on what, and how much.
        claims: which.
        family: how many comparisons the whole catalogue makes, for the verdicts.
        command: the line that does it again, for the record.
        out: the folder of the record; a record that is there is replaced when the first trial has ended.
        processes: that share the trials; more than one for claims of the catalogue only, which they know by name.
        progress: called as work goes on.
        resumed: called once, where trials were finished before, with how many of how many.

    Raises:
        TruenormError: what was asked for cannot be done; said before anything is trained.
    """
    with extra("lab"):  # what the end needs is missed at the beginning
        import_module("sklearn.metrics")
    ensure_writable(out)
    images = load(
        config.data,
        config.data_root,
        limit=config.limit,
        test_limit=config.test_limit,
        progress=lambda done, total: progress(f"reading {config.data}", done, total),
    )
    if not len(images.validation):
        raise InvalidInput(f"{config.data} has no images to choose rates by; claims need some")
    bench = Bench(images, Scale.of(images.train.images), config.quick)
    plan = _Plan(config, claims, bench, Store(out / "trials"))
    empty = Record(
        command=command,
        configuration=asdict(config)
        | {"claims": [claim.name for claim in claims], "family": family, "images": images.summary()},
        versions=installed_versions("truenorm", "torch", "numpy", "scikit-learn", "datasets"),
        machine=this_machine() | {"threads": 1},
        notes=images.notes,
        complete=False,
    )
    work = Work(plan.store, plan.steps, progress)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks are fastest so, and sums do not depend on the number of cores
    try:
        finished = work.finished(plan.tuning) + work.finished(plan.final())
        if finished:
            resumed(finished, plan.trials)
        names = [claim.name for claim in claims]
        with alongside(min(processes, plan.trials - finished) - 1, _share, config, names, family, command, out):
            work.do(plan.tuning)
            final = plan.final()
            keeper = Keeper(out / "record.json", lambda: plan.joined(empty, final), plan.store)
            try:
                work.do(final, keeper.ended)
            except BaseException:  # Ctrl-C, too
                keeper.save_what_ended()
                raise
            return keeper.save()
    finally:
        torch.set_num_threads(before)


def _share(config: ClaimsConfig, names: Sequence[str], family: int, command: str, out: Path) -> None:
    """What another process does: the same."""
    from truenorm.lab.claims.catalogue import named

    run_claims(config, named(names), family=family, command=command, out=out)


@dataclass(frozen=True, slots=True)
class _ClaimJob:
    """A trial of a claim on the bench."""

    trial: Trial
    claim: Claim
    cell: Cell
    bench: Bench
    bench_digest: str

    def __str__(self) -> str:
        return str(self.trial)

    @property
    def name(self) -> str:
        return f"{self.trial.id}-{self.bench_digest}"

    @property
    def steps(self) -> int:
        return self.cell.steps

    def do(self, store: Store, on_step: Callable[[], None]) -> Record:
        trial = self.trial
        with torch.random.fork_rng([]):
            torch.manual_seed(trial.seed)
            try:
                rows = tuple(self.claim.run(trial, self.bench, on_step))
            except (Diverged, NotFinite, InvalidRecord) as error:
                why = str(error).partition(";")[0]
                return Record(
                    command="", trials={trial.id: trial.to_dict() | {"diverged": why}}, machine=this_machine()
                )
        return Record(command="", rows=rows, trials={trial.id: trial.to_dict()}, machine=this_machine())


class _Plan:
    """What is done for the claims, and what rates come of the first half of it."""

    def __init__(self, config: ClaimsConfig, claims: Sequence[Claim], bench: Bench, store: Store) -> None:
        self.store = store
        self._config, self._bench = config, bench
        self._tuning_seeds = TUNING_SEEDS[:1] if config.quick else TUNING_SEEDS
        self._digest = digest([pixels_digest(bench.images), installed_versions("truenorm", "torch")])
        self._cells = [(claim, cell) for claim in claims for cell in claim.cells(bench)]
        self.tuning = [
            self._job(claim, cell, seed=seed, lr=lr, tuning=True)
            for claim, cell in self._cells
            if len(cell.lrs) > 1
            for seed in self._tuning_seeds
            for lr in cell.lrs
        ]

    @property
    def trials(self) -> int:
        """How many there are in all; as long as rates are being chosen, as if there were one for each cell."""
        chosen = all(self.store.finished(job.name) is not None for job in self.tuning)
        cells = len(self._rates()) if chosen else len(self._cells)
        return len(self.tuning) + cells * self._config.num_seeds

    @property
    def steps(self) -> int:
        """In all."""
        final = sum(cell.steps for _, cell in self._cells) * self._config.num_seeds
        return sum(job.steps for job in self.tuning) + final

    def final(self) -> list[_ClaimJob]:
        """What is reported, once the rates are chosen, claim by claim and seed by seed: half of it can be compared."""
        rates = self._rates()
        return [
            self._job(claim, cell, seed=seed, lr=rates[claim.name, self._key(cell)])
            for own in self._by_claim()
            for seed in range(self._config.num_seeds)
            for claim, cell in own
            if (claim.name, self._key(cell)) in rates
        ]

    def joined(self, empty: Record, final: Sequence[_ClaimJob]) -> Record:
        """One record of what is finished, in the order of the plan; of the tuning only what was chosen."""
        found = [record for job in final if (record := self.store.finished(job.name)) is not None]
        return replace(
            empty,
            rows=tuple(row for record in found for row in record.rows),
            trials={name: trial for record in found for name, trial in record.trials.items()},
            notes=(*empty.notes, *self._edges()),
            complete=len(found) == len(final),
        )

    def _job(self, claim: Claim, cell: Cell, *, seed: int, lr: float | None, tuning: bool = False) -> _ClaimJob:
        trial = Trial(
            claim=claim.name,
            arm=cell.arm,
            seed=seed,
            where=cell.where,
            lr=lr,
            tuning=tuning,
            shared={"data": self._config.data, "quick": self._config.quick},
        )
        return _ClaimJob(trial, claim, cell, self._bench, self._digest)

    def _by_claim(self) -> list[list[tuple[Claim, Cell]]]:
        return [list(own) for _, own in groupby(self._cells, key=lambda each: each[0].name)]

    def _key(self, cell: Cell) -> str:
        return digest([cell.arm, dict(cell.where)])

    def _rates(self) -> dict[tuple[str, str], float | None]:
        """The rate of each cell: the only one, or the best on validation images of the worst of the tuning seeds.

        A cell that diverged at every rate has none, and is left out.
        """
        rates: dict[tuple[str, str], float | None] = {}
        for claim, cell in self._cells:
            key = claim.name, self._key(cell)
            if len(cell.lrs) <= 1:
                rates[key] = cell.lrs[0] if cell.lrs else None
            elif scores := self._scores(claim, cell):
                rates[key] = max(scores, key=lambda lr: scores[lr])
        return rates

    def _scores(self, claim: Claim, cell: Cell) -> dict[float, float]:
        """Rate → the worst tuning seed's score on validation images, of those at which none diverged.

        The worst, since a rate at which one seed in a few fails is no good one.
        """
        found: dict[float, float] = {}
        for lr in cell.lrs:
            jobs = [self._job(claim, cell, seed=seed, lr=lr, tuning=True) for seed in self._tuning_seeds]
            records = [self.store.finished(job.name) for job in jobs]
            values = [row.value for record in records if record for row in record.rows]
            if len(values) == len(jobs):
                found[lr] = min(values)
        return found

    def _edges(self) -> list[str]:
        """What has no rate, or the first or last of those that were tried: a wider grid might have a better one."""
        rates = self._rates()
        edges: Mapping[str, list[str]] = {claim.name: [] for claim, _ in self._cells}
        for claim, cell in self._cells:
            if len(cell.lrs) > 1 and rates.get((claim.name, self._key(cell))) in (min(cell.lrs), max(cell.lrs)):
                edges[claim.name].append(_place(cell))
        lost = [(claim, cell) for claim, cell in self._cells if (claim.name, self._key(cell)) not in rates]
        return [
            *(f"{claim.name}: {_place(cell)} came to no number at any rate, and is left out" for claim, cell in lost),
            *(
                f"{name}: best rate at the edge of those tried, a better one may lie beyond: {'; '.join(places)}"
                for name, places in edges.items()
                if places
            ),
        ]


def _place(cell: Cell) -> str:
    """As a note has it: `bn (mlp, batch size 4)`."""
    where = [value if isinstance(value, str) else f"{name} {value}" for name, value in cell.where.items()]
    return f"{cell.arm} ({', '.join(where)})".replace("_", " ") if where else cell.arm
