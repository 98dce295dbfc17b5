"""`truenorm claims`."""

import os
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
        listed: Only list the claims.
        out: folder for record.json, report.html and the trials.
        processes: Trials at once; as many as there are cores, unless said.
    """
    from truenorm.errors import InvalidInput
    from truenorm.lab.claims.catalogue import named

    chosen = named(names)
    if listed:
        from truenorm.cli.terminal import console
        from truenorm.lab.report.claims.table import listing

        console().print(listing(chosen))
    else:
        from truenorm.cli.jobs import run_and_show
        from truenorm.lab.claims.run import run_claims

        if processes is not None and processes < 1:
            raise InvalidInput(f"--processes is {processes}; it takes 1 or more")
        run_and_show(
            lambda command, progress, resumed: run_claims(
                config,
                chosen,
                command=command,
                out=out,
                processes=processes or _cores(),
                progress=progress,
                resumed=resumed,
            ),
            out,
        )


def _cores() -> int:
    """That this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
