"""What passes cost: measuring over torch's `update_bn`, examining over plain evaluation, exact over joint.

All sides see the same batches in one run. A tolerance is timed on 60,000 samples.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from pairing import arguments, ratios, save, say
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import truenorm as tn
from truenorm.lab.networks.plain import cnn, mlp

SHAPE = (1, 28, 28)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def residual() -> nn.Module:
    """A thin residual network: 7 batch norms."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        *(Block(32) for _ in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def trained(network: nn.Module) -> nn.Module:
    """Moved away from its initial statistics, in evaluation mode."""
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(64, *SHAPE))
    return network.eval()


def evaluation(network: nn.Module, batches: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                network(batch)

    return run


def main() -> None:
    options = arguments(__doc__, pairs=12)
    torch.manual_seed(0)
    batches = [torch.randn(64, *SHAPE) for _ in range(94)]
    results: dict[str, list[float]] = {}

    def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> None:
        results[name] = ratios(ours, theirs, pairs=pairs)  # type: ignore[arg-type]  # what they give is not used
        say(name, results[name])

    networks = {
        "mlp 500-300": mlp(SHAPE, 10, widths=(500, 300)),
        "cnn": cnn(SHAPE, 10),
        "residual": residual(),
    }
    for name, plain in networks.items():
        network = trained(plain)
        other = copy.deepcopy(network)
        joint = partial(tn.measure, network, batches)
        compare(f"{name}: joint over update_bn", joint, partial(update_bn, batches, other), options.pairs)
        arriving = partial(tn.measure, network, batches, flow="eval")
        compare(f"{name}: examination over evaluation", arriving, evaluation(other, batches), options.pairs)
        exact = partial(tn.measure, network, batches, flow="sequential")
        compare(f"{name}: sequential over joint", exact, joint, options.pairs)
        giant = evaluation(other, [torch.cat(batches)])
        compare(f"{name}: sequential over evaluating the giant batch", exact, giant, options.pairs)
    # What a pass costs once is spread over as many batches as MNIST has.
    network, many = trained(networks["mlp 500-300"]), list(torch.randn(60_000, *SHAPE).split(64))
    peer = partial(update_bn, many, copy.deepcopy(network))
    compare("mlp 500-300: joint over update_bn, 60,000", partial(tn.measure, network, many), peer, options.pairs)
    # Images, so to say: values that depend on their neighbours.
    network = trained(cnn(SHAPE, 10))
    smooth = torch.nn.functional.avg_pool2d(torch.randn(60_000, 1, 34, 34), 7, stride=1)
    many = list((smooth / smooth.std()).split(64))
    compare(
        "cnn: tolerance 0.01 over all of 60,000",
        lambda: tn.measure(network, many, tolerance=0.01),
        lambda: tn.measure(network, many),
        max(2, options.pairs // 8),
    )
    save(results, options, side="process time; the numerator is named first")


if __name__ == "__main__":
    main()
