"""The line that installs what an extra brings."""

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires


def install_line(extra: str, package: str) -> str:
    """A pip command that names the packages of an extra.

    It names them one by one: pip finds `truenorm[extra]` only where an index has truenorm, the packages everywhere.

    Args:
        extra: its name.
        package: what to name where truenorm's metadata do not list the extra.

    Example:
        >>> install_line("timm", "timm")
        "pip install 'timm>=1'"
    """
    return shlex.join(["pip", "install", *(_packages(extra) or [package])])


def _packages(extra: str) -> list[str]:
    try:
        every = requires("truenorm") or []
    except PackageNotFoundError:  # the source is on the path, and not installed
        return []
    parts = [requirement.partition(";") for requirement in every]
    return [package.strip() for package, _, marker in parts if re.search(rf"extra == ['\"]{extra}['\"]", marker)]
