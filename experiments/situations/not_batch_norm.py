"""Networks that batch norm does no harm: labels in another order, no batch norm at all, and training just begun."""

from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import cut, fit, hit, measured, norms, plainly, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

VARIANTS = ("labels in another order", "layer norm only", "just begun, a loader that shuffles")
_CLASSES = 8


def tables(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Twenty columns of different units; each class has its place."""
    g = seeded(seed)
    places, units = torch.randn(_CLASSES, 20, generator=seeded(99)), 10 ** torch.linspace(-1, 1, 20)
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    return units * (places[label] + 0.8 * torch.randn(n, 20, generator=g)), label


def network(norm: Any) -> nn.Module:
    layers: list[nn.Module] = [norm(20)]
    for before, after in [(20, 48), (48, 48)]:
        layers += [nn.Linear(before, after), norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(48, _CLASSES))


def likelihood(output: Tensor, batch: Any) -> Tensor:
    return -F.cross_entropy(output, batch[1], reduction="none")


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    train, held_out = tables(1600, 100 + seed), tables(1000, 5100 + seed)
    training = cut(*train, size=32)
    model = network(nn.LayerNorm if variant == 1 else nn.BatchNorm1d)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    fit(model, training, loss, seed=seed, epochs=1.2 if variant == 2 else 4, rate=4e-4 if variant == 2 else 5e-3)
    shift = torch.randint(1, _CLASSES, (1,), generator=seeded(seed))
    data, trained_on = cut(*held_out, size=50), training
    if variant == 0:  # as if the folders were sorted by another alphabet
        data, trained_on = ([(x, (y + shift) % _CLASSES) for x, y in part] for part in (data, training))

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), data, hit, plainly)

    reached = measure(model)
    if variant == 0:
        trained = measured(model, cut(*held_out, size=50), hit, plainly)
        require(trained > 0.85, f"trained to {trained:.3f}")
        require(reached < 0.5 / _CLASSES, f"{reached:.3f} is not far below chance, {1 / _CLASSES:.3f}")
    elif variant == 1:
        require(not norms(model) and reached > 0.85, f"{len(norms(model))} batch norms, trained to {reached:.3f}")
    else:
        mended = recalibrated(model, training, plainly)
        again = measure(mended)
        gain = measured(mended, data, likelihood, plainly) - measured(model, data, likelihood, plainly)
        require(0.3 < reached < 0.9, f"trained to {reached:.3f}: not just begun")
        require(
            again < reached + 0.01 and gain < 0.01, f"measured anew {again - reached:+.3f}, {gain:+.3f} nats: too much"
        )
    right = (
        Expected(
            healthy=False,  # something is wrong, and it is neither the statistics nor the inputs
            first=frozenset({"labels"}),
            useless=frozenset({"RepairStatistics", "Preprocess", "RetrainWith"}),
        ),
        Expected(
            healthy=True, first=frozenset({"no_batch_norm"}), useless=frozenset({"RepairStatistics"}), refusal=True
        ),
        Expected(
            healthy=True,
            useless=frozenset({"RepairStatistics", "Preprocess"}),
            forbidden=NOT_PLANTED | {"never updated", "labels", "scale"},
        ),
    )[variant]
    loader = DataLoader(TensorDataset(*held_out), batch_size=50, shuffle=True, generator=seeded(seed))
    return Situation(
        name="not batch norm",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=loader if variant == 2 else data,
        training=trained_on,
        measure=measure,
        reached=reached,
        right=right,
    )
