"""A value network with a replay buffer: its statistics are of the states that an older policy visited."""

from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import cut, fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn

VARIANTS = ("values, scored by squared error", "values, targets beside states", "a value of each action")
_STATE, _ACTIONS = 8, 4


def replay(n: int, seed: int, drift: float, actions: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, the action taken and its value. As the policy improves, states move away from the start and spread."""
    g, fixed = seeded(seed), seeded(88)
    direction = torch.randn(_STATE, generator=fixed)
    mixing = torch.randn(_STATE, _STATE, generator=fixed) / _STATE**0.5
    goals = torch.randn(_ACTIONS, _STATE, generator=fixed)
    near = (1 + 0.5 * drift) * torch.randn(n, _STATE, generator=g) @ mixing
    taken = torch.randint(0, actions, (n,), generator=g)
    values = (near * goals[taken]).sum(1).tanh() + 0.5 * (near[:, 0] * near[:, 1]).tanh()
    return near + drift * direction, taken, values + 0.1 * torch.randn(n, generator=g)


class Dueling(nn.Module):
    """The value of a state and the advantage of each action, or one value where there is one action."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = _STATE
        for _ in range(3):
            layers += [nn.Linear(width, 64, bias=False), nn.BatchNorm1d(64, momentum=0.02), nn.ReLU()]
            width = 64
        self.body = nn.Sequential(*layers)
        self.value, self.advantage = nn.Linear(64, 1), nn.Linear(64, outputs)

    def forward(self, states: Tensor) -> Tensor:
        x = self.body(states)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    outputs = _ACTIONS if variant == 2 else 1

    def kept(n: int, draw: int, drift: float, size: int) -> list[Any]:
        states, taken, values = replay(n, draw, drift, outputs)
        return cut(states, taken, values, size=size) if variant == 2 else cut(states, values[:, None], size=size)

    def estimate(output: Tensor, batch: Any) -> Tensor:
        return output.gather(1, batch[1][:, None])[:, 0] if variant == 2 else output[:, 0]

    def score(output: Tensor, batch: Any) -> Tensor:
        target = batch[2] if variant == 2 else batch[1][:, 0]
        return -(estimate(output, batch) - target).square()

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return -score(run(net, batch), batch).mean()

    model = Dueling(outputs)
    fit(model, kept(6400, 60 + seed, 0.0, 64), loss, seed=seed, epochs=6, rate=3e-3)
    for layer in norms(model):
        layer.momentum = 2e-4  # a schedule that lets statistics come to rest
    training, held_out = kept(6400, 160 + seed, 1.0, 64), kept(1600, 5060 + seed, 1.0, 64)
    fit(model, training, loss, seed=seed, epochs=5, rate=3e-3)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > -0.25, f"squared error {-reached:.3f} with statistics of these states")
    require(before < reached - 0.15, f"squared error {-before:.3f} as it is, {-reached:.3f} measured anew")
    return Situation(
        name="value network after drift",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        noise=0.03,
        options={} if variant == 1 else {"score": score},
        right=Expected(
            healthy=False,
            # States are others than those of the statistics, and the weights went on without these.
            first=frozenset({"domain", "lag"}),
            # "Repair on such data, or train on them" says it, too.
            remedy=frozenset({"RepairStatistics", "ChangeTraining"}),
            useless=frozenset({"Preprocess", "Nothing"}),
            forbidden=NOT_PLANTED - {"domain", "lag"} | {"never updated"},
            # Without a score of the user's a repair may refuse.
            repair_gain=variant != 1,
        ),
    )


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])
