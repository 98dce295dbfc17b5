"""Every sentence of the doctor, from values made by hand."""

from typing import get_args, get_type_hints

import pytest
from inline_snapshot import snapshot

from truenorm.doctor import remedy as remedies
from truenorm.doctor import words
from truenorm.doctor.causes import CAUSES
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Improvement, Looked, Outcome, RuledOut, Undecided
from truenorm.doctor.remedy import (
    ChangeCode,
    ChangeTraining,
    ConvertLayers,
    CountOnce,
    DiagnoseAgain,
    Freeze,
    NormaliseAlone,
    Nothing,
    Preprocess,
    ReorderClasses,
    RepairStatistics,
    RetrainWith,
    SetEps,
    SetMomentum,
    SetWeight,
    Step,
    TrackStatistics,
    Unfreeze,
)

SCORED = {"metric": "accuracy", "before": 0.31, "after": 0.9, "repaired": 0.8}

FINDINGS = [
    Finding(cause="not finite", layers=("a", "b"), evidence={"channels": 2, "of_channels": 8}),
    Finding(cause="negative variance", layers=("bn",), evidence={"lowest": -0.25}),
    Finding(cause="half precision", layers=("a", "b", "c", "d"), evidence={"dtype": "float16"}),
    Finding(cause="never updated", layers=("1",)),
    Finding(cause="never updated", layers=("1", "2")),
    Finding(cause="initial values", explained=0.991, evidence={"left": 0.67, "momentum": 0.01, "batches": 40}),
    Finding(cause="initial values", explained=0.991, evidence={"left": 0.32, "momentum": None, "batches": None}),
    Finding(
        cause="another momentum in training",
        explained=0.98,
        evidence={"momentum": 0.1, "fits": 0.003, "left": 0.5, "expected": 0.0, "batches": 230},
    ),
    Finding(cause="updated in part", explained=0.96, layers=("a", "b"), evidence={"buffer": "running_var"}),
    Finding(cause="updated in part", explained=0.96, layers=("a",), evidence={"buffer": "running_mean"}),
    Finding(cause="common factor", explained=1.0, evidence={"factor": 12.5, "compared": 3}),
    *(Finding(cause="not the variance", explained=0.9, evidence={"stored": s}) for s in ("1/σ", "σ", "1/σ²")),
    Finding(cause="weights of batch norm", explained=0.97, evidence={"weight": "1", "metric": None}),
    Finding(cause="randomness", explained=0.9, evidence={"modules": ("",), "classes": ("Net",)}),
    Finding(cause="training mode", explained=0.9, evidence={"modules": ("a", "b"), "classes": ("Scale",)}),
    Finding(cause="frozen statistics", layers=("bn",), evidence={"shift": 1.25, "by": "freeze", "classes": ()}),
    Finding(cause="frozen statistics", layers=("a", "b"), evidence={"shift": 1.25, "by": "eval", "classes": ()}),
    Finding(cause="frozen statistics", layers=("a",), evidence={"shift": 1.25, "by": "class", "classes": ("Fixed",)}),
    Finding(cause="frozen by class", layers=("a", "b"), evidence={"classes": ("Fixed", "Other")}),
    Finding(cause="by the batch", layers=("a",), evidence={"stored": True, "alone": True, "classes": ("Own",)}),
    Finding(cause="by the batch", layers=("a",), evidence={"stored": False, "alone": True, "classes": ("Own",)}),
    Finding(cause="by the batch", level="note", evidence={"stored": False, "alone": False, "classes": ()}),
    Finding(cause="batches of one", evidence=SCORED),
    Finding(cause="folded statistics", layers=("1",)),
    Finding(
        cause="order of classes",
        evidence={"before": 0.01, "after": 0.98, "chance": 0.1, "order": tuple(range(10)), "shift": 3, "classes": 10},
    ),
    Finding(
        cause="order of classes",
        evidence={"before": 0.01, "after": 0.98, "chance": 1 / 3, "order": (2, 0, 1), "shift": None, "classes": 3},
    ),
    Finding(cause="unexplained"),
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
        evidence={"scale": 0.25, "offset": (-0.25, 0.5), "reverse": False} | SCORED | {"repaired": None},
    ),
    *(
        Finding(
            cause="preprocessing",
            explained=0.97,
            evidence={"scale": scale, "offset": (-0.25,), "reverse": reverse, "metric": None},
        )
        for scale, reverse in ((-1.0, False), (1.0, True), (-1.0, True))
    ),
    *(
        Finding(
            cause="domain",
            layers=("bn",),
            evidence={"shift": 0.789, "from_data": 0.5, "momentum": m, "window": window, "batches": batches},
        )
        for m, window, batches in ((None, None, None), (0.0, None, 60), (0.1, 19.0, 1100))
    ),
    Finding(cause="dropout", explained=0.88, evidence={"dropouts": ("drop", "{b}"), "rates": (0.4, 0.5)}),
    Finding(cause="averaged weights", evidence={"models": 60}),
    Finding(cause="averaged weights", evidence={"channels": 0.85, "factor": 1.23, "shrinkage": 0.7}),
    Finding(cause="pruned weights", evidence={"zeros": 0.5}),
    Finding(cause="updated twice", evidence={"batches": 4000, "steps": 2000, "ratio": 2.0}),
    Finding(cause="updated twice", layers=("bn",), evidence={"batches": 80, "others": 40, "ratio": 2.0, "data": True}),
    Finding(cause="updated twice", layers=("bn",), evidence={"batches": 80, "others": 40, "ratio": 2.0, "data": False}),
    Finding(cause="called several times", layers=("bn",), evidence={"calls": 2, "apart": 1.234}),
    Finding(cause="frozen parameters", layers=("a", "b")),
    Finding(cause="frozen by eval()", layers=("{a}",)),
    Finding(
        cause="eps",
        explained=0.95,
        evidence={"eps": 1e-3, "other_eps": (1e-5,), "framework": "Keras, TensorFlow", "lower_quartile": 0.0021}
        | SCORED,
    ),
    Finding(
        cause="eps",
        explained=0.95,
        evidence={"eps": 1e-2, "other_eps": (1e-5, 1e-3), "framework": None, "lower_quartile": 0.0021}
        | {"metric": None},
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
            "layer 1 holds the initial mean 0 and variance 1, and no batch was counted: never trained, or loaded from a checkpoint without running statistics",
            "layer 1, layer 2 hold the initial mean 0 and variance 1, and no batch was counted: never trained, or loaded from a checkpoint without running statistics",
            "momentum 0.01, 40 batches: 67% of the initial 0 and 1 is still stored; over 99% of the shift is explained by it",
            "the running statistics look like a mixture with the initial 0 and 1, which weigh about 32% (nothing says how many batches were counted); over 99% of the shift is explained by it",
            "the running statistics are as if momentum had been about 0.003 in training, which leaves about 50% of the initial 0 and 1 after 230 batches; the network here has 0.1, which would leave 0%; 98% of the shift is explained by it",
            "running_var is exactly 1 in a, b, while the other buffer moved: the variance was never updated, or reset, or not loaded; 96% of the shift is explained by it",
            "running_mean is exactly 0 in a, while the other buffer moved: the mean was never updated, or reset, or not loaded; 96% of the shift is explained by it",
            "means and variances are about 12.5 times those of the data, in 3 compared layers: one constant factor (Caffe's files have it in a third blob, by which both are to be divided); 100% of the shift is explained by it",
            "running_var holds inverse standard deviations (1/σ) instead of variances; 90% of the shift is explained by it",
            "running_var holds standard deviations (σ) instead of variances; 90% of the shift is explained by it",
            "running_var holds inverse variances (1/σ²) instead of variances; 90% of the shift is explained by it",
            "the first layer is hardly off, and those behind it are as if training had used 1 for the weights γ of batch norm: 97% of the shift is gone with it; nothing was scored, so this is not known to help",
            "something is random in train() and not in eval(), beginning in the forward of Net, and batch norm stores its noise; 90% of the shift is explained by it",
            "train() and eval() differ beside batch norm, beginning in a (Scale), b (Scale), and batch norm stores what it sees in train(); 90% of the shift is explained by it",
            "bn is frozen (held by truenorm.freeze), and the running statistics there are wrong, up to 1.2 σ: a repair leaves frozen layers as they are",
            "a, b are frozen (in eval() inside a network in train()), and the running statistics there are wrong, up to 1.2 σ: a repair leaves frozen layers as they are",
            "a is frozen (by a class that never trains: Fixed), and the running statistics there are wrong, up to 1.2 σ: a repair leaves frozen layers as they are",
            "a, b are frozen by class (Fixed, Other): training never changes what is stored there",
            "in eval(), too, a (Own) normalises by the batch that it gets: the stored statistics are not used, and an output depends on the other samples of its batch",
            "in eval(), too, a (Own) normalises by the batch that it gets: no statistics are stored, and an output depends on the other samples of its batch",
            "in eval() an output depends on the other samples of its batch, though every batch norm that was found divides by what it stores: something else in the network takes its batch",
            "the data come one by one, and in train(), where each sample is normalised by itself, the network does better than with any stored statistics (accuracy 0.9; as it is 0.31, repaired 0.8): it was trained so, and works as instance norm",
            "layer 1 holds mean 0 and variance 1, and no other statistics score better: so it is where statistics were folded into γ and β, and in a network that was not trained yet",
            "accuracy is 1.0%, chance 10.0%, and with output k read as class (k + 3) mod 10 it is 98.0%: labels and outputs count the classes in different orders",
            "accuracy is 1.0%, chance 33.3%, and with the outputs read as the classes 2, 0, 1 it is 98.0%: labels and outputs count the classes in different orders",
            "no cause that was tried explains it; a diagnosis on training data, or with the optimizer (optimizer=), would tell more",
            "momentum is 0 in bn: running statistics never move from 0 and 1 (torch's momentum is the weight of the new batch; Keras's is 1 − it)",
            "momentum is 0.9 in bn: if training used it, the statistics rest on about 1.2 batches (torch's momentum is the weight of the new batch; Keras's 0.9 is 0.1 here)",
            "with momentum 0.3 the statistics rest on 6 batches; they are as noisy as with batches of about 4 samples (0.46 σ in the mean over layers): if yours were larger, it is something else",
            "no cause that was tried explains it. The shift is larger behind the first layer, as where the weights change faster than the running average follows (momentum 0.1: a window of 19 batches): this was not measured. If so, a learning rate that ends at zero, or a repair at the end of training, prevents it",
            "no cause that was tried explains it. The shift is larger behind the first layer, as where the weights change faster than the running average follows: this was not measured. If so, a learning rate that ends at zero, or a repair at the end of training, prevents it",
            "the stored variances behind other batch norms are 1.34 times those of batches of 4 (4/(4 − 1) is 1.33 for a vector): torch stores n/(n − 1) times the variance it trains with; 80% of the shift is explained by it",
            "the statistics are as if of batches of one class each, not of the data: class 2 weighs 71% in them; 90% of the shift is explained by it (sorted or sharded loaders, passes over sorted data in train())",
            "the statistics are as if of batches of one class each, not of the data: the variance between classes is not in them; 90% of the shift is explained by it (sorted or sharded loaders, passes over sorted data in train())",
            "the images match those of training scaled or shifted: with 0.25 · x -0.25, +0.5 97% of the shift is gone over the layers that were compared (accuracy 0.9; as it is 0.31)",
            "the images match those of training as negatives: with -1 · x -0.25 97% of the shift is gone over the layers that were compared; nothing was scored, so this is not known to help",
            "the images match those of training with their channels reversed: with 1 · x[:, [2, 1, 0]] -0.25 97% of the shift is gone over the layers that were compared; nothing was scored, so this is not known to help",
            "the images match those of training as negatives with their channels reversed: with -1 · x[:, [2, 1, 0]] -0.25 97% of the shift is gone over the layers that were compared; nothing was scored, so this is not known to help",
            "no cause that was tried explains it. The first layer, which only data and its own weights reach, is 0.79 σ off: its running statistics are unlike these data. That may be because training saw other data (another domain, other noise, augmentation), or several populations went through it in each step (real and generated, a teacher's or target's pass), of which a mixture is stored; or more padding was counted than there is here, or less; this was not measured",
            "no cause that was tried explains it. The first layer, which only data and its own weights reach, is 0.79 σ off: its running statistics are unlike these data. That may be because either training saw other data (another domain, other noise, augmentation), or several populations went through it in each step (real and generated, a teacher's or target's pass), of which a mixture is stored; or more padding was counted than there is here, or less, or they did not follow: momentum is 0; this was not measured",
            "no cause that was tried explains it. The first layer, which only data and its own weights reach, is 0.79 σ off: its running statistics are unlike these data. That may be because training saw other data (another domain, other noise, augmentation), or several populations went through it in each step (real and generated, a teacher's or target's pass), of which a mixture is stored; or more padding was counted than there is here, or less; this was not measured",
            "dropout (drop 0.4, {b} 0.5) stands before batch norm: its noise is in the stored variances and not in eval(); 88% of the shift is explained by it",
            "these are averaged weights (60 models), and the statistics are copies of the last one's: they belong to other weights",
            "what reaches the layers varies less than what is stored: in 85% of the channels, by a factor of 1.23 in the middle layer; so it is with weights that were averaged (SWA, EMA, teacher, merged) and kept the statistics of others",
            "50% of the weights are exactly 0, and the statistics are off: if the network was pruned after training, they are of the weights before",
            "4,000 batches were counted in 2,000 steps of the optimizer, 2 for each: activation checkpointing runs forwards twice, and forwards in train() beside the training count too (with gradients accumulated over two batches it is right)",
            "bn counted 80 batches, other layers 40: 2 updates for each; activation checkpointing runs a segment's forward twice",
            "bn counted 80 batches, other layers 40: 2 updates for each; activation checkpointing runs a segment's forward twice (or they are called twice per forward: data would tell)",
            "bn is called 2 times per forward, on populations that are 1.2 σ apart: in training each call normalises by its own batch, and what is stored is a mixture that fits none of them",
            "γ and β of a, b do not learn while other parameters do, and the running statistics there are free: every forward in train() draws them to the data it sees",
            "{a} is in eval() while the model trains: the next model.train() wakes them",
            "eps is 1e-05, and 0.001 (Keras, TensorFlow) fits the stored statistics: with it 95% of the shift is gone (accuracy 0.9; as it is 0.31, repaired 0.8); a quarter of the variances of a layer lie below 0.0021",
            "eps is 1e-05, 0.001, and 0.01 fits the stored statistics: with it 95% of the shift is gone; nothing was scored, so this is not known to help; a quarter of the variances of a layer lie below 0.0021",
            "track_running_stats is False in bn, which store statistics: in train() they normalise by the batch and never update, in eval() by what was stored before; that is not frozen",
            "bn keep no statistics (track_running_stats=False): in eval() too each output depends on the other samples of its batch (and one value per channel fails)",
            "the data come in batches of 4: where training has such batches, too, batch norm may do harm",
            "it was trained with batches of about 2: what batch norm loses in training itself, no statistics give back",
            "4 of 20 channels vary little on these data (variance below 0.001), in bn: the shift does not count them",
            "a bias feeds straight into bn: batch norm subtracts it again; bias=False saves it",
            "γ and β are decayed (weight_decay 0.02): usual, and rarely wanted; put them into a parameter group without",
            "SyncBatchNorm runs in a single process: nothing is synchronised",
            "the program was scripted in training mode: its batch norm normalises by the batch it is given until eval() is called",
            "the program was exported in training mode: its batch norm normalises by the batch it is given, and eval() does not change that",
            "the last of 33 batches holds one sample: if training data end so, training on it fails for vectors and is noise for images; use drop_last=True",
        ]
    )


