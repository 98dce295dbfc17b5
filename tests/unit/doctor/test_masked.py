"""Padded sequences are diagnosed and repaired as the same sequences without padding."""

import copy

import pytest
import torch
from torch import nn

import truenorm as tn
from truenorm.data.sample import take_sample

PADDING = 50.0


class Sequences(nn.Module):
    """Classifies sequences (B, L, 4), padded; or packed, so that no layer sees padding."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 1))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x, lengths):
        valid = positions(x, lengths)
        features = self.norm(self.body(x.mT)).relu().mT
        return self.head((features * valid[..., None]).sum(1) / lengths[:, None])

    def packed(self, x, lengths):
        rows = self.norm(self.body(x[positions(x, lengths)].T[None])).relu()[0].T
        return self.head(torch.stack([part.mean(0) for part in rows.split(lengths.tolist())]))


def positions(x, lengths):
    return torch.arange(x.shape[1]) < lengths[:, None]


def mask(batch):
    x, _, lengths = batch
    return positions(x, lengths)


def padded(model, batch):
    return model(batch[0], batch[2])


def packed(model, batch):
    return model.packed(batch[0], batch[2])


def batches(num=40, size=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(num):
        y, lengths = (torch.randint(low, high, (size,), generator=generator) for low, high in ((0, 3), (2, 11)))
        x = torch.randn(size, 12, 4, generator=generator) + 3 + 2 * nn.functional.one_hot(y, 4)[:, None]
        found.append((torch.where(positions(x, lengths)[..., None], x, PADDING), y, lengths))
    return found


@pytest.fixture(scope="module")
def sound():
    """Trained without padding, with the population's statistics."""
    torch.manual_seed(0)
    net, data = Sequences(), batches()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for batch in data:
        loss = nn.functional.cross_entropy(packed(net, batch), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tn.assign(net, tn.measure(net, data, forward=packed))
    return net


@pytest.fixture
def net(sound):
    return copy.deepcopy(sound)


def initial(net):
    """With a momentum too small for the batches that were seen."""
    for norm in (net.body[1], net.norm):
        norm.momentum = 0.01
        norm.num_batches_tracked.fill_(100)
        left = 0.99**100
        norm.running_mean.mul_(1 - left)
        norm.running_var.mul_(1 - left).add_(left)
    return net


def by_layer(found):
    return {layer.layer: (layer.off, layer.own, layer.floor) for layer in found.layers}


@pytest.mark.parametrize("broken", [False, True])
def test_alike_with_and_without_padding(net, broken):
    net, data = initial(net) if broken else net, batches(seed=2)
    found = tn.diagnose(net, data, forward=padded, mask=mask)
    expected = tn.diagnose(net, data, forward=packed)
    assert found.healthy is expected.healthy is not broken
    assert found.cause == expected.cause == ("initial values" if broken else None)
    for name, numbers in by_layer(expected).items():
        assert by_layer(found)[name] == pytest.approx(numbers, rel=1e-3, abs=1e-3)
    assert found.scores["joint"] == pytest.approx(expected.scores["joint"], rel=1e-3)
    # Without the mask, padding is taken for what the layers see.
    blind = tn.diagnose(net, data, forward=padded)
    assert max(off for off, *_ in by_layer(blind).values()) > 1


def test_a_repair_heals_to_the_statistics_without_padding(net):
    net, data = initial(net), batches(seed=3)
    done = tn.repair(net, data, held_out=batches(seed=4), forward=padded, mask=mask)
    assert done.chosen == "joint"
    expected = tn.measure(net, data, forward=packed)
    for name, moments in tn.statistics(net).items():
        torch.testing.assert_close(moments.mean, expected[name].mean.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moments.var, expected[name].var.float(), rtol=1e-4, atol=1e-5)
    assert tn.diagnose(net, batches(seed=5), forward=padded, mask=mask).healthy


def test_a_mask_of_values_is_taken_before_images_are_changed():
    """Causes try other images: where these are valid does not change with that."""
    images = torch.randn(16, 3, 4, 4) + 9
    images[:, :, :, 3] = 0
    sample = take_sample([(images, torch.zeros(16).long())], limit=16)
    changed = sample.changed(torch.zeros_like).rows(torch.arange(4)).changed(lambda x: x + 5)
    net, valid = nn.Sequential(nn.BatchNorm2d(3)), lambda batch: (batch[0] != 0).all(1)
    found = tn.measure(net, changed.batches, mask=valid)["0"]
    assert found.count == 4 * 12 and torch.equal(found.mean, torch.full((3,), 5.0, dtype=found.mean.dtype))


def test_preprocessing_is_found_in_images_with_a_mask_of_values():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(8, 2))
    x = torch.rand(256, 1, 6, 6) + 1
    x[:, :, :, 4:] = 0
    valid = lambda batch: (batch[0] != 0).all(1)  # noqa: E731  # shorter than a function
    tn.assign(net, tn.measure(net, [x / 4], mask=lambda batch: valid([x])))
    found = tn.diagnose(net, [[part] for part in x.split(32)], mask=valid)
    (finding,) = (finding for finding in found.findings if finding.cause == "preprocessing")
    assert finding.evidence["scale"] == pytest.approx(0.25, rel=0.02) and not finding.evidence["reverse"]
