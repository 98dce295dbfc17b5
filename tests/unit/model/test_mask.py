"""With a mask, statistics are those of the sequences without padding; what no mask fits is refused."""

import copy
from functools import partial

import nets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from nets import assert_same_bits, bits, identities, num_hooks
from torch import nn
from torch.utils.checkpoint import checkpoint

import truenorm as tn
from truenorm.data.batches import Batch
from truenorm.errors import InvalidInput, NotMeasurable
from truenorm.model.calls import calls_of
from truenorm.model.mask import ALL, Valid

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
FLOWS = ("joint", "eval", "sequential")
every_flow = pytest.mark.parametrize("flow", FLOWS)
FAR = 1e6
"""A value of padding that shows wherever it leaks in."""


class Flat(nn.Module):
    """(B, L, 4) → flattened positions (B·L, C): Linear, batch norm, twice."""

    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), norm(6), nn.ReLU(), nn.Linear(6, 5), norm(5))

    def forward(self, x):
        return self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Channels(nn.Module):
    """(B, L, 4) → (B, C, L): the same by convolutions of width 1."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 5, 1), nn.BatchNorm1d(5)
        )

    def forward(self, x):
        return self.body(x.mT).mT


class Strided(nn.Module):
    """(B, L, 4) → (B, 6, L) → (B, 5, L/2), with windows that do not overlap."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 5, 2, 2), nn.BatchNorm1d(5)
        )

    def forward(self, x):
        return self.body(x.mT)


class Packed(Flat):
    """Gathers the valid positions itself, and pools them: (n, C), then (B, C)."""

    def __init__(self):
        super().__init__()
        self.pooled = nn.BatchNorm1d(5)

    def forward(self, x, lengths):
        valid = torch.arange(x.shape[1]) < lengths[:, None]
        rows = self.body(x[valid])
        return self.pooled(torch.stack([part.mean(0) for part in rows.split(lengths.tolist())]))


def sequences(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, 4, generator=generator, dtype=torch.float64) + 2 for length in lengths]


def padded(parts, value=FAR, longer=0):
    """A batch as a loader gives it: what is padded, and the lengths."""
    lengths = torch.tensor([len(part) for part in parts])
    x = torch.full((len(parts), int(lengths.max()) + longer, 4), value, dtype=torch.float64)
    for row, part in zip(x, parts, strict=True):
        row[: len(part)] = part
    return x, lengths


def mask(batch):
    x, lengths = batch
    return torch.arange(x.shape[1]) < lengths[:, None]


def batches(sizes=((7, 3, 5), (2, 6), (4, 4, 1, 8)), value=FAR):
    """Batches of padded sequences; and each batch's sequences one after the other, without padding."""
    parts = [sequences(lengths, seed) for seed, lengths in enumerate(sizes)]
    return [padded(part, value, longer=2) for part in parts], [torch.cat(part)[None] for part in parts]


def trained(make=Flat):
    """Running statistics that are neither the initial ones nor those of the data."""
    torch.manual_seed(0)
    net = make().double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net


def assert_close(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name, moments in expected.items():
        torch.testing.assert_close(found[name].mean, moments.mean, **(tolerance or CLOSE))
        torch.testing.assert_close(found[name].var, moments.var, **(tolerance or CLOSE))
        assert found[name].count == moments.count


# Measure


@every_flow
@pytest.mark.parametrize("make", [Flat, Channels, partial(Flat, nets.OwnBatchNorm), partial(Flat, tn.nn.BatchNorm1d)])
def test_padding_stays_out(make, flow):
    net = trained(make)
    before = bits(net)
    given, unpadded = batches()
    assert_close(tn.measure(net, given, flow=flow, mask=mask), tn.measure(net, unpadded, flow=flow))
    with pytest.raises(AssertionError):
        assert_close(tn.measure(net, given, flow=flow), tn.measure(net, unpadded, flow=flow))
    assert_same_bits(bits(net), before)


def test_in_evaluation_as_sequences_one_by_one():
    net, (given, unpadded) = trained(), batches()
    alone = [part[None] for (x, lengths) in given for part in map(lambda row, n: row[:n], x, lengths)]
    found = tn.measure(net, given, flow="eval", mask=mask)
    assert_close(found, tn.measure(net, alone, flow="eval"))
    assert found["body.1"].count == sum(part.shape[1] for part in unpadded)


@given(
    sizes=st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4), min_size=1, max_size=3),
    flow=st.sampled_from(FLOWS),
    make=st.sampled_from([Flat, Channels]),
)
def test_of_any_lengths(sizes, flow, make):
    net, (given, unpadded) = trained(make), batches(sizes)
    assert_close(tn.measure(net, given, flow=flow, mask=mask), tn.measure(net, unpadded, flow=flow))


