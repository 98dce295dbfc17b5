"""The command `truenorm`: one file per verb; importing it imports neither torch nor the verbs."""

import sys
from collections.abc import Sequence

from cyclopts import App

from truenorm import __version__
from truenorm.errors import MissingFunction, TruenormError

app = App(
    name="truenorm",
    version=__version__,
    help="Batch normalization whose inference statistics are true to the population.",
    suppress_keyboard_interrupt=False,  # main() says what became of the work
)
# What their docstrings say, said here too: the list of commands imports none of them.
app.command(
    "truenorm.cli.diagnose:diagnose",
    name="diagnose",
    help="Why is a network good in train() and bad in eval()? Which layer, what cause, and what mending gives.\n\n"
    "The checkpoint is read first and nothing is changed; then the Python files that you name are run. "
    "Exit code 0: healthy; 3: something is wrong; 2: wrong use.",
)
app.command(
    "truenorm.cli.repair:repair",
    name="repair",
    help="Measure the statistics of batch norm anew, and write a checkpoint with them, if they do better.\n\n"
    "Better is what scores better on held-out samples, beyond noise. If none does, nothing is written. The checkpoint "
    "that came is never written over. Exit code 0: written; 3: nothing does better; 2: wrong use.",
)
app.command(
    "truenorm.cli.study:study",
    name="study",
    help="Train, and compare every way of having inference statistics for the same weights.\n\n"
    "Says how far running statistics end from the population's in each layer, which momentum would have "
    "been best for each, and what each way gives at inference. Prints a table, writes record.json and a page. "
    "Several data sets, networks, batch sizes, schedules or --lrs make a grid. Finished trials stay in the folder: "
    "the same command goes on where it stopped, in as many processes at once as you like.",
)
app.command(
    "truenorm.cli.claims:claims",
    name="claims",
    help="Measure what is said about batch norm: small networks with and without, and a verdict for each claim.\n\n"
    "What would have to be seen, and how large an effect must be, is fixed before anything is run. Prints a table, "
    "writes record.json and a page that needs no knowledge of networks. Finished trials stay in the folder: the same "
    "command goes on where it stopped, in as many processes at once as you like.",
)
app.command(
    "truenorm.cli.report:report",
    name="report",
    help="Print the tables of a record again and draw its page; of several records, side by side.",
)
app.command(
    "truenorm.cli.explain:explain",
    name="explain",
    help="Walk through one batch-norm layer by hand: eight numbers in training, what is stored, and inference.\n\n"
    "Every number is computed when it is printed.",
)
app.command(
    "truenorm.cli.env:env",
    name="env",
    help="Versions, devices, and which backend normalises on each of them, with the reasons of those that do not.\n\n"
    "What to put into a report of a bug.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every error of ours is one sentence and an exit code."""
    try:
        app(arguments)
    except TruenormError as error:
        print(f"truenorm: {_sentence(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("truenorm: interrupted; nothing was changed", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(1)


def _sentence(error: TruenormError) -> str:
    """The error's sentence, with the option of the command line where Python has an argument."""
    if isinstance(error, MissingFunction):
        return f"{error.why}; pass --{error.argument} FILE.py:FUNCTION"
    return str(error)
