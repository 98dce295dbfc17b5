"""Statistics of two processes with gloo on this machine."""

import nets
import oracle
import pytest
import torch
from gathering import NAMES, batches_of, found_by

import truenorm as tn
from truenorm.model.gather import gathered, num_processes
from truenorm.stats import Moments, Statistics

SIZE = 2


@pytest.fixture(scope="module")
def results(pair):
    return pair.run(found_by)


def stream_of(results, name):
    return oracle.stream_of([x.numpy() for found in results for x in found["seen"][name]])


def same(a, b):
    """To the bit, counts and design effects too."""
    return a.keys() == b.keys() and all(
        torch.equal(a[name][0], b[name][0]) and torch.equal(a[name][1], b[name][1]) and a[name][2:] == b[name][2:]
        for name in a
    )


def test_every_process_has_the_same_bits_of_different_data(results):
    ours, theirs = results
    assert [found["processes"] for found in results] == [SIZE, SIZE]
    for how in ("joint", "within", "sequential"):
        assert same(ours["merged"][how], theirs["merged"][how])
    assert not same(ours["own"]["joint"], theirs["own"]["joint"])
    assert same(ours["again"], ours["merged"]["within"])


@pytest.mark.parametrize("how", ["joint", "within"])
def test_they_are_those_of_all_values(results, how):
    found = results[0]["merged"][how]
    assert set(found) == set(NAMES)
    for name, (mean, var, count, _) in found.items():
        stream = stream_of(results, name)
        expected = oracle.population(stream)
        if how == "within":
            expected = (expected[0], sum(n * v for _, v, n in stream) / expected[2], expected[2])
        torch.testing.assert_close(mean, torch.tensor(expected[0]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var, torch.tensor(expected[1]), rtol=1e-5, atol=1e-6)
        assert count == expected[2] == sum(n for _, _, n in stream)
    assert bool((results[0]["merged"]["joint"]["bn1"][1] > 1.05 * results[0]["merged"]["within"]["bn1"][1]).all())


@pytest.mark.parametrize("how", ["joint", "within"])
def test_a_layer_that_one_process_reached_is_that_processs(results, how):
    assert "rare" not in results[0]["own"][how]
    mean, var, count, effect = results[0]["merged"][how]["rare"]
    own = results[1]["own"][how]["rare"]
    assert torch.equal(mean, own[0]) and torch.equal(var, own[1]) and (count, effect) == own[2:]


def test_design_effects_weigh_by_count_and_stay_unknown_where_they_are(results):
    merged = results[0]["merged"]
    parts = [found["own"]["joint"]["bn1"][2:] for found in results]
    expected = sum(count * effect for count, effect in parts) / sum(count for count, _ in parts)
    assert merged["joint"]["bn1"][3] == pytest.approx(expected, rel=1e-12)
    assert all(effect is None for *_, effect in merged["sequential"].values())  # of one giant batch each


def test_the_result_says_how_many_took_part(results):
    for found in results:
        assert {about["processes"] for about in found["about"].values()} == {"2"}
        assert found["about"]["within"]["variance"] == "within batches"


def test_the_result_says_how_many_samples_there_were(results):
    total = sum(len(x) for rank in range(SIZE) for x, _ in batches_of(rank))
    assert {found["about"]["joint"]["samples"] for found in results} == {str(total)}


def test_a_repair_is_the_same_everywhere(results):
    ours, theirs = results
    assert ours["repair"] == theirs["repair"] and ours["repair"][0]
    nets.assert_same_bits(ours["repaired"], theirs["repaired"])
    assert not torch.equal(ours["repaired"]["bn1.running_mean"], torch.zeros(6))


def test_a_process_alone_is_given_back_what_it_has():
    net = nets.plain()
    found = {"joint": Statistics({"bn1": Moments(torch.zeros(6), torch.ones(6), 8)}, about={"flow": "joint"})}
    alone = gathered(net, found)
    assert num_processes() == 1
    assert alone == found and alone["joint"].about == {"flow": "joint"} and alone is not found


def test_a_group_of_one_is_alone_too(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        found = tn.measure(nets.plain(), [x for x, _ in nets.batches(3)])
        assert gathered(nets.plain(), {"joint": found})["joint"] is found
    finally:
        torch.distributed.destroy_process_group()
