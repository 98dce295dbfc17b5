"""Whether samples can be batched anew, and what is looked at where they cannot."""

import patients
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.data.sample import take_sample
from truenorm.doctor.rows import independent


def sample_of(batches):
    return take_sample(batches, limit=10**6)


def centred(model, batch):
    x = batch[0] if isinstance(batch, tuple) else batch
    return model(x) - model(x).mean(0)


def test_a_sound_network_is_independent():
    assert independent(patients.sound(), sample_of(patients.held_out()), None) is True


@pytest.mark.parametrize(
    "make",
    [
        lambda: patients.mlp(lambda channels: nn.BatchNorm1d(channels, track_running_stats=False)),
        lambda: patients.mlp(patients.ByBatch),
    ],
    ids=["untracked", "by the batch"],
)
def test_a_network_that_takes_its_batch_is_not(make):
    assert independent(make().eval(), sample_of(patients.held_out()), None) is False


def test_forward_may_entangle_what_the_network_does_not():
    assert independent(patients.sound(), sample_of(patients.held_out()), centred) is False


def test_a_batch_that_must_stay_whole_is_not_told():
    def whole(model, batch):
        assert len(batch[0]) == 32, "only whole batches"
        return model(batch[0])

    assert independent(patients.sound(), sample_of(patients.held_out()), whole) is None
    assert independent(patients.sound(), sample_of(patients.held_out()), lambda model, batch: 0.0) is None


def test_with_forward_what_is_scored_are_the_loaders_own_batches():
    data, scored = patients.held_out(), []

    def score(output, batch):
        scored.append(batch[0])
        return F.cross_entropy(output, batch[1], reduction="none").neg()

    found = tn.diagnose(patients.sound(), data, forward=lambda model, batch: model(batch[0]), score=score)
    assert all(any(torch.equal(x, given) for given, _ in data) for x in scored)
    assert found.looked.measured == found.looked.scored == 512


def test_batches_of_two_kinds_in_turn_are_in_both_halves():
    kinds = [torch.full((4, 2), float(number % 2)) for number in range(16)]
    first, second = (part.batches for part in take_sample([(x, [0] * 4) for x in kinds], limit=99).parts())
    for part in (first, second):
        assert {float(batch.raw[0][0, 0]) for batch in part} == {0.0, 1.0}


def test_a_functional_batch_norm_in_a_forward_is_seen_in_the_outputs():
    class Own(nn.Module):
        """No module of its own normalises: the forward does."""

        def __init__(self):
            super().__init__()
            self.net = patients.sound()

        def forward(self, x):
            return F.batch_norm(self.net(x), None, None, training=True)

    found = tn.diagnose(Own(), patients.held_out())
    assert "by the batch" in [finding.cause for finding in found.findings if finding.level == "note"]
    assert found.outcome.unknown == ("Own",)  # batch norm is not acquitted


def test_a_batch_norm_that_keeps_its_statistics_in_attributes_is_named():
    class Tutorial(nn.Module):
        """Statistics as plain attributes, which no state dict holds."""

        def __init__(self, channels):
            super().__init__()
            self.mean, self.var = torch.zeros(channels), torch.ones(channels)

        def forward(self, x):
            mean, var = (x.mean(0), x.var(0)) if self.training else (self.mean, self.var)
            if self.training:
                self.mean, self.var = self.mean.lerp(mean.detach(), 0.1), self.var.lerp(var.detach(), 0.1)
            return (x - mean) / (var + 1e-5).sqrt()

    net = patients.sound()
    net.bn2 = Tutorial(6)
    for x, _ in patients.blobs():
        net.train()(x)
    assert tn.diagnose(net.eval(), patients.held_out()).outcome.unknown == ("bn2",)
    net.bn1 = Tutorial(8)
    with pytest.raises(tn.errors.InvalidInput, match="bn1, bn2 may be one of another make"):
        tn.diagnose(net, patients.held_out())


@pytest.mark.parametrize("act", [tn.diagnose, tn.measure, tn.repair])
def test_what_holds_no_numbers_is_refused(act):
    lazy = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 3))
    for net, sentence in ((lazy, "lazy and has no shape yet"), (patients.sound().to("meta"), "on the meta device")):
        with pytest.raises(tn.errors.InvalidInput, match=sentence):
            act(net, patients.held_out())


def test_data_parallelism_leaves_no_trace():
    net = patients.sound()
    net.bn1 = patients.Fixed(net.bn1)
    net.bn1.running_mean += 2
    found, alone = (tn.diagnose(each, patients.held_out()) for each in (nn.DataParallel(net.eval()), net.eval()))
    assert (found.cause, found.findings[0].layers) == (alone.cause, alone.findings[0].layers)
    assert found.cause == "frozen statistics" and "frozen by eval()" not in [f.cause for f in found.findings]


@pytest.mark.parametrize("form", [lambda x, y: (x, int(y)), lambda x, y: {"image": x, "label": y}])
def test_a_list_of_samples_is_so_many_samples(form):
    net = patients.cnn().eval()
    data = [[form(x, y) for x, y in zip(*batch, strict=True)] for batch in patients.digits(4)]
    first = (lambda sample: sample["image"]) if isinstance(data[0][0], dict) else (lambda sample: sample[0])

    def forward(model, batch):
        return model(torch.stack([first(sample) for sample in batch]))

    assert tn.measure(net, data, forward=forward).about["samples"] == 128
    found = tn.diagnose(net, data, forward=forward)
    assert found.looked.batch_size == 32
    with pytest.raises(tn.errors.MissingFunction):
        tn.diagnose(net, data)
