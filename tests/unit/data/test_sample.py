"""A sample of a loader: read once, then taken apart without losing or doubling anything."""

from collections import OrderedDict, namedtuple
from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from truenorm.data.sample import Sample, take_sample
from truenorm.errors import InvalidInput

Pair = namedtuple("Pair", "images target")


def rows(num, start=0):
    """Samples that say which they are: row i is full of i."""
    return torch.arange(start, start + num, dtype=torch.float32)[:, None].expand(num, 3).clone()


def labels(num, start=0):
    return torch.arange(start, start + num)


KINDS = {
    "tensor": (lambda x, y: x, lambda b: b, None),
    "tuple": (lambda x, y: (x, y), lambda b: b[0], lambda b: b[1]),
    "list": (lambda x, y: [x, y], lambda b: b[0], lambda b: b[1]),
    "dict": (lambda x, y: {"label": y, "image": x}, lambda b: b["image"], lambda b: b["label"]),
    "ordered": (lambda x, y: OrderedDict(pixel_values=x, y=y), lambda b: b["pixel_values"], lambda b: b["y"]),
    "nested": (lambda x, y: ([x, {"more": y * 2}], y), lambda b: b[0][0], lambda b: b[1]),
    "alone in a tuple": (lambda x, y: (x,), lambda b: b[0], None),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def some(kind="tuple", sizes=(4, 4, 4, 1)):
    """Batches of one kind, with rows numbered from 0."""
    make, found, start = KINDS[kind][0], [], 0
    for size in sizes:
        found.append(make(rows(size, start), labels(size, start)))
        start += size
    return found


def taken(kind="tuple", sizes=(4, 4, 4, 1)):
    return take_sample(some(kind, sizes), limit=10**6)


def raw(sample):
    """The batches as the loader gave them."""
    return [batch.raw for batch in sample.batches]


def numbers(sample, kind="tuple"):
    """Which samples are in each batch; images and labels agree on it."""
    _, images, target = KINDS[kind]
    for batch in raw(sample):
        assert target is None or torch.equal(images(batch)[:, 0].long(), target(batch))
    return [images(batch)[:, 0].int().tolist() for batch in raw(sample)]


def flat(sample, kind="tuple"):
    """The same, over all batches."""
    return list(chain(*numbers(sample, kind)))


def structure(batch):
    if isinstance(batch, dict):
        return {key: structure(value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(structure(value) for value in batch)
    return batch.dtype, tuple(batch.shape[1:])


@every_kind
def test_batches_are_kept_as_they_came_and_as_one(kind):
    given = some(kind)
    sample = take_sample(given, limit=100)
    assert all(ours is theirs for ours, theirs in zip(raw(sample), given, strict=True))
    assert (len(sample), sample.batch_size) == (13, 4)
    assert KINDS[kind][1](sample.joined.raw)[:, 0].tolist() == list(range(13))
    assert numbers(sample, kind) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]


@every_kind
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (6, [6, 7]),  # 6, 6 and a single one
        (5, [5, 5, 3]),
        (4, [4, 4, 5]),
        (12, [13]),
        (13, [13]),
        (99, [13]),
        (2, [2, 2, 2, 2, 2, 3]),
    ],
)
def test_batches_of_another_size_hold_the_same_in_the_same_order(kind, size, expected):
    sample = taken(kind)
    again = sample.batched(size)
    found = numbers(again, kind)
    assert [len(batch) for batch in found] == expected
    assert flat(again, kind) == list(range(13)) and len(again) == 13
    assert again.joined is sample.joined
    shapes = structure(raw(sample)[0])
    assert all(structure(batch) == shapes for batch in raw(again))
    assert numbers(again.batched(4), kind) == numbers(sample.batched(4), kind)
    assert numbers(sample, kind)[-1] == [12]  # the sample itself is as it was


def test_a_single_sample_stays_alone():
    assert [len(b) for b in raw(take_sample([rows(1)], limit=9).batched(4))] == [1]


def test_batches_of_one_stay_batches_of_one():
    sample = take_sample([rows(1, i) for i in range(6)], limit=99)
    first, second = sample.parts()
    assert {len(batch) for part in (sample.batched(1), first, second) for batch in raw(part)} == {1}
    assert first.batch_size == 1


@every_kind
def test_rows_are_chosen_and_ordered(kind):
    order = torch.tensor([12, 0, 5, 5, 3, 1, 2])
    chosen = taken(kind).rows(order)
    assert flat(chosen, kind) == order.tolist()
    assert [len(batch) for batch in numbers(chosen, kind)] == [4, 3]


@every_kind
@pytest.mark.parametrize("sizes", [(4, 4, 4, 1), (4, 4), (2,), (5,), (3, 8, 2)], ids=str)
def test_parts_have_nothing_in_common_and_lose_nothing(kind, sizes):
    sample = taken(kind, sizes)
    total = sum(sizes)
    first, second = sample.parts()
    parts = [flat(part, kind) for part in (first, second)]
    assert sorted(parts[0] + parts[1]) == list(range(total))
    assert len(parts[0]) == len(first) == (total + 1) // 2 and len(second) == total // 2
    assert parts == [flat(part, kind) for part in sample.parts()], "always the same way"
    assert all(max(map(len, numbers(part, kind))) <= max(sizes) + 1 for part in (first, second))
    if total > 8:
        assert parts[0] != sorted(parts[0]), "shuffled"


