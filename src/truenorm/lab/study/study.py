"""The whole study: images, rates, trials, one record."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from truenorm.errors import Diverged, extra
from truenorm.files import ensure_writable
from truenorm.lab.images.sets import ImageSet
from truenorm.lab.networks.kinds import Norm
from truenorm.lab.networks.norms import batch_free_norm
from truenorm.lab.study.arms import resolve, sweep
from truenorm.lab.study.bench import Bench, machine_of, open_bench, open_device, open_images, tried
from truenorm.lab.study.configuration import Setting, StudyConfig, Trial, trials
from truenorm.lab.study.grid import Keeper, Progress, Work
from truenorm.lab.study.job import TrialJob
from truenorm.lab.study.store import Store
from truenorm.metrics.classification import is_balanced
from truenorm.record import Measurement, Record, installed_versions


def run_study(
    config: StudyConfig,
    *,
    command: str,
    out: Path,
    progress: Progress = lambda what, done, total: None,
    resumed: Callable[[int, int], None] = lambda finished, total: None,
) -> Record:
    """Train, measure, and write `record.json` in `out`, now and then and at the end.

    Every trial that is finished lies in `out/trials`, known by what it depends on: the same study again goes on
    from there, in as many processes at once as one likes. A trial that diverges is marked, and the others go on.

    Args:
        config: what to do.
        command: the line that does it again, for the record.
        out: the folder of the record; a record that is there is replaced when the first trial has ended.
        progress: called as work goes on.
        resumed: called once, where trials were finished before, with how many of how many.

    Returns:
        the complete record.

    Raises:
        TruenormError: what was asked for cannot be done; said before anything is trained where it can be.
        Diverged: every training diverged.
    """
    with extra("lab"):  # what the end of the study needs is missed at its beginning
        import_module("sklearn.metrics")
    arms, networks = resolve(config.arms, config.momenta)
    batch_free_norm(config.bfn or "layer")
    device = open_device(config.device)
    ensure_writable(out)
    store = Store(out / "trials")
    norms: tuple[Norm, ...] = ("bn", *networks)
    images = {name: open_images(config, name, progress) for name in config.data}
    benches = {
        (data, network): open_bench(config, network, images[data], arms, device)
        for data in config.data
        for network in config.networks
    }
    notes = dict.fromkeys(_notes(config, images, benches, norms))  # each once
    plan = _Plan(config, norms, benches, store)
    work = Work(store, plan.steps, progress)
    empty = Record(
        command=command,
        configuration=asdict(config)
        | {"momenta": sweep(config.momenta), "images": {name: _summary(found) for name, found in images.items()}}
        | {"arms": [arm.name for arm in arms] + list(networks)},
        versions=installed_versions("truenorm", "torch", "numpy", "scikit-learn", "datasets"),
        machine=machine_of(device) | {"device": str(device), "threads": config.threads},
        notes=tuple(notes),
        complete=False,
    )
    with _threads(config.threads):
        finished = work.finished(plan.tuning)
        work.do(plan.tuning)
        final = plan.final()
        if finished := finished + work.finished(final):
            resumed(finished, len(plan.tuning) + len(final))

        jobs = [*plan.tuning, *final]
        keeper = Keeper(out / "record.json", lambda: _joined(empty, jobs, store), store)
        try:
            work.do(final, keeper.ended)
        except BaseException:  # Ctrl-C, too
            keeper.save_what_ended()
            raise
    record = keeper.save()
    if not any(row.metric == "accuracy" for row in record.rows):
        first = next(trial for trial in record.trials.values() if "diverged" in trial)
        raise Diverged(f"every training diverged; the first was {_diverged(first)}")
    return record


def _joined(empty: Record, jobs: list[TrialJob], store: Store) -> Record:
    """One record of the jobs that are finished, in the order of the plan, whichever ended first."""
    found = [record for job in jobs if (record := store.finished(job.name)) is not None]
    machines = {str(sorted(record.machine.items())) for record in found}
    joined = replace(
        empty,
        rows=tuple(row for record in found for row in record.rows),
        trials={name: trial for record in found for name, trial in record.trials.items()},
        complete=len(found) == len(jobs),
    )
    several = (f"run on {len(machines)} different machines",) if len(machines) > 1 else ()
    # Of the trials themselves a report says it where it shows their setting.
    tuning = (_diverged(trial) for trial in joined.trials.values() if "tuning" in trial and "diverged" in trial)
    return replace(joined, notes=(*empty.notes, *tuning, *several))


def _diverged(trial: Mapping[str, Any]) -> str:
    where = f"{trial['data']}, {trial['network']}, batch {trial['batch_size']}, {trial['schedule']} rate"
    what = "trying rates" if "tuning" in trial else f"seed {trial['seed']}"
    return f"{trial['norm']}, {what} ({where}): {trial['diverged']}"


def _notes(
    config: StudyConfig, images: dict[str, ImageSet], benches: dict[tuple[str, str], Bench], norms: tuple[Norm, ...]
) -> Iterator[str]:
    if config.augment:
        kinds = ", ".join(config.augment)
        yield f"training images were varied ({kinds}); populations and tests are of images as they are"
    for name, found in images.items():
        of = f"{name}: " if len(images) > 1 else ""
        yield from (f"{of}{note}" for note in (*found.notes, *_absent(found)))
    for setting in config.settings:
        yield from tried(setting, benches[setting.data, setting.network], norms)


def _summary(images: ImageSet) -> dict[str, object]:
    summary = images.summary() | {"balanced": is_balanced(images.test.labels)}
    del summary["name"]
    return summary


def _absent(images: ImageSet) -> tuple[str, ...]:
    """Classes that no test image has: means over classes leave them out."""
    seen = set(images.test.labels.unique().tolist())
    names = [name for label, name in enumerate(images.classes) if label not in seen]
    return (f"classes without a test image, left out of means over classes: {', '.join(names)}",) if names else ()


@contextmanager
def _threads(num: int) -> Generator[None]:
    """So many threads in torch for a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Plan:
    """The study's jobs."""

    def __init__(
        self, config: StudyConfig, norms: tuple[Norm, ...], benches: dict[tuple[str, str], Bench], store: Store
    ) -> None:
        self._config, self._norms, self._store, self._benches = config, norms, store, benches
        self._digests = {key: bench.digest for key, bench in benches.items()}
        self.tuning = [
            self._job(Trial(norm=norm, lr=rate, seed=0, setting=setting, tuning=True))
            for setting in config.settings
            for norm in norms
            for rate in (setting.lr if len(setting.lr) > 1 else ())
        ]

    @property
    def steps(self) -> int:
        """Of all trainings together."""
        trained = (self._job(Trial(norm="bn", lr=1.0, seed=0, setting=setting)) for setting in self._config.settings)
        final = sum(job.steps for job in trained) * len(self._norms) * self._config.seeds
        return sum(job.steps for job in self.tuning) + final

    def final(self) -> list[TrialJob]:
        """Those that are reported, once those that choose rates are done."""
        rates = self._rates()
        return [
            self._job(trial)
            for setting in self._config.settings
            for trial in trials(setting, self._norms, rates[setting])
        ]

    def _job(self, trial: Trial) -> TrialJob:
        key = trial.setting.data, trial.setting.network
        return TrialJob(trial, self._benches[key], self._digests[key])

    def _rates(self) -> dict[Setting, dict[Norm, float]]:
        """In each setting, each network's best of the candidate rates on validation images, with the first seed.

        A network that diverged at every rate has none.
        """
        rates: dict[Setting, dict[Norm, float]] = {
            setting: dict.fromkeys(self._norms, setting.lr[0]) if len(setting.lr) == 1 else {}
            for setting in self._config.settings
        }
        best: dict[tuple[Setting, Norm], Measurement] = {}
        for job in self.tuning:
            record = self._store.finished(job.name)
            key = job.trial.setting, job.trial.norm
            for row in record.rows if record else ():
                if key not in best or row.value > best[key].value:
                    best[key] = row
                    rates[job.trial.setting][job.trial.norm] = job.trial.lr
        return rates