@every_flow
def test_images(flow):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).double()
    x, valid = torch.randn(4, 3, 5, 6, dtype=torch.float64), torch.rand(4, 5, 6) > 0.4
    given = [(torch.where(valid[:, None], x, FAR), valid)]
    unpadded = [x.movedim(1, -1)[valid].T[None, :, None]]
    found = tn.measure(net, given, flow=flow, mask=lambda batch: batch[1])
    assert_close(found, tn.measure(net, unpadded, flow=flow))


@every_flow
def test_several_resolutions(flow):
    net = trained(Strided)
    given, unpadded = batches([(6, 2, 8), (4, 4)])
    found = tn.measure(net, given, flow=flow, mask=lambda batch: [mask(batch), mask(batch)[:, ::2]])
    assert_close(found, tn.measure(net, unpadded, flow=flow))


def test_positions_in_two_dimensions_and_flattened():
    """A mask of (B, L) serves layers of (B, C, L) and of (B·L, C) in one network."""

    class Both(Channels):
        def __init__(self):
            super().__init__()
            self.flat = nn.BatchNorm1d(5)

        def forward(self, x):
            return self.flat(super().forward(x).flatten(0, 1))

    net, (given, unpadded) = trained(Both), batches()
    assert_close(tn.measure(net, given, mask=mask), tn.measure(net, unpadded))


@every_flow
def test_packed_and_pooled_rows_need_none(flow):
    net, (given, _) = trained(Packed), batches()
    how = {"flow": flow, "forward": lambda model, batch: model(*batch)}
    assert_close(tn.measure(net, given, mask=mask, **how), tn.measure(net, given, **how))


