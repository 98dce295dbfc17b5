"""Networks of other libraries with random weights: small ones, and statistics that are those of their data.

Each is given the way its users give it: a forward where it takes more than images, and labels where it gives classes.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import nn

from truenorm.model.layers import batch_norms

CLASSES = 4
BATCHES, SIZE = 6, 12
FORWARDS, LARGE = 3, 96
"""What is stored comes of a few forwards with large batches, of which the mean is near that of the population."""


def images(size=32, num=SIZE):
    """Noise about levels of their own, so that pictures differ in more than noise."""
    return torch.randn(num, 3, size, size) + 0.5 + torch.randn(num, 3, 1, 1)


@dataclass(frozen=True)
class Patient:
    """A network, and how its users run it.

    Args:
        make: builds it, in training mode.
        batch: one batch, without labels.
        forward: how it is run; None: `model(batch)`.
        logits: of an output; None where it holds no classes.
            unreached: layers that evaluation does not run.
        frozen: the library's function that freezes the finished network; None: torch's layers are kept.
        stays: what the names of the layers begin with that it froze.
        spoils: which layer is spoilt, as a share of the way through those that are reached.
    """

    make: Callable[[], nn.Module]
    batch: Callable[..., object] = images
    forward: Callable | None = None
    logits: Callable | None = lambda output: output
    unreached: tuple[str, ...] = ()
    frozen: Callable[[nn.Module], nn.Module] | None = None
    stays: tuple[str, ...] = ()
    spoils: float = 0.5


@dataclass
class Admitted:
    """A network with statistics of its data, and what `diagnose` is given with it."""

    net: nn.Module
    data: list
    given: dict = field(default_factory=dict)
    sound: nn.Module = None
    run: Callable = None

    def nearness(self, output, batch):
        """To what the sound network gives."""
        with torch.no_grad():
            right = flat(self.run(self.sound, batch))
        return -(flat(output) - right).square().mean(1)

    @property
    def names(self):
        return list(batch_norms(self.net))


def flat(output):
    """All numbers of an output's first tensor, a row for each sample."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if hasattr(output, "values") else output[0]
    return output.flatten(1)


def admitted(patient):
    """Random weights, and averages over the batches of forwards in training mode."""
    torch.manual_seed(0)
    net = patient.make().train()
    run = patient.forward or (lambda model, batch: model(batch))
    with torch.no_grad():
        for layer in batch_norms(net).values():
            layer.weight.uniform_(0.5, 1.5)  # some libraries start with zeros, which hide a layer
            layer.reset_running_stats()
        momenta = {layer: layer.momentum for layer in batch_norms(net).values()}
        for layer in momenta:
            layer.momentum = None
        for _ in range(FORWARDS):
            run(net, patient.batch(num=LARGE))
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    if patient.frozen is not None:
        net = patient.frozen(net)
    sound = copy.deepcopy(net).eval()
    batches = [patient.batch() for _ in range(BATCHES)]
    given = {} if patient.forward is None else {"forward": lambda model, batch: patient.forward(model, first(batch))}
    data = batches
    if patient.logits is not None:
        with torch.no_grad():
            data = [(batch, patient.logits(run(sound, batch)).argmax(1)) for batch in batches]
    case = Admitted(net, data, given, sound, lambda model, batch: run(model, first(batch)))
    if patient.logits is None:
        given["score"] = case.nearness
    return case


def first(batch):
    return batch[0] if isinstance(batch, tuple) else batch


def spoil(case, patient):
    """Statistics as if one layer's data had been far away; the name of the layer."""
    reached = [name for name in case.names if not name.startswith(patient.unreached or "?")]
    name = reached[int(len(reached) * patient.spoils)]
    layer = case.net.get_submodule(name)
    with torch.no_grad():
        layer.running_mean -= 20 * (layer.running_var + 1e-5).sqrt()
    return name


# Images and classes


