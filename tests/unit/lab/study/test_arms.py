import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from torch.optim.swa_utils import update_bn

import truenorm as tn
from truenorm.errors import InvalidInput, UnknownName
from truenorm.lab.images.feed import Feed, Scale
from truenorm.lab.images.sets import Split
from truenorm.lab.study.arms import Trained, resolve, rules_for, sweep
from truenorm.rules import SWEEP, Adaptive, Cumulative, Online, Pooled, Population, Static, Switched

MOMENTA = (0.01, 0.5)


def names(*wanted, momenta=MOMENTA):
    same, others = resolve(wanted, momenta)
    return [arm.name for arm in same], list(others)


def test_all_there_is():
    assert names("all") == snapshot(
        (
            [
                "static-0.01",
                "static-0.1",
                "static-0.5",
                "cumulative",
                "dmbn",
                "dmbn-pooled",
                "pooled-0.1",
                "last-epoch",
                "adaptive",
                "update_bn",
                "recalibrated",
                "sequential",
                "dmbn-switch",
                "dmbn-online",
                "dynamic",
            ],
            ["bn-bfn", "gn"],
        )
    )


def test_the_default_is_all_that_needs_no_further_passes():
    (same, others), (every, also) = names("default"), names("all")
    assert set(every) - set(same) == {"dmbn-switch", "dmbn-online", "dynamic"}
    assert others == also == ["bn-bfn", "gn"]


def test_the_sweep_as_a_group():
    assert names("static") == (["static-0.01", "static-0.1", "static-0.5"], [])
    assert names("static", momenta=())[0] == [f"static-{m:g}" for m in SWEEP]


@pytest.mark.parametrize("wanted", [("dmbn",), ("gn",), ("static-0.5",), (), ("dmbn", "dmbn"), ("all", "default")])
def test_the_baseline_is_always_in_and_nothing_is_there_twice(wanted):
    same, others = names(*wanted)
    assert same.count("static-0.1") == 1
    assert len(set(same)) == len(same)
    assert set(wanted) - {"all", "default"} <= {*same, *others}


def test_the_order_is_that_of_the_list_not_of_the_request():
    assert names("gn", "dmbn", "bn-bfn", "cumulative") == (["static-0.1", "cumulative", "dmbn"], ["bn-bfn", "gn"])


def test_unknown_arms():
    def refused(name):
        with pytest.raises(UnknownName) as caught:
            names("dmbn", name)
        return str(caught.value)

    assert refused("dbmn") == snapshot(
        "unknown arm 'dbmn'; did you mean 'dmbn'? Known: adaptive, all, bn-bfn, cumulative, default, dmbn, "
        "dmbn-online, dmbn-pooled, dmbn-switch, dynamic, gn, last-epoch, pooled-0.1, recalibrated, sequential, static, "
        "static-0.01, static-0.1, static-0.5, update_bn"
    )
    assert refused("static-0.2") == snapshot(
        "unknown arm 'static-0.2'; did you mean 'static-0.5' or 'static-0.1'? Known: adaptive, all, bn-bfn, "
        "cumulative, default, dmbn, dmbn-online, dmbn-pooled, dmbn-switch, dynamic, gn, last-epoch, pooled-0.1, recalibrated, "
        "sequential, static, static-0.01, static-0.1, static-0.5, update_bn"
    )


def test_the_sweep():
    assert sweep(()) == SWEEP
    assert sweep((0.5, 0.01)) == (0.01, 0.1, 0.5)
    assert sweep((0.1,)) == (0.1,)


@pytest.mark.parametrize("momenta", [(2.0,), (0.0,), (-0.1,), (float("nan"),), (0.5, 0.5), (0.1, 0.1)])
def test_momenta_that_are_none(momenta):
    with pytest.raises(InvalidInput, match="outside|twice"):
        resolve(["default"], momenta)