def test_a_mask_of_samples():
    net, x = nn.Sequential(nn.BatchNorm1d(4)).double(), torch.cat(sequences([9]))
    found = tn.measure(net, [x], mask=lambda batch: torch.arange(len(batch)) < 5)
    assert_close(found, tn.measure(net, [x[:5]]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_zeros_and_ones_are_taken(dtype):
    net, (given, unpadded) = trained(), batches()
    assert_close(tn.measure(net, given, mask=lambda batch: mask(batch).to(dtype)), tn.measure(net, unpadded))


def test_it_gets_what_forward_gets():
    net, (given, _) = trained(), batches()
    got = {"mask": [], "forward": []}

    def seen_mask(batch):
        got["mask"].append(batch)
        return mask(batch)

    def forward(model, batch):
        got["forward"].append(batch)
        return model(batch[0])

    tn.measure(net, given, forward=forward, mask=seen_mask)
    assert len(got["mask"]) == 3
    for masked, run in zip(got["mask"], got["forward"], strict=True):
        assert type(masked) is type(run) is tuple and masked[0] is run[0] and masked[1] is run[1]


def test_each_call_of_a_layer():
    norm, (given, _) = nn.BatchNorm1d(4).double(), batches([(7, 3, 5), (2, 6), (4, 4), (3, 1)])
    rows = {"forward": lambda model, batch: (model(batch[0].mT), model(batch[0].mT + 5)), "mask": mask}
    first, second = calls_of(norm, [Batch.of(batch) for batch in given], [""], **rows)[""]
    valid = torch.cat([x[mask((x, lengths))] for x, lengths in given])
    torch.testing.assert_close(first.moments.mean, valid.mean(0), **CLOSE)
    torch.testing.assert_close(second.moments.mean, valid.mean(0) + 5, **CLOSE)
    assert first.moments.count == len(valid)


class MeanSquares(nets.OwnBatchNorm):
    """Divides by the root of the mean square, and subtracts nothing."""

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.running_var.lerp_(x.square().mean(0), self.momentum)
        return x / (self.running_var + 1e-5).sqrt()


@every_flow
@pytest.mark.parametrize("norm", [MeanSquares, nets.HardCoded, nets.Renorm, nets.Frozen])
def test_layers_of_other_makes(norm, flow):
    """What they store is found out by calls, which padding must not confuse."""
    net = trained(lambda: nn.Sequential(Flat(), nn.Flatten(0, 1), norm(5), nn.BatchNorm1d(5)))
    given, unpadded = batches([(2, 2), (1, 9, 2)], value=1e9)
    found = tn.measure(net, given, flow=flow, mask=mask)
    assert_close(found, tn.measure(net, unpadded, flow=flow))


def test_what_cannot_be_masked_is_refused():
    given, _ = batches()

    class Odd(nn.BatchNorm1d):
        def forward(self, x):
            return x if not self.training else super().forward(x)

    net = nn.Sequential(nn.Flatten(0, 1), Odd(4)).double()
    with pytest.raises(NotMeasurable) as error:
        tn.measure(net, given, mask=mask)
    assert str(error.value) == snapshot(
        "layer '1' (Odd) normalises by its whole batch, and a mask cannot keep padding out of that; measure flow='eval'"
    )


# Refusals


def refused(net, given, mask, error=NotMeasurable):
    before, places, hooks = bits(net), identities(net), num_hooks(net)
    with pytest.raises(error) as raised:
        tn.measure(net, given, mask=mask)
    assert_same_bits(bits(net), before)
    assert identities(net) == places and num_hooks(net) == hooks
    return str(raised.value)


def test_what_fits_nowhere_is_refused():
    given, _ = batches()
    assert refused(trained(Strided), given, mask) == snapshot(
        "layer 'body.4' was given shape (3, 5, 4), and mask(batch) returned no mask for its positions (3, 4), only of shape (3, 9); return one mask for each resolution of the network"
    )
    assert refused(trained(), given, lambda batch: mask(batch)[:, 1:]) == snapshot(
        "layer 'body.1' was given shape (27, 6), and mask(batch) returned no mask for its positions (27,), only of shape (3, 8); return one mask for each resolution of the network"
    )
    assert refused(trained(Channels), given, lambda batch: batch[1] > 2) == snapshot(
        "layer 'body.1' was given shape (3, 6, 9), and mask(batch) returned no mask for its positions (3, 9), only of shape (3,); return one mask for each resolution of the network"
    )


def test_what_fits_in_two_ways_is_refused():
    x, valid = torch.ones(2, 4, 4, dtype=torch.float64), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    halves = torch.tensor([[1, 1], [1, 0]])
    net = nn.Sequential(nn.BatchNorm1d(4)).double()
    assert refused(net, [x[0]], lambda batch: [valid, halves]) == snapshot(
        "layer '0' was given shape (4, 4), which masks of the shapes (2, 4), (2, 2) fit in different ways; let one of the masks have the shape (4,)"
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            torch.tensor([[0, 2]]),
            snapshot(
                "mask(batch) returned values of int64 other than 0 and 1; expected a boolean tensor, True where valid"
            ),
        ),
        (
            torch.tensor([[0.5, 1.0]]),
            snapshot(
                "mask(batch) returned values of float32 other than 0 and 1; expected a boolean tensor, True where valid"
            ),
        ),
        (
            torch.zeros(2, 3, dtype=torch.bool),
            snapshot(
                "mask(batch) returned a mask of shape (2, 3) without a valid position; expected True where a batch is valid (padding masks of attention often have True at padding)"
            ),
        ),
        (
            torch.tensor(True),
            snapshot(
                "mask(batch) returned a tensor without dimensions; expected a boolean tensor of shape (B, L), True where valid"
            ),
        ),
        ([], snapshot("mask(batch) returned no mask; return one for each resolution of the network")),
        (
            [[True, False]],
            snapshot(
                "mask(batch) returned an object of type list; expected a boolean tensor of shape (B, L), True where valid"
            ),
        ),
        (
            None,
            snapshot(
                "mask(batch) returned an object of type NoneType; expected a boolean tensor of shape (B, L), True where valid"
            ),
        ),
        (
            [torch.tensor([[1, 0]]), torch.tensor([[0, 1]])],
            snapshot("mask(batch) returned two different masks of shape (1, 2)"),
        ),
    ],
)
def test_what_is_no_mask_is_refused(given, sentence):
    assert refused(trained(), batches()[0], lambda batch: given, InvalidInput) == sentence