@pytest.mark.parametrize(
    ("share", "first"), [(0.5, 7), (0.75, 10), (0.01, 1), (0.0, 1), (0.99, 12), (1.0, 12)], ids=lambda value: f"{value}"
)
def test_parts_of_other_shares_are_never_empty(share, first):
    parts = taken().parts(share)
    assert [len(part) for part in parts] == [first, 13 - first]
    assert sorted(chain(*map(flat, parts))) == list(range(13))


def test_parts_do_not_draw_from_the_global_state():
    before = torch.get_rng_state()
    taken().parts()
    assert torch.equal(torch.get_rng_state(), before)


def test_one_sample_is_both_halves():
    first, second = take_sample([rows(1)], limit=9).parts()
    assert len(first) == len(second) == 1


def test_labels():
    assert torch.equal(taken("tuple").classes, labels(13))
    assert torch.equal(taken("dict").classes, labels(13))
    order = torch.tensor([3, 1])
    assert torch.equal(taken("list").rows(order).classes, order)
    assert taken("tensor").classes is None
    assert take_sample([*some(sizes=(4,)), (rows(4), rows(4))], limit=99).classes is None
    different = take_sample([(rows(2), labels(2)), (torch.ones(2, 7), labels(2, 2))], limit=9)
    assert different.joined is None and torch.equal(different.classes, labels(4))


@every_kind
def test_other_images_leave_all_else_as_it_was(kind):
    sample = taken(kind)
    changed = sample.changed(lambda images: images * 10)
    assert numbers(sample.batched(4), kind)[0] == [0, 1, 2, 3]
    _, images, target = KINDS[kind]
    found = torch.cat([images(batch) for batch in raw(changed)])
    assert torch.equal(found, rows(13) * 10)
    assert structure(raw(changed)[0]) == structure(raw(sample.batched(4))[0])
    assert [len(images(batch)) for batch in raw(changed)] == [4, 4, 5]
    if target is not None:
        assert torch.equal(torch.cat([target(batch) for batch in raw(changed)]), labels(13))
        assert torch.equal(changed.classes, labels(13))


def test_images_that_are_no_numbers_or_not_one_tensor_are_not_changed():
    assert take_sample([torch.ones(4, 2, dtype=torch.uint8)], limit=9).changed(lambda x: x) is None
    assert take_sample([torch.ones(4, 2), torch.ones(4, 3)], limit=9).changed(lambda x: x) is None


def test_a_target_that_equals_the_images_is_not_changed_with_them():
    changed = take_sample([(x, x) for x in rows(8).split(4)], limit=99).changed(lambda x: x + 100)
    assert torch.equal(torch.cat([batch[1] for batch in raw(changed)]), rows(8))


# What cannot be joined


def two(first, second):
    return take_sample([first, second], limit=10**6)


@pytest.mark.parametrize(
    "batches",
    [
        [torch.ones(4, 3), torch.ones(4, 5)],
        [[torch.ones(3, 6, 5), torch.ones(3, 4, 4)], [torch.ones(3, 7, 7), torch.ones(3, 2, 2)]],
        [(torch.ones(4, 3), ["a"] * 4), (torch.ones(4, 3), ["b"] * 4)],
        [{"image": torch.ones(4, 3), "name": "a"}, {"image": torch.ones(4, 3), "name": "b"}],
        [{"image": torch.ones(4, 3)}, {"image": torch.ones(4, 3), "label": torch.ones(4)}],
        [{"image": torch.ones(4, 3)}, torch.ones(4, 3)],
        [torch.ones(4, 3), (torch.ones(4, 3),)],
        [(torch.ones(4, 3),), (torch.ones(4, 3), torch.ones(4))],
        [Pair(torch.ones(4, 3), torch.ones(4)), Pair(torch.ones(4, 3), torch.ones(4))],
        [(torch.ones(4, 3), torch.tensor(1.0)), (torch.ones(4, 3), torch.tensor(1.0))],
        [(torch.ones(4, 3), torch.ones(5)), (torch.ones(4, 3), torch.ones(4))],
        [(torch.ones(4, 3), None), (torch.ones(4, 3), None)],
        ["abcd", "efgh"],
    ],
    ids=lambda batches: type(batches[0]).__name__,
)
def test_batches_that_cannot_be_joined_are_used_as_they_are(batches):
    batches = [*batches, batches[0]]
    sample = take_sample(batches, limit=10**6)
    assert sample.joined is None
    assert sample.batched(2) is sample and sample.changed(lambda x: x) is None
    first, second = sample.parts()
    assert [id(batch) for batch in raw(first)] == [id(batches[0]), id(batches[2])]
    assert [id(batch) for batch in raw(second)] == [id(batches[1])]
    assert first.joined is None and len(first) + len(second) == len(sample)


