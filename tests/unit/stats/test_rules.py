"""Every rule against the oracle, and what is asked of all rules, asked of each that the package lists."""

import dataclasses
from functools import partial

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truenorm import rules
from truenorm.errors import InvalidInput
from truenorm.rules import Batches, Layout
from truenorm.rules.rule import PlainRule, ema_weights

close = partial(torch.testing.assert_close, check_dtype=False)

EPS = 1e-5
MOMENTA = (0.001, 0.03, 0.1, 0.5, 1.0)


def all_rules():
    """A rule of each class that `truenorm.rules` lists, and variants."""
    made = {
        rules.Static: [rules.Static(), rules.Static(MOMENTA)],
        rules.Pooled: [rules.Pooled(), rules.Pooled(MOMENTA)],
        rules.Cumulative: [rules.Cumulative()],
        rules.Population: [rules.Population(), rules.Population("last-epoch", epochs=True)],
        rules.Within: [rules.Within("within"), rules.Within("last-within", epochs=True)],
        rules.Adaptive: [rules.Adaptive(), rules.Adaptive((0.1,))],
        rules.Online: [rules.Online(), rules.Online((0.5, 0.01))],
        rules.Switched: [rules.Switched("switch"), rules.Switched("switch", 0.01)],
    }
    listed = [getattr(rules, name) for name in rules.__all__]
    for kind in listed:
        if isinstance(kind, type) and hasattr(kind, "update") and kind is not rules.Rule and kind not in made:
            made[kind] = [kind()]  # added without an entry above: tested as its defaults make it
    return [rule for found in made.values() for rule in found]


RULES = all_rules()
every_rule = pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{'+'.join(rule.names)}"[:40]
)


def a_stream(seed=0, num_batches=40, sizes=(3, 2), *, drift=0.05, dtype=np.float64):
    """Batch moments of several layers whose values move; batches of uneven size, the last one short."""
    rng = np.random.default_rng(seed)
    channels = sum(sizes)
    level = np.cumsum(rng.normal(0, drift, (num_batches, channels)), 0) + rng.normal(0, 2, channels)
    scale = np.exp(np.cumsum(rng.normal(0, drift, (num_batches, channels)), 0))
    counts = [16] * (num_batches - 1) + [5]
    stream = []
    for t, n in enumerate(counts):
        values = rng.normal(level[t], scale[t], (n, channels)).astype(dtype).astype(np.float64)
        stream.append((values.mean(0), values.var(0), n))
    return stream


def batches_of(stream):
    mean, var, count = zip(*stream, strict=True)
    return Batches(
        torch.tensor(np.array(mean)), torch.tensor(np.array(var)), torch.tensor(count, dtype=torch.float64)[:, None]
    )


def layout_of(*sizes):
    return Layout(sizes, tuple(EPS for _ in sizes))


def follow(rule, stream, layout, blocks=None):
    """Fold the stream in blocks of these lengths (all at once if None); give the state."""
    state, step, rest = rule.init(layout), 0, list(stream)
    for length in blocks or [len(rest)]:
        if rest[:length]:
            state = rule.update(state, batches_of(rest[:length]), step, layout)
            step += len(rest[:length])
            rest = rest[length:]
    assert not rest
    return state


def read(rule, state, layout):
    return rule.read(rule.end_epoch(state), layout)


def assert_same_reading(found, expected, **tolerance):
    for field in dataclasses.fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert (ours is None) == (theirs is None), field.name
        if theirs is not None:
            close(ours, theirs, **tolerance)


def tolerance_of(rule):
    # The predictive rules keep their members in float32.
    return (
        {"rtol": 2e-5, "atol": 1e-5}
        if isinstance(rule, rules.Adaptive | rules.Online)
        else {"rtol": 1e-9, "atol": 1e-11}
    )


def test_the_list_of_rules_is_found():
    assert {type(rule) for rule in RULES} >= {rules.Static, rules.Adaptive, rules.Population}
    assert len({type(rule) for rule in RULES}) >= 7


