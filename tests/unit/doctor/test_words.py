"""Every sentence of the doctor, from values made by hand."""

from typing import get_args, get_type_hints

import pytest
from inline_snapshot import snapshot

from truenorm.doctor import remedy as remedies
from truenorm.doctor import words
from truenorm.doctor.causes import CAUSES
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Improvement, Looked, Outcome, RuledOut
from truenorm.doctor.remedy import (
    ChangeCode,
    ChangeTraining,
    ConvertLayers,
    CountOnce,
    DiagnoseAgain,
    Freeze,
    Nothing,
    Preprocess,
    RepairStatistics,
    RetrainWith,
    SetEps,
    SetMomentum,
    Step,
    TrackStatistics,
)

FINDINGS = [
    Finding(cause="not finite", layers=("a", "b"), evidence={"channels": 2, "of_channels": 8}),
    Finding(cause="negative variance", layers=("bn",), evidence={"lowest": -0.25}),
    Finding(cause="half precision", layers=("a", "b", "c", "d"), evidence={"dtype": "float16"}),
    Finding(cause="never updated", layers=("1",)),
    Finding(cause="never updated", layers=("1", "2")),
    Finding(
        cause="initial values",
        explained=0.991,
        evidence={"left": 0.67, "agrees": True, "momentum": 0.01, "counted_batches": 40},
    ),
    Finding(
        cause="initial values",
        explained=0.991,
        evidence={"left": 0.32, "agrees": False, "momentum": 0.1, "counted_batches": 1},
    ),
    Finding(
        cause="initial values",
        explained=0.991,
        evidence={"left": 0.32, "agrees": False, "momentum": None, "counted_batches": None},
    ),
    Finding(cause="momentum 0", layers=("bn",)),
    Finding(cause="momentum", layers=("bn",), evidence={"momentum": 0.9, "window": 1.1 / 0.9, "keras": 0.1}),
    Finding(cause="sampling noise", evidence={"momentum": 0.3, "window": 1.7 / 0.3, "sigma": 0.456, "samples": 4}),
    Finding(cause="lag", evidence={"momentum": 0.1, "window": 19.0, "from_weights": 0.5}),
    Finding(cause="lag", evidence={"momentum": None, "window": None, "from_weights": 0.5}),
    Finding(cause="variance convention", explained=0.8, evidence={"ratio": 1.34, "batch_size": 4, "unbiased": 4 / 3}),
    Finding(cause="sorted batches", explained=0.9, evidence={"heaviest": 2, "weight": 0.71}),
    Finding(cause="sorted batches", explained=0.9, evidence={"heaviest": None, "weight": 0.4}),
    Finding(
        cause="preprocessing",
        explained=0.97,
        evidence={"scale": 0.25, "offset": (-0.25, 0.5), "metric": "accuracy", "before": 0.31, "after": 0.9},
    ),
    Finding(cause="preprocessing", explained=0.97, evidence={"scale": 0.25, "offset": (-0.25,), "metric": None}),
    Finding(cause="domain", layers=("bn",), evidence={"shift": 0.789, "from_data": 0.5}),
    Finding(cause="dropout", explained=0.88, evidence={"dropouts": ("drop", "{b}"), "rates": (0.4, 0.5)}),
    Finding(cause="averaged weights", evidence={"models": 60}),
    Finding(cause="averaged weights", evidence={"channels": 0.85, "factor": 1.23, "shrinkage": 0.7}),
    Finding(cause="pruned weights", evidence={"zeros": 0.5}),
    Finding(cause="updated twice", evidence={"batches": 4000, "steps": 2000, "ratio": 2.0}),
    Finding(cause="updated twice", layers=("bn",), evidence={"batches": 80, "others": 40, "ratio": 2.0, "data": True}),
    Finding(cause="updated twice", layers=("bn",), evidence={"batches": 80, "others": 40, "ratio": 2.0, "data": False}),
    Finding(cause="called several times", layers=("bn",), evidence={"shift": 0.61}),
    Finding(cause="called several times", layers=("a", "b"), evidence={"shift": None}),
    Finding(cause="frozen parameters", layers=("a", "b")),
    Finding(cause="frozen by eval()", layers=("{a}",)),
    Finding(
        cause="eps",
        explained=0.95,
        evidence={"eps": 1e-3, "other_eps": (1e-5,), "framework": "Keras, TensorFlow", "lower_quartile": 0.0021},
    ),
    Finding(
        cause="eps",
        explained=0.95,
        evidence={"eps": 1e-2, "other_eps": (1e-5, 1e-3), "framework": None, "lower_quartile": 0.0021},
    ),
    Finding(cause="track_running_stats", layers=("bn",), evidence={"stored": True}),
    Finding(cause="track_running_stats", layers=("bn",), evidence={"stored": False}),
    Finding(cause="tiny batches", evidence={"batch_size": 4, "convention": None}),
    Finding(cause="tiny batches", evidence={"batch_size": 2, "convention": 0.8}),
    Finding(cause="dead channels", layers=("bn",), evidence={"channels": 4, "of_channels": 20, "below": 1e-3}),
    Finding(cause="bias before batch norm", layers=("bn",)),
    Finding(cause="weight decay", evidence={"weight_decay": 0.02}),
    Finding(cause="synchronised alone"),
    Finding(cause="program in training mode", evidence={"made": "scripted"}),
    Finding(cause="program in training mode", evidence={"made": "exported"}),
    Finding(cause="last batch of one", evidence={"batches": 33}),
]