REMEDIES = [
    DiagnoseAgain(),
    DiagnoseAgain(needs_score=True),
    DiagnoseAgain(samples=400),
    RepairStatistics(),
    RepairStatistics(needs_score=True),
    Preprocess(scale=0.25, offset=(-0.25, 0.5)),
    Preprocess(scale=1.001, offset=(0.0, 0.0, 0.0), reverse=True),
    Preprocess(scale=-1.0, offset=(1.0, 1.0, 1.0), reverse=True),
    SetEps(eps=1e-3),
    SetMomentum(momentum=0.1),
    TrackStatistics(rebuild=False),
    TrackStatistics(rebuild=True),
    CountOnce(),
    CountOnce(layer="bn"),
    Freeze(layers="backbone.*"),
    Freeze(layers=("a", "b")),
    Unfreeze(layers="backbone.*", by="freeze"),
    Unfreeze(layers=("a", "b"), by="eval"),
    Unfreeze(layers=("a", "b"), by="class"),
    NormaliseAlone(),
    SetWeight(weight="1"),
    ReorderClasses(),
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
            "truenorm.diagnose(model, val_loader, limit=800)",
            "truenorm.repair(model, train_loader)",
            "truenorm.repair(model, train_loader, score=...)",
            "preprocess as in training; 0.25 · x -0.25, +0.5 comes near",
            "reverse the channels of the images, as training had them: x[:, [2, 1, 0]]",
            "preprocess as in training; -1 · x[:, [2, 1, 0]] +1, +1, +1 comes near",
            "build the network with eps=0.001",
            "build the network with momentum=0.1",
            "set track_running_stats=True again, and truenorm.freeze(model) if they are to stay as they are",
            "build these layers with track_running_stats=True, load the weights, and repair",
            "put eval() around forwards that are not training, or train under truenorm.watch(model), which knows repeated forwards",
            "train under truenorm.watch(model), which knows repeated forwards, or set the momentum of bn to 1 − √(1 − m)",
            "truenorm.freeze(model, 'backbone.*') before training: it survives train()",
            "truenorm.freeze(model, ['a', 'b']) before training: it survives train()",
            "truenorm.unfreeze(model, 'backbone.*')",
            "unfreeze a, b: call model.eval() or model.train() on the whole network",
            "put torch's batch norm with the same weights, bias and statistics in the place of a, b",
            'truenorm.convert(model, to="instance"), which gives each sample what train() gives it alone; or train anew with larger batches',
            "set the weights γ of batch norm to 1, as training seems to have had them",
            "give labels and outputs the same order of classes",
            "train with truenorm.convert(model), which stores what eval() needs",
            'train with truenorm.convert(model), which stores what eval() needs; at batches of 4 statistics are not all: retrain with truenorm.convert(model, to="group") or to="bn-bfn"',
            'retrain with truenorm.convert(model, to="group") or to="bn-bfn"',
            "give each population a batch norm of its own (the other layers can stay shared), or put both into one forward",
            "call model.eval() before it is exported",
            "call model.eval() before it is scripted",
            "keep batch norm in float32",
            "build the layer before batch norm with bias=False",
            "put γ and β into a parameter group without weight decay",
            "load training data with drop_last=True",
            "build the network with BatchNorm instead of SyncBatchNorm, or run several processes",
            "convert running statistics to torch's convention when they are ported",
            "let these layers divide by stored statistics in eval(): F.batch_norm(…, training=self.training)",
            "put batch norm with running statistics and the same weight and bias in their place, and measure them: truenorm.repair(model, train_loader)",
            "find what takes its batch in eval() (statistics of the batch in a forward, say), and let it use stored numbers there",
            "shuffle what trains or recalibrates",
            "put dropout behind the last batch norm",
            "repair after training: it ends with the noise of train() in the statistics",
            "if training saw such data, raise the momentum or repair at its end; if not, train on data like those it will meet",
            "save model.state_dict(), which holds the running statistics, not the parameters alone",
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


IMPROVED = (Improvement(metric="accuracy", before=0.3255, after=0.9799),)


def test_verdicts():
    outcomes = [
        Outcome(kind="no defect", data=False),
        Outcome(kind="no defect"),
        Outcome(kind="defect", data=False),
        Outcome(kind="defect"),
        Outcome(kind="damaged", layers=5),
        Outcome(kind="not scored", off=2, layers=5),
        Outcome(kind="repairable", off=1, layers=2, improved=IMPROVED),
        Outcome(kind="repairable", off=1, layers=2, improved=IMPROVED, same=True),
        Outcome(kind="repairable", layers=2, improved=IMPROVED),
        Outcome(kind="frozen", improved=IMPROVED),
        Outcome(kind="other remedy"),
        Outcome(kind="no batch norm"),
        Outcome(kind="not repairable"),
        Outcome(kind="harmless", off=2, layers=5),
        Outcome(kind="harmless", off=1, layers=1, unknown=("aux.1",)),
        Outcome(kind="sound"),
        Outcome(kind="sound", unknown=("aux.1", "aux.3")),
        *(
            Outcome(
                kind="undecided",
                off=1,
                layers=2,
                undecided=Undecided(metric="accuracy", gain=0.02, half_width=width, samples=1600),
            )
            for width in (0.025, None)
        ),
    ]
    assert [words.verdict(outcome) for outcome in outcomes] == snapshot(
        [
            "without data: nothing wrong is seen",
            "no layer divides by stored statistics; nothing wrong is seen",
            "without data: a fault or a suspicious setting is seen",
            "no layer divides by stored statistics; a fault or a suspicious setting is seen",
            "running statistics are invalid; the effect of a repair is unknown: the batches hold no labels that fit the output; pass score=",
            "2 of 5 layers are off; the effect of a repair is unknown: the batches hold no labels that fit the output; pass score=",
            "the running statistics are wrong, and repairing them helps: accuracy 0.3255 → 0.9799 (same weights, samples that were not measured)",
            "the running statistics are wrong, and repairing them helps: accuracy 0.3255 → 0.9799 (same weights, the samples that were measured)",
            "no layer is off beyond noise where it was compared, yet other statistics score better: accuracy 0.3255 → 0.9799 (same weights, samples that were not measured)",
            "frozen layers hold wrong statistics, and repairing them helps: accuracy 0.3255 → 0.9799 (same weights, samples that were not measured)",
            "something else than statistics is wrong, and changing it does better than any repair",
            "it is not batch norm: the network has none",
            "something is wrong that other statistics do not repair",
            "it is not batch norm: 2 of 5 layers are off by more than chance in the sample, as running averages are, and no other statistics do better",
            "1 of 1 layer is off beyond noise, and no other statistics do better; nothing is known of aux.1",
            "it is not batch norm: the running statistics are those of these data, up to noise",
            "the layers that were compared hold the statistics of these data, up to noise; nothing is known of aux.1, aux.3",
            "not decided: 1 of 2 layers is off beyond noise, and what a repair gives (accuracy +0.02 ± 0.025) may be noise; about 1,600 scored samples would decide",
            "1 of 2 layers is off; too few samples were scored to tell whether other statistics do better",
        ]
    )


def test_what_was_ruled_out_and_looked_at():
    parts = [
        RuledOut(what="statistics", changes=(("accuracy", 0.0), ("log likelihood", 0.01))),
        RuledOut(what="dropout", changes=(("accuracy", -0.123),)),
    ]
    assert [words.ruled_out(part) for part in parts] == snapshot(
        [
            "statistics: with others accuracy changes by +0 at best and log likelihood changes by +0.01 at best",
            "dropout: on, as in train(), it changes accuracy by -0.12",
        ]
    )
    looked = [
        Looked(),
        Looked(measured=1000, scored=1000, batch_size=32, limit=2000, kind="classes"),
        Looked(
            measured=16, scored=16, same=True, batch_size=16, unreached=("a",), partly=("b",), limit=9, kind="values"
        ),
        Looked(measured=1, scored=1, batch_size=1, frozen=("a",), repeated=("b",), limit=2),
    ]
    assert [words.looked(at) for at in looked] == snapshot(
        [
            ("nothing was measured",),
            (
                "1,000 samples measured and 1,000 others scored, labels taken for classes, in batches of 32 (limit 2000)",
            ),
            (
                "16 samples measured and the same scored, labels taken for values of the output, in batches of 16 (limit 9)",
                "no batch reached a",
                "reached in some passes only, and left out: b",
            ),
            (
                "1 sample measured and 1 other scored, in batches of 1 (limit 2)",
                "frozen, which a repair leaves as they are: a",
                "called more than once per forward: b",
            ),
        ]
    )
