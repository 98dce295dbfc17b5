"""Two processes with gloo on this machine."""

import oracle
import pytest
import ranks
import torch
from nets import assert_same_bits

from truenorm.stats import Moments, Statistics, merge_statistics


@pytest.fixture(scope="module")
def results(pair):
    return pair.run(ranks.trained_twice)


def is_statistic(key):
    return key.endswith(("running_mean", "running_var"))


@pytest.mark.parametrize("how", ["watched", "inside"])
def test_the_run_does_not_notice(results, how):
    for found in results:
        for key, value in found["unwatched"].items():
            if is_statistic(key):
                torch.testing.assert_close(found[how][key], value, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(found[how][key], value), key


def test_the_ranks_trained_one_network_on_data_of_their_own(results):
    """Else the tests here would say nothing."""
    for how in ("unwatched", "watched"):
        ours, theirs = ({key: value for key, value in found[how].items() if not is_statistic(key)} for found in results)
        assert_same_bits(ours, theirs)
    assert not torch.equal(results[0]["moments"]["bn1"][0], results[1]["moments"]["bn1"][0])


def test_merged_statistics_are_those_of_all_values(results):
    merged = merge_statistics(
        Statistics({name: Moments(*parts) for name, parts in found["moments"].items()}) for found in results
    )
    for name, moments in merged.items():
        batches = [x.numpy() for found in results for x in found["seen"][name]]
        mean, var, count = oracle.population(oracle.stream_of(batches))
        torch.testing.assert_close(moments.mean, torch.tensor(mean), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments.var, torch.tensor(var), rtol=1e-5, atol=1e-6)
        assert moments.count == count == sum(map(len, batches))


def test_each_rank_follows_its_own_batches(results):
    for found in results:
        for name, (mean, var) in found["static"].items():
            expected = oracle.static(oracle.stream_of([x.numpy() for x in found["seen"][name]]), 0.1)
            torch.testing.assert_close(mean, torch.tensor(expected[0]), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(var, torch.tensor(expected[1]), rtol=1e-5, atol=1e-6)


def test_one_rank_may_measure_alone(results):
    assert results[0]["measured"]
