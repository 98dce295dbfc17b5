"""Weights in files: read without running code, and written back with other statistics in the same form."""

import copy
import io
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from truenorm.errors import FileChanged, InvalidInput, UnknownName
from truenorm.files import write_whole

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
"""Where training scripts keep the weights inside a checkpoint, in the order in which they are looked for."""

_SCALAR: Any = np.float64(0).__reduce__()[0]
_PLAIN: list[Any] = [
    np.dtype,
    *map(type, map(np.dtype, ("float64", "float32", "int64"))),
    # Its module has had two names; either may stand in a file.
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""numpy's scalars, as which scripts keep their best score: they run nothing."""

STATISTICS = ("running_mean", "running_var")
"""How the names of running statistics end."""

_COUNT = "num_batches_tracked"

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A checkpoint with other statistics.

    Args:
        data: the bytes of the file.
        widened: the tensors that are written as float32, and the type that they had: it could not hold the values.
    """

    data: bytes
    widened: Mapping[str, torch.dtype]


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells that a file was written to: its inode, size and time of change; None for a file that is gone."""

    identity: tuple[int, int, int] | None

    @classmethod
    def of(cls, path: Path) -> "FileState":
        try:
            found = path.stat()
        except OSError:
            return cls(None)
        return cls((found.st_ino, found.st_size, found.st_mtime_ns))


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state dict and the file it came in, read into memory: what becomes of the file changes nothing here.

    Args:
        path: the file.
        state: parameters and buffers, by the names that the file has.
        whole: everything the file holds, to be written back; None for safetensors.
        key: under which key of the file the state lies; "" where it is the file itself.
        prefix: what the names begin with beside the network's own.
        metadata: safetensors' own.
        file_state: of the file, just before it was read.
        lacks: running statistics of the network, and their counts of batches, that a file of parameters does not hold.
    """

    path: Path
    state: Mapping[str, Tensor]
    whole: Any
    key: str = ""
    prefix: str = ""
    metadata: Mapping[str, str] | None = None
    file_state: FileState = FileState(None)
    lacks: tuple[str, ...] = ()

    @contextmanager
    def unchanged_by(self, code: str) -> Generator[None]:
        """Run the user's code in the block, and refuse to go on if the file is then no longer the one that was read.

        Args:
            code: what runs in the block, as the command line names it.

        Raises:
            FileChanged: the file was written to, replaced or deleted, also where the code itself failed.
        """
        try:
            yield
        finally:
            now = FileState.of(self.path)
            if now != self.file_state:
                raise FileChanged(
                    f"{self.path} was {'deleted' if now.identity is None else 'written to'} while {code} ran, so the "
                    "command stops here; that code seems to train or to save when it is run: put this under "
                    "if __name__ == '__main__', restore the checkpoint, and run the command again"
                )

    def load_into(self, network: nn.Module) -> "Checkpoint":
        """Load the state strictly; counts of batches may be missing, as in old files and ports.

        The running statistics of batch norm may be missing, too, if all are (a file of parameters): those of the
        network are then the initial 0 and 1, with no batch counted, and `lacks` names them.

        Returns:
            the checkpoint, with the prefix that its names turned out to have.

        Raises:
            InvalidInput: names or shapes that are not the network's.
        """
        wanted = network.state_dict()
        parameters_only = not any(name.endswith(STATISTICS) for name in self.state)
        optional = (_COUNT, *(STATISTICS if parameters_only else ()))
        prefix = _prefix(self.state, [name for name in wanted if not name.endswith(optional)])
        # What lies beside the prefix (a loss, another network) is not this network's.
        state = OrderedDict((n.removeprefix(prefix), value) for n, value in self.state.items() if n.startswith(prefix))
        extra = {name for name in state if name not in wanted and name != "n_averaged"}
        missing = {name for name in wanted if name not in state and not name.endswith(optional)}
        if extra or missing:
            raise InvalidInput(
                f"{self.path} does not fit the network: {_few('it lacks', missing)}{' and ' * bool(extra and missing)}"
                f"{_few('it has beside', extra)}; is it of another network, or under another --key?"
            )
        for name, value in state.items():
            if name in wanted and wanted[name].shape != value.shape:
                raise InvalidInput(
                    f"{self.path} does not fit the network: {name} has shape {tuple(value.shape)} there and "
                    f"{tuple(wanted[name].shape)} here"
                )
            if name in wanted and value.is_complex() and not wanted[name].is_complex():
                raise InvalidInput(
                    f"{self.path} does not fit the network: {name} is {value.dtype} there and {wanted[name].dtype} "
                    "here, which would drop its imaginary part"
                )
        fitting: Any = OrderedDict((name, value) for name, value in state.items() if name in wanted)
        # What each module noted of its own version, under names without the prefix.
        noted: Mapping[str, Any] = getattr(self.state, "_metadata", {})
        fitting._metadata = {f"{name}.".removeprefix(prefix).removesuffix("."): told for name, told in noted.items()}
        network.load_state_dict(fitting, strict=False)
        absent = tuple(name for name in wanted if name not in state and name.endswith(optional))
        lacks = absent if parameters_only else ()
        for name in lacks:  # of a network that was built with statistics of its own
            network.get_buffer(name).fill_(float(name.endswith("running_var")))
        return replace(self, prefix=prefix, lacks=lacks)

    def with_state(self, changed: Mapping[str, Tensor]) -> Rewritten:
        """The file with some tensors replaced, by the network's names; all else as it was.

        A tensor keeps the type that it has in the file. Where that cannot hold the values (an integer type, a variance
        that half precision takes for 0 or inf), it is written as float32. Running statistics that the file lacks are
        added, and their counts, without which torch would not load them strictly.
        """
        state = copy.copy(cast(dict[str, Tensor], self.state))  # an OrderedDict of torch's has attributes
        widened: dict[str, torch.dtype] = {}
        for name, value in changed.items():
            there = f"{self.prefix}{name}"
            if name in self.lacks and not isinstance(self.whole, nn.Module):
                state[there] = value.detach().cpu().clone()
            elif there in state:
                given, kind = value.detach().cpu(), state[there].dtype
                if not _holds(kind, given):
                    widened[there], kind = kind, torch.float32
                state[there] = given.to(kind, copy=True)
        if self.metadata is not None:
            from safetensors.torch import save

            data = save({name: value.contiguous() for name, value in state.items()}, metadata=dict(self.metadata))
            return Rewritten(data, widened)
        if isinstance(self.whole, nn.Module):
            whole: Any = copy.deepcopy(self.whole)
            for name in widened:  # load_state_dict copies into the buffer that is there
                module, _, buffer = name.rpartition(".")
                whole.get_submodule(module).register_buffer(buffer, state[name])
            whole.load_state_dict(state)
        else:
            literal = not self.key or self.key in self.whole
            whole = _replaced(self.whole, ([self.key] if literal else self.key.split(".")) if self.key else [], state)
        buffer = io.BytesIO()
        torch.save(whole, buffer)
        return Rewritten(buffer.getvalue(), widened)


def read_checkpoint(path: str | os.PathLike[str], *, key: str | None = None, trust: bool = False) -> Checkpoint:
    """Read a file of weights: safetensors, or what `torch.save` wrote. No code of the file is run.

    Args:
        path: the file.
        key: where in the file the state dict lies, such as `state_dict_ema` or `teacher.model`; None looks in
            the usual places.
        trust: allow the file to run code, as pickles can; only for files of one's own.

    Raises:
        InvalidInput: no such file, not a checkpoint, one that wants to run code, or no state dict in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 3, "model": nn.Linear(1, 1).state_dict()}, f"{folder}/last.pt")
        ...     read_checkpoint(f"{folder}/last.pt").key
        'model'
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InvalidInput(f"there is no checkpoint {file}")
    before = FileState.of(file)
    read = _safetensors(file) if file.suffix == ".safetensors" else _torch_file(file, key, trust)
    return replace(read, file_state=before)


