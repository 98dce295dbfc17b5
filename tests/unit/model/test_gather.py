"""Statistics of two processes with gloo on this machine; run as a program, this file is one of them."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import nets
import oracle
import pytest
import torch
from torch import nn

import truenorm as tn
from truenorm.model.gather import gathered, num_processes
from truenorm.model.measure import joint_estimates
from truenorm.stats import Moments, Statistics

SIZE = 2
NAMES = ("bn1", "bn2", "rare")
NUM_BATCHES = (7, 3)


class Rare(nn.Module):
    """Its third batch norm is called on the second rank alone, its fourth on none."""

    def __init__(self, rank):
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.bn1, self.bn2 = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.rare, self.never, self.rank = nn.BatchNorm1d(6), nn.BatchNorm1d(6), rank

    def forward(self, x):
        h = self.bn2(torch.relu(self.bn1(self.fc(x))))
        return self.rare(h + 1) if self.rank else h


def batches_of(rank):
    """Uneven in size and number, and of two populations."""
    return nets.batches(NUM_BATCHES[rank], size=8 + 3 * rank, last=3 + rank, seed=rank + 1, step=0.3 * (rank + 1))


def size_of(output, batch):
    """The last batch norm's output is of size 1 if statistics are right, larger if they are those of the start."""
    return -output.square().mean(1)


def work(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(found_by(rank), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def found_by(rank):
    model, data = Rare(rank), batches_of(rank)
    parallel = nn.parallel.DistributedDataParallel(model)
    joint, within = joint_estimates(parallel, data)
    sequential = tn.measure(parallel, data, flow="sequential")
    merged = gathered(parallel, {"joint": joint, "within": within, "sequential": sequential})
    again = gathered(model, {"within": within})

    seen = {name: [] for name in NAMES}
    for name, kept in seen.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, kept=kept: kept.append(x[0].detach()))
    with torch.no_grad():
        for images, _ in data:
            model.train()(images)
    repaired = Rare(rank)
    done = tn.repair(repaired, [(x * 3 + 3, y) for x, y in data] * 4, score=size_of)
    return {
        "merged": {how: plain(statistics) for how, statistics in merged.items()},
        "again": plain(again["within"]),
        "own": {"joint": plain(joint), "within": plain(within)},
        "about": {how: dict(statistics.about) for how, statistics in merged.items()},
        "seen": seen,
        "processes": num_processes(),
        "repair": (done.chosen, {how: dict(scores) for how, scores in done.scores.items()}),
        "repaired": nets.bits(repaired),
    }


def plain(statistics):
    return {name: (m.mean, m.var, m.count, m.design_effect) for name, m in statistics.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("gathered")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * SIZE, "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


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


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
