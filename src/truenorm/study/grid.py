"""Trials done once each, by however many processes share the folder, whatever happens to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truenorm.errors import Diverged, InvalidRecord, NotFinite
from truenorm.record import Record
from truenorm.study.bench import Bench, machine_of
from truenorm.study.configuration import Trial
from truenorm.study.store import Store
from truenorm.study.trial import run

_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """A trial and what it is done on.

    Args:
        trial: what to do.
        bench: on what.
        bench_digest: of the bench; given, since many jobs share one.
    """

    trial: Trial
    bench: Bench
    bench_digest: str

    @property
    def name(self) -> str:
        """Of its files: another configuration, data, version or device has other ones."""
        return f"{self.trial.id}-{self.bench_digest}"

    @property
    def steps(self) -> int:
        """Of training."""
        setting = self.trial.setting
        return setting.study.epochs * len(self.bench.feed("train", setting.batch_size))


def do(job: Job, store: Store, on_step: Callable[[], None]) -> Record:
    """The record of one trial; of one that diverged, without rows and with the reason."""
    trial, under_way, machine = job.trial, store.under_way(job.name), machine_of(job.bench.device)
    try:
        rows = tuple(run(trial, job.bench, under_way, on_step))
    except Diverged as error:
        why = str(error)
    except (NotFinite, InvalidRecord) as error:  # the loss was finite to the end; what came of it is not
        why = f"after training, {str(error).partition(';')[0]}; try a smaller --lr"
    else:
        return Record(command="", rows=rows, trials={trial.id: trial.to_dict()}, machine=machine)
    return Record(command="", trials={trial.id: trial.to_dict() | {"diverged": why}}, machine=machine)


def share(
    jobs: Sequence[Job],
    store: Store,
    *,
    start: Callable[[Job], Callable[[], None]],
    ended: Callable[[Job], None],
) -> None:
    """Do every job that is not done; those that another process is at are left to it, and waited for.

    Args:
        jobs: in the order to do them.
        store: where they are kept.
        start: called with a job that this process does; gives what each step of training calls.
        ended: called with each job that is finished, by whichever process.
    """
    left = list(jobs)
    patience = 0.0  # seconds to wait for another process
    while left:
        others: list[Job] = []
        for job in left:
            if store.finished(job.name) is None:
                # Not twice: another process may have finished it between the look and the lock.
                with store.claimed(job.name, timeout=patience) as mine:
                    if mine and store.finished(job.name) is None:
                        store.finish(job.name, do(job, store, start(job)))
                patience = 0.0
            if store.finished(job.name) is None:
                others.append(job)
            else:
                ended(job)
        # All that is left is in other hands: wait, and look round again, since one of them may have died.
        patience = _PATIENCE if len(others) == len(left) else 0.0
        left = others