def test_there_is_a_sentence_for_every_cause():
    assert {finding.cause for finding in FINDINGS} == set(CAUSES)
    assert [finding.sentence for finding in FINDINGS] == snapshot(
        [
            "NaN or inf is stored in a, b (2 of 8 channels in the first): one bad batch stays in a running average for ever",
            "a negative variance (-0.25) is stored in bn: eval() takes its square root; E[x²] − E[x]² in float32, or an average of weights that went over the buffers, does that",
            "the statistics of a, b, c and 1 more are float16: running averages stall in it, and variances above 65,504 or below 6e-8 do not fit float16; keep batch norm in float32 (model.float() on these layers)",
            "layer 1 holds the initial mean 0 and variance 1, and no batch was counted: it was never trained, or the checkpoint that was loaded has no buffers",
            "layer 1, layer 2 hold the initial mean 0 and variance 1, and no batch was counted: it was never trained, or the checkpoint that was loaded has no buffers",
            "momentum 0.01, 40 batches: 67% of the initial 0 and 1 is still stored; 99% of the shift is explained by it",
            "about 32% of what is stored is the initial 0 and 1 (momentum 0.1 and 1 batch do not explain it); 99% of the shift is explained by it",
            "about 32% of what is stored is the initial 0 and 1; 99% of the shift is explained by it",
            "momentum is 0 in bn: running statistics never move from 0 and 1 (torch's momentum is the weight of the new batch; Keras's is 1 − it)",
            "momentum is 0.9 in bn: the statistics are those of the last 1.2 batches (torch's momentum is the weight of the new batch; Keras's 0.9 is 0.1 here)",
            "with momentum 0.3 the statistics rest on 6 batches; they are 0.46 σ off in the mean of layers, which is the noise of batches of about 4 samples",
            "the shift grows behind the first layer and nothing else explains it: the weights moved on while the running average lagged behind (momentum 0.1: a window of 19 batches); a learning rate that ends at zero, or a pass at the end, mends that",
            "the shift grows behind the first layer and nothing else explains it: the weights moved on while the running average lagged behind; a learning rate that ends at zero, or a pass at the end, mends that",
            "the stored variances behind other batch norms are 1.34 times those of batches of 4 (4/(4 − 1) is 1.33 for a vector): torch stores n/(n − 1) times the variance it trains with; 80% of the shift is explained by it",
            "the statistics are those of batches of one class each, not of the data: class 2 weighs 71% in them; 90% of the shift is explained by it (sorted or sharded loaders, passes over sorted data in train())",
            "the statistics are those of batches of one class each, not of the data: the variance between classes is not in them; 90% of the shift is explained by it (sorted or sharded loaders, passes over sorted data in train())",
            "the images look like those of training scaled or shifted: with 0.25 · x -0.25, +0.5 97% of the shift is gone, in all layers (accuracy 0.900 instead of 0.310)",
            "the images look like those of training scaled or shifted: with 0.25 · x -0.25 97% of the shift is gone, in all layers",
            "the first layer, which only data and its own weights reach, is 0.79 σ off: these data are unlike those that the statistics were taken from (another domain, other noise, augmentation in training)",
            "dropout (drop 0.4, {b} 0.5) stands before batch norm: its noise is in the stored variances and not in eval(); 88% of the shift is explained by it",
            "these are averaged weights (60 models), and the statistics are copies of the last one's: they belong to other weights",
            "what reaches the layers varies less than what is stored: in 85% of the channels, by a factor of 1.23 in the middle layer; so it is with weights that were averaged (SWA, EMA, teacher, merged) and kept the statistics of others",
            "50% of the weights are exactly 0, and the statistics are off: they were taken before the network was pruned",
            "4,000 batches were counted in 2,000 steps of the optimizer, 2 for each: activation checkpointing runs forwards twice, and forwards in train() beside the training count too (with gradients accumulated over two batches it is right)",
            "bn counted 80 batches, other layers 40: 2 updates for each; activation checkpointing runs a segment's forward twice",
            "bn counted 80 batches, other layers 40: 2 updates for each; activation checkpointing runs a segment's forward twice (or they are called twice per forward: data would tell)",
            "bn is called more than once per forward: in training each call normalises by its own batch, in eval() all by one pair of statistics (0.61 σ off what arrives)",
            "a, b are called more than once per forward: in training each call normalises by its own batch, in eval() all by one pair of statistics",
            "γ and β of a, b do not learn, the rest does, and the running statistics are free: every forward in train() moves them away from the weights they belong to",
            "{a} is in eval() while the model trains: the next model.train() wakes them",
            "eps is 1e-05, and 0.001 (Keras, TensorFlow) fits the stored statistics: with it 95% of the shift is gone (a quarter of the variances of a layer lie below 0.0021)",
            "eps is 1e-05, 0.001, and 0.01 fits the stored statistics: with it 95% of the shift is gone (a quarter of the variances of a layer lie below 0.0021)",
            "track_running_stats is False in bn, which store statistics: in train() they normalise by the batch and never update, in eval() by what was stored before; that is not frozen",
            "bn keep no statistics (track_running_stats=False): in eval() too each output depends on the other samples of its batch, and a batch of one fails",
            "the data come in batches of 4: trained with such, batch norm itself is the harm",
            "it was trained with batches of about 2: what batch norm loses in training itself, no statistics give back",
            "4 of 20 channels hardly vary on these data (variance below 0.001), in bn: they are left out of the comparison, and tell nothing to the network",
            "a bias stands right before bn: batch norm subtracts it again; bias=False saves it",
            "γ and β are decayed (weight_decay 0.02): usual, and rarely wanted; put them into a parameter group without",
            "SyncBatchNorm runs in a single process: nothing is synchronised",
            "the program was scripted in training mode: its batch norm normalises by the batch it is given until eval() is called",
            "the program was exported in training mode: its batch norm normalises by the batch it is given, and eval() does not change that",
            "the last of 33 batches holds one sample: training on it fails for vectors and is noise for images; use drop_last=True",
        ]
    )


