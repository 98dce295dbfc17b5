"""Claims measured: images, rates, trials, one record."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from truenorm.errors import Diverged, InvalidInput, InvalidRecord, NotFinite, extra
from truenorm.files import ensure_writable
from truenorm.lab.claims.catalogue import FAMILY, named
from truenorm.lab.claims.claim import Cell, Claim
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.measured import with_catalogue
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.lab.jobs.job import Condition, OnStep
from truenorm.lab.jobs.plan import Plan, Rates
from truenorm.lab.jobs.processes import alongside, torch_threads
from truenorm.lab.jobs.runner import Progress, Resumed, run
from truenorm.lab.jobs.store import RunningTrial, Store
from truenorm.record import Measurement, Record, installed_versions, this_machine

TUNING_SEEDS = (1000, 1001)
"""Rates are chosen with seeds of their own: what is reported had no part in the choice. When quick, with the first."""


def run_claims(
    config: ClaimsConfig,
    claims: Sequence[Claim],
    *,
    command: str,
    out: Path,
    family: int = FAMILY,
    processes: int = 1,
    progress: Progress = lambda what, done, total: None,
    resumed: Resumed = lambda finished, total: None,
) -> Record:
    """Do all that the claims need, and write `record.json` in `out`, now and then and at the end.

    Finished trials lie in `out/trials`: the same command continues from there.

    Args:
        config: on what, and how much.
        claims: which.
        command: the line that does it again, for the record.
        out: the folder of the record; a record that is there is replaced when the first trial has ended.
        family: how many comparisons are tested together; those of the catalogue, unless the claims are not of it.
        processes: that share the trials; more than one for claims of the catalogue only, which they know by name.
        progress: called as work goes on.
        resumed: called once if trials were finished before, with how many of how many.

    Raises:
        TruenormError: the configuration cannot be run; raised before anything is trained.
    """
    with extra("lab"):  # needed at the end: an error now rather than then
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
    context = ClaimsContext(images, Scale.of(images.train.images), config.quick)
    names = [claim.name for claim in claims]
    empty = Record(
        command=command,
        configuration=asdict(config) | {"claims": names, "family": family, "images": images.summary()},
        versions=installed_versions("truenorm", "torch", "numpy", "scikit-learn", "datasets"),
        machine=this_machine() | {"threads": 1},
        notes=images.notes,
        complete=False,
    )
    with torch_threads(1):  # small networks are fastest so, and sums do not depend on the number of cores
        return run(
            _plan(config, claims, context),
            Store(out / "trials"),
            empty,
            helpers=lambda unfinished: alongside(min(processes, unfinished) - 1, _share, config, names, command, out),
            progress=progress,
            resumed=resumed,
        )


def _share(config: ClaimsConfig, names: Sequence[str], command: str, out: Path) -> None:
    """The same in another process."""
    run_claims(config, named(names), command=command, out=out)


def _plan(config: ClaimsConfig, claims: Sequence[Claim], context: ClaimsContext) -> Plan:
    """Each claim is a block, each of its cells a condition."""
    context_digest, machine = context.digest, this_machine()
    shared = {"data": config.data, "quick": config.quick}
    cells = {
        Condition(
            trial=partial(ClaimTrial, claim=claim.name, arm=cell.arm, where=cell.where, shared=shared),
            lrs=cell.lrs or (None,),
            context=context_digest,
            steps=cell.steps,
            measure=partial(_measure, claim, context),
            machine=machine,
        ): (claim, cell)
        for claim in claims
        for cell in claim.cells(context)
    }

    def describe(record: Record, rates: Rates) -> Record:
        return with_catalogue(replace(record, notes=(*record.notes, *_edges(cells, rates))), claims)

    return Plan(
        blocks=[[condition for condition, (of, _) in cells.items() if of is claim] for claim in claims],
        seeds=config.num_seeds,
        tuning_seeds=TUNING_SEEDS[:1] if config.quick else TUNING_SEEDS,
        describe=describe,
    )


def _measure(
    claim: Claim, context: ClaimsContext, trial: ClaimTrial, running: RunningTrial, on_step: OnStep
) -> Iterable[Measurement]:
    """The rows of a trial, with random numbers of its seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(trial.seed)
        try:
            return tuple(claim.run(trial, context, on_step))
        except (Diverged, NotFinite, InvalidRecord) as error:
            raise Diverged(str(error).partition(";")[0]) from error


def _edges(cells: Mapping[Condition[ClaimTrial], tuple[Claim, Cell]], rates: Rates) -> list[str]:
    """Notes: which cells have no rate, and which have the first or last that was tried: a better one may lie beyond."""
    lost = [cell for condition, cell in cells.items() if condition not in rates]
    edges: dict[str, list[str]] = {}
    for condition, (claim, cell) in cells.items():
        if condition.tuned and rates.get(condition) in (min(cell.lrs), max(cell.lrs)):
            edges.setdefault(claim.name, []).append(_place(cell))
    return [
        *(f"{claim.name}: {_place(cell)} came to no number at any rate, and is left out" for claim, cell in lost),
        *(
            f"{name}: best rate at the edge of those tried, a better one may lie beyond: {'; '.join(places)}"
            for name, places in edges.items()
        ),
    ]


def _place(cell: Cell) -> str:
    """As a note has it: `bn (mlp, batch size 4)`."""
    where = [value if isinstance(value, str) else f"{name} {value}" for name, value in cell.where.items()]
    return f"{cell.arm} ({', '.join(where)})".replace("_", " ") if where else cell.arm
