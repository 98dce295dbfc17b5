import math
from dataclasses import FrozenInstanceError

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

import truenorm.stats.shift as module
from truenorm.errors import InvalidInput, UnknownName
from truenorm.stats import Moments, Statistics, choose, estimation_shift, moments, noise_floor, squared_error
from truenorm.stats.shift import errors, layer_shift


def of(mean, var, count=None, effect=None):
    return Moments(torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64), count, effect)


def one(moments_, name="bn"):
    return Statistics({name: moments_})


def random_pair(seed, channels=4):
    rng = np.random.default_rng(seed)
    return (
        of(rng.normal(0, 2, channels), np.exp(rng.normal(0, 1, channels))),
        of(rng.normal(0, 2, channels), np.exp(rng.normal(0, 1, channels))),
    )


def assert_shift_is_the_divergence(found, stats, truth):
    divergence = kl_divergence(Normal(truth.mean, truth.std), Normal(stats.mean, stats.std))
    torch.testing.assert_close(found.shift, (2 * divergence).mean().sqrt().item(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_shift_is_the_divergence_that_torch_computes(seed):
    stats, truth = random_pair(seed)
    found = layer_shift("bn", stats, truth)
    assert_shift_is_the_divergence(found, stats, truth)
    expected = oracle.shift(*(t.numpy() for t in (stats.mean, stats.var, truth.mean, truth.var)))
    torch.testing.assert_close(found.shift, expected, rtol=1e-9, atol=0)


def test_a_planted_bug_is_found(monkeypatch):
    """The divergence taken the wrong way round is another number."""
    stats, truth = random_pair(0)
    swapped = layer_shift("bn", truth, stats)
    with pytest.raises(AssertionError, match="not close"):
        assert_shift_is_the_divergence(swapped, stats, truth)

    def variances_for_deviations(stats, reference):
        d, log = errors(stats, reference)
        return d, 2 * log

    monkeypatch.setattr(module, "errors", variances_for_deviations)
    with pytest.raises(AssertionError, match="not close"):
        assert_shift_is_the_divergence(layer_shift("bn", stats, truth), stats, truth)


def test_known_answers():
    found = layer_shift("bn", of([3.0, 0.0], [4.0, 4.0]), of([1.0, 0.0], [4.0, 4.0]))
    assert found.mean_error == math.sqrt(1 / 2)  # d = 1 and 0
    assert found.log_std_error == 0
    assert found.shift == math.sqrt(1 / 2)
    assert found.esm_mean == 2 and found.esm_var == 0
    wide = layer_shift("bn", of([0.0], [math.e**2]), of([0.0], [1.0]))
    torch.testing.assert_close(wide.log_std_error, 1.0)
    torch.testing.assert_close(wide.shift, math.sqrt(2 + math.exp(-2) - 1))
    torch.testing.assert_close(wide.esm_var, math.e**2 - 1)


def test_signs_of_d_and_lambda():
    d, log = errors(of([2.0, -2.0], [1.0, 16.0]), of([0.0, 0.0], [4.0, 4.0]))
    assert torch.equal(d, torch.tensor([1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(log, torch.tensor([-math.log(2), math.log(2)], dtype=torch.float64))


def test_exact_statistics_have_no_shift():
    _, truth = random_pair(1)
    assert layer_shift("bn", truth, truth).shift == 0
    float32 = Moments(truth.mean.float(), truth.var.float())
    assert layer_shift("bn", float32, truth).shift < 1e-6


@settings(deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.floats(0.1, 1e3), min_size=4, max_size=4),
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4),
)
def test_shift_does_not_change_with_units(seed, scales, offsets):
    """Any channel in any unit (Kelvin or Celsius, metres or feet): the same S, d and λ."""
    stats, truth = random_pair(seed)
    scale, offset = torch.tensor(scales, dtype=torch.float64), torch.tensor(offsets, dtype=torch.float64)
    # No channel falls below the variance of dead ones.
    truth = Moments(truth.mean, truth.var + 0.11)

    def changed(found):
        return Moments(found.mean * scale + offset, found.var * scale.square())

    before, after = layer_shift("bn", stats, truth), layer_shift("bn", changed(stats), changed(truth))
    for field in ("shift", "mean_error", "log_std_error"):
        torch.testing.assert_close(getattr(after, field), getattr(before, field), rtol=1e-6, atol=1e-9)


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_shift_is_never_negative_and_does_not_depend_on_the_order_of_channels(seed):
    stats, truth = random_pair(seed, 6)
    order = torch.randperm(6)
    found = layer_shift("bn", stats, truth)
    mixed = layer_shift(
        "bn", Moments(stats.mean[order], stats.var[order]), Moments(truth.mean[order], truth.var[order])
    )
    assert found.shift >= 0
    torch.testing.assert_close(mixed.shift, found.shift, rtol=1e-9, atol=1e-12)


def test_the_mean_over_channels_does_not_grow_with_width():
    narrow = layer_shift("bn", of([1.0], [1.0]), of([0.0], [1.0]))
    broad = layer_shift("bn", of([1.0] * 64, [1.0] * 64), of([0.0] * 64, [1.0] * 64))
    assert broad.shift == narrow.shift == 1
    assert broad.esm_mean == 8  # the norm of the literature does


def test_dead_channels_are_left_out_and_counted():
    stats, truth = of([1.0, 1e6, 5.0], [1.0, 1e6, 1.0]), of([0.0, 0.0, 0.0], [1.0, 9e-4, 0.0])
    found = layer_shift("bn", stats, truth)
    assert (found.num_dead, found.num_channels) == (2, 3)
    assert found.shift == 1
    assert layer_shift("bn", stats, of([0.0] * 3, [0.0] * 3)).shift == 0
    assert layer_shift("bn", stats, of([0.0] * 3, [0.0] * 3)).num_dead == 3


def test_a_stored_variance_of_zero_is_far_off_but_finite():
    assert 1e100 < layer_shift("bn", of([0.0], [0.0]), of([0.0], [1.0])).shift < math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_statistics_that_are_no_numbers_are_infinitely_far_off(bad):
    truth = of([0.0, 0.0], [1.0, 1.0])
    assert layer_shift("bn", of([0.0, bad], [1.0, 1.0]), truth).shift == math.inf
    assert layer_shift("bn", of([0.0, 0.0], [1.0, math.nan]), truth).shift == math.inf
    report = estimation_shift(
        Statistics({"a": of([3.0], [1.0]), "b": of([bad], [1.0])}),
        Statistics({"a": of([0.0], [1.0]), "b": of([0.0], [1.0])}),
    )
    assert report.worst.layer == "b"


def test_noise_floor_is_what_exact_statistics_would_show():
    """Simulated: the S of the truth against references of N independent values."""
    generator = torch.Generator().manual_seed(0)
    truth, count = of([0.0] * 400, [1.0] * 400), 200
    seen = []
    for _ in range(20):
        sample = moments(torch.randn(count, 400, generator=generator, dtype=torch.float64))
        seen.append(layer_shift("bn", truth, Moments(sample.mean, sample.var, count, 1.0)))
    rms = math.sqrt(sum(found.shift**2 for found in seen) / len(seen))
    torch.testing.assert_close(rms, seen[0].noise_floor, rtol=0.1, atol=0)


def test_noise_floor_of_dependent_values():
    """Values in equal groups of four are a fourth as many."""
    generator = torch.Generator().manual_seed(0)
    truth, count, group = of([0.0] * 400, [1.0] * 400), 800, 4
    squares = []
    for _ in range(20):
        values = torch.randn(count // group, 400, generator=generator, dtype=torch.float64)
        sample = moments(values.repeat_interleave(group, 0))
        squares.append(layer_shift("bn", truth, sample).shift ** 2)
    floor = noise_floor(Moments(truth.mean, truth.var, count, float(group)))
    torch.testing.assert_close(math.sqrt(sum(squares) / len(squares)), floor, rtol=0.1, atol=0)


def test_noise_floor_known_answers():
    assert noise_floor(of([0.0], [1.0], 200, 1.0)) == 0.1
    assert noise_floor(of([0.0], [1.0], 200)) is None  # dependence was not measured
    assert noise_floor(of([0.0], [1.0], 100, 0.0)) == 0.1  # the variance's own noise stays
    assert noise_floor(of([0.0], [1.0], 800, 4.0)) == 0.1
    assert noise_floor(of([0.0], [1.0])) is None
    assert noise_floor(of([0.0], [1.0], 0)) is None


def test_a_report_of_a_network():
    truth = Statistics({"b": of([0.0], [1.0], 100, 1.0), "a": of([0.0, 0.0], [4.0, 1e-5])})
    report = estimation_shift(Statistics({"a": of([2.0, 0.0], [4.0, 1.0]), "b": of([0.0], [1.0])}), truth)
    assert [found.layer for found in report.layers] == ["b", "a"]
    assert report["a"].shift == 1 and report["b"].shift == 0
    assert report.mean == 0.5
    assert report.worst.layer == "a"
    assert report.to_dict()["a"]["num_dead"] == 1
    with pytest.raises(UnknownName, match="unknown layer 'c'.*Known: a, b"):
        report["c"]
    with pytest.raises(FrozenInstanceError):
        report.layers = ()


def test_a_report_escapes_names():
    report = estimation_shift(one(of([0.0], [1.0]), "<i>&"), one(of([0.0], [1.0]), "<i>&"))
    assert "&lt;i&gt;&amp;" in report._repr_html_() and "<i>" not in report._repr_html_()


def test_layers_beyond_the_reference_are_not_asked_for():
    stats = Statistics({"a": of([0.0], [1.0]), "b": of([0.0], [1.0])})
    assert [found.layer for found in estimation_shift(stats, one(of([0.0], [1.0]), "b")).layers] == ["b"]


def test_what_cannot_be_compared_is_refused():
    small, large = one(of([0.0], [1.0])), one(of([0.0] * 2, [1.0] * 2))
    with pytest.raises(InvalidInput, match="layer 'bn' has 1 channels in the statistics and 2 in the reference"):
        estimation_shift(small, large)
    with pytest.raises(InvalidInput, match="reference has layer 'bn', the statistics do not"):
        estimation_shift(one(of([0.0], [1.0]), "other"), small)
    with pytest.raises(InvalidInput, match="reference holds no layer"):
        estimation_shift(small, Statistics({}))


# DMBN: each layer its momentum of least shift


def test_the_choice_of_each_layer_is_known():
    def candidate(a, b):
        return Statistics({"a": of([a], [1.0]), "b": of([0.0], [b])})

    truth = candidate(0.0, 4.0)
    chosen = choose({0.1: candidate(3.0, 4.4), 0.01: candidate(1.0, 9.0), 0.5: candidate(-2.0, 1.0)}, truth)
    assert chosen.momenta == {"a": 0.01, "b": 0.1}
    assert chosen == Statistics({"a": of([1.0], [1.0]), "b": of([0.0], [4.4])})


def test_the_choice_is_the_argmin_of_the_plain_formula():
    rng = np.random.default_rng(0)
    truth = of(rng.normal(size=5), rng.random(5) + 0.1)
    candidates = {m: one(of(rng.normal(size=5), rng.random(5) + 0.1)) for m in (0.9, 0.1, 0.01, 0.001)}

    def error(found):
        mean, std = found.mean.numpy() - truth.mean.numpy(), found.var.numpy() ** 0.5 - truth.var.numpy() ** 0.5
        return float(np.mean((mean**2 + std**2) / truth.var.numpy()))

    for stats in candidates.values():
        torch.testing.assert_close(squared_error(stats["bn"], truth), error(stats["bn"]), rtol=1e-12, atol=0)
    best = min(candidates, key=lambda m: error(candidates[m]["bn"]))
    assert choose(candidates, one(truth)).momenta == {"bn": best}


def test_ties_go_to_the_first():
    same = one(of([1.0], [1.0]))
    assert choose({0.5: same, 0.1: same}, one(of([0.0], [1.0]))).momenta == {"bn": 0.5}
    assert choose({0.1: same, 0.5: same}, one(of([0.0], [1.0]))).momenta == {"bn": 0.1}


def test_dead_channels_do_not_choose():
    truth = one(of([0.0, 0.0], [1.0, 1e-6]))
    chosen = choose({0.1: one(of([1.0, 0.0], [1.0, 1e-6])), 0.5: one(of([0.0, 9.0], [1.0, 9.0]))}, truth)
    assert chosen.momenta == {"bn": 0.5}
    dead = one(of([0.0], [0.0]))
    assert choose({0.1: one(of([1.0], [0.0])), 0.5: one(of([0.5], [0.0]))}, dead).momenta == {"bn": 0.5}


def test_candidates_must_be_there_and_whole():
    truth = one(of([0.0], [1.0]))
    with pytest.raises(InvalidInput, match="nothing to choose from"):
        choose({}, truth)
    with pytest.raises(InvalidInput, match="candidate of momentum 0.1 lacks layer 'bn'"):
        choose({0.1: Statistics({})}, truth)


def test_nan_candidates_are_not_chosen():
    truth = one(of([0.0], [1.0]))
    chosen = choose({0.9: one(of([math.nan], [1.0])), 0.1: one(of([5.0], [1.0]))}, truth)
    assert chosen.momenta == {"bn": 0.1}


def test_a_layer_of_small_channels_only_is_compared_with_epsilon():
    """Inputs scaled by 0.02, buffers never updated: inference is ruined, and the shift says so."""
    truth = Moments(torch.zeros(4), torch.full((4,), 2e-4), 1000, 1.0)
    found = estimation_shift(Statistics({"bn": Moments(torch.zeros(4), torch.ones(4))}), Statistics({"bn": truth}))
    assert found["bn"].num_dead == 4
    assert found["bn"].shift == pytest.approx(
        math.sqrt(2 * (0.5 * math.log(1.00001 / 2.1e-4) + (2.1e-4 / 1.00001 - 1) / 2))
    )
    same = estimation_shift(Statistics({"bn": truth}), Statistics({"bn": truth}))
    assert same["bn"].shift == 0


def test_a_reference_that_is_no_statistics_is_refused():
    """NaN is not a variance below which a channel is dead: a shift of 0 would call anything exact."""
    fine = of([0.0, 0.0], [1.0, 1.0])
    for mean, var in (([0.0, 0.0], [math.nan] * 2), ([0.0, 0.0], [1.0, math.nan]), ([math.inf, 0.0], [1.0, 1.0]),
                      ([math.nan, 0.0], [1.0, 1.0]), ([0.0, 0.0], [1.0, -1.0])):  # fmt: skip
        with pytest.raises(InvalidInput, match="layer 'bn' of the reference holds no statistics"):
            estimation_shift(one(fine), one(of(mean, var)))


@pytest.mark.parametrize("reference", [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1e-6, 1e-6]], ids=str)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_statistics_that_are_none_are_infinitely_far_off(reference, wrong):
    """Also in channels that are dead or constant in the reference: evaluation gives NaN there."""
    truth = one(of([0.0, 0.0], reference))
    for mean, var in (([0.0, wrong], reference), ([0.0, 0.0], [reference[0], wrong]), ([0.0, 0.0], [reference[0], -1])):
        assert estimation_shift(one(of(mean, var)), truth)["bn"].shift == math.inf


def test_a_small_shift_keeps_its_digits():
    for size in (1e-5, 1e-7, 1e-9):
        moved = estimation_shift(one(of([size], [1.0])), one(of([0.0], [1.0])))["bn"].shift
        assert moved == pytest.approx(size, rel=1e-6)