REMEDIES = [
    DiagnoseAgain(),
    DiagnoseAgain(needs_score=True),
    RepairStatistics(),
    RepairStatistics(needs_score=True),
    Preprocess(scale=0.25, offset=(-0.25, 0.5)),
    SetEps(eps=1e-3),
    SetMomentum(momentum=0.1),
    TrackStatistics(rebuild=False),
    TrackStatistics(rebuild=True),
    CountOnce(),
    CountOnce(layer="bn"),
    Freeze(layers="backbone.*"),
    Freeze(layers=("a", "b")),
    ConvertLayers(),
    ConvertLayers(small_batch=4),
    RetrainWith(),
    *(ChangeCode(what=what) for what in get_args(get_type_hints(ChangeCode)["what"])),
    *(ChangeTraining(what=what) for what in get_args(get_type_hints(ChangeTraining)["what"])),
    Nothing(),
    Nothing(none_better=True),
]


def test_there_is_advice_for_every_remedy():
    kinds = {type(remedy) for remedy in REMEDIES}
    assert kinds == set(get_args(remedies.Remedy))
    assert [words.advice(remedy) for remedy in REMEDIES] == snapshot(
        [
            "truenorm.diagnose(model, val_loader)",
            "truenorm.diagnose(model, val_loader, score=...)",
            "truenorm.repair(model, train_loader)",
            "truenorm.repair(model, train_loader, score=...)",
            "preprocess as in training; 0.25 · x -0.25, +0.5 comes near",
            "build the network with eps=0.001",
            "build the network with momentum=0.1",
            "set track_running_stats=True again, and truenorm.freeze(model) if they are to stay as they are",
            "build these layers with track_running_stats=True, load the weights, and repair",
            "put eval() around forwards that are not training, or train under truenorm.watch(model), which knows repeated forwards",
            "train under truenorm.watch(model), which knows repeated forwards, or set the momentum of bn to 1 − √(1 − m)",
            "truenorm.freeze(model, 'backbone.*') before training: it survives train()",
            "truenorm.freeze(model, ['a', 'b']) before training: it survives train()",
            "train with truenorm.convert(model), which stores what eval() needs",
            'train with truenorm.convert(model), which stores what eval() needs; at batches of 4 statistics are not all: retrain with truenorm.convert(model, to="group") or to="bn-bfn"',
            'retrain with truenorm.convert(model, to="group") or to="bn-bfn"',
            "give each call a batch norm of its own (the other layers can stay shared)",
            "call model.eval() before it is exported",
            "call model.eval() before it is scripted",
            "keep batch norm in float32",
            "build the layer before batch norm with bias=False",
            "put γ and β into a parameter group without weight decay",
            "load training data with drop_last=True",
            "build the network with BatchNorm instead of SyncBatchNorm, or run several processes",
            "shuffle what trains or recalibrates",
            "put dropout behind the last batch norm",
            "if these are the data it will meet, repair on them; else train on such data",
            "leave the statistics alone",
            "leave the statistics alone: none that was tried does better on these data",
        ]
    )


