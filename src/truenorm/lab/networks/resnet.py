"""ResNets: one network for every depth, width, size of image and norm.

Parameters have torchvision's names and shapes, so that weights trained there load here.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from truenorm.lab.networks.norms import BatchNorm, NormLayer

SMALL_IMAGE = 64
"""Pixels of the shorter side up to which the stem leaves an image its size."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (N, inputs, H, W) → (N, width, H/stride, W/stride).

    Args:
        inputs: channels that come in.
        width: channels of both convolutions.
        stride: of the first.
        norm_layer: makes the norms behind the second convolution and in the shortcut.
        middle_norm_layer: makes the norm between the convolutions.

    Example:
        >>> BasicBlock(4, 8, 2, BatchNorm, BatchNorm)(torch.randn(2, 4, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, norm_layer: NormLayer, middle_norm_layer: NormLayer
    ) -> None:
        super().__init__()
        # Made first, as torchvision does, so that a seed gives the same weights there and here.
        downsample = _downsample(inputs, width, stride, norm_layer)
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = middle_norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = norm_layer(width)
        self.downsample = downsample

    def forward(self, input: Tensor) -> Tensor:
        shortcut = input if self.downsample is None else self.downsample(input)
        output = self.relu(self.bn1(self.conv1(input)))
        output = self.bn2(self.conv2(output))
        output += shortcut
        return self.relu(output)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut: (N, inputs, H, W) → (N, 4 width, H/stride, W/stride).

    Args:
        inputs: channels that come in.
        width: channels of the first two convolutions.
        stride: of the 3×3 convolution.
        norm_layer: makes the norms behind the 1×1 convolutions and in the shortcut.
        middle_norm_layer: makes the norm behind the 3×3 convolution.

    Source: He et al. 2016; the stride as in torchvision's, known as ResNet v1.5.

    Example:
        >>> Bottleneck(4, 2, 2, BatchNorm, BatchNorm)(torch.randn(2, 4, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, norm_layer: NormLayer, middle_norm_layer: NormLayer
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        downsample = _downsample(inputs, outputs, stride, norm_layer)
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = norm_layer(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = middle_norm_layer(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = norm_layer(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, input: Tensor) -> Tensor:
        shortcut = input if self.downsample is None else self.downsample(input)
        output = self.relu(self.bn1(self.conv1(input)))
        output = self.relu(self.bn2(self.conv2(output)))
        output = self.bn3(self.conv3(output))
        output += shortcut
        return self.relu(output)


class ResNet(nn.Module):
    """A stem, four stages that halve the image and double the channels, global average, a linear layer.

    The size of the images chooses the stem. Where their shorter side has more than 64 pixels it is
    ImageNet's, a 7×7 convolution of stride 2 and a max pooling; else it is a 3×3 convolution of stride 1
    and no pooling, which leaves the image its size.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks of each of the four stages.
        input_shape: (channels, height, width) of an image, one channel or three.
        num_classes: outputs.
        width: channels of the stem and of the first stage's 3×3 convolutions.
        norm_layer: makes a norm from a number of channels.
        middle_norm_layer: makes the norm of the stem and, in each block, that behind the first 3×3
            convolution; like the others unless given.

    Returns:
        logits, of shape (N, num_classes).

    Source: He et al. 2016; names, shapes and initial weights as torchvision's, for small images the stem
    of their CIFAR networks.

    Example:
        >>> ResNet(BasicBlock, (1, 1, 1, 1), (1, 8, 8), 10, width=4)(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 64,
        norm_layer: NormLayer = BatchNorm,
        middle_norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        middle = middle_norm_layer or norm_layer
        small = min(input_shape[1:]) <= SMALL_IMAGE
        self.conv1 = _conv(input_shape[0], width, 3) if small else _conv(input_shape[0], width, 7, 2)
        self.bn1 = middle(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        stages: list[nn.Module] = []
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(block(channels, width << stage, stride, norm_layer, middle))
                channels = (width << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(torch.flatten(self.avgpool(features), 1))


RESNETS: Mapping[str, Callable[..., ResNet]] = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet18-w16": partial(ResNet, BasicBlock, (2, 2, 2, 2), width=16),
}
"""By name; the last has a quarter of the channels (16, 32, 64, 128), for CPUs."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _downsample(inputs: int, outputs: int, stride: int, norm_layer: NormLayer) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), norm_layer(outputs))
