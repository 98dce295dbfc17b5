"""transformers' Trainer: say why validation falls behind training, and write checkpoints whose statistics are true."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from truenorm.data.batches import batches_of
from truenorm.doctor.score import Score
from truenorm.errors import extra
from truenorm.integrations.callback import RunCallback, as_trained, as_warning, losses_diverged
from truenorm.model.evaluate import random_states_kept
from truenorm.model.statistics import assign
from truenorm.stats.statistics import Statistics

with extra("transformers"):
    import transformers
    from transformers import TrainerControl, TrainerState, TrainingArguments


@dataclass(kw_only=True, eq=False, repr=False)
class TrueNorm(RunCallback, transformers.TrainerCallback):
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

    train: str = "loss"
    validation: str = "eval_loss"
    _is_training: bool = field(default=False, init=False)
    _previous: Statistics | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.forward = self.forward or _called

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_training, self._previous = True, None
        self._begin(kwargs["model"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._put_back(kwargs["model"])  # "best" is told after on_evaluate: mended, and then not written

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._note_modes(kwargs["model"])
        self.on_epoch_end(args, state, control, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save and not control.should_evaluate:
            self._mend(kwargs)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        losses = [row[self.train] for row in state.log_history if self.train in row]
        now = kwargs["metrics"].get(self.validation)
        if self.diagnose and losses and now is not None and losses_diverged(losses[-1], now, self.gap):
            show = print if state.is_world_process_zero else None
            self._diagnose(kwargs["model"], kwargs["eval_dataloader"], kwargs["optimizer"], show)
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
        if self.diagnose and args.eval_strategy != "no":
            self._warn_unless_logged({name for row in state.log_history for name in row})

    def _mend(self, given: Mapping[str, Any]) -> None:
        """Assign true statistics, unless they are."""
        if not self.repair or self._previous is not None:
            return
        with as_warning("what is saved keeps the statistics it had"):
            model = given["model"]
            with as_trained(model, self._modes):
                self.repaired = self._repair(model, given["train_dataloader"], given["eval_dataloader"])
            self._previous = assign(model, self.repaired.statistics)

    def _put_back(self, model: nn.Module) -> None:
        if self._previous is not None:
            assign(model, self._previous)
            self._previous = None

    def _score_for(self, data: Iterable[Any], model: nn.Module) -> Score | None:
        if self.score is not None:
            return self.score
        with random_states_kept(model):
            return _minus_loss if next(batches_of(data, limit=1)).classes is None else None


def _called(model: nn.Module, batch: Any) -> Any:
    return model(**batch)


def _minus_loss(output: Any, batch: Any) -> float:
    return -float(output["loss"] if isinstance(output, Mapping) else output[0])
