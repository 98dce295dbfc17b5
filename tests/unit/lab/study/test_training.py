import math

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from torch.nn import functional as F

from truenorm.errors import Diverged
from truenorm.lab.images.feed import Feed, Scale
from truenorm.lab.images.sets import Split
from truenorm.lab.networks.norms import BatchNorm
from truenorm.lab.networks.plain import mlp
from truenorm.lab.study.training import Recipe, Training, predict, rate_factor, train

BATCH, EPOCHS = 8, 3


@pytest.fixture
def feed():
    images = torch.randint(0, 256, (43, 1, 4, 4), dtype=torch.uint8)
    return Feed(Split(images, torch.randint(0, 5, (43,))), Scale.of(images), BATCH, drop_single=True)


def recipe(**changes):
    fields = {"epochs": EPOCHS, "lr": 0.05, "optimizer": "sgd", "schedule": "cosine", "weight_decay": 1e-3, "seed": 3}
    return Recipe(**fields | changes)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return mlp((1, 4, 4), 5, **{"widths": (8, 6)} | changes)


def bits(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def by_hand(net, feed, given):
    """The same training in plain torch: the rate set by hand, the batches cut by hand."""
    if given.optimizer == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr=given.lr, momentum=0.9, weight_decay=given.weight_decay)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=given.lr, weight_decay=given.weight_decay)
    images = feed.scale(feed.split.images)
    generator = torch.Generator().manual_seed(given.seed)
    per_epoch = math.ceil(len(images) / BATCH)
    steps, step, losses = given.epochs * per_epoch, 0, []
    warm_up = min(100, steps // 10)
    for _ in range(given.epochs):
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for start in range(0, len(images), BATCH):
            rows = order[start : start + BATCH]
            if step < warm_up:
                factor = (step + 1) / warm_up
            else:
                factor = (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2
            for group in optimizer.param_groups:
                group["lr"] = given.lr * (factor if given.schedule == "cosine" else min(1.0, (step + 1) / warm_up))
            loss = F.cross_entropy(net(images[rows]), feed.split.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            step += 1
        losses.append(total / per_epoch)
    return losses


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_it_is_the_plain_loop_bit_for_bit(feed, optimizer, schedule):
    given = recipe(optimizer=optimizer, schedule=schedule)
    ours, plain = network(), network()
    losses = train(ours, feed, given)
    torch.testing.assert_close(losses, by_hand(plain, feed, given), rtol=1e-5, atol=0)
    assert same(bits(ours), bits(plain))


def test_this_comparison_sees_another_rate(feed):
    """Planted: a rate off by one part in a thousand."""
    ours, plain = network(), network()
    train(ours, feed, recipe())
    by_hand(plain, feed, recipe(lr=0.05005))
    assert not same(bits(ours), bits(plain))


def test_one_seed_gives_the_same_bits_and_another_others(feed):
    results = []
    for seed in (3, 3, 4):
        net = network()
        losses = train(net, feed, recipe(seed=seed))
        results.append((losses, bits(net)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]
    assert not same(results[0][1], results[2][1])


class Dropping(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 8), BatchNorm(8), nn.Dropout(), nn.Linear(8, 5))


def test_what_draws_on_the_way_draws_the_seeds_numbers(feed):
    """A network with dropout: the same whatever was drawn before, and another for another seed."""
    results = []
    for seed, drawn in ((3, 0), (3, 5), (4, 0)):
        torch.manual_seed(0)
        net = Dropping()
        torch.rand(drawn)
        train(net, feed, recipe(seed=seed))
        results.append(bits(net))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("make", [network, Dropping])
def test_global_random_state_stays(feed, make, no_global_draws):
    with torch.random.fork_rng():
        net = make()
    train(net, feed, recipe())
    predict(net, feed)


def test_a_call_after_each_step(feed):
    calls = []
    losses = train(network(), feed, recipe(), on_step=lambda: calls.append("step"))
    assert len(calls) == 6 * EPOCHS
    assert len(losses) == EPOCHS


def test_what_is_left_in_evaluation_mode_trains_in_the_next_epoch(feed):
    net, plain = network(), network()
    training = Training(net, feed, recipe())
    for _ in range(EPOCHS):
        training.run_epoch()
        assert net.training
        net.eval()
    train(plain, feed, recipe())
    assert same(bits(net), bits(plain))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_training_that_is_saved_goes_on_to_the_same_bits(feed, optimizer, stop, tmp_path, no_global_draws):
    """With dropout, momentum, a rate that changes at each step, images varied at random; from a file."""
    given = recipe(optimizer=optimizer, augment=("crop", "flip"))
    with torch.random.fork_rng():
        whole, first, second = (Dropping() for _ in range(3))
        for net in (first, second):
            net.load_state_dict(whole.state_dict())
    training = Training(first, feed, given)
    for _ in range(stop):
        training.run_epoch()
    torch.save(training.state_dict(), tmp_path / "kept.pt")
    again = Training(second, feed, given)
    again.load_state_dict(torch.load(tmp_path / "kept.pt", weights_only=True))
    assert again.epoch == stop
    while again.epoch < EPOCHS:
        again.run_epoch()
    losses = train(whole, feed, given)
    assert again.losses == losses
    assert same(bits(second), bits(whole))
    assert stop == EPOCHS or not same(bits(first), bits(whole))


def test_what_comes_in_from_outside_by_a_crop_is_black():
    images = torch.full((16, 1, 8, 8), 200, dtype=torch.uint8)
    images[:, :, 4:] = 100
    feed = Feed(Split(images, torch.randint(0, 5, (16,))), Scale.of(images), 16)
    seen = []
    net = mlp((1, 8, 8), 5, widths=(8, 6))
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    train(net, feed, recipe(augment=("crop",), epochs=1))
    pixels = (seen[0] * feed.scale.std + feed.scale.mean).round()
    assert set(pixels.unique().tolist()) == {0, 100, 200}


def test_a_last_batch_of_one_is_not_trained_on():
    images = torch.randint(0, 256, (17, 1, 4, 4), dtype=torch.uint8)
    feed = Feed(Split(images, torch.randint(0, 5, (17,))), Scale.of(images), BATCH, drop_single=True)
    sizes = []
    net = network()
    net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    train(net, feed, recipe())
    assert sizes == [BATCH] * 6


@pytest.mark.parametrize(
    ("schedule", "steps", "step", "factor"),
    [
        ("cosine", 1000, 0, 0.01),
        ("cosine", 1000, 49, 0.5),
        ("cosine", 1000, 99, 1.0),
        ("cosine", 1000, 100, 1.0),
        ("cosine", 1000, 325, 0.5 + math.sqrt(0.5) / 2),
        ("cosine", 1000, 550, 0.5),
        ("cosine", 1000, 1000, 0.0),
        ("cosine", 100_000, 49, 0.5),  # a warm-up is never longer than 100 steps
        ("cosine", 20, 0, 0.5),
        ("cosine", 20, 1, 1.0),
        ("cosine", 5, 0, 1.0),  # too few steps to warm up in
        ("cosine", 1, 0, 1.0),
        ("cosine", 1, 1, 0.0),
        ("constant", 1000, 0, 0.01),
        ("constant", 1000, 100, 1.0),
        ("constant", 1000, 999, 1.0),
        ("constant", 1, 0, 1.0),
    ],
)
def test_the_schedule(schedule, steps, step, factor):
    torch.testing.assert_close(rate_factor(schedule, steps)(step), factor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_rate_is_never_zero_while_training(schedule):
    for steps in range(1, 300):
        factor = rate_factor(schedule, steps)
        assert all(0 < factor(step) <= 1 for step in range(steps))


def test_a_loss_that_is_not_finite(feed):
    with pytest.raises(Diverged) as caught:
        train(network(), feed, recipe(lr=1e20, schedule="constant"))
    assert str(caught.value) == snapshot(
        "training diverged in epoch 1 by step 6: the loss is nan at --lr 1e+20; try a smaller rate"
    )


def test_divergence_leaves_the_random_state(feed, no_global_draws):
    with torch.random.fork_rng():
        net = network()
    with pytest.raises(Diverged):
        train(net, feed, recipe(lr=1e20))


def test_predictions_are_those_of_evaluation_in_the_feeds_order(feed):
    net = network()
    train(net, feed, recipe())
    before = bits(net)
    logits = predict(net, feed.resized(10))
    assert net.training
    assert same(bits(net), before)
    expected = net.eval()(feed.scale(feed.split.images)).detach()
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad


@pytest.mark.parametrize("mode", [True, False])
def test_predicting_keeps_the_mode_even_when_it_fails(feed, mode):
    net = nn.Linear(3, 3).train(mode)
    with pytest.raises(RuntimeError):
        predict(net, feed)
    assert net.training is mode


def test_predictions_that_are_not_finite(feed):
    net = network()
    nn.init.constant_(net[-1].weight, math.nan)
    with pytest.raises(Diverged) as caught:
        predict(net, feed)
    assert str(caught.value) == snapshot("what the trained network gives is not finite; try a smaller --lr")
