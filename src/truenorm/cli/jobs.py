"""Run jobs for a command: the progress bar, the tables, the record and its page, and what Ctrl-C leaves."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truenorm.lab.jobs.runner import Progress, Resumed
    from truenorm.record import Record


def run_and_show(run: "Callable[[str, Progress, Resumed], Record]", out: Path, *, per_class: bool = False) -> None:
    """Run, print the record's tables, and write its page.

    Args:
        run: given the command line, `progress` and `resumed`; writes record.json in `out`.
        out: folder for the record, the page and the trials.
        per_class: print the scores of each class, too.
    """
    from truenorm.cli.report import print_shown, say
    from truenorm.cli.terminal import bars
    from truenorm.errors import MissingExtra
    from truenorm.files import write_whole
    from truenorm.lab.report.shown import shown

    def resumed(finished: int, total: int) -> None:
        print(f"truenorm: {finished} of {total} trials were finished before, in {out / 'trials'}", file=sys.stderr)

    try:
        with bars() as progress:
            record = run(shlex.join(["truenorm", *sys.argv[1:]]), progress, resumed)
        showing = shown(record)
        print_shown(showing, per_class=per_class)
        page = out / "report.html"
        try:
            write_whole(page, showing.page().encode())
            drawn = f"page: {page}"
        except MissingExtra as missing:  # the record is complete: its page can be drawn later
            drawn = f"no page: {missing}, then: truenorm report {out}"
        say(f"record: {out / 'record.json'}", drawn)
    except KeyboardInterrupt:
        print(
            f"truenorm: interrupted; finished trials stay in {out / 'trials'}, and the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
