"""One trial of a study as a job: where it is done, under which name, and what becomes of one that diverges."""

from collections.abc import Callable
from dataclasses import dataclass

from truenorm.errors import Diverged, InvalidRecord, NotFinite
from truenorm.lab.study.bench import Bench, machine_of
from truenorm.lab.study.configuration import Trial
from truenorm.lab.study.store import Store
from truenorm.lab.study.trial import run
from truenorm.record import Record


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A trial and what it is done on.

    Args:
        trial: what to do.
        bench: on what.
        bench_digest: of the bench; given, since many jobs share one.
    """

    trial: Trial
    bench: Bench
    bench_digest: str

    def __str__(self) -> str:
        return str(self.trial)

    @property
    def name(self) -> str:
        """Of its files: another configuration, data, version or device has other ones."""
        return f"{self.trial.id}-{self.bench_digest}"

    @property
    def steps(self) -> int:
        """Of training."""
        setting = self.trial.setting
        return setting.study.epochs * len(self.bench.feed("train", setting.batch_size))

    def do(self, store: Store, on_step: Callable[[], None]) -> Record:
        """The record of the trial; of one that diverged, without rows and with the reason."""
        trial, under_way, machine = self.trial, store.under_way(self.name), machine_of(self.bench.device)
        try:
            rows = tuple(run(trial, self.bench, under_way, on_step))
        except Diverged as error:
            why = str(error)
        except (NotFinite, InvalidRecord) as error:  # the loss was finite to the end; what came of it is not
            why = f"after training, {str(error).partition(';')[0]}; try a smaller --lr"
        else:
            return Record(command="", rows=rows, trials={trial.id: trial.to_dict()}, machine=machine)
        return Record(command="", trials={trial.id: trial.to_dict() | {"diverged": why}}, machine=machine)