def test_one_batch_that_cannot_be_taken_apart_is_both_halves():
    sample = take_sample([(torch.ones(4, 3), ["a"] * 4)], limit=9)
    assert sample.parts() == (sample, sample)


def test_mappings_whose_images_have_a_name_of_their_own_lose_nothing():
    sample = take_sample([{"signal": rows(8, i), "mask": rows(8, i)} for i in (0, 8)], limit=10**6)
    assert [len(batch["signal"]) for batch in raw(sample.batched(6))] == [6, 6, 4]
    assert sum(len(batch["signal"]) for part in sample.parts() for batch in raw(part)) == 16
    assert sample.changed(lambda x: x) is None


def test_tensors_that_are_no_rows_of_the_samples_are_not_joined():
    """Boxes, say: as many as images over all, and yet each belongs to another image."""
    assert two((rows(3), torch.ones(2, 4)), (rows(2), torch.ones(3, 4))).joined is None


def test_images_in_a_list_are_not_taken_apart_by_channels():
    batches = [[torch.rand(3, 8, 8) for _ in range(2)] for _ in range(4)]
    for part in take_sample(batches, limit=10**6).parts():
        assert all(any(batch is given for given in batches) for batch in raw(part))


def test_mappings_keep_their_class():
    class Features(OrderedDict):
        """As transformers have them: what it holds are its attributes, too."""

        @property
        def pixel_values(self):
            return self["pixel_values"]

    sample = take_sample([Features(pixel_values=rows(4)), Features(pixel_values=rows(4, 4))], limit=99)
    assert all(len(batch.pixel_values) <= 4 for part in sample.parts() for batch in raw(part))


# Reading


@pytest.mark.parametrize(("limit", "num"), [(1, 1), (4, 1), (5, 2), (12, 3), (13, 4), (999, 4)])
def test_the_limit_is_of_samples_and_nothing_is_read_beyond(limit, num):
    read = []
    sample = take_sample((read.append(1) or batch for batch in some()), limit=limit)
    assert len(read) == len(sample.batches) == num
    assert numbers(sample) == numbers(taken())[:num]


def test_what_the_limit_leaves_of_an_iterator_can_be_read_on():
    batches = iter(some())
    sample = take_sample(batches, limit=5)
    assert len(sample.batches) == 2
    assert [batch[1].tolist() for batch in batches] == [[8, 9, 10, 11], [12]]


def test_the_memory_is_a_stop_too():
    bytes_of_one = rows(4).nbytes + labels(4).nbytes
    for memory, num in ((0, 1), (bytes_of_one - 1, 1), (bytes_of_one, 2), (2 * bytes_of_one, 3), (10**9, 4)):
        read = []
        sample = take_sample((read.append(1) or batch for batch in some()), limit=999, memory=memory)
        assert len(read) == len(sample.batches) == num
    nested = [{"image": rows(4), "more": [rows(4), (rows(4),)]}] * 5
    assert len(take_sample(nested, limit=999, memory=2 * 3 * rows(4).nbytes).batches) == 3


def test_a_loader_is_read_once():
    reads = []

    class Counted(TensorDataset):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    sample = take_sample(DataLoader(Counted(rows(10), labels(10)), batch_size=4), limit=99)
    sample.parts(), sample.batched(3), sample.classes, sample.changed(lambda x: x)
    assert sorted(reads) == list(range(10))
    assert isinstance(sample, Sample) and [len(batch[0]) for batch in raw(sample)] == [4, 4, 2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["images", "half"])
def test_values_that_are_not_finite_are_refused_by_their_batch(bad, where):
    spoilt = rows(4).half() if where == "half" else rows(4)
    spoilt[2, 1] = bad
    batch = (spoilt, labels(4))
    with pytest.raises(InvalidInput, match=r"batch 2 of the data holds images that are not finite \(NaN or inf\)"):
        take_sample([*some(sizes=(4, 4)), batch], limit=99)
    assert len(take_sample([*some(sizes=(4, 4)), batch], limit=8)) == 8  # it was not looked at
    beside = {"image": rows(4), "mask": spoilt}  # -inf in a mask, NaN for a target that is missing
    assert len(take_sample([beside], limit=8)) == 4


@pytest.mark.parametrize("data", [[], iter([])])
def test_no_batches(data):
    with pytest.raises(InvalidInput, match="gave no batches"):
        take_sample(data, limit=9)


@pytest.mark.parametrize("data", [rows(4), {"image": rows(4)}, TensorDataset(rows(4))], ids=lambda d: type(d).__name__)
def test_what_is_no_batches_is_refused(data):
    with pytest.raises(InvalidInput, match=r"not batches|wrap it: DataLoader"):
        take_sample(data, limit=9)


def test_batches_that_require_grad_or_are_of_integers_are_taken():
    assert take_sample([torch.ones(4, 3, dtype=torch.int64)] * 2, limit=8).joined.raw.dtype == torch.int64
    assert len(take_sample([torch.ones(4, 3, requires_grad=True)] * 2, limit=8)) == 8
