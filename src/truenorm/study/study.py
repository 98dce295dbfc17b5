"""The whole study: images, rates, trials, one record."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch

from truenorm.data.images import ImageSet, load
from truenorm.errors import Diverged, InvalidInput
from truenorm.files import ensure_writable
from truenorm.metrics.classification import is_balanced
from truenorm.model.layers import batch_norms
from truenorm.model.watch import watch
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.stats.rules import Static
from truenorm.study.arms import Arm, resolve, sweep
from truenorm.study.configuration import BASELINE, Norm, StudyConfig, Trial
from truenorm.study.feed import Scale
from truenorm.study.networks import network_factory, try_network
from truenorm.study.norms import batch_free_norm, norm_layer
from truenorm.study.trial import Bench, run, validation_accuracy

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def run_study(
    config: StudyConfig, *, command: str, out: Path, progress: Progress = lambda what, done, total: None
) -> Record:
    """Train, measure, and write `record.json` in `out` after every trial.

    Args:
        config: what to do.
        command: the line that does it again, for the record.
        out: the folder of the record; a record that is there is replaced when the first trial has ended.
        progress: called as work goes on.

    Returns:
        the complete record.

    Raises:
        TruenormError: what was asked for cannot be done; said before anything is trained where it can be.
    """
    arms, networks = resolve(config.arms, config.momenta)
    batch_free_norm(config.bfn)
    device = _device(config.device)
    ensure_writable(out)
    images = load(
        config.data,
        config.data_root,
        limit=config.limit,
        validation=config.validation,
        imbalance=config.imbalance,
        progress=lambda done, total: progress("reading images", done, total),
    )
    if len(config.lr) > 1 and not len(images.validation):
        raise InvalidInput(
            f"--lr gives {len(config.lr)} rates, and no validation images to choose one by; give one rate"
        )
    bench = _bench(config, images, arms, device)
    norms: tuple[Norm, ...] = ("bn", *networks)
    with torch.random.fork_rng():
        for norm in norms:
            _try(config, bench, norm)
    candidates = len(config.lr) if len(config.lr) > 1 else 0
    work = _Work(config, bench, num_trainings=len(norms) * (config.seeds + candidates), progress=progress)
    record = Record(
        command=command,
        configuration=asdict(config)
        | {"momenta": bench.momenta, "data_summary": images.summary(), "test_balanced": is_balanced(images.test.labels)}
        | {"arms": [arm.name for arm in arms] + list(networks)}
        | {"arm_notes": {arm.name: arm.note for arm in arms if arm.note}},
        versions=installed_versions("truenorm", "torch", "numpy", "scikit-learn", "datasets"),
        machine=this_machine() | {"device": str(device), "threads": torch.get_num_threads()},
        notes=(*images.notes, *_absent(images)),
        complete=False,
    )
    rates, record = _choose_rates(config, norms, work, record)
    for seed in range(config.seeds):
        for norm in norms:
            trial = Trial(norm=norm, lr=rates[norm], seed=seed, study=config)
            rows = work.run(trial)
            done = seed == config.seeds - 1 and norm == norms[-1]
            record = replace(
                record,
                rows=(*record.rows, *rows),
                trials={**record.trials, trial.id: trial.to_dict()},
                complete=done,
            )
            record.save(out / "record.json")
    return record


class _Work:
    """Trains, and says how far it is over all trainings together."""

    def __init__(self, config: StudyConfig, bench: Bench, *, num_trainings: int, progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._done = 0
        self._steps = config.epochs * len(bench.feed("train", config.batch_size))
        self._total = num_trainings * self._steps

    def run(self, trial: Trial) -> tuple[Measurement, ...]:
        return tuple(run(trial, self._bench, self._stepper(f"{trial.norm}, seed {trial.seed}")))

    def validation_accuracy(self, trial: Trial) -> float:
        ends = self._done + self._steps
        try:
            return validation_accuracy(trial, self._bench, self._stepper(f"{trial.norm}, trying rate {trial.lr:g}"))
        finally:
            self._done = ends  # a training that diverged is over too

    def _stepper(self, what: str) -> Callable[[], None]:
        def step() -> None:
            self._done += 1
            self._progress(what, self._done, self._total)

        return step


def _choose_rates(
    config: StudyConfig, norms: tuple[Norm, ...], work: _Work, record: Record
) -> tuple[dict[Norm, float], Record]:
    """Each network its best of the candidate rates on validation images, with the first seed."""
    if len(config.lr) == 1:
        return dict.fromkeys(norms, config.lr[0]), record
    rates: dict[Norm, float] = {}
    for norm in norms:
        found: dict[float, float] = {}
        for rate in config.lr:
            trial = Trial(norm=norm, lr=rate, seed=0, study=config)
            try:
                found[rate] = work.validation_accuracy(trial)
            except Diverged:
                record = replace(
                    record, notes=(*record.notes, f"{norm} diverged at rate {rate:g} when rates were tried")
                )
                continue
            row = Measurement(trial.id, norm, None, "validation_accuracy", found[rate])
            record = replace(
                record, rows=(*record.rows, row), trials={**record.trials, trial.id: trial.to_dict() | {"tuning": True}}
            )
        if not found:
            raise Diverged(f"{norm} diverged at every rate of --lr {' '.join(map(str, config.lr))}; try smaller ones")
        rates[norm] = max(found, key=lambda rate: found[rate])
    return rates, record


def _absent(images: ImageSet) -> tuple[str, ...]:
    """Classes that no test image has: means over classes leave them out."""
    seen = set(images.test.labels.unique().tolist())
    names = [name for label, name in enumerate(images.classes) if label not in seen]
    return (f"classes without a test image, left out of means over classes: {', '.join(names)}",) if names else ()


def _bench(config: StudyConfig, images: ImageSet, arms: tuple[Arm, ...], device: torch.device) -> Bench:
    shape = images.train.images.shape
    make = network_factory(
        config.network,
        input_shape=(shape[1], shape[2], shape[3]),
        num_classes=len(images.classes),
        widths=config.widths,
    )
    return Bench(images, make, arms, sweep(config.momenta), device)


def _try(config: StudyConfig, bench: Bench, norm: Norm) -> None:
    """A few images through each network before the first is trained: two, or the one that a batch will have."""
    network = bench.make(norm_layer(norm, bfn=config.bfn))
    if norm == "bn":
        try:
            batch_norms(network)
        except InvalidInput as error:
            raise InvalidInput(f"network {config.network}: {error}; does it use norm_layer?") from error
    # Watched, as it will be: a layer that cannot train is named.
    looking = nullcontext() if norm == "gn" else watch(network, (Static((BASELINE,)),))
    images = Scale.of(bench.images.train.images)(bench.images.train.images[: min(2, config.batch_size)])
    with looking:
        try_network(network, images, len(bench.images.classes), name=f"{config.network} with {norm}")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"--device {name!r} is no device; it takes cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("--device cuda: torch finds no CUDA GPU here; leave it at cpu")
    return device
