"""Files are written whole or not at all."""

import os
import tempfile
from pathlib import Path

from truenorm.errors import InvalidInput


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside the target and rename, so that a reader never sees half a file.

    Raises:
        InvalidInput: the folder cannot be written to.
    """
    target = Path(path)
    beside: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, target)
        beside = None
    except OSError as error:
        raise InvalidInput(f"cannot write {target}: {error.strerror or error}; choose another folder") from error
    finally:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)


def ensure_writable(folder: str | os.PathLike[str]) -> Path:
    """Make the folder if it is not there and prove, now, that files can be written in it.

    Raises:
        InvalidInput: it cannot be made or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".probe."):
            pass
    except OSError as error:
        raise InvalidInput(f"cannot write to {path}: {error.strerror or error}; choose another folder") from error
    return path