def _torch_file(file: Path, key: str | None, trust: bool) -> Checkpoint:
    try:
        with torch.serialization.safe_globals(_PLAIN):
            whole: Any = torch.load(file, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if trust or not _CODE.search(str(error)):
            raise InvalidInput(f"{file} is not a checkpoint: neither of torch's nor of safetensors' form") from error
        raise InvalidInput(
            f"{file} holds more than weights and would run code when read ({_wants(error)}); if you trust where it "
            "comes from, say so: --trust-checkpoint"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, … for what is no checkpoint
        raise InvalidInput(f"{file} cannot be read as a checkpoint: {_first_line(error)}") from error
    if isinstance(whole, nn.Module):
        return Checkpoint(path=file, state=whole.state_dict(), whole=whole)
    return _found(file, whole, key)


def write_checkpoint(path: str | os.PathLike[str], data: bytes, *, source: Path) -> None:
    """Write a new checkpoint; never over one that exists.

    Raises:
        InvalidInput: the file exists (the source among them), or cannot be written.
    """
    ensure_new(path, source=source)
    write_whole(Path(path).expanduser(), data)


def ensure_new(path: str | os.PathLike[str], *, source: Path) -> None:
    """Refuse, before anything is measured, what `write_checkpoint` would refuse after it.

    Raises:
        InvalidInput: the file exists.
    """
    target = Path(path).expanduser()
    if target.exists():
        same = source.exists() and target.samefile(source)
        what = "the checkpoint itself" if same else "a file that exists"
        raise InvalidInput(f"{target} is {what} and is not written over; choose another name")


def _safetensors(file: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:  # pyright: ignore[reportUnknownVariableType]  # untyped
            metadata = dict(cast(Mapping[str, str], opened.metadata() or {}))
            names = cast(Iterable[str], opened.keys())
            # What is given may be mapped from the file, which the user's code may write to.
            state = {name: cast(Tensor, opened.get_tensor(name)).clone() for name in names}
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"{file} is not a safetensors file: {error}") from error
    return Checkpoint(path=file, state=state, whole=None, metadata=metadata)


def _found(file: Path, whole: Any, key: str | None) -> Checkpoint:
    if key is not None:
        inner = whole
        for part in [key] if key in _places(whole) else key.split("."):
            if not isinstance(inner, Mapping) or part not in inner:
                raise UnknownName("key of the checkpoint", key, _places(whole))
            inner = cast(Mapping[str, Any], inner)[part]
        if not _is_state(inner):
            raise InvalidInput(f"{key!r} of {file} is a {type(inner).__name__}, not a state dict of tensors")
        return Checkpoint(path=file, state=inner, whole=whole, key=key)
    if _is_state(whole):
        return Checkpoint(path=file, state=whole, whole=whole)
    places = _places(whole)
    for known in (*STATE_KEYS, *places):
        if known in places:
            return Checkpoint(path=file, state=cast(Mapping[str, Any], whole)[known], whole=whole, key=known)
    held = ", ".join(map(str, cast(Mapping[Any, Any], whole))) if isinstance(whole, Mapping) else type(whole).__name__
    raise InvalidInput(f"{file} holds no state dict of tensors (it has: {held}); name where it lies by --key")


def _places(whole: Any) -> list[str]:
    """The keys of a file under which state dicts lie."""
    if not isinstance(whole, Mapping):
        return []
    return [key for key, value in cast(Mapping[Any, Any], whole).items() if isinstance(key, str) and _is_state(value)]


def _holds(kind: torch.dtype, values: Tensor) -> bool:
    """Can the type hold the values, each to one part in 128? bfloat16 rounds to one in 512."""
    rounded = values.to(kind).to(values.dtype)
    if not kind.is_floating_point:
        return torch.equal(rounded, values)
    return not bool(((rounded - values).abs() > values.abs() / 128).any()) and bool(
        (rounded.isfinite() | ~values.isfinite()).all()
    )


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    items = cast(Mapping[Any, Any], value)
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in items.items())


def _prefix(state: Iterable[str], wanted: list[str]) -> str:
    """What wrappers (data parallelism, `torch.compile`, Lightning) put before the network's names."""
    names = set(state)
    if not wanted or set(wanted) <= names:
        return ""
    candidates = (name.removesuffix(wanted[0]) for name in names if name.endswith(wanted[0]))
    whole = [prefix for prefix in candidates if all(prefix + name in names for name in wanted)]
    if whole:
        return min(whole, key=len)
    # None fits: the most usual one gives the most telling error.
    return next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in names)), "")


def _replaced(whole: Any, path: list[str], state: Any) -> Any:
    if not path:
        return state
    outer: Any = copy.copy(whole)
    outer[path[0]] = _replaced(outer[path[0]], path[1:], state)
    return outer


def _few(what: str, names: set[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:4])
    return f"{what} {shown}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


_CODE = re.compile(r"(?:[Uu]nsupported (?:global: )?GLOBAL|Unsupported class|Can only (?:build|create)) (\S+)")
"""How torch tells of what a file wants to run."""


def _wants(error: BaseException) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
