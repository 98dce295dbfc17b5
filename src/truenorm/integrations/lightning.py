"""Lightning: say why validation falls behind training, and write checkpoints whose statistics are true."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from truenorm.doctor.diagnose import diagnose
from truenorm.doctor.diagnosis import Diagnosis
from truenorm.doctor.repair import Repair, repair
from truenorm.doctor.score import Score
from truenorm.errors import InvalidInput, UnknownName, extra
from truenorm.integrations.callback import as_trained, as_warning, losses_diverged, own_loader
from truenorm.model.evaluate import Forward
from truenorm.model.statistics import assign
from truenorm.model.watch import Watch, watch
from truenorm.rules import Rule

with extra("lightning"):
    import lightning


class TrueNorm(lightning.Callback):
    """Diagnoses when validation falls behind training, and mends the statistics of every checkpoint.

    The run is the one without it, to the bit: weights, statistics, random numbers, validation. What differs:

    - Each checkpoint holds the statistics of the weights in it (averaged ones, too, where `WeightAveraging` comes
      before in the list), measured on training batches, if they do better on those of validation.
    - The module itself is mended when training ends, for `trainer.test(module)` and what else is done with it.

    What goes wrong in a diagnosis or a repair ends no run: it is said in a warning, and training goes on.

    Args:
        diagnose: run `truenorm.diagnose` on validation batches where the two metrics part, and print what it
            finds (on rank zero; once for each cause).
        repair: mend checkpoints, and the module at the end. Not those of `save_weights_only=True`: for them
            Lightning calls no callback.
        watch: rules to follow the run with, see `truenorm.watch`.
        train: name of a logged training metric.
        validation: name of the same metric in validation.
        gap: factor by which validation may be worse.
        mode: "min", the metrics are losses; "max", more is better.
        data: batches to measure, training ones with the transforms of inference, readable any number of times;
            None: the training loader's. A map-style `DataLoader` is read through a loader of its own, anything
            else as it is.
        forward: how to run a batch, `forward(module, batch)`, where `module(images)` is not it. Batches come
            as from the loader, without the module's transfer hooks.
        score: see `truenorm.diagnose`; needed where batches hold no classes.
        limit: samples to measure for each checkpoint; None: all.

    Attributes:
        diagnosis: the latest `Diagnosis`, None before.
        repaired: the latest `Repair`, None before.
        watched: the `Watch` of the latest run, None if no rules were given.

    Raises:
        InvalidInput: a gap below 1, or a mode that is neither.

    Example (it runs with the tests):

        import lightning, torch
        from torch import nn
        from truenorm.integrations.lightning import TrueNorm

        class Net(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.001), nn.Linear(8, 2))

            def forward(self, x):
                return self.net(x)

            def training_step(self, batch, _):
                return nn.functional.cross_entropy(self(batch[0]), batch[1])

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        x = torch.randn(256, 4) + 5
        loader = torch.utils.data.DataLoader(list(zip(x, (x.sum(1) > 20).long())), batch_size=32)
        true_norm = TrueNorm()
        trainer = lightning.Trainer(
            max_epochs=4, callbacks=[true_norm], logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.fit(Net(), loader)
        print(true_norm.repaired.sentence)
    """

    def __init__(
        self,
        *,
        diagnose: bool = True,
        repair: bool = True,
        watch: Sequence[Rule] | None = None,
        train: str = "train_loss",
        validation: str = "val_loss",
        gap: float = 1.5,
        mode: Literal["min", "max"] = "min",
        data: Iterable[Any] | None = None,
        forward: Forward | None = None,
        score: Score | None = None,
        limit: int | None = 10_000,
    ) -> None:
        if not gap >= 1:
            raise InvalidInput(f"gap is {gap:g}; expected the factor by which validation may be worse, 1 or more")
        if mode not in ("min", "max"):
            raise UnknownName("mode", mode, ("min", "max"))
        self.diagnosis: Diagnosis | None = None
        self.repaired: Repair | None = None
        self.watched: Watch | None = None
        self._diagnoses, self._repairs, self._rules = diagnose, repair, watch
        self._train, self._validation, self._gap, self._mode = train, validation, gap, mode
        self._data, self._forward, self._score, self._limit = data, forward, score, limit
        self._modes: dict[nn.Module, bool] = {}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._leave()
        self._modes = {}
        if self._rules is not None:
            with as_warning("the run is not watched"):
                self.watched = watch(pl_module, self._rules).__enter__()
        if self._repairs and any(
            getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks
        ):
            with as_warning("checkpoints keep the statistics they have"):
                raise InvalidInput("for save_weights_only=True Lightning calls no callback; save them whole")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._modes = {module: module.training for module in pl_module.modules()}  # which layers are frozen by eval()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self._diagnoses or trainer.sanity_checking:
            return
        # Layers may exchange statistics while they are measured: all processes look, or none does.
        if trainer.strategy.reduce_boolean_decision(self._losses_diverged(trainer.callback_metrics), all=False):
            with as_warning("validation falls behind, and was not diagnosed"), as_trained(pl_module, self._modes):
                diagnosis = diagnose(
                    pl_module,
                    own_loader(_first(trainer.val_dataloaders)),
                    score=self._score,
                    optimizer=trainer.optimizers[0] if trainer.optimizers else None,
                    forward=self._forward,
                )
                if self.diagnosis is None or diagnosis.cause != self.diagnosis.cause:
                    pl_module.print(diagnosis)
                self.diagnosis = diagnosis

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self._repairs:
            return
        saved: dict[str, Tensor] = checkpoint["state_dict"]
        with as_warning("the checkpoint keeps the statistics it had"), as_trained(pl_module, self._modes):
            with _holding(pl_module, saved):
                self.repaired = self._repair(trainer, pl_module)
            if self.repaired.chosen is not None:
                # Copies: the module's own are put back when the block ends.
                saved.update({key: value.clone() for key, value in _carried(pl_module).items() if key in saved})

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._leave()
        if self._repairs:
            with as_warning("the module keeps the statistics it had"):
                with as_trained(pl_module, self._modes):
                    self.repaired = self._repair(trainer, pl_module)
                assign(pl_module, self.repaired.statistics)
        if self._diagnoses and trainer.enable_validation:
            with as_warning("training and validation were not compared"):
                for name in (self._train, self._validation):
                    if name not in trainer.callback_metrics:
                        raise UnknownName("metric", name, trainer.callback_metrics)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.watched is not None:
            self.watched.__exit__()

    def _losses_diverged(self, metrics: Mapping[str, Tensor]) -> bool:
        if self._train not in metrics or self._validation not in metrics:
            return False
        low, high = float(metrics[self._train]), float(metrics[self._validation])
        return losses_diverged(low, high, self._gap) if self._mode == "min" else losses_diverged(high, low, self._gap)

    def _repair(self, trainer: lightning.Trainer, model: nn.Module) -> Repair:
        return repair(
            model,
            own_loader(_first(trainer.train_dataloader) if self._data is None else self._data),
            held_out=own_loader(_first(trainer.val_dataloaders)),
            score=self._score,
            forward=self._forward,
            limit=self._limit,
        )


def _carried(model: nn.Module) -> dict[str, Tensor]:
    """The running statistics, by their names in a state dict."""
    return {key: value for key, value in model.state_dict().items() if key.endswith(("running_mean", "running_var"))}


@contextmanager
def _holding(model: nn.Module, saved: Mapping[str, Tensor]) -> Generator[None]:
    """The model with the weights that are saved; mostly they are its own, and nothing is copied."""
    own = {name: weight.data for name, weight in model.named_parameters()}
    try:
        for name, weight in model.named_parameters():
            weight.data = saved.get(name, weight.data).to(weight)
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.data = own[name]


def _first(loaders: Any) -> Any:
    """Lightning takes lists of loaders; what is not a list is one."""
    return (loaders[0] if loaders else None) if isinstance(loaders, list | tuple) else loaders
