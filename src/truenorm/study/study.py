"""The whole study: images, rates, trials, one record."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import torch

from truenorm.data.feed import Scale
from truenorm.data.images import ImageSet, load
from truenorm.errors import Diverged, InvalidInput, extra
from truenorm.files import ensure_writable
from truenorm.metrics.classification import is_balanced
from truenorm.model.layers import batch_norms
from truenorm.model.watch import watch
from truenorm.nn.batchfree import BatchFreeNorm
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.rules import Static
from truenorm.study.arms import Arm, resolve, sweep
from truenorm.study.configuration import BASELINE, Norm, StudyConfig, Trial
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
    with extra("study"):  # what the end of the study needs is missed at its beginning
        import_module("sklearn.metrics")
    arms, networks = resolve(config.arms, config.momenta)
    batch_free_norm(config.bfn)
    device = _device(config.device)
    ensure_writable(out)
    images = _images(config, progress)
    bench = _bench(config, images, arms, device)
    norms: tuple[Norm, ...] = ("bn", *networks)
    notes = (*images.notes, *_absent(images), *_tried(config, bench, norms))
    candidates = len(config.lr) if len(config.lr) > 1 else 0
    work = _Work(config, bench, num_trainings=len(norms) * (config.seeds + candidates), progress=progress)
    with _threads(config.threads):
        rates, record = _choose_rates(config, norms, work, _empty_record(config, bench, norms, command, notes))
        for seed in range(config.seeds):
            for norm in norms:
                trial = Trial(norm=norm, lr=rates[norm], seed=seed, study=config)
                rows = work.run(trial)
                record = replace(
                    record,
                    rows=(*record.rows, *rows),
                    trials={**record.trials, trial.id: trial.to_dict()},
                    complete=seed == config.seeds - 1 and norm == norms[-1],
                )
                record.save(out / "record.json")
    return record


def _images(config: StudyConfig, progress: Progress) -> ImageSet:
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
    return images


def _empty_record(
    config: StudyConfig, bench: Bench, norms: tuple[Norm, ...], command: str, notes: tuple[str, ...]
) -> Record:
    images, arms = bench.images, bench.arms
    return Record(
        command=command,
        configuration=asdict(config)
        | {"momenta": bench.momenta, "data_summary": images.summary(), "test_balanced": is_balanced(images.test.labels)}
        | {"arms": [arm.name for arm in arms] + [norm for norm in norms if norm != "bn"]},
        versions=installed_versions("truenorm", "torch", "numpy", "scikit-learn", "datasets"),
        machine=this_machine() | {"device": str(bench.device), "threads": config.threads},
        notes=notes,
        complete=False,
    )


@contextmanager
def _threads(num: int) -> Generator[None]:
    """So many threads in torch for a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Work:
    """Trains, and says how far it is over all trainings together."""

    def __init__(self, config: StudyConfig, bench: Bench, *, num_trainings: int, progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._done = 0
        self._steps = config.epochs * len(bench.feed("train", config.batch_size))
        self._total = num_trainings * self._steps

    def run(self, trial: Trial) -> tuple[Measurement, ...]:
        try:
            return tuple(run(trial, self._bench, self._stepper(f"{trial.norm}, seed {trial.seed}")))
        except Diverged as error:
            raise Diverged(f"{trial.norm}, seed {trial.seed}: {error}") from error

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


def _tried(config: StudyConfig, bench: Bench, norms: tuple[Norm, ...]) -> tuple[str, ...]:
    """A few images through each network before the first is trained: two, or the one that a batch will have.

    Returns:
        what a reader of the results must know of the networks.
    """
    images = Scale.of(bench.images.train.images)(bench.images.train.images[: min(2, config.batch_size)])
    notes: tuple[str, ...] = ()
    with torch.random.fork_rng():
        for norm in norms:
            network = bench.make(norm_layer(norm, bfn=config.bfn))
            if norm == "bn":
                try:
                    batch_norms(network)
                except InvalidInput as error:
                    raise InvalidInput(f"network {config.network}: {error}; does it use norm_layer?") from error
            # Watched, as it will be: a layer that cannot train is named.
            with nullcontext() if norm == "gn" else watch(network, (Static((BASELINE,)),)):
                try_network(network, images, len(bench.images.classes), name=f"{config.network} with {norm}")
            if norm == "bn-bfn" and not any(isinstance(module, BatchFreeNorm) for module in network.modules()):
                notes += ("bn-bfn is plain batch norm here: the network has one norm, and the first is batch norm",)
    return notes


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"--device {name!r} is no device; it takes cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"--device {name!r}: the study runs on cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("--device cuda: torch finds no CUDA GPU here; leave it at cpu")
    return device
