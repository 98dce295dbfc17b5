import json
import math
import re
from dataclasses import FrozenInstanceError, replace

import pytest
from inline_snapshot import snapshot

from truenorm.errors import InvalidInput
from truenorm.lab.study.configuration import StudyConfig, StudyTrial


def refused(**changes):
    with pytest.raises(InvalidInput) as caught:
        StudyConfig(**changes)
    return str(caught.value)


def trial(norm="bn", lr=0.05, seed=0, **changes):
    (setting,) = StudyConfig(**changes).settings
    return StudyTrial(norm=norm, lr=lr, seed=seed, setting=setting)


def test_it_is_a_value():
    assert StudyConfig(epochs=3) == StudyConfig(epochs=3)
    assert hash(StudyConfig(epochs=3)) == hash(StudyConfig(epochs=3))
    assert StudyConfig(epochs=3) != StudyConfig(epochs=4)
    with pytest.raises(FrozenInstanceError):
        StudyConfig().epochs = 3


@pytest.mark.parametrize("name", ["epochs", "seeds", "threads"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one(name, value):
    assert refused(**{name: value}) == f"--{name.replace('_', '-')} is {value}; it takes 1 or more"
    assert refused(batch_sizes=(32, value)) == f"--batch-size is {value}; it takes 1 or more"


@pytest.mark.parametrize("axis", ["data", "networks", "batch_sizes", "schedules", "arms", "lr", "widths"])
def test_an_empty_axis(axis):
    name = f"--{axis.replace('_', '-')}"
    assert refused(**{axis: ()}) == f"{name} is empty; give it a value or more, or leave it out"


def test_a_value_that_is_given_twice():
    assert refused(networks=("mlp", "cnn", "mlp")) == snapshot(
        "--networks has mlp twice; each value is a setting of its own"
    )
    assert refused(batch_sizes=(4, 4)) == snapshot("--batch-sizes has 4 twice; each value is a setting of its own")


def test_rates_to_choose_from_and_rates_that_are_settings():
    assert refused(lr=(0.1, 0.2), lrs=(0.1,)) == snapshot(
        "--lr and --lrs are both given: of --lr the best is chosen, of --lrs each is a setting"
    )
    assert [setting.lr for setting in StudyConfig(lrs=(0.1, 0.2)).settings] == [(0.1,), (0.2,)]
    assert [setting.lr for setting in StudyConfig(lr=(0.1, 0.2)).settings] == [(0.1, 0.2)]


def test_the_settings_of_a_grid():
    grid = StudyConfig(data=("mnist", "digits"), networks=("mlp",), batch_sizes=(4, 64), schedules=("constant",))
    assert [str(setting) for setting in grid.settings] == snapshot(
        ["mnist, batch 4", "mnist, batch 64", "digits, batch 4", "digits, batch 64"]
    )
    assert str(StudyConfig().settings[0]) == ""
    assert str(StudyTrial(norm="gn", lr=0.1, seed=2, setting=grid.settings[1])) == snapshot(
        "mnist, batch 64, gn, seed 2"
    )
    assert str(StudyTrial(norm="gn", lr=0.1, seed=2, setting=grid.settings[1], tuning=True)) == snapshot(
        "mnist, batch 64, gn, trying rate 0.1"
    )


@pytest.mark.parametrize(
    "changes",
    [
        *({"lr": (0.1, rate)} for rate in (0.0, -0.1, math.nan, math.inf)),
        *({"weight_decay": decay} for decay in (-1e-4, math.nan, math.inf)),
        *({"imbalance": ratio} for ratio in (0.5, 0.0, -1.0, math.nan, math.inf)),
        *({"widths": widths} for widths in ((16, 0), (-1,))),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_named_by_its_option(changes):
    assert refused(**changes).startswith(f"--{next(iter(changes)).replace('_', '-')} is ")


def test_the_sentences():
    assert refused(batch_sizes=(0,)) == snapshot("--batch-size is 0; it takes 1 or more")
    assert refused(batch_sizes=(1,)) == snapshot(
        "--batch-size 1 gives a layer of the mlp one value per channel: it has no variance to train on; take 2 or more"
    )
    assert refused(lr=(0.1, -1.0)) == snapshot("--lr is 0.1 -1.0; it takes positive rates")
    assert refused(weight_decay=-1.0) == snapshot("--weight-decay is -1.0; it takes 0 or more")
    assert refused(imbalance=0.5) == snapshot("--imbalance is 0.5; it takes 1 (none) or more")


def test_a_batch_of_one_is_for_networks_with_positions():
    assert StudyConfig(batch_sizes=(1,), networks=("cnn",)).batch_sizes == (1,)


def test_an_id_says_what_the_weights_depend_on():
    assert re.fullmatch("[0-9a-f]{10}", trial().id)
    assert trial().id == trial().id
    others = [
        trial("gn"),
        trial(lr=0.1),
        trial(seed=1),
        trial(data=("mnist",)),
        trial(limit=100),
        trial(validation=50),
        trial(imbalance=2.0),
        trial(networks=("cnn",)),
        trial(widths=(16,)),
        trial(batch_sizes=(16,)),
        trial(epochs=3),
        trial(optimizer="adamw"),
        trial(schedules=("constant",)),
        trial(image_size=16),
        trial(augment=("flip",)),
        replace(trial(), tuning=True),
        trial(weight_decay=0.0),
        trial("bn-bfn"),
        trial("bn-bfn", bfn="group:4"),
    ]
    assert len({trial().id, *(other.id for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 9},
        {"arms": ("dmbn",)},
        {"momenta": (0.5,)},
        {"reference": "test"},
        {"data_root": "/data"},
        {"device": "cuda"},
        {"test_limit": 100},
        {"bfn": "group:4"},
    ],
    ids=str,
)
def test_an_id_says_nothing_else(changes):
    assert trial(**changes).id == trial().id
    assert (
        trial(lr=0.05).id == StudyTrial(norm="bn", lr=0.05, seed=0, setting=StudyConfig(lrs=(0.05, 1)).settings[0]).id
    )


def test_what_a_record_keeps_of_a_trial():
    kept = trial("bn-bfn", seed=2).to_dict()
    assert (kept["norm"], kept["seed"], kept["lr"], kept["bfn"]) == ("bn-bfn", 2, 0.05, None)
    assert json.loads(json.dumps(kept))["widths"] == [128, 64]
    assert replace(trial(), lr=0.1).id == trial(lr=0.1).id