def test_a_batch_with_one_valid_position_has_no_variance():
    given, _ = batches([(1, 1)])
    only = lambda batch: mask(batch) & torch.tensor([[True], [False]])  # noqa: E731  # shorter than a function
    assert refused(trained(), given, only, InvalidInput) == snapshot(
        "layer 'body.1' got a batch of one value per channel, shape (1, 6): it has no variance to train on; use a larger batch, or drop_last for the last one"
    )


@every_flow
def test_what_fails_in_a_mask_leaves_the_model_as_it_was(flow):
    net, (given, _) = trained(), batches()
    before, places, hooks, state = bits(net), identities(net), num_hooks(net), torch.get_rng_state()

    def failing(batch):
        torch.rand(1)
        if len(batch[0]) == 4:
            raise KeyError("lengths")
        return mask(batch)

    with pytest.raises(KeyError, match="lengths"):
        tn.measure(net, given, flow=flow, mask=failing)
    assert_same_bits(bits(net), before)
    assert identities(net) == places and num_hooks(net) == hooks and torch.equal(torch.get_rng_state(), state)


def test_all_is_the_input_itself():
    x = torch.randn(2, 3, 4)
    assert ALL.rows(x, 1, "norm") is x
    assert Valid.of(torch.ones(2, 4)).rows(x, 1, "norm").shape == (8, 3)


# Watch


def step(net, optimizer, batch, call):
    loss = call(net, batch)[mask(batch)].square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def trained_in_steps(net, given, call=lambda net, batch: net(batch[0])):
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for batch in given:
        step(net, optimizer, batch, call)
    return net


class Padded(nn.Module):
    """Takes the sequences and their lengths."""

    def __init__(self, make=Flat):
        super().__init__()
        self.inner = make()

    def forward(self, x, lengths):
        return self.inner(x)


RULES = (tn.rules.Population(), tn.rules.Static((0.1,)))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d, tn.nn.BatchNorm1d, nets.OwnBatchNorm, nets.HardCoded, nets.Rebinding1d]
)
def test_a_watched_training_is_unchanged_and_its_moments_are_those_without_padding(norm):
    torch.manual_seed(0)
    net = Padded(partial(Flat, norm)).double()
    twin, (given, _) = copy.deepcopy(net), batches(value=3.0)
    expected = []
    for batch in given:  # the first layer's input of the weights that the step begins with
        rows = twin.inner.body[0](batch[0][mask(batch)]).detach()
        expected.append(rows)
        trained_in_steps(twin, [batch], lambda net, batch: net(*batch))
    with tn.watch(net, RULES, mask=mask) as watched:
        trained_in_steps(net, given, lambda net, batch: net(*batch))
    assert_same_bits(bits(net), bits(twin))
    rows = torch.cat(expected)
    population = watched["population"]["inner.body.1"]
    torch.testing.assert_close(population.mean, rows.mean(0), **CLOSE)
    torch.testing.assert_close(population.var, rows.var(0, correction=0), **CLOSE)
    assert population.count == len(rows)
    mean, var = torch.zeros(6).double(), torch.ones(6).double()
    for rows in expected:
        mean, var = mean.lerp(rows.mean(0), 0.1), var.lerp(rows.var(0), 0.1)
    torch.testing.assert_close(watched["static-0.1"]["inner.body.1"].mean, mean, **CLOSE)
    torch.testing.assert_close(watched["static-0.1"]["inner.body.1"].var, var, **CLOSE)
    assert watched["static-0.1"].provenance.measured_beside == ("inner.body.1", "inner.body.4")
    assert num_hooks(net) == num_hooks(twin)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda net, batch: net(*batch), tuple),
        (lambda net, batch: net(batch[0], lengths=batch[1]), tuple),
        (lambda net, batch: net(x=batch[0], lengths=batch[1]), dict),
        (lambda net, batch: net.inner(batch[0]), torch.Tensor),
    ],
)
def test_what_the_mask_of_a_watch_gets(call, kind):
    net, (given, _) = Padded().double(), batches()
    got = []

    def seen(arguments):
        got.append(arguments)
        assert not torch.is_grad_enabled()
        return mask(given[0])

    model = net.inner if kind is torch.Tensor else net
    with tn.watch(model, RULES, mask=seen):
        call(net, given[0])
        call(net.eval(), given[0])
    assert [type(arguments) for arguments in got] == [kind]


