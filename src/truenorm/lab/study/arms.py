"""The arms of a study: ways of having inference statistics for the same weights, and networks of their own."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from truenorm.errors import UnknownName
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed
from truenorm.lab.networks.kinds import Norm
from truenorm.lab.study.configuration import BASELINE
from truenorm.model.convert import convert
from truenorm.model.evaluate import random_states_kept
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics, using
from truenorm.model.watch import Watch
from truenorm.nn.batchnorm import TrackedBatchNorm
from truenorm.rules import SWEEP, Adaptive, Cumulative, Online, Pooled, Population, Rule, Static, Switched
from truenorm.rules.rule import check_momenta
from truenorm.stats.statistics import Statistics

Needs = Literal["stream", "epochs", "pass"]

DYNAMIC = "dynamic"
"""The arm for which the network itself keeps the statistics, with `tracking="dynamic"`."""


def sequential(network: nn.Module, feed: Feed) -> Statistics:
    """Sequential population statistics; the size of batches does not matter to them."""
    return measure(network, feed.resized(EVALUATION_BATCH), flow="sequential")


@dataclass
class Trained:
    """A trained network, what its watch has seen, and the populations of its training images.

    The passes are made when the first arm asks for them.
    """

    network: nn.Module
    watched: Watch
    feed: Feed

    @cached_property
    def joint(self) -> Statistics:
        """Joint population statistics at the training batch size."""
        return measure(self.network, self.feed)

    @cached_property
    def sequential(self) -> Statistics:
        """Sequential population statistics."""
        return sequential(self.network, self.feed)


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of having statistics.

    Args:
        name: what tables call it.
        needs: the stream of batches alone; the ends of epochs too; or a pass over training images.
        statistics: gives them for trained weights.
    """

    name: str
    needs: Needs
    statistics: Callable[[Trained], Statistics]


def _watched(name: str) -> Callable[[Trained], Statistics]:
    return lambda trained: trained.watched[name]


def _update_bn(trained: Trained) -> Statistics:
    network = trained.network
    if any(isinstance(layer, TrackedBatchNorm) for layer in network.modules()):
        network = convert(deepcopy(network), to="torch")  # layers of ours would pool what it gives them
    # update_bn leaves dropout on: it draws the same random numbers each time, and the global state is restored.
    with using(network), random_states_kept(network):
        torch.manual_seed(0)
        update_bn(trained.feed, network)
        return statistics(network)


_FIXED = (
    Arm("cumulative", "stream", _watched("cumulative")),
    Arm("dmbn", "pass", lambda trained: trained.watched.best(trained.joint)),
    Arm("dmbn-pooled", "pass", lambda trained: trained.watched.best(trained.joint, among="pooled")),
    Arm(f"pooled-{BASELINE:g}", "stream", _watched(f"pooled-{BASELINE:g}")),
    Arm("last-epoch", "epochs", _watched("last-epoch")),
    Arm("adaptive", "stream", _watched("adaptive")),
    Arm("update_bn", "pass", _update_bn),
    Arm("recalibrated", "pass", lambda trained: trained.joint),
    Arm("sequential", "pass", lambda trained: trained.sequential),
)
_ON_REQUEST = (
    Arm("dmbn-switch", "pass", _watched("dmbn-switch")),
    Arm("dmbn-online", "stream", _watched("dmbn-online")),
    Arm(DYNAMIC, "stream", lambda trained: statistics(trained.network)),
)
NETWORK_ARMS: tuple[Norm, ...] = ("bn-bfn", "gn")
"""Arms that change the weights: networks of their own, with the statistics that torch keeps."""


def resolve(names: Iterable[str], momenta: tuple[float, ...]) -> tuple[tuple[Arm, ...], tuple[Norm, ...]]:
    """Names of arms → the arms on the same weights, and those that are networks of their own.

    Args:
        names: `default`, `all`, `static` (the sweep), or arms by name.
        momenta: the sweep; none means the default one. The baseline 0.1 is always in it.

    Raises:
        UnknownName: no such arm.
        InvalidInput: a momentum that is none.

    Example:
        >>> same, others = resolve(["dmbn", "gn"], (0.01, 0.1))
        >>> [arm.name for arm in same], others
        (['static-0.1', 'dmbn'], ('gn',))
    """
    swept = tuple(Arm(name, "stream", _watched(name)) for name in Static(sweep(momenta)).names)
    known = {arm.name: arm for arm in (*swept, *_FIXED, *_ON_REQUEST)}
    default = [arm.name for arm in (*swept, *_FIXED)] + list(NETWORK_ARMS)
    groups = {
        "static": [arm.name for arm in swept],
        "default": default,
        "all": [*default, *(a.name for a in _ON_REQUEST)],
    }
    wanted = {f"static-{BASELINE:g}"}
    for name in names:
        if name in groups:
            wanted.update(groups[name])
        elif name in known or name in NETWORK_ARMS:
            wanted.add(name)
        else:
            raise UnknownName("arm", name, [*known, *NETWORK_ARMS, *groups])
    return tuple(arm for name, arm in known.items() if name in wanted), tuple(a for a in NETWORK_ARMS if a in wanted)


def sweep(momenta: tuple[float, ...]) -> tuple[float, ...]:
    """The momenta of a study: sorted, the baseline among them.

    Example:
        >>> sweep((0.5, 0.01))
        (0.01, 0.1, 0.5)
    """
    check_momenta(momenta or SWEEP)
    return tuple(sorted({*(momenta or SWEEP), BASELINE}))


def rules_for(arms: Iterable[Arm], momenta: tuple[float, ...]) -> tuple[Rule, ...]:
    """The rules that these arms read."""
    names = {arm.name for arm in arms}
    swept = sweep(momenta)
    wanted: list[Rule] = [Static(swept)]
    if "dmbn-pooled" in names or f"pooled-{BASELINE:g}" in names:
        wanted.append(Pooled(swept if "dmbn-pooled" in names else (BASELINE,)))
    by_name: dict[str, Rule] = {
        "cumulative": Cumulative(),
        "last-epoch": Population("last-epoch", epochs=True),
        "adaptive": Adaptive(),
        "dmbn-switch": Switched("dmbn-switch", BASELINE),
        "dmbn-online": Online(swept),
    }
    return (*wanted, *(rule for name, rule in by_name.items() if name in names))
