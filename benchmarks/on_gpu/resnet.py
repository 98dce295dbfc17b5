"""ResNet-50 v1.5 with a choice of batch norms; parameters and keys are torchvision's, whichever is chosen.

Source: He et al. 2016; v1.5 has the stride in the 3 × 3 convolution (NVIDIA's, torchvision's).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from on_gpu.peers import EPS, MOMENTUM
from truenorm.kernels import Affine, Backend, Epilogue, Running

Make = Callable[[int], nn.Module]


@dataclass(frozen=True, slots=True)
class Norms:
    """How the two sorts of batch norm in the network are made: with ReLU (and a residual), and plain."""

    act: Make
    plain: Make


class TorchNormAct(nn.BatchNorm2d):
    """torch's batch norm, and what follows in place, as torchvision's blocks do it."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(input)
        if residual is not None:
            y += residual
        return F.relu_(y)


def torchs() -> Norms:
    return Norms(TorchNormAct, nn.BatchNorm2d)


def truenorms() -> Norms:
    """Our layers, which take the kernels where they can, since `gpu.py` asks for them."""
    from truenorm.nn import BatchNorm2d, BatchNormAct2d  # here, so that a missing layer costs one row

    return Norms(lambda channels: BatchNormAct2d(channels, activation="relu"), BatchNorm2d)


def kernels(backend: Backend) -> Norms:
    """The kernels called directly, in compiled graphs too, where the layers leave the work to the compiler."""

    class Direct(nn.BatchNorm2d):
        activation = "identity"

        def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
            buffers = self.running_mean, self.running_var, self.num_batches_tracked
            affine, epilogue = Affine(self.weight, self.bias, EPS), Epilogue(residual, self.activation)
            return backend.batch_norm(input, affine, epilogue, Running(*buffers, MOMENTUM, "pooled"))[0]

    class DirectAct(Direct):
        activation = "relu"

    return Norms(DirectAct, Direct)


class Bottleneck(nn.Module):
    """Three convolutions, and the residual added before the last ReLU."""

    def __init__(self, arriving: int, width: int, stride: int, norms: Norms) -> None:
        super().__init__()
        leaving = 4 * width
        self.conv1 = nn.Conv2d(arriving, width, 1, bias=False)
        self.bn1 = norms.act(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norms.act(width)
        self.conv3 = nn.Conv2d(width, leaving, 1, bias=False)
        self.bn3 = norms.act(leaving)
        self.downsample = (
            nn.Sequential(nn.Conv2d(arriving, leaving, 1, stride, bias=False), norms.plain(leaving))
            if stride > 1 or arriving != leaving
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x))
        x = self.bn2(self.conv2(x))
        return self.bn3(self.conv3(x), residual)


class ResNet50(nn.Module):
    """For images of 224 × 224, or what can be halved five times."""

    def __init__(self, norms: Norms, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norms.act(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        arriving = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            made = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                made.append(Bottleneck(arriving, 64 << stage, stride, norms))
                arriving = 256 << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(arriving, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))
