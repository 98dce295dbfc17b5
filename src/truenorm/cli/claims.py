"""`truenorm claims`."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from truenorm.lab.claims.configuration import ClaimsConfig


def claims(
    *names: str,
    config: Annotated[ClaimsConfig, Parameter(name="*", negative=())] = ClaimsConfig(),  # noqa: B008  # frozen
    listed: Annotated[bool, Parameter(name="--list", negative=())] = False,
    out: Path = Path("results/claims"),
    processes: int | None = None,
) -> None:
    """Measure what is said about batch norm: small networks with and without, and a verdict for each claim.

    What would have to be seen, and how large an effect must be, is fixed before anything is run. Prints a table,
    writes record.json and a page that needs no knowledge of networks. Finished trials stay in the folder: the same
    command goes on where it stopped, in as many processes at once as you like.

    Args:
        names: Which claims; all unless said.
        config: on what, and how much.
        listed: Only list the claims, and those that are not measured yet.
        out: folder for record.json, report.html and the trials.
        processes: Trials at once; as many as there are cores, unless said.
    """
    from truenorm.errors import InvalidInput
    from truenorm.lab.claims.catalogue import NOT_YET, named

    chosen = named(names)
    if listed:
        from truenorm.cli.terminal import console
        from truenorm.lab.report.claims.table import listing

        not_yet = {} if names else NOT_YET
        console().print(listing(chosen, not_yet))
    else:
        if processes is not None and processes < 1:
            raise InvalidInput(f"--processes is {processes}; it takes 1 or more")
        _measure(config, names, out, processes or _cores())


def _cores() -> int:
    """That this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure(config: ClaimsConfig, names: tuple[str, ...], out: Path, processes: int) -> None:
    from truenorm.cli.report import say, show
    from truenorm.cli.terminal import bars
    from truenorm.errors import MissingExtra
    from truenorm.files import write_whole
    from truenorm.lab.claims.catalogue import FAMILY, named
    from truenorm.lab.claims.run import run_claims
    from truenorm.lab.report.claims.page import claims_page

    def resumed(finished: int, total: int) -> None:
        print(f"truenorm: {finished} of {total} trials were finished before, in {out / 'trials'}", file=sys.stderr)

    command = shlex.join(["truenorm", *sys.argv[1:]])
    try:
        with bars() as progress:
            record = run_claims(
                config,
                named(names),
                family=FAMILY,
                command=command,
                out=out,
                processes=processes,
                progress=progress,
                resumed=resumed,
            )
        show(record)
        page = out / "report.html"
        try:
            write_whole(page, claims_page(record).encode())
            drawn = f"page: {page}"
        except MissingExtra as missing:  # all is measured and kept: its page can be drawn later
            drawn = f"no page: {missing}, then: truenorm report {out}"
        say(f"record: {out / 'record.json'}", drawn)
    except KeyboardInterrupt:
        print(
            f"truenorm: interrupted; finished trials stay in {out / 'trials'}, and the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