@every_rule
@pytest.mark.parametrize("blocks", [[1] * 40, [32, 8], [7, 1, 32], [39, 1], [1, 39]], ids=str)
def test_blocks_give_what_batch_by_batch_gives(rule, blocks):
    layout, stream = layout_of(3, 2), a_stream()
    found = read(rule, follow(rule, stream, layout, blocks), layout)
    assert_same_reading(found, read(rule, follow(rule, stream, layout), layout), **tolerance_of(rule))


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(RULES),
    st.integers(0, 2**31),
    st.lists(st.integers(1, 33), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_any_blocks_of_any_stream(rule, seed, blocks, drift):
    layout, stream = layout_of(1, 4), a_stream(seed, sum(blocks), (1, 4), drift=drift)
    one = read(rule, follow(rule, stream, layout, [1] * len(stream)), layout)
    close(read(rule, follow(rule, stream, layout, blocks), layout).mean_KC, one.mean_KC, rtol=1e-4, atol=1e-4)


@every_rule
def test_layers_side_by_side_are_layers_alone(rule):
    sizes, stream = (3, 1, 2), a_stream(sizes=(3, 1, 2))
    together = read(rule, follow(rule, stream, layout_of(*sizes)), layout_of(*sizes))
    start = 0
    for index, size in enumerate(sizes):
        part = [(m[start : start + size], v[start : start + size], n) for m, v, n in stream]
        alone = read(rule, follow(rule, part, layout_of(size)), layout_of(size))
        close(together.mean_KC[:, start : start + size], alone.mean_KC, **tolerance_of(rule))
        close(together.var_KC[:, start : start + size], alone.var_KC, **tolerance_of(rule))
        for field in ("momentum_KL", "design_effect_KL"):
            if getattr(alone, field) is not None:
                close(getattr(together, field)[:, index], getattr(alone, field)[:, 0], **tolerance_of(rule))
        start += size


@every_rule
def test_a_state_is_not_changed_by_what_comes_after(rule):
    layout, stream = layout_of(3, 2), a_stream(num_batches=9)
    state = follow(rule, stream[:5], layout)
    before = {key: value.clone() for key, value in (state.channels | state.layers).items()}
    rule.end_epoch(rule.update(state, batches_of(stream[5:]), 5, layout))
    for key, value in (state.channels | state.layers).items():
        assert torch.equal(value, before[key]), key


@every_rule
def test_rules_are_values(rule):
    assert rule == dataclasses.replace(rule)
    assert hash(rule) == hash(dataclasses.replace(rule))
    field = dataclasses.fields(rule)[0].name if dataclasses.fields(rule) else "anything"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(rule, field, 1)


@every_rule
def test_shapes(rule):
    layout = layout_of(3, 2)
    state = follow(rule, a_stream(), layout)
    assert all(value.shape[-1] == 5 for value in state.channels.values())
    assert all(value.shape[-1] == 2 for value in state.layers.values())
    found = read(rule, state, layout)
    assert found.mean_KC.shape == found.var_KC.shape == (len(rule.names), 5)
    if found.momentum_KL is not None:
        assert found.momentum_KL.shape == (len(rule.names), 2)
    assert rule.counts in ("training", "gradient")


@pytest.mark.parametrize(
    "rule", [r for r in RULES if not isinstance(r, rules.Static | rules.Switched | rules.Online)], ids=repr
)
def test_constant_batches_give_themselves(rule):
    """From the first on; torch's averages start from 0 and 1 and are left out."""
    mean, var = np.array([3.0, -2.0]), np.array([0.25, 4.0])
    layout = layout_of(2)
    for num in (1, 2, 7):
        # So many values that n/(n−1) is 1.
        found = read(rule, follow(rule, [(mean, var, 10**9)] * num, layout), layout)
        for k in range(len(rule.names)):
            close(found.mean_KC[k], torch.tensor(mean), rtol=1e-6, atol=0)
            close(found.var_KC[k], torch.tensor(var), rtol=1e-6, atol=0)


def assert_matches(rule, reading, expected, k=0, **tolerance):
    mean, var = expected[:2]
    close(reading.mean_KC[k], torch.tensor(mean), **tolerance)
    close(reading.var_KC[k], torch.tensor(var), **tolerance)


LAYOUT, STREAM = layout_of(3, 2), a_stream()
EXACT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("momenta", [MOMENTA, rules.SWEEP, *[(m,) for m in MOMENTA]], ids=str)
@pytest.mark.parametrize(("kind", "truth"), [(rules.Static, oracle.static), (rules.Pooled, oracle.pooled)])
def test_averages_of_every_momentum(kind, truth, momenta):
    rule = kind(momenta)
    found = read(rule, follow(rule, STREAM, LAYOUT), LAYOUT)
    for k, momentum in enumerate(momenta):
        assert_matches(rule, found, truth(STREAM, momentum), k, **EXACT)
        close(found.momentum_KL[k], torch.full((2,), momentum), rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", [rules.Static, rules.Pooled])
def test_many_momenta_at_once_are_many_alone(kind):
    together = read(kind(MOMENTA), follow(kind(MOMENTA), STREAM, LAYOUT), LAYOUT)
    for k, momentum in enumerate(MOMENTA):
        alone = read(kind((momentum,)), follow(kind((momentum,)), STREAM, LAYOUT), LAYOUT)
        close(together.mean_KC[k], alone.mean_KC[0], **EXACT)
        close(together.var_KC[k], alone.var_KC[0], **EXACT)


def test_cumulative():
    assert_matches(None, read(rules.Cumulative(), follow(rules.Cumulative(), STREAM, LAYOUT), LAYOUT),
                   oracle.cumulative(STREAM), **EXACT)  # fmt: skip


def test_pooled_with_a_tiny_momentum_is_the_population_of_even_batches():
    even = STREAM[:-1]
    rule = rules.Pooled((1e-9,))
    assert_matches(rule, read(rule, follow(rule, even, LAYOUT), LAYOUT), oracle.population(even), **EXACT)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_population(offset):
    stream = [(m + offset, v, n) for m, v, n in STREAM]
    rule = rules.Population()
    found = read(rule, follow(rule, stream, LAYOUT, [32, 8]), LAYOUT)
    mean, var, count = oracle.population(stream)
    assert_matches(rule, found, (mean, var), **EXACT)
    assert found.count_KC.tolist() == [[count] * 5]


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("epochs", [True, False])
def test_within_leaves_the_variance_between_batches_out(offset, epochs):
    stream = [(m + offset, v, n) for m, v, n in STREAM]
    rule, pooled = rules.Within("within", epochs=epochs), rules.Population(epochs=epochs)
    found = read(rule, follow(rule, stream, LAYOUT, [32, 8]), LAYOUT)
    mean, var, count = oracle.population(stream)
    within = sum(n * v for _, v, n in stream) / count
    assert_matches(rule, found, (mean, within), **EXACT)
    assert found.count_KC.tolist() == [[count] * 5]
    assert bool((found.var_KC < 0.98 * torch.tensor(var)).all())
    together = read(pooled, follow(pooled, stream, LAYOUT), LAYOUT)
    close(found.design_effect_KL, together.design_effect_KL, **EXACT)


def test_design_effect_of_even_batches():
    rule, even = rules.Population(), STREAM[:-1]
    found = read(rule, follow(rule, even, LAYOUT, [32, 7]), LAYOUT)
    for layer, (a, b) in enumerate([(0, 3), (3, 5)]):
        expected = oracle.design_effect([(m[a:b], v[a:b], n) for m, v, n in even])
        close(found.design_effect_KL[0, layer].item(), expected, rtol=1e-9, atol=0)


def test_design_effect_leaves_out_channels_that_never_vary():
    stream = [(np.array([m[0], 7.0]), np.array([v[0], 0.0]), n) for m, v, n in STREAM[:-1]]
    rule, layout = rules.Population(), layout_of(2)
    found = read(rule, follow(rule, stream, layout), layout)
    close(found.design_effect_KL.item(), oracle.design_effect([(m[:1], v[:1], n) for m, v, n in stream]))


def test_independent_values_have_design_effect_one():
    rng = np.random.default_rng(1)
    stream = oracle.stream_of(rng.normal(5, 2, (400, 16, 8)))
    rule, layout = rules.Population(), layout_of(8)
    effect = read(rule, follow(rule, stream, layout), layout).design_effect_KL.item()
    assert 0.9 < effect < 1.1
    # Values that come in equal pairs weigh half as much.
    twice = oracle.stream_of(rng.normal(5, 2, (400, 16, 8)).repeat(2, axis=1))
    assert 1.8 < read(rule, follow(rule, twice, layout), layout).design_effect_KL.item() < 2.2


def test_last_epoch_reads_the_last_ended_epoch():
    rule = rules.Population("last-epoch", epochs=True)
    state, step = rule.init(LAYOUT), 0
    for number, epoch in enumerate((STREAM[:10], STREAM[10:25], STREAM[25:])):
        for part in (epoch[:4], epoch[4:]):
            state = rule.update(state, batches_of(part), step, LAYOUT)
            step += len(part)
        if number < 2:  # the third has not ended: the second is shown
            state = rule.end_epoch(state)
    mean, var, count = oracle.population(STREAM[10:25])
    found = rule.read(state, LAYOUT)
    assert_matches(rule, found, (mean, var), **EXACT)
    assert found.count_KC[0, 0].item() == count
    again = rule.read(rule.end_epoch(rule.end_epoch(state)), LAYOUT)  # an epoch without batches keeps it
    assert_matches(rule, again, oracle.population(STREAM[25:])[:2], **EXACT)


def test_population_ignores_epochs_unless_asked():
    rule = rules.Population()
    state = rule.end_epoch(follow(rule, STREAM[:7], LAYOUT))
    state = rule.end_epoch(rule.update(state, batches_of(STREAM[7:]), 7, LAYOUT))
    assert_matches(rule, rule.read(state, LAYOUT), oracle.population(STREAM)[:2], **EXACT)


def test_switched_goes_on_under_momenta_of_each_layer():
    rule = rules.Switched("switch", 0.2)
    state = follow(rule, STREAM[:15], LAYOUT)
    state = rule.switched(state, torch.tensor([0.01, 0.5]))
    state = rule.update(state, batches_of(STREAM[15:]), 15, LAYOUT)
    found = rule.read(state, LAYOUT)
    close(found.momentum_KL, torch.tensor([[0.01, 0.5]]))
    for (a, b), later in (((0, 3), 0.01), ((3, 5), 0.5)):
        mean, var = oracle.switched([(m[a:b], v[a:b], n) for m, v, n in STREAM],
                                    lambda t, later=later: 0.2 if t < 15 else later)  # fmt: skip
        close(found.mean_KC[0, a:b], torch.tensor(mean), rtol=1e-7, atol=1e-9)
        close(found.var_KC[0, a:b], torch.tensor(var), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("momenta", [rules.SWEEP, (0.5, 0.01)], ids=["sweep", "two"])
def test_online(momenta):
    rule, layout = rules.Online(momenta), layout_of(5)
    state = follow(rule, STREAM, layout, [3, 37])
    means, variances, scores = oracle.online(STREAM, momenta, EPS)
    close(state.channels["members"][0], torch.tensor(means), rtol=1e-5, atol=1e-5)
    close(state.channels["members"][1], torch.tensor(variances), rtol=1e-5, atol=1e-5)
    close(state.layers["score"][:, 0], torch.tensor(scores), rtol=1e-4, atol=1e-5)
    best = int(np.argmin(scores))
    found = rule.read(state, layout)
    assert_matches(rule, found, (means[best], variances[best]), rtol=1e-5, atol=1e-5)
    close(found.momentum_KL.item(), momenta[best], rtol=1e-7, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_adaptive_step_by_step(seed):
    rule, layout = rules.Adaptive(), layout_of(5)
    stream = a_stream(seed, 60, (5,), drift=[0.0, 0.01, 0.05, 0.2, 0.5][seed])
    state = rule.init(layout)
    for t, batch in enumerate(stream):
        state = rule.update(state, batches_of([batch]), t, layout)
        means, variances, scores = oracle.adaptive(stream[: t + 1], rule.momenta, EPS)
        close(state.channels["members"][0], torch.tensor(np.array(means)), rtol=1e-4, atol=1e-4)
        close(state.channels["members"][1], torch.tensor(np.array(variances)), rtol=1e-4, atol=1e-5)
        close(state.layers["score"][:, 0], torch.tensor(scores), rtol=1e-4, atol=1e-4)
    best = int(np.argmin(scores))
    found = rule.read(state, layout)
    assert_matches(rule, found, (means[best], variances[best]), rtol=1e-4, atol=1e-4)
    close(found.momentum_KL.item(), rule.momenta[best], rtol=1e-7, atol=0)


def test_adaptive_at_constant_moments_every_member_equals_them_at_every_step():
    rule, layout = rules.Adaptive(), layout_of(2)
    batch = (np.array([3.0, -0.5]), np.array([0.25, 4.0]), 8)
    state = rule.init(layout)
    for t in range(300):
        state = rule.update(state, batches_of([batch]), t, layout)
        members = state.channels["members"]
        close(members[0], torch.tensor(batch[0]).expand(7, 2), rtol=1e-6, atol=0)
        close(members[1], torch.tensor(batch[1]).expand(7, 2), rtol=1e-6, atol=0)
        if t == 0:  # nothing was predicted yet: the first
            assert rule.read(state, layout).momentum_KL.item() == 0.9


def test_adaptive_with_one_momentum_is_the_debiased_average():
    rule, layout, alpha = rules.Adaptive((0.1,)), layout_of(5), 0.1
    found = read(rule, follow(rule, STREAM, layout), layout)
    weights = [alpha * (1 - alpha) ** (len(STREAM) - 1 - t) for t in range(len(STREAM))]
    weights = np.array(weights) / sum(weights)
    mean = sum(w * m for w, (m, _, _) in zip(weights, STREAM, strict=True))
    var = sum(w * (v + m**2) for w, (m, v, _) in zip(weights, STREAM, strict=True)) - mean**2
    assert_matches(rule, found, (mean, var), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_adaptive_turns_to_a_large_momentum_within_eight_steps_of_a_jump(sign):
    rng = np.random.default_rng(3)
    rule, layout = rules.Adaptive(), layout_of(16)
    calm = oracle.stream_of(rng.normal(0, 1, (300, 64, 16)))
    after = oracle.stream_of(rng.normal(3 * sign, 2, (8, 64, 16)))
    state = follow(rule, calm, layout)
    assert rule.read(state, layout).momentum_KL.item() < 0.02
    chosen = []
    for t, batch in enumerate(after):
        state = rule.update(state, batches_of([batch]), 300 + t, layout)
        chosen.append(rule.read(state, layout).momentum_KL.item())
    assert max(chosen) >= 0.5
    assert chosen[-1] >= 1 / 6
    close(rule.read(state, layout).mean_KC, torch.full((1, 16), 3.0 * sign), rtol=0, atol=0.7)


def test_adaptive_settles_on_a_small_momentum_when_nothing_moves():
    rng = np.random.default_rng(5)
    rule, layout = rules.Adaptive(), layout_of(32)
    state = follow(rule, oracle.stream_of(rng.normal(0, 1, (1500, 16, 32))), layout)
    assert rule.read(state, layout).momentum_KL.item() <= 1 / 54


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["mean", "var"])
def test_adaptive_is_not_moved_by_a_batch_that_is_not_finite(bad, where):
    rule, layout = rules.Adaptive(), layout_of(3, 2)
    state = follow(rule, STREAM[:20], layout)
    mean, var, n = (STREAM[20][0].copy(), STREAM[20][1].copy(), STREAM[20][2])
    (mean if where == "mean" else var)[1] = bad  # in the first layer alone
    after = rule.update(state, batches_of([(mean, var, n)]), 20, layout)
    assert torch.equal(after.channels["members"][..., :3], state.channels["members"][..., :3])
    assert torch.equal(after.layers["score"][:, 0], state.layers["score"][:, 0])
    healthy = rule.update(state, batches_of([STREAM[20]]), 20, layout)
    close(after.channels["members"][..., 3:], healthy.channels["members"][..., 3:])
    close(after.layers["score"][:, 1], healthy.layers["score"][:, 1])


def test_adaptive_after_a_bad_first_batch_starts_with_the_first_good_one():
    rule, layout = rules.Adaptive(), layout_of(5)
    bad = (np.full(5, np.nan), np.ones(5), 16)
    found = read(rule, follow(rule, [bad, *STREAM], layout), layout)
    assert bool(found.mean_KC.isfinite().all()) and bool((found.var_KC > 0).all())
    # Long after, the start is forgotten.
    clean = read(rule, follow(rule, STREAM, layout), layout)
    close(found.mean_KC, clean.mean_KC, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("kind", [rules.Static, rules.Pooled, rules.Adaptive, rules.Online])
@pytest.mark.parametrize(
    ("momenta", "said"),
    [
        ((), "no momentum was given"),
        ((0.1, 1.5), r"momentum 1.5 is outside \(0, 1\]"),
        ((0.0,), r"momentum 0 is outside \(0, 1\]"),
        ((-0.1,), "momentum -0.1 is outside"),
        ((float("nan"),), "momentum nan is outside"),
        ((0.1, 0.2, 0.1), "momentum 0.1 was given twice"),
        ((0.1, 0.1000000001), "momentum 0.1 was given twice"),
    ],
)
def test_momenta_that_are_none_are_refused(kind, momenta, said):
    with pytest.raises(InvalidInput, match=said):
        kind(momenta)


def test_a_start_that_is_no_momentum_is_refused():
    with pytest.raises(InvalidInput, match="momentum 2 is outside"):
        rules.Switched("x", 2.0)


def test_names_say_the_momentum():
    assert rules.Static((0.1, 0.01)).names == ("static-0.1", "static-0.01")
    assert rules.Pooled((1.0,)).names == ("pooled-1",)
    assert len(set(rules.Static().names)) == 16


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_weights_of_an_average_sum_to_one(gains):
    keep, weights = ema_weights(torch.tensor(gains, dtype=torch.float64))
    close(keep + weights.sum(), torch.tensor(1.0), rtol=1e-12, atol=1e-12)
    state = 1.0
    for gain in gains:
        state *= 1 - gain
    close(keep.item(), state, rtol=1e-9, atol=1e-300)


def test_mean_by_layer_and_its_parts():
    layout = layout_of(2, 1, 3)
    values = torch.tensor([[1.0, 3.0, 7.0, 1.0, 2.0, 6.0]])
    assert torch.equal(layout.mean_by_layer(values), torch.tensor([[2.0, 7.0, 3.0]]))
    assert torch.equal(layout.span(1, 3).mean_by_layer(values[:, 2:]), torch.tensor([[7.0, 3.0]]))
    assert layout.span(0, 3) is layout


@dataclasses.dataclass(frozen=True)
class Biased(rules.Static):
    """A planted bug: torch's rule with the biased variance."""

    def update(self, state, batches, step, layout):
        return super().update(state, Batches(batches.mean_TC, batches.var_TC, torch.tensor(1e18)), step, layout)


def test_a_planted_bug_is_found():
    rule = Biased((0.1,))
    found = read(rule, follow(rule, STREAM, LAYOUT), LAYOUT)
    close(found.mean_KC[0], torch.tensor(oracle.static(STREAM, 0.1)[0]), **EXACT)
    with pytest.raises(AssertionError, match="not close"):
        assert_matches(rule, found, oracle.static(STREAM, 0.1), **EXACT)


def test_a_rule_that_depends_on_blocks_is_found(monkeypatch):
    """Planted: Pooled that takes the step of the block's start for all its batches."""

    def update(self, state, batches, step, layout):
        (mean, var) = (state.channels["mean"], state.channels["var"])
        a = torch.maximum(torch.tensor(self.momenta, dtype=torch.float64)[:, None], torch.tensor(1 / (step + 1)))
        for m, v in zip(batches.mean_TC, batches.var_TC, strict=True):
            delta = m - mean
            mean, var = mean + a * delta, (1 - a) * var + a * v + a * (1 - a) * delta.square()
        return rules.State({"mean": mean, "var": var})

    monkeypatch.setattr(rules.Pooled, "update", update)
    with pytest.raises(AssertionError, match="not close"):
        test_blocks_give_what_batch_by_batch_gives(rules.Pooled(), [1] * 40)


def test_plain_rules_do_nothing_at_an_epochs_end():
    state = follow(rules.Static(), STREAM, LAYOUT)
    assert PlainRule().end_epoch(state) is state