def resnet():
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def regnet():
    from torchvision.models.regnet import BlockParams, RegNet

    params = BlockParams.from_init_params(depth=4, w_0=16, w_a=8.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return RegNet(params, num_classes=CLASSES)


def of_torchvision(name, **given):
    import torchvision

    return getattr(torchvision.models, name)(num_classes=CLASSES, **given)


def of_timm(name, **given):
    import timm

    return timm.create_model(name, num_classes=CLASSES, **given)


def stem_frozen_by_timm(net):
    from timm.layers import freeze_batch_norm_2d

    net.bn1, net.layer1 = freeze_batch_norm_2d(net.bn1), freeze_batch_norm_2d(net.layer1)
    return net


def mobilevit_of_transformers():
    from transformers import MobileViTConfig, MobileViTForImageClassification

    config = MobileViTConfig(
        image_size=32, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 12, 16, 24, 32, 48], num_labels=CLASSES
    )
    return MobileViTForImageClassification(config)


def levit_of_transformers():
    from transformers import LevitConfig, LevitForImageClassification

    config = LevitConfig(
        image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8],
        num_labels=CLASSES,
    )  # fmt: skip
    return LevitForImageClassification(config)


def detr():
    """Its backbone with torch's layers: they are frozen when their statistics are there, as pretrained ones are."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    from transformers.models.resnet import modeling_resnet

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = DetrConfig(
        backbone_config=backbone, backbone=None, use_timm_backbone=False, d_model=16, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        num_queries=5, num_labels=CLASSES,
    )  # fmt: skip
    net = DetrForObjectDetection(config)
    net.model.backbone.model = modeling_resnet.ResNetBackbone(backbone)
    return net


def frozen_by_detr(net):
    from transformers.models.detr.modeling_detr import replace_batch_norm

    with torch.no_grad():
        replace_batch_norm(net.model.backbone)
    return net


def conformer():
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForSequenceClassification

    config = Wav2Vec2ConformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, conv_depthwise_kernel_size=5, classifier_proj_size=16, num_labels=CLASSES,
        layerdrop=0.0, apply_spec_augment=False, hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0,
        conformer_conv_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
    )  # fmt: skip
    return Wav2Vec2ConformerForSequenceClassification(config)


def fcn():
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    backbone = IntermediateLayerGetter(ResNet(BasicBlock, [1, 1, 1, 1]), {"layer4": "out", "layer3": "aux"})
    return FCN(backbone, FCNHead(512, CLASSES), FCNHead(256, CLASSES))


def deeplab():
    import torchvision

    make = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    return make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def yolo():
    os.environ.setdefault("YOLO_CONFIG_DIR", os.devnull)
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="ultralytics is not installed", exc_type=ImportError)
    return tasks.DetectionModel("yolov8n.yaml", nc=CLASSES, verbose=False)


def voice(num=SIZE):
    """Sounds, each at a pitch of its own, in noise."""
    pitch = torch.rand(num, 1) + 0.5
    return {"input_values": torch.sin(pitch * torch.arange(800)) + torch.randn(num, 800)}


PATIENTS = {
    "torchvision ResNet": Patient(resnet),
    "torchvision RegNet": Patient(regnet),
    "torchvision MobileNetV2": Patient(partial(of_torchvision, "mobilenet_v2", width_mult=0.25)),
    "torchvision GoogLeNet, aux in train() alone": Patient(
        partial(of_torchvision, "googlenet", aux_logits=True, init_weights=False), unreached=("aux1", "aux2")
    ),
    "torchvision FCN with aux": Patient(fcn, logits=lambda output: output["out"]),
    "torchvision DeepLabV3 with aux": Patient(deeplab, logits=lambda output: output["out"]),
    "timm LeViT": Patient(partial(of_timm, "levit_128s", img_size=64), partial(images, 64)),
    "timm MobileViT": Patient(partial(of_timm, "mobilevit_xxs"), partial(images, 64), spoils=0.1),
    "timm ResNet with a frozen stem": Patient(
        partial(of_timm, "resnet10t"), frozen=stem_frozen_by_timm, stays=("bn1", "layer1.")
    ),
    "transformers MobileViT": Patient(mobilevit_of_transformers, logits=lambda output: output.logits, spoils=0.1),
    "transformers LeViT": Patient(levit_of_transformers, partial(images, 64), logits=lambda output: output.logits),
    "transformers Wav2Vec2-Conformer": Patient(
        conformer, voice, forward=lambda model, batch: model(**batch), logits=lambda output: output.logits
    ),
    "transformers DETR": Patient(detr, logits=None, frozen=frozen_by_detr, stays=("model.backbone",)),
    "ultralytics YOLO": Patient(yolo, logits=None),
}
