import inspect
import typing
from pathlib import Path

import pytest

from truenorm.cli import app
from truenorm.lab.study.configuration import StudyConfig

GOLDEN = Path(__file__).parent / "golden"


def commands():
    return [name for name in app if not name.startswith("-")]


def kind(hint):
    return str(hint) if typing.get_origin(hint) or "|" in str(hint) else hint.__name__


def options(name):
    """A line for each argument: its names, its type, what it is if it is not said."""
    for argument in app[name].assemble_argument_collection():
        if argument.show:
            default = argument.field_info.default
            default = str(default) if isinstance(default, Path) else default
            said = "needed" if argument.required else f"= {default!r}"
            yield f"{name} {' '.join(argument.names)}: {kind(argument.hint)} {said}"


def everything():
    return "\n".join(line for name in commands() for line in (name, *options(name))) + "\n"


def test_every_option_of_every_command(golden):
    golden("options.txt", everything())


def test_the_golden_file_sees_a_new_option():
    """Planted: a command with an option more."""

    def extra(*, verbose: bool = False) -> None: ...

    app.command(extra, name="extra")
    try:
        assert everything().removesuffix("extra\nextra --verbose --no-verbose: bool = False\n") != everything()
        assert everything() != (GOLDEN / "options.txt").read_text()
    finally:
        del app["extra"]


@pytest.mark.parametrize("name", [None, "study", "report"])
def test_help(truenorm, golden, name):
    ended = truenorm(*([name] if name else []), "--help")
    assert (ended.code, ended.err) == (0, "")
    golden(f"help-{name or 'truenorm'}.txt", ended.out)


def test_every_field_of_the_configuration_is_an_option_with_words():
    listed = {a.names[0] for a in app["study"].assemble_argument_collection() if a.show}
    fields = StudyConfig.__dataclass_fields__
    assert listed == {f"--{name.replace('_', '-')}" for name in fields} | {"--out", "--per-class"}
    source = inspect.getsource(StudyConfig)
    for name in fields:
        assert source.partition(f"    {name}: ")[2].partition("\n")[2].lstrip().startswith('"""')


@pytest.mark.parametrize("name", commands())
def test_a_command_says_what_its_docstring_says(name):
    function = app[name].default_command
    written = inspect.getdoc(function).partition("\n\nArgs:")[0]
    assert [p.split() for p in app[name].help.split("\n\n")] == [p.split() for p in written.split("\n\n")]
