"""Two processes with gloo on this machine: watched trainings, gathered statistics, repairs, and what peers do."""

import nets
import oracle
import pytest
import ranks
import torch
from contract.sharing import PER_RANK, RANKS, merged_by, share
from gathering import NAMES, batches_of, found_by
from nets import assert_same_bits
from processes import SIZE

import truenorm as tn
from truenorm.model.gather import gathered, num_processes
from truenorm.stats import Moments, Provenance, Statistics, merge_statistics

# Watched trainings


@pytest.fixture(scope="module")
def trained(pair):
    return pair.run(ranks.trained_twice)


def is_statistic(key):
    return key.endswith(("running_mean", "running_var"))


@pytest.mark.parametrize("how", ["watched", "inside"])
def test_the_run_does_not_notice(trained, how):
    for found in trained:
        for key, value in found["unwatched"].items():
            if is_statistic(key):
                torch.testing.assert_close(found[how][key], value, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(found[how][key], value), key


def test_the_ranks_trained_one_network_on_data_of_their_own(trained):
    """Else the tests here would say nothing."""
    for how in ("unwatched", "watched"):
        ours, theirs = ({key: value for key, value in found[how].items() if not is_statistic(key)} for found in trained)
        assert_same_bits(ours, theirs)
    assert not torch.equal(trained[0]["moments"]["bn1"][0], trained[1]["moments"]["bn1"][0])


def test_merged_statistics_are_those_of_all_values(trained):
    merged = merge_statistics(
        Statistics({name: Moments(*parts) for name, parts in found["moments"].items()}) for found in trained
    )
    for name, moments in merged.items():
        batches = [x.numpy() for found in trained for x in found["seen"][name]]
        mean, var, count = oracle.population(oracle.stream_of(batches))
        torch.testing.assert_close(moments.mean, torch.tensor(mean), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments.var, torch.tensor(var), rtol=1e-5, atol=1e-6)
        assert moments.count == count == sum(map(len, batches))


def test_each_rank_follows_its_own_batches(trained):
    for found in trained:
        for name, (mean, var) in found["static"].items():
            expected = oracle.static(oracle.stream_of([x.numpy() for x in found["seen"][name]]), 0.1)
            torch.testing.assert_close(mean, torch.tensor(expected[0]), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(var, torch.tensor(expected[1]), rtol=1e-5, atol=1e-6)


def test_one_rank_may_measure_alone(trained):
    assert trained[0]["measured"]


# Layers that choose their momentum


def test_averages_that_are_followed_are_rank_0s_as_torchs_buffers_are(pair):
    first, second = pair.run(ranks.followed_momenta)
    torch.testing.assert_close(first["after"], first["alone"], rtol=0, atol=0)
    assert first["momentum"][0] == first["momentum"][1]
    # Rank 1 has taken its own last batch into what rank 0 sent before it.
    assert not torch.equal(second["after"]["1.candidates"], first["after"]["1.candidates"])
    slowest = {name: found["after"]["1.candidates"][:, -1] for name, found in (("first", first), ("second", second))}
    torch.testing.assert_close(slowest["second"], slowest["first"], rtol=0, atol=0.2)
    assert second["after"]["1.num_batches_tracked"] == first["after"]["1.num_batches_tracked"] == 30


# Statistics of both


@pytest.fixture(scope="module")
def measured(pair):
    return pair.run(found_by)


def stream_of(measured, name):
    return oracle.stream_of([x.numpy() for found in measured for x in found["seen"][name]])


def same(a, b):
    """To the bit, counts and design effects too."""
    return a.keys() == b.keys() and all(
        torch.equal(a[name][0], b[name][0]) and torch.equal(a[name][1], b[name][1]) and a[name][2:] == b[name][2:]
        for name in a
    )


def test_every_process_has_the_same_bits_of_different_data(measured):
    ours, theirs = measured
    assert [found["processes"] for found in measured] == [SIZE, SIZE]
    for how in ("joint", "within", "sequential"):
        assert same(ours["merged"][how], theirs["merged"][how])
    assert not same(ours["own"]["joint"], theirs["own"]["joint"])
    assert same(ours["again"], ours["merged"]["within"])


@pytest.mark.parametrize("how", ["joint", "within"])
def test_they_are_those_of_all_values(measured, how):
    found = measured[0]["merged"][how]
    assert set(found) == set(NAMES)
    for name, (mean, var, count, _) in found.items():
        stream = stream_of(measured, name)
        expected = oracle.population(stream)
        if how == "within":
            expected = (expected[0], sum(n * v for _, v, n in stream) / expected[2], expected[2])
        torch.testing.assert_close(mean, torch.tensor(expected[0]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var, torch.tensor(expected[1]), rtol=1e-5, atol=1e-6)
        assert count == expected[2] == sum(n for _, _, n in stream)
    assert bool((measured[0]["merged"]["joint"]["bn1"][1] > 1.05 * measured[0]["merged"]["within"]["bn1"][1]).all())


@pytest.mark.parametrize("how", ["joint", "within"])
def test_a_layer_that_one_process_reached_is_that_processs(measured, how):
    assert "rare" not in measured[0]["own"][how]
    mean, var, count, effect = measured[0]["merged"][how]["rare"]
    own = measured[1]["own"][how]["rare"]
    assert torch.equal(mean, own[0]) and torch.equal(var, own[1]) and (count, effect) == own[2:]


def test_design_effects_weigh_by_count_and_stay_unknown_where_they_are(measured):
    merged = measured[0]["merged"]
    parts = [found["own"]["joint"]["bn1"][2:] for found in measured]
    expected = sum(count * effect for count, effect in parts) / sum(count for count, _ in parts)
    assert merged["joint"]["bn1"][3] == pytest.approx(expected, rel=1e-12)
    assert all(effect is None for *_, effect in merged["sequential"].values())  # of one giant batch each


def test_the_result_says_how_many_took_part(measured):
    for found in measured:
        assert {about["processes"] for about in found["provenance"].values()} == {2}
        assert found["provenance"]["within"]["variance"] == "within"


def test_the_result_says_how_many_samples_there_were(measured):
    total = sum(len(x) for rank in range(SIZE) for x, _ in batches_of(rank))
    assert {found["provenance"]["joint"]["samples"] for found in measured} == {total}


def test_a_repair_is_the_same_everywhere(measured):
    ours, theirs = measured
    assert ours["repair"] == theirs["repair"] and ours["repair"][0]
    nets.assert_same_bits(ours["repaired"], theirs["repaired"])
    assert not torch.equal(ours["repaired"]["bn1.running_mean"], torch.zeros(6))


def test_a_process_alone_is_given_back_what_it_has():
    net = nets.plain()
    found = {
        "joint": Statistics({"bn1": Moments(torch.zeros(6), torch.ones(6), 8)}, provenance=Provenance(flow="joint"))
    }
    alone = gathered(net, found)
    assert num_processes() == 1
    assert alone == found and alone["joint"].provenance == Provenance(flow="joint") and alone is not found


def test_a_group_of_one_is_alone_too(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        found = tn.measure(nets.plain(), [x for x, _ in nets.batches(3)])
        assert gathered(nets.plain(), {"joint": found})["joint"] is found
    finally:
        torch.distributed.destroy_process_group()


# Beside peers: the variance between processes is kept


@pytest.fixture(scope="module")
def shared(pair):
    return pair.run(merged_by)


@pytest.mark.parametrize("shares", ["equal", "unequal"])
def test_m14_repair_pools_what_all_processes_have(shared, shares):
    """Every process ends with the moments of all data: mean 5, variance 26 where their shares are equal."""
    x = torch.cat([share(rank)[: PER_RANK - 256 * rank * (shares == "unequal")] for rank in range(RANKS)]).double()
    if shares == "equal":
        torch.testing.assert_close(x.var(0), torch.full((3,), 26.0).double(), rtol=0.05, atol=0)
    for found in shared:
        assert found[f"{shares}: chosen"]
        mean, var = found[shares]
        torch.testing.assert_close(mean.double(), x.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(var.double(), x.var(0, correction=0), rtol=1e-5, atol=0)
        assert (found[f"{shares}: alone"] < 2).all()  # a measurement is each process's own
    for ours, theirs in zip(shared[0][shares], shared[1][shares], strict=True):
        assert torch.equal(ours, theirs)


def test_m14_others_keep_a_share_or_lose_the_variance_between_processes(shared):
    for rank, found in enumerate(shared):
        mean, var = found["update_bn"]
        assert (mean - 10 * rank).abs().max() < 0.5 and (var < 2).all()
        mean, var = found["averaged"]
        assert (mean - 5).abs().max() < 0.5 and (var < 2).all()
    mean, var = shared[0]["data parallel"]  # the second process's data never counts
    assert mean.abs().max() < 0.5 and (var < 2).all()
