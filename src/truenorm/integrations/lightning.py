"""Lightning: say why validation falls behind training, and write checkpoints whose statistics are true."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from truenorm.doctor.repair import Repair
from truenorm.errors import InvalidInput, UnknownName, extra
from truenorm.integrations.callback import RunCallback, as_trained, as_warning, losses_diverged
from truenorm.model.layers import statistic_keys
from truenorm.model.statistics import assign

with extra("lightning"):
    import lightning


@dataclass(kw_only=True, eq=False, repr=False)
class TrueNorm(RunCallback, lightning.Callback):
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

    train: str = "train_loss"
    validation: str = "val_loss"
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("min", "max"):
            raise UnknownName("mode", self.mode, ("min", "max"))

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begin(pl_module)
        if self.repair and any(
            getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks
        ):
            with as_warning("checkpoints keep the statistics they have"):
                raise InvalidInput("for save_weights_only=True Lightning calls no callback; save them whole")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._note_modes(pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.diagnose or trainer.sanity_checking:
            return
        # Layers may exchange statistics while they are measured: all processes look, or none does.
        if trainer.strategy.reduce_boolean_decision(self._losses_diverged(trainer.callback_metrics), all=False):
            optimizer = trainer.optimizers[0] if trainer.optimizers else None
            self._diagnose(pl_module, _first(trainer.val_dataloaders), optimizer, pl_module.print)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.repair:
            return
        saved: dict[str, Tensor] = checkpoint["state_dict"]
        with as_warning("the checkpoint keeps the statistics it had"), as_trained(pl_module, self._modes):
            with _holding(pl_module, saved):
                self.repaired = self._repair_of(trainer, pl_module)
            if self.repaired.chosen is not None:
                # Copies: the module's own are put back when the block ends.
                saved.update({key: value.clone() for key, value in _carried(pl_module).items() if key in saved})

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._leave()
        if self.repair:
            with as_warning("the module keeps the statistics it had"):
                with as_trained(pl_module, self._modes):
                    self.repaired = self._repair_of(trainer, pl_module)
                assign(pl_module, self.repaired.statistics)
        if self.diagnose and trainer.enable_validation:
            self._warn_unless_logged(trainer.callback_metrics)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._leave()

    def _losses_diverged(self, metrics: Mapping[str, Tensor]) -> bool:
        if self.train not in metrics or self.validation not in metrics:
            return False
        low, high = float(metrics[self.train]), float(metrics[self.validation])
        return losses_diverged(low, high, self.gap) if self.mode == "min" else losses_diverged(high, low, self.gap)

    def _repair_of(self, trainer: lightning.Trainer, model: nn.Module) -> Repair:
        return self._repair(model, _first(trainer.train_dataloader), _first(trainer.val_dataloaders))


def _carried(model: nn.Module) -> dict[str, Tensor]:
    """The running statistics, by their names in a state dict."""
    keys = statistic_keys(model)
    return {key: value for key, value in model.state_dict().items() if key in keys}


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
