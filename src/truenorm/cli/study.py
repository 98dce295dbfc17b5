"""`truenorm study`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from truenorm.lab.study.configuration import StudyConfig


def study(
    *,
    config: Annotated[StudyConfig, Parameter(name="*", consume_multiple=True, negative=())] = StudyConfig(),  # noqa: B008  # frozen
    out: Path = Path("results/study"),
) -> None:
    """Train, and compare every way of having inference statistics for the same weights.

    Says how far running statistics end from the population's in each layer, which momentum would have
    been best for each, and what each way gives at inference. Prints a table, writes record.json and a page.
    Several data sets, networks, batch sizes, schedules or --lrs make a grid. Finished trials stay in the folder:
    the same command goes on where it stopped, in as many processes at once as you like.

    Args:
        config: what to do.
        out: folder for record.json, report.html and the trials.
    """
    from truenorm.cli.report import say, show
    from truenorm.cli.terminal import bars
    from truenorm.errors import MissingExtra
    from truenorm.files import write_whole
    from truenorm.lab.report.study import study_page
    from truenorm.lab.study.study import run_study

    def resumed(finished: int, total: int) -> None:
        print(f"truenorm: {finished} of {total} trials were finished before, in {out / 'trials'}", file=sys.stderr)

    command = shlex.join(["truenorm", *sys.argv[1:]])
    try:
        with bars() as progress:
            record = run_study(config, command=command, out=out, progress=progress, resumed=resumed)
        show(record)
        page = out / "report.html"
        try:
            write_whole(page, study_page(record).encode())
            drawn = f"page: {page}"
        except MissingExtra as missing:  # the study is done and kept: its page can be drawn later
            drawn = f"no page: {missing}, then: truenorm report {out}"
        say(f"record: {out / 'record.json'}", drawn)
    except KeyboardInterrupt:
        print(
            f"truenorm: interrupted; finished trials stay in {out / 'trials'}, and the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
