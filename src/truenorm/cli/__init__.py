"""The command `truenorm`: one file per verb; importing it imports neither torch nor the verbs."""

import sys
from collections.abc import Sequence

from cyclopts import App

from truenorm import __version__
from truenorm.errors import TruenormError

app = App(
    name="truenorm",
    version=__version__,
    help="Batch normalization whose inference statistics are true to the population.",
)
app.command("truenorm.cli.study:study", name="study")
app.command("truenorm.cli.report:report", name="report")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every error of ours is one sentence and an exit code."""
    try:
        app(arguments)
    except TruenormError as error:
        print(f"truenorm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(1)