def test_a_model_that_is_one_layer():
    norm, (given, _) = nn.BatchNorm1d(4).double(), batches()
    with tn.watch(norm, RULES, mask=lambda x: mask(given[0])) as watched:
        norm(given[0][0].mT)
    assert watched["population"][""].count == 15
    assert_close(watched["population"], tn.measure(norm, given[:1], mask=mask, forward=lambda m, b: m(b[0].mT)))


def test_without_a_mask_a_watch_is_as_it_was():
    """No hook more, and torch writes the moments."""
    net = Padded().double()
    with tn.watch(net, RULES):
        plain = num_hooks(net)
    with tn.watch(net, RULES, mask=mask):
        assert num_hooks(net) == plain + 2
    assert num_hooks(net) == 0


def test_passes_in_a_masked_watch_are_no_training():
    torch.manual_seed(0)
    net, (given, _) = Padded().double(), batches()
    call = {"forward": lambda model, batch: model(*batch)}
    with tn.watch(net, RULES, mask=mask) as watched:
        net(*given[0])
        once = watched["population"]
        tn.measure(net, given, mask=mask, **call)
        with torch.no_grad():
            torch.optim.swa_utils.update_bn([given[1]], _Called(net))
        with watched.suspended():
            net.train()(*given[2])
    assert watched["population"] == once


class _Called(nn.Module):
    """`update_bn` gives the first part of a batch: here both are wanted."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x, torch.full((len(x),), x.shape[1]))


def test_update_bn_of_layers_that_average_is_no_training():
    """Momentum None says nothing then: the count that is set back does."""
    net, (given, _) = Padded().double(), batches()
    for layer in (net.inner.body[1], net.inner.body[4]):
        layer.momentum = None
    with tn.watch(net, (tn.rules.Population(),), mask=mask) as watched:
        net(*given[0])
        once = watched["population"]
        torch.optim.swa_utils.update_bn([given[1]], _Called(net))
    assert watched["population"] == once


class _Checkpointed(Padded):
    reentrant = False

    def forward(self, x, lengths):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


def test_checkpointed_activations():
    torch.manual_seed(0)
    net, (given, _) = _Checkpointed().double(), batches(value=0.0)
    with tn.watch(net, RULES, mask=mask) as watched:
        trained_in_steps(net, given, lambda net, batch: net(*batch))
    assert watched["population"]["inner.body.1"].count == 40
    net.reentrant = True
    with tn.watch(net, RULES, mask=mask):
        loss = net(given[0][0].requires_grad_(), given[0][1]).sum()
        with pytest.raises(NotMeasurable) as error:
            loss.backward()
    assert str(error.value) == snapshot(
        "layer 'inner.body.1' was called outside of the forward of the watched model, where no mask is known; call the model itself, and checkpoint activations with use_reentrant=False"
    )


def test_a_watched_layer_that_no_mask_fits():
    net, (given, _) = Strided().double(), batches()
    before, hooks = bits(net), num_hooks(net)
    with tn.watch(net, RULES, mask=lambda x: mask(given[0])), pytest.raises(NotMeasurable, match="no mask for its"):
        net(given[0][0])
    assert num_hooks(net) == hooks and identities(net) and before.keys() == bits(net).keys()


def test_what_fails_in_the_mask_of_a_watch():
    net, (given, _) = Padded().double(), batches()
    before, places = bits(net), identities(net)

    def failing(arguments):
        raise KeyError("lengths")

    with tn.watch(net, RULES, mask=failing) as watched, pytest.raises(KeyError, match="lengths"):
        net(*given[0])
    assert_same_bits(bits(net), before)
    assert identities(net) == places and num_hooks(net) == 0
    with pytest.raises(NotMeasurable):
        watched["population"]


def test_a_compiled_model_and_copies():
    net, (given, _) = Padded().double(), batches()
    with tn.watch(net, RULES, mask=mask) as watched:
        copy.deepcopy(net)(*given[0])
        compiled = torch.compile(net, backend="eager")
        compiled(*given[0])
    assert watched["population"]["inner.body.1"].count == 15
