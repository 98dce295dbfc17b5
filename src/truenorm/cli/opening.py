"""What a command line names: a network with its weights, and batches of images."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import nn

from truenorm.data.batches import batches_of
from truenorm.data.checkpoint import Checkpoint, read_checkpoint
from truenorm.data.load import factory
from truenorm.doctor.score import Score
from truenorm.errors import InvalidInput, TruenormError, extra
from truenorm.lab.images.feed import Feed, Scale
from truenorm.lab.images.sets import load
from truenorm.model.evaluate import Forward, evaluating, random_states_kept, run
from truenorm.model.layers import is_program


def open_network(
    spec: str, checkpoint: Path | None = None, *, key: str | None = None, trust: bool = False, device: str = "cpu"
) -> tuple[nn.Module, Checkpoint | None]:
    """Build a network and load its weights, which are read before any code of the user's runs.

    Args:
        spec: `file.py:factory` or `package.module:factory`, called without arguments; `timm:NAME`.
        checkpoint: the file of its weights; None: as it is built.
        key, trust: as for `read_checkpoint`.
        device: where to put it.

    Raises:
        InvalidInput: there is no such thing, it fails, gives no network, or the weights do not fit.
        MissingExtra: timm is not installed.
        FileChanged: the code that builds the network wrote to the checkpoint.

    Example:
        >>> open_network("torch.nn:Flatten")[0]
        Flatten(start_dim=1, end_dim=-1)
    """
    weights = None if checkpoint is None else read_checkpoint(checkpoint, key=key, trust=trust)
    with nullcontext() if weights is None else weights.unchanged_by(spec):
        network = _timm(spec.removeprefix("timm:"), weights) if spec.startswith("timm:") else _made(spec)
    if weights is not None:
        weights = weights.load_into(network)
    try:
        return network.to(device), weights
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(f"the network cannot be put on {device!r}: {str(error).splitlines()[0]}") from error


def open_batches(
    spec: str,
    split: Literal["train", "test"],
    *,
    root: str | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
) -> Iterable[Any]:
    """The batches of a loader of the user's, or of a data set.

    Args:
        spec: `file.py:loader` or `package.module:loader`, called without arguments; else a data set as
            `truenorm study --data` takes it: its images are standardised by those of the training part.
        split: which part of a data set.
        root: folder of local copies of data sets.
        batch_size: images per batch, of a data set.
        image_size: height and width to bring the images of a data set to.

    Raises:
        InvalidInput, DataUnavailable: there is no such thing, or it fails.
    """
    if ":" not in spec:
        if batch_size < 2:
            raise InvalidInput(f"batch size is {batch_size}; expected 2 or more")
        images = load(spec, root, size=image_size)
        part = images.train if split == "train" else images.test
        return Feed(part, Scale.of(images.train.images), batch_size, drop_single=True)
    found = _called(spec)
    batches_of(found, limit=None)  # says what is wrong with it
    return found  # type: ignore[return-value]  # it was just looked at


class Functions(TypedDict):
    """What `diagnose` and `repair` take beside the network and its data."""

    score: Score | None
    forward: Forward | None


def open_functions(*, score: str | None, forward: str | None) -> Functions:
    """The user's own functions, by `file.py:name`.

    Raises:
        InvalidInput: there is none of that name.

    Example:
        >>> open_functions(score=None, forward=None)
        {'score': None, 'forward': None}
    """
    found: list[Any] = [None if spec is None else factory(spec) for spec in (score, forward)]
    return {"score": found[0], "forward": found[1]}


def try_batch(network: nn.Module, data: Iterable[Any]) -> None:
    """Run one batch, so that what cannot work is one sentence.

    A one-shot iterator is left alone, and so is a program, whose modes and buffers cannot be changed for a while.

    Raises:
        InvalidInput: the forward fails.
    """
    if isinstance(data, Iterator) or is_program(network):
        return
    with random_states_kept(network):
        images = next(batches_of(data, limit=1)).input
    try:
        with evaluating(network):
            run(network, images[:2])
    except TruenormError:
        raise
    except Exception as error:  # whatever the network raises is reported with what it was given
        raise InvalidInput(
            f"the network fails on images of shape {tuple(images.shape)}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


@contextmanager
def users_code(what: str) -> Generator[None]:
    """Whatever the user's loader, network or score raises in the block is one sentence.

    Raises:
        InvalidInput: something did.
    """
    try:
        yield
    except TruenormError:
        raise
    except Exception as error:  # whatever the user's code raises is reported as theirs
        raise InvalidInput(
            f"{what} ended in {type(error).__name__}: {' '.join(str(error).split())[:300]}; nothing was changed "
            "(in Python, truenorm shows where)"
        ) from error


@contextmanager
def unchanged(weights: Checkpoint | None, *specs: str | None) -> Generator[None]:
    """The code that the specs name runs in the block; the checkpoint may not change under it.

    Raises:
        FileChanged: it did.
    """
    code = ", ".join(dict.fromkeys(spec for spec in specs if spec is not None and ":" in spec))
    with nullcontext() if weights is None else weights.unchanged_by(code or "the command"):
        yield


def _made(spec: str) -> nn.Module:
    network = _called(spec)
    if not isinstance(network, nn.Module):
        raise InvalidInput(f"{spec} gave {type(network).__name__}, not a torch.nn.Module")
    return network


def _called(spec: str) -> object:
    make = factory(spec)
    try:
        return make()
    except TruenormError:
        raise
    except Exception as error:  # whatever the user's code raises is reported as theirs
        raise InvalidInput(f"{spec} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _timm(name: str, weights: Checkpoint | None) -> nn.Module:
    with extra("timm"):
        try:
            import timm
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a torchvision made for another torch raises RuntimeError
            raise InvalidInput(f"timm cannot be imported: {type(error).__name__}: {error}") from error
    if not timm.is_model(name):
        near = " or ".join(map(repr, get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)))
        raise InvalidInput(f"timm has no model {name!r}{f'; did you mean {near}?' if near else ''}")
    network: nn.Module = timm.create_model(name)
    found = {} if weights is None else weights.state
    head = getattr(network, "pretrained_cfg", {}).get("classifier")
    size = next((len(v) for k, v in found.items() if isinstance(head, str) and k.endswith(f"{head}.weight")), None)
    return network if size is None else timm.create_model(name, num_classes=size)
