"""`truenorm study`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from truenorm.lab.study.configuration import StudyConfig


def study(
    *,
    config: Annotated[StudyConfig, Parameter(name="*", consume_multiple=True, negative=())] = StudyConfig(),  # noqa: B008  # frozen
    out: Path = Path("results/study"),
    per_class: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Train, and compare every way of having inference statistics for the same weights.

    Says how far running statistics end from the population's in each layer, which momentum would have
    been best for each, and what each way gives at inference. Prints a table, writes record.json and a page.
    Several data sets, networks, batch sizes, schedules or --lrs make a grid. Finished trials stay in the folder:
    the same command goes on where it stopped, in as many processes at once as you like.

    Args:
        config: what to do.
        out: folder for record.json, report.html and the trials.
        per_class: print the scores of each class, too.
    """
    from truenorm.cli.jobs import run_and_show
    from truenorm.lab.study.study import run_study

    run_and_show(
        lambda command, progress, resumed: run_study(
            config, command=command, out=out, progress=progress, resumed=resumed
        ),
        out,
        per_class=per_class,
    )