ALL_MOMENTA = sweep(MOMENTA)
BASE = {Static(ALL_MOMENTA)}
NEEDED = {
    "static-0.01": set(),
    "static-0.1": set(),
    "static-0.5": set(),
    "cumulative": {Cumulative()},
    "dmbn": set(),
    "dmbn-pooled": {Pooled(ALL_MOMENTA)},
    "pooled-0.1": {Pooled((0.1,))},
    "last-epoch": {Population("last-epoch", epochs=True)},
    "adaptive": {Adaptive()},
    "update_bn": set(),
    "recalibrated": set(),
    "sequential": set(),
    "dmbn-switch": {Switched("dmbn-switch", 0.1)},
    "dmbn-online": {Online(ALL_MOMENTA)},
    "dynamic": set(),
}


@pytest.mark.parametrize("name", NEEDED)
def test_the_rules_are_those_that_the_arm_reads(name):
    arms, _ = resolve([name], MOMENTA)
    assert set(rules_for(arms, MOMENTA)) == BASE | NEEDED[name]


def test_no_arm_is_missing_here():
    assert set(NEEDED) == set(names("all")[0])


def test_all_arms_together_read_each_rule_once():
    rules = rules_for(resolve(["all"], MOMENTA)[0], MOMENTA)
    assert len(set(rules)) == len(rules)
    # One pooled bank serves both.
    assert set(rules) == BASE | {rule for needed in NEEDED.values() for rule in needed} - {Pooled((0.1,))}


@pytest.fixture(scope="module")
def trained():
    """A network after two epochs under every rule, and its training images."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    feed = Feed(Split(images, torch.randint(0, 3, (40,))), Scale.of(images), 8)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4)
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with tn.watch(network, rules_for(resolve(["all"], MOMENTA)[0], MOMENTA)) as watched:
        for _ in range(2):
            for x, y in feed:
                loss = nn.functional.cross_entropy(network(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            watched.end_epoch()
    return Trained(network, watched, feed)


def statistics_of(name, trained):
    (arm,) = [arm for arm in resolve([name], MOMENTA)[0] if arm.name == name]
    return arm.statistics(trained)


@pytest.mark.parametrize("name", NEEDED)
def test_every_arm_gives_all_layers_and_leaves_the_network(trained, name):
    before = {key: value.clone() for key, value in trained.network.state_dict().items()}
    found = statistics_of(name, trained)
    assert list(found) == ["2", "5"]
    assert all(torch.equal(value, before[key]) for key, value in trained.network.state_dict().items())
    assert trained.network.training


def test_update_bn_is_torchs(trained):
    other = nn.Sequential(*trained.network)
    with tn.using(trained.network):
        update_bn(trained.feed, other)
        expected = tn.statistics(other)
    assert statistics_of("update_bn", trained) == expected


def test_recalibrated_and_sequential_are_passes(trained):
    assert statistics_of("recalibrated", trained) == tn.measure(trained.network, trained.feed)
    assert statistics_of("sequential", trained) == tn.measure(
        trained.network, trained.feed.resized(1000), flow="sequential"
    )
    assert statistics_of("recalibrated", trained) != statistics_of("sequential", trained)


def test_a_population_is_measured_once(trained):
    assert trained.joint is trained.joint
    assert trained.sequential is trained.sequential


@pytest.mark.parametrize(("arm", "kind"), [("dmbn", "static"), ("dmbn-pooled", "pooled")])
def test_the_momentum_is_chosen_by_the_joint_population(trained, arm, kind):
    """Populations that two momenta hit exactly: the joint one decides."""
    planted = Trained(trained.network, trained.watched, trained.feed)
    planted.joint, planted.sequential = trained.watched[f"{kind}-0.5"], trained.watched[f"{kind}-0.01"]
    stats = statistics_of(arm, planted)
    assert stats.momenta == {"2": 0.5, "5": 0.5}
    assert stats == planted.joint