@pytest.mark.parametrize("remedy", REMEDIES)
def test_a_remedy_as_plain_values_has_its_kind_and_its_arguments(remedy):
    values = remedies.to_dict(remedy)
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "kind"}
    assert type(remedy)(**given) == remedy
    assert values["kind"] == remedy.kind


def test_steps_are_joined_by_when_they_are_due():
    steps = [
        Step(remedy=SetEps(eps=1e-3)),
        Step(remedy=RepairStatistics(), when="then"),
        Step(remedy=ChangeTraining(what="shuffle"), when="later"),
    ]
    assert words.in_one_line(steps) == snapshot(
        "build the network with eps=0.001; then truenorm.repair(model, train_loader); next time: shuffle what trains or recalibrates"
    )


def test_verdicts():
    outcomes = [
        Outcome(kind="no defect", data=False),
        Outcome(kind="no defect"),
        Outcome(kind="defect", data=False),
        Outcome(kind="defect"),
        Outcome(kind="damaged", layers=5),
        Outcome(kind="not scored", off=2, layers=5),
        Outcome(kind="repairable", improved=(Improvement(metric="accuracy", before=0.3255, after=0.9799),)),
        Outcome(kind="not repairable"),
        Outcome(kind="unexplained"),
        Outcome(kind="harmless", off=2, layers=5),
        Outcome(kind="sound"),
    ]
    assert [words.verdict(outcome) for outcome in outcomes] == snapshot(
        [
            "without data: nothing wrong is seen",
            "no layer keeps statistics; nothing wrong is seen",
            "without data: something is wrong in any case",
            "no layer keeps statistics; something is wrong in any case",
            "what is stored is no statistics; what mending gives is not known: the batches hold no class for each sample to score by",
            "2 of 5 layers are off; what mending gives is not known: the batches hold no class for each sample to score by",
            "the stored statistics are wrong, and mending them helps: accuracy 0.3255 → 0.9799 (same weights, held-out samples)",
            "something is wrong that other statistics do not mend",
            "something is wrong",
            "it is not batch norm: 2 of 5 layers are off beyond noise, and no other statistics do better",
            "it is not batch norm: the stored statistics are those of these data, up to noise",
        ]
    )


def test_what_was_ruled_out_and_looked_at():
    parts = [
        RuledOut(what="statistics", metric="accuracy", change=0.0),
        RuledOut(what="dropout", metric="accuracy", change=-0.123),
        RuledOut(what="training data"),
    ]
    assert [words.ruled_out(part) for part in parts] == snapshot(
        [
            "statistics: no other gives more than +0 of accuracy",
            "dropout: on, as in train(), accuracy changes by -0.12",
            "if the training data score much better than these, it is overfitting, or other data",
        ]
    )
    looked = [
        Looked(),
        Looked(measured=1000, scored=1000, batch_size=32),
        Looked(measured=16, scored=16, same=True, batch_size=16, unreached=("a",), partly=("b",)),
        Looked(measured=16, batch_size=16, frozen=("a",), repeated=("b",)),
    ]
    assert [words.looked(at) for at in looked] == snapshot(
        [
            ("not run: what is seen without data says enough",),
            ("1,000 samples measured and 1,000 others scored, in batches of 32",),
            (
                "16 samples measured and the same scored, in batches of 16",
                "no batch reached a",
                "reached in some passes only, and left out: b",
            ),
            (
                "16 samples measured and none scored, in batches of 16",
                "frozen, which a repair leaves as they are: a",
                "called more than once per forward: b",
            ),
        ]
    )
