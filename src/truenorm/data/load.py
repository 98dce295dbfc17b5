"""Objects that a user names by `file.py:name` or `package.module:name`."""

import hashlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from truenorm.errors import InvalidInput


def factory(spec: str) -> Callable[..., object]:
    """The function or class that `spec` names, from a file or from an installed module.

    A file is run afresh at each call, under a private module name; while it runs, and no longer,
    it can import its neighbours.

    Args:
        spec: `path/to/file.py:name` or `package.module:name`.

    Raises:
        InvalidInput: no colon, no such file, module or name, a name that is no function, or a
            file that raises when it runs; that error is chained.

    Example:
        >>> factory("torch.nn:Flatten").__name__
        'Flatten'
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise InvalidInput(
            f"{spec!r} does not say what to take from where; expected file.py:name or package.module:name"
        )
    module = _from_file(Path(place).expanduser()) if _is_path(place) else _from_package(place)
    if not hasattr(module, name):
        raise InvalidInput(f"{place} has no {name!r}{_nearest(module, name)}")
    found: object = getattr(module, name)
    if not callable(found):
        raise InvalidInput(f"{name} of {place} is a {type(found).__name__}; expected a function or a class to call")
    return found


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}; it is looked for from the current folder{_beside(file)}")
    path = file.resolve()
    # The name is private so that a user's `model.py` shadows no real module, and stable so that
    # what the file defines can be pickled.
    name = f"_truenorm_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{file} is not a Python file; expected file.py:name")
    module = module_from_spec(spec)
    search, sys.path = sys.path, [str(path.parent), *sys.path]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise InvalidInput(f"{file} raised {_told(error)} when it was run") from error
    finally:
        sys.path = search
    return module


def _from_package(place: str) -> ModuleType:
    try:
        known = find_spec(place) is not None
    except (Exception, SystemExit) as error:
        # find_spec imports the packages above: one that is not there, or one that fails?
        if not isinstance(error, ModuleNotFoundError) or not f"{place}.".startswith(f"{error.name}."):
            raise InvalidInput(f"a package above {place} raised {_told(error)} when it was imported") from error
        known = False
    if not known:
        raise InvalidInput(f"there is no module {place!r} to import; install it, or name a file: path/to/file.py:name")
    try:
        return import_module(place)
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"{place} raised {_told(error)} when it was imported") from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _nearest(module: ModuleType, name: str) -> str:
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; it has {', '.join(sorted(names)[:8])}" if names else "; it holds no function or class"


def _beside(file: Path) -> str:
    if not file.parent.is_dir():
        return f", and there is no folder {file.parent}"
    near = get_close_matches(file.name, [other.name for other in file.parent.glob("*.py")], n=1)
    return f"; did you mean {file.with_name(near[0])}?" if near else ""
