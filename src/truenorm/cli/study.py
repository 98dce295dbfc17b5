"""`truenorm study`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from truenorm.study.configuration import StudyConfig


def study(
    *,
    config: Annotated[StudyConfig, Parameter(name="*", consume_multiple=True, negative=())] = StudyConfig(),  # noqa: B008  # frozen
    out: Path = Path("results/study"),
) -> None:
    """Train, and compare every way of having inference statistics for the same weights.

    Says how far running statistics end from the population's in each layer, which momentum would have
    been best for each, and what each way gives at inference. Prints a table and writes record.json.

    Args:
        config: what to do.
        out: folder for record.json.
    """
    from truenorm.cli.report import show
    from truenorm.cli.terminal import bars, console
    from truenorm.study.study import run_study

    command = shlex.join(["truenorm", *sys.argv[1:]])
    file = out / "record.json"
    before = _identity(file)
    try:
        with bars() as progress:
            record = run_study(config, command=command, out=out, progress=progress)
    except KeyboardInterrupt:
        written = _identity(file) != before
        kept = f"the trials that ended are in {file}" if written else "no trial had ended, nothing was written"
        print(f"truenorm: interrupted; {kept}", file=sys.stderr)
        sys.exit(130)
    show(record)
    # A path is text, never markup, and one line wherever it ends.
    console().print(f"\nrecord: {file}", markup=False, soft_wrap=True)


def _identity(file: Path) -> tuple[int, int] | None:
    """Tells a record from the one it has replaced."""
    if not file.exists():
        return None
    found = file.stat()
    return found.st_ino, found.st_mtime_ns
