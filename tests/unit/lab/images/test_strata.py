import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truenorm.errors import InvalidInput
from truenorm.lab.images.strata import long_tailed, seeded, stratified

label_rows = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(torch.tensor)


@given(label_rows, st.data(), st.integers(0, 100))
def test_the_sum_is_exact_and_shares_are_kept_within_one(labels, data, seed):
    num = data.draw(st.integers(0, len(labels)))
    drawn = stratified(labels, num, seeded(seed, 0))
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == sorted(set(drawn.tolist())) and len(drawn) == num
    share = labels.bincount(minlength=7).double() * num / len(labels)
    assert ((labels[drawn].bincount(minlength=7) - share).abs() < 1).all()


@given(label_rows, st.integers(0, 100))
def test_everything_is_everything(labels, seed):
    assert stratified(labels, len(labels), seeded(seed, 0)).tolist() == list(range(len(labels)))


def test_a_draw_hangs_on_its_generator_alone():
    labels = torch.arange(200) % 4
    before = torch.get_rng_state()
    first = stratified(labels, 40, seeded(3, 1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, stratified(labels, 40, seeded(3, 1)))
    assert not torch.equal(first, stratified(labels, 40, seeded(4, 1)))
    assert not torch.equal(first, stratified(labels, 40, seeded(3, 2)))


@pytest.mark.parametrize("num", [-1, 5])
def test_too_many_are_refused(num):
    with pytest.raises(InvalidInput, match="there are 4"):
        stratified(torch.zeros(4).long(), num, seeded(0, 0))


def test_known_tail():
    labels = torch.arange(3).repeat_interleave(100)
    assert labels[long_tailed(labels, 3, 100.0, seeded(0, 0))].bincount().tolist() == [100, 10, 1]


@given(label_rows, st.floats(1, 1e6), st.integers(0, 100))
def test_a_tail_loses_no_class_and_invents_none(labels, ratio, seed):
    kept = labels[long_tailed(labels, 7, ratio, seeded(seed, 0))].bincount(minlength=7)
    counts = labels.bincount(minlength=7)
    assert ((kept >= 1) == (counts >= 1)).all()
    assert (kept <= counts).all() and kept[0] == counts[0]


@pytest.mark.parametrize("ratio", [0.5, -1.0, float("inf"), float("nan")])
def test_a_tail_the_wrong_way_is_refused(ratio):
    with pytest.raises(InvalidInput, match="imbalance is"):
        long_tailed(torch.zeros(4).long(), 1, ratio, seeded(0, 0))


def test_a_negative_seed_is_refused():
    with pytest.raises(InvalidInput, match="seed is -1"):
        seeded(-1, 0)
