from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from truenorm.data.batches import IMAGE_KEYS, LABEL_KEYS, Batch, batches_of
from truenorm.errors import InvalidInput

X, Y = torch.ones(4, 3), torch.zeros(4)
Pair = namedtuple("Pair", "pixels target")


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, Y),
        [X, Y],
        Pair(X, Y),
        [(X, Y), Y],
        {"label": Y, "image": X},
        UserDict(x=X),
        {"image": "name", "img": X},
    ],
)
def test_images_are_found(batch):
    assert Batch.of(batch).input is X


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_every_key_is_known(key):
    assert Batch.of({"label": Y, key: X}).input is X


def test_the_first_key_wins():
    assert Batch.of({"data": Y, "image": X}).input is X


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"label": Y, "text": "a"}, "a dict with the keys 'label', 'text'"),
        ({}, "an empty dict"),
        ([], "an empty list"),
        (("a", X), "a tuple whose first element is a str"),
        (3, "a int"),
        (None, "a NoneType"),
    ],
)
def test_what_was_found_instead_is_said(batch, said):
    with pytest.raises(InvalidInput, match="forward=lambda model, batch: ...") as caught:
        _ = Batch.of(batch).input
    assert said in str(caught.value)


CLASSES = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "batch",
    [
        (X, CLASSES),
        [X, CLASSES],
        Pair(X, CLASSES),
        (X, CLASSES, Y),
        [(X, Y), CLASSES],
        UserDict(x=X, y=CLASSES),
        {"image": X, "label": CLASSES, "y": Y},
        *[{"image": X, key: CLASSES} for key in LABEL_KEYS],
    ],
)
def test_labels_are_found(batch):
    assert Batch.of(batch).classes is CLASSES


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X,),
        (X, Y),  # a regression's
        (X, CLASSES[:3]),
        (X, CLASSES[:, None]),
        (X, torch.tensor(3)),
        (X, [0, 1, 2, 1]),
        (X, None),
        {"image": X},
        {"image": X, "label": "a", "y": CLASSES},
        [],
        {},
        "ab",
    ],
)
def test_what_are_no_classes_of_the_samples_are_no_labels(batch):
    assert Batch.of(batch).classes is None


def test_tensors_move_and_the_rest_stays():
    batch = {"x": X, "pair": Pair(X, "label"), "list": [X, (Y, 3)], "none": None, "text": "a"}
    moved = Batch.of(batch).to("meta").raw
    assert moved["x"].device.type == "meta"
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].pixels.device.type == "meta" and moved["pair"].target == "label"
    assert moved["list"][0].device.type == "meta" and moved["list"][1][0].device.type == "meta"
    assert (moved["list"][1][1], moved["none"], moved["text"]) == (3, None, "a")
    assert batch["x"].device.type == "cpu", "the batch given must not change"


def test_mappings_keep_their_type():
    default = defaultdict(list, x=X)
    assert Batch.of(default).to("meta").raw.default_factory is list
    assert type(Batch.of(OrderedDict(x=X)).to("meta").raw) is OrderedDict
    assert type(Batch.of(UserDict(x=X)).to("meta").raw) is UserDict
    assert Batch.of(MappingProxyType({"x": X})).to("meta").raw["x"].device.type == "meta"
    assert default["x"].device.type == "cpu"


@pytest.mark.parametrize(("limit", "num"), [(None, 5), (1, 1), (4, 1), (5, 2), (20, 5), (99, 5)])
def test_limit_counts_samples_and_keeps_batches_whole(limit, num):
    given = list(batches_of([(X, Y)] * 5, limit=limit))
    assert len(given) == num
    assert all(batch.images is X for batch in given)


def test_nothing_is_read_beyond_the_limit():
    read = []

    def endless():
        while True:
            read.append(1)
            yield X

    assert len(list(batches_of(endless(), limit=8))) == len(read) == 2


def test_batches_without_images_count_their_length_or_one():
    assert len(list(batches_of([{"a": 1, "b": 2}] * 5, limit=4))) == 2
    assert len(list(batches_of([object()] * 5, limit=4))) == 4
    assert len(list(batches_of([torch.tensor(1.0)] * 5, limit=4))) == 4


def test_a_loader_is_taken():
    loader = DataLoader(TensorDataset(X, Y), batch_size=2)
    assert [batch.size for batch in batches_of(loader, limit=None)] == [2, 2]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (3, "a int; expected an iterable"),
        (X, "not batches"),
        ({"x": X}, "keys 'x', not batches"),
        ("cifar10", "not batches"),
        (TensorDataset(X, Y), "wrap it: DataLoader"),
    ],
)
def test_what_gives_no_batches_is_refused_at_the_call(data, said):
    with pytest.raises(InvalidInput, match=said):
        batches_of(data, limit=None)


@pytest.mark.parametrize("data", [[], iter([]), DataLoader(TensorDataset(X, Y), batch_size=8, drop_last=True)])
def test_no_batches_at_all_is_said(data):
    with pytest.raises(InvalidInput, match="gave no batches"):
        list(batches_of(data, limit=None))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(InvalidInput, match="limit is"):
        batches_of([X], limit=limit)
