"""transformers' Trainer: say why validation falls behind training, and write checkpoints whose statistics are true."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from truenorm.data.batches import batches_of
from truenorm.doctor.diagnose import diagnose
from truenorm.doctor.diagnosis import Diagnosis
from truenorm.doctor.repair import Repair, repair
from truenorm.doctor.score import Score
from truenorm.errors import InvalidInput, UnknownName, extra
from truenorm.integrations.callback import as_trained, as_warning, losses_diverged, own_loader
from truenorm.model.evaluate import Forward, random_states_kept
from truenorm.model.statistics import assign
from truenorm.model.watch import Watch, watch
from truenorm.rules import Rule
from truenorm.stats.statistics import Statistics

with extra("transformers"):
    import transformers
    from transformers import TrainerControl, TrainerState, TrainingArguments


class TrueNorm(transformers.TrainerCallback):
    """Diagnoses when validation falls behind training, and mends the statistics of every checkpoint.

    The run is the one without it, to the bit: weights, statistics, random numbers, evaluations. What differs:

    - Each checkpoint holds the statistics of its weights, measured on training batches, if they do better on
      those of evaluation. The model carries them from after the evaluation until the checkpoint is written. (Of
      several evaluation sets, those after the first then meet them, too, under `save_strategy="best"` or where a
      save follows.)
    - The model itself is mended when training ends, for `trainer.save_model()` and what else is done with it.

    What goes wrong in a diagnosis or a repair ends no run: it is said in a warning, and training goes on.

    Args:
        diagnose: run `truenorm.diagnose` on evaluation batches where the two losses part, and print what it finds
            (on the first process; once for each cause).
        repair: mend checkpoints, and the model at the end.
        watch: rules to follow the run with, see `truenorm.watch`.
        train: name of the training loss in the log; the last one logged is taken, so set `logging_steps`.
        validation: name of the same loss of the evaluation.
        gap: factor by which the evaluation may be worse.
        data: batches to measure, training ones with the transforms of inference, readable any number of times;
            None: the training loader's. A map-style `DataLoader` is read through a loader of its own, anything
            else as it is.
        forward: how to run a batch; None: `model(**batch)`.
        score: see `truenorm.diagnose`; None: accuracy and log likelihood where batches hold classes, else minus
            the loss.
        limit: samples to measure for each checkpoint; None: all.

    Attributes:
        diagnosis: the latest `Diagnosis`, None before.
        repaired: the latest `Repair`, None before.
        watched: the `Watch` of the latest run, None if no rules were given.

    Raises:
        InvalidInput: a gap below 1.

    Example (it runs with the tests):

        import torch
        from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments
        from truenorm.integrations.transformers import TrueNorm

        config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[8], depths=[1], num_labels=2)
        images = [{"pixel_values": torch.randn(1, 8, 8) + 3 * (i % 2), "labels": i % 2} for i in range(64)]
        true_norm = TrueNorm()
        trainer = Trainer(
            ResNetForImageClassification(config),
            TrainingArguments("runs", num_train_epochs=2, save_strategy="no", report_to=[], disable_tqdm=True),
            train_dataset=images,
            callbacks=[true_norm],
        )
        trainer.train()
        print(true_norm.repaired.sentence)
    """

    def __init__(
        self,
        *,
        diagnose: bool = True,
        repair: bool = True,
        watch: Sequence[Rule] | None = None,
        train: str = "loss",
        validation: str = "eval_loss",
        gap: float = 1.5,
        data: Iterable[Any] | None = None,
        forward: Forward | None = None,
        score: Score | None = None,
        limit: int | None = 10_000,
    ) -> None:
        if not gap >= 1:
            raise InvalidInput(f"gap is {gap:g}; expected the factor by which validation may be worse, 1 or more")
        self.diagnosis: Diagnosis | None = None
        self.repaired: Repair | None = None
        self.watched: Watch | None = None
        self._diagnoses, self._repairs, self._rules = diagnose, repair, watch
        self._train, self._validation, self._gap = train, validation, gap
        self._data, self._forward, self._score, self._limit = data, forward or _called, score, limit
        self._is_training = False
        self._modes: dict[nn.Module, bool] = {}
        self._previous: Statistics | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._leave()
        self._is_training, self._modes, self._previous = True, {}, None
        if self._rules is not None:
            with as_warning("the run is not watched"):
                self.watched = watch(kwargs["model"], self._rules).__enter__()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._put_back(kwargs["model"])  # "best" is told after on_evaluate: mended, and then not written

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._modes = {module: module.training for module in kwargs["model"].modules()}  # which are frozen by eval()
        self.on_epoch_end(args, state, control, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save and not control.should_evaluate:
            self._mend(kwargs)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        losses = [row[self._train] for row in state.log_history if self._train in row]
        now = kwargs["metrics"].get(self._validation)
        if self._diagnoses and losses and now is not None and losses_diverged(losses[-1], now, self._gap):
            with as_warning("validation falls behind, and was not diagnosed"), as_trained(kwargs["model"], self._modes):
                held_out = own_loader(kwargs["eval_dataloader"])
                diagnosis = diagnose(
                    kwargs["model"],
                    held_out,
                    score=self._score_for(held_out, kwargs["model"]),
                    optimizer=kwargs["optimizer"],
                    forward=self._forward,
                )
                if state.is_world_process_zero and (self.diagnosis is None or diagnosis.cause != self.diagnosis.cause):
                    print(diagnosis)
                self.diagnosis = diagnosis
        if self._is_training and (control.should_save or args.save_strategy == "best"):
            self._mend(kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._put_back(kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._leave()
        self._is_training = False
        self._mend(kwargs)
        self._previous = None  # what it has now stays
        if self._diagnoses and args.eval_strategy != "no":
            known = {name for row in state.log_history for name in row}
            with as_warning("training and validation were not compared"):
                for name in (self._train, self._validation):
                    if name not in known:
                        raise UnknownName("metric", name, known)

    def _leave(self) -> None:
        if self.watched is not None:
            self.watched.__exit__()

    def _mend(self, given: Mapping[str, Any]) -> None:
        """Assign true statistics, unless they are."""
        if not self._repairs or self._previous is not None:
            return
        with as_warning("what is saved keeps the statistics it had"):
            model = given["model"]
            data = own_loader(given["train_dataloader"] if self._data is None else self._data)
            with as_trained(model, self._modes):
                self.repaired = repair(
                    model,
                    data,
                    held_out=own_loader(given["eval_dataloader"]),
                    score=self._score_for(data, model),
                    forward=self._forward,
                    limit=self._limit,
                )
            self._previous = assign(model, self.repaired.statistics)

    def _put_back(self, model: nn.Module) -> None:
        if self._previous is not None:
            assign(model, self._previous)
            self._previous = None

    def _score_for(self, data: Iterable[Any], model: nn.Module) -> Score | None:
        if self._score is not None:
            return self._score
        with random_states_kept(model):
            return _minus_loss if next(batches_of(data, limit=1)).classes is None else None


def _called(model: nn.Module, batch: Any) -> Any:
    return model(**batch)


def _minus_loss(output: Any, batch: Any) -> float:
    return -float(output["loss"] if isinstance(output, Mapping) else output[0])
