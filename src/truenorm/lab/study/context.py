"""The context of a study's trials: images on their device, how the network is made, which arms there are."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from truenorm.errors import InvalidInput
from truenorm.lab.images.feed import Scale, ScaledImages
from truenorm.lab.images.sets import ImageSet, Split, load
from truenorm.lab.jobs.trial import digest
from truenorm.lab.networks.hooks import hooked
from truenorm.lab.networks.kinds import Norm
from truenorm.lab.networks.named import network_digest, network_factory, try_network
from truenorm.lab.networks.norms import choose_momenta
from truenorm.lab.study.arms import DYNAMIC, Arm, sweep
from truenorm.lab.study.configuration import BASELINE, Setting, StudyConfig, StudyTrial
from truenorm.model.layers import batch_norms
from truenorm.model.watch import watch
from truenorm.nn.batchfree import BatchFreeNorm
from truenorm.record import installed_versions, this_machine
from truenorm.rules import Static


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext(ScaledImages):
    """What all trials of one network on one data set share: the images, how the network is made, the arms.

    Args:
        make: a kind of norm → a network.
        arms: those on the same weights.
        momenta: the sweep.
        device: where to train.
        others: what else a trial's rows depend on.
    """

    make: Callable[[Norm], nn.Module]
    arms: tuple[Arm, ...]
    momenta: tuple[float, ...]
    device: torch.device
    others: tuple[str, ...] = ()

    def network(self, trial: StudyTrial) -> nn.Module:
        """A network with the initial weights of the trial's seed; the global random state stays."""
        with torch.random.fork_rng([]):
            torch.manual_seed(trial.seed)
            network = self.make(trial.norm).to(self.device)
        if trial.norm == "bn" and any(arm.name == DYNAMIC for arm in self.arms):
            choose_momenta(network)  # trains to the same weights
        # Convolutions are a quarter faster so on a CPU, and on a GPU in half precision by far.
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it

    @property
    def digest(self) -> str:
        """Tells apart what a trial's rows depend on beside the trial itself: pixels, arms, versions, device."""
        arms = [arm.name for arm in self.arms]
        versions = installed_versions("truenorm", "torch")
        return digest([*self.pixels, arms, self.momenta, versions, str(self.device), *self.others])


def open_images(config: StudyConfig, name: str, progress: Callable[[str, int, int], None]) -> ImageSet:
    """One of the study's data sets.

    Raises:
        InvalidInput: there are several rates, and no validation images to choose one by; or what `load` refuses.
    """
    images = load(
        name,
        config.data_root,
        limit=config.limit,
        validation=config.validation,
        imbalance=config.imbalance,
        size=config.image_size,
        test_limit=config.test_limit,
        progress=lambda done, total: progress(f"reading {name}", done, total),
    )
    if len(config.lr) > 1 and not len(images.validation):
        raise InvalidInput(
            f"--lr gives {len(config.lr)} rates, and no validation images to choose one by; give one rate"
        )
    return images


def open_context(
    config: StudyConfig, network: str, images: ImageSet, arms: tuple[Arm, ...], device: torch.device
) -> StudyContext:
    """What the trials of one of the study's networks on one of its data sets share."""
    shape = images.train.images.shape
    make = network_factory(
        network,
        input_shape=(shape[1], shape[2], shape[3]),
        num_classes=len(images.classes),
        widths=config.widths,
        bfn=config.bfn,
    )
    here = replace(images, **{part: _moved(getattr(images, part), device) for part in ("train", "validation", "test")})
    others = (network_digest(network), config.reference, str(config.threads))
    return StudyContext(
        here,
        Scale.of(images.train.images).to(device),
        make=make,
        arms=arms,
        momenta=sweep(config.momenta),
        device=device,
        others=others,
    )


def try_networks(setting: Setting, context: StudyContext, norms: tuple[Norm, ...]) -> Iterator[str]:
    """Run a few images through each network before the first is trained: two, or the one that a batch will have.

    Returns:
        what a reader of the results must know of the networks.

    Raises:
        InvalidInput: a network cannot be trained on these images.
    """
    images = context.scale(context.images.train.images[: min(2, setting.batch_size)])
    with torch.random.fork_rng([]):
        for norm in norms:
            network = context.network(StudyTrial(norm=norm, lr=setting.lr[0], seed=0, setting=setting))
            if norm == "bn":
                try:
                    batch_norms(network)
                except InvalidInput as error:
                    raise InvalidInput(f"network {setting.network}: {error}; does it use norm_layer?") from error
            # Watched, as it will be: a layer that cannot train is named.
            with nullcontext() if norm == "gn" else watch(network, (Static((BASELINE,)),)), _each_once(network, norm):
                try_network(network, images, len(context.images.classes), name=f"{setting.network} with {norm}")
            if norm == "bn-bfn" and not any(isinstance(module, BatchFreeNorm) for module in network.modules()):
                yield "bn-bfn is plain batch norm here: the network has one norm, and the first is batch norm"


@contextmanager
def _each_once(network: nn.Module, norm: Norm) -> Generator[None]:
    """Refuse a network that calls a batch norm twice in one forward: it sees several populations, and has no exact
    statistics to compare with."""
    calls: Counter[str] = Counter()
    names = {} if norm == "gn" else {layer: name for name, layer in batch_norms(network).items()}
    with hooked(names, lambda layer, inputs, output: calls.update([names[layer]])):
        yield
    if twice := next((name for name, times in calls.items() if times > 1), None):
        raise InvalidInput(
            f"layer {twice!r} is called {calls[twice]} times in one forward: it sees several populations, and one set "
            "of statistics is true to none; give each call a norm of its own"
        )


def open_device(name: str) -> torch.device:
    """Where to train.

    Raises:
        InvalidInput: it is neither cpu nor a CUDA device that is there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"--device {name!r} is no device; it takes cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"--device {name!r}: the study runs on cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("--device cuda: torch finds no CUDA GPU here; leave it at cpu")
    return device


def machine_of(device: torch.device) -> dict[str, Any]:
    """What a trial runs on; nothing that names the machine or its user."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return this_machine() | gpu


def _moved(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))
