"""The whole study: images, rates, trials, one record."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from truenorm.errors import Diverged, extra
from truenorm.files import ensure_writable
from truenorm.lab.images.sets import ImageSet
from truenorm.lab.jobs.job import Condition
from truenorm.lab.jobs.plan import Plan, Rates
from truenorm.lab.jobs.processes import torch_threads
from truenorm.lab.jobs.runner import Progress, Resumed, run
from truenorm.lab.jobs.store import Store
from truenorm.lab.networks.kinds import Norm
from truenorm.lab.networks.norms import batch_free_norm
from truenorm.lab.study.arms import resolve, sweep
from truenorm.lab.study.configuration import Setting, StudyConfig, StudyTrial
from truenorm.lab.study.context import StudyContext, machine_of, open_context, open_device, open_images, try_networks
from truenorm.lab.study.trial import measure_trial
from truenorm.metrics.classification import is_balanced
from truenorm.record import Record, installed_versions


def run_study(
    config: StudyConfig,
    *,
    command: str,
    out: Path,
    progress: Progress = lambda what, done, total: None,
    resumed: Resumed = lambda finished, total: None,
) -> Record:
    """Train, measure, and write `record.json` in `out`, now and then and at the end.

    Every finished trial lies in `out/trials`, under a name that is the hash of what it depends on: the same study
    continues from there, in as many processes at once as one likes. A trial that diverges is marked, and the others
    continue.

    Args:
        config: what to do.
        command: the line that does it again, for the record.
        out: the folder of the record; a record that is there is replaced when the first trial has ended.
        progress: called as work goes on.
        resumed: called once if trials were finished before, with how many of how many.

    Returns:
        the complete record.

    Raises:
        TruenormError: the configuration cannot be run; raised before anything is trained where possible.
        Diverged: every training diverged.
    """
    with extra("lab"):  # needed at the end of the study: an error now rather than then
        import_module("sklearn.metrics")
    arms, networks = resolve(config.arms, config.momenta)
    batch_free_norm(config.bfn or "layer")
    device = open_device(config.device)
    ensure_writable(out)
    store = Store(out / "trials")
    norms: tuple[Norm, ...] = ("bn", *networks)
    images = {name: open_images(config, name, progress) for name in config.data}
    contexts = {
        (data, network): open_context(config, network, images[data], arms, device)
        for data in config.data
        for network in config.networks
    }
    empty = Record(
        command=command,
        configuration=asdict(config)
        | {"momenta": sweep(config.momenta), "images": {name: _summary(data) for name, data in images.items()}}
        | {"arms": [arm.name for arm in arms] + list(networks)},
        versions=installed_versions("truenorm", "torch", "numpy", "scikit-learn", "datasets"),
        machine=machine_of(device) | {"device": str(device), "threads": config.threads},
        notes=tuple(dict.fromkeys(_notes(config, images, contexts, norms))),  # each once
        complete=False,
    )
    with torch_threads(config.threads):
        record = run(_plan(config, norms, contexts), store, empty, progress=progress, resumed=resumed)
    if not any(row.metric == "accuracy" for row in record.rows):
        first = next(trial for trial in record.trials.values() if "diverged" in trial)
        raise Diverged(f"every training diverged; the first was {_diverged(first)}")
    return record


def _plan(config: StudyConfig, norms: tuple[Norm, ...], contexts: Mapping[tuple[str, str], StudyContext]) -> Plan:
    """Each setting is a block of one condition for each norm; the first seed chooses the learning rate."""
    machines = {key: (context.digest, machine_of(context.device)) for key, context in contexts.items()}

    def condition(setting: Setting, norm: Norm) -> Condition[StudyTrial]:
        key = setting.data, setting.network
        context, (digest, machine) = contexts[key], machines[key]
        return Condition(
            trial=partial(StudyTrial, norm=norm, setting=setting),
            lrs=setting.lr,
            context=digest,
            steps=config.epochs * len(context.feed("train", setting.batch_size)),
            measure=lambda trial, running, on_step: measure_trial(trial, context, running, on_step),
            machine=machine,
        )

    return Plan(
        blocks=[[condition(setting, norm) for norm in norms] for setting in config.settings],
        seeds=config.seeds,
        tuning_seeds=(0,),
        reports_tuning=True,
        describe=_with_diverged_tuning,
    )


def _with_diverged_tuning(record: Record, rates: Rates) -> Record:
    """Notes of tuning trials that diverged; a report shows other diverged trials beside their setting."""
    notes = (_diverged(trial) for trial in record.trials.values() if "tuning" in trial and "diverged" in trial)
    return replace(record, notes=(*record.notes, *notes))


def _diverged(trial: Mapping[str, Any]) -> str:
    where = f"{trial['data']}, {trial['network']}, batch {trial['batch_size']}, {trial['schedule']} rate"
    what = "trying rates" if "tuning" in trial else f"seed {trial['seed']}"
    return f"{trial['norm']}, {what} ({where}): {trial['diverged']}"


def _notes(
    config: StudyConfig,
    images: Mapping[str, ImageSet],
    contexts: Mapping[tuple[str, str], StudyContext],
    norms: tuple[Norm, ...],
) -> Iterator[str]:
    if config.augment:
        kinds = ", ".join(config.augment)
        yield f"training images were varied ({kinds}); populations and tests are of images as they are"
    for name, data in images.items():
        of = f"{name}: " if len(images) > 1 else ""
        yield from (f"{of}{note}" for note in (*data.notes, *_absent(data)))
    for setting in config.settings:
        yield from try_networks(setting, contexts[setting.data, setting.network], norms)


def _summary(images: ImageSet) -> dict[str, object]:
    summary = images.summary() | {
        "balanced": is_balanced(images.test.labels),
        "class_names": list(images.classes),
    }
    del summary["name"]
    return summary


def _absent(images: ImageSet) -> tuple[str, ...]:
    """Classes that no test image has: means over classes leave them out."""
    seen = set(images.test.labels.unique().tolist())
    names = [name for label, name in enumerate(images.classes) if label not in seen]
    return (f"classes without a test image, left out of means over classes: {', '.join(names)}",) if names else ()
