"""The statistics of a whole network as one immutable value."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.files import write_whole
from truenorm.show import Table, number
from truenorm.stats.moments import Moments, merge
from truenorm.stats.provenance import Provenance, merged


class Statistics(Mapping[str, Moments]):
    """Layer name → `Moments`, in forward order where that was seen; never changes.

    Two are equal if they have the same layers with bit-equal moments and counts.

    Args:
        layers: the moments of each layer, by the name that `model.named_modules()` gives it.
        momenta: which momentum each layer's statistics were tracked with, where a rule has one.
        provenance: how they were measured; not part of equality.

    Example:
        >>> import torch
        >>> stats = Statistics({"bn1": Moments(torch.zeros(2), torch.ones(2))})
        >>> list(stats), stats["bn1"].num_channels, stats == Statistics(dict(stats))
        (['bn1'], 2, True)
    """

    __slots__ = ("_layers", "_momenta", "_provenance")

    def __init__(
        self,
        layers: Mapping[str, Moments],
        *,
        momenta: Mapping[str, float] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self._layers = dict(layers)
        self._momenta = dict(momenta or {})
        self._provenance = provenance or Provenance()

    @property
    def momenta(self) -> Mapping[str, float]:
        """The momentum of each layer (torch's: the weight of the new batch); empty where there is none."""
        return dict(self._momenta)

    @property
    def betas(self) -> Mapping[str, float]:
        """1 − momentum of each layer: the weight of what was stored, as in textbooks; Keras's `momentum`."""
        return {layer: 1 - momentum for layer, momentum in self._momenta.items()}

    @property
    def provenance(self) -> Provenance:
        """How the statistics were measured: numbers and names of layers; not part of equality."""
        return self._provenance

    @property
    def about(self) -> Mapping[str, str | int]:
        """`provenance` in words, as it is printed."""
        return self._provenance.words()

    def __getitem__(self, layer: str) -> Moments:
        return self._layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistics):
            return NotImplemented
        return self._layers.keys() == other._layers.keys() and all(
            moments == other._layers[name] for name, moments in self._layers.items()
        )

    __hash__ = None  # type: ignore[assignment]  # tensors have no hash of their values

    def __repr__(self) -> str:
        how = "".join(f", {key}: {value}" for key, value in self.about.items())
        return f"Statistics({len(self)} layers{how})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: `NAME.mean`, `NAME.var`, counts and provenance; whole or not at all.

        Raises:
            InvalidInput: the path cannot be written to.
        """
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        metadata = {"layers": json.dumps(list(self._layers)), "provenance": json.dumps(self._provenance.to_dict())}
        for name, found in self._layers.items():
            tensors[f"{name}.mean"] = found.mean.cpu().clone()
            tensors[f"{name}.var"] = found.var.cpu().clone()
            if found.count is not None:
                metadata[f"count.{name}"] = str(found.count)
            if found.design_effect is not None:
                metadata[f"design_effect.{name}"] = repr(found.design_effect)
            if name in self._momenta:
                metadata[f"momentum.{name}"] = repr(self._momenta[name])
        write_whole(path, save(tensors, metadata=metadata))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            InvalidRecord: there is no such file, or it does not hold statistics.

        Example:
            >>> import tempfile, torch
            >>> stats = Statistics({"bn": Moments(torch.rand(3), torch.rand(3), 8)})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     stats.save(f"{folder}/stats.safetensors")
            ...     Statistics.load(f"{folder}/stats.safetensors") == stats
            True
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]  # untyped
                metadata: dict[str, str] = dict(file.metadata() or {})
                tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
            names: list[str] = json.loads(metadata["layers"])
            layers = {
                name: Moments(
                    tensors[f"{name}.mean"],
                    tensors[f"{name}.var"],
                    int(metadata[f"count.{name}"]) if f"count.{name}" in metadata else None,
                    float(metadata[f"design_effect.{name}"]) if f"design_effect.{name}" in metadata else None,
                )
                for name in names
            }
            momenta = {name: float(metadata[f"momentum.{name}"]) for name in names if f"momentum.{name}" in metadata}
            provenance = Provenance.from_dict(json.loads(metadata.get("provenance", "{}")))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InvalidRecord(f"{path} does not hold statistics of batch norm: {error}") from error
        return Statistics(layers, momenta=momenta, provenance=provenance)

    def table(self) -> Table:
        """A row per layer: channels, values pooled, root mean squares of mean and standard deviation."""
        rows = tuple(
            (
                name,
                str(found.num_channels),
                "" if found.count is None else f"{found.count:,}",
                number(_rms(found.mean)),
                number(_rms(found.std)),
            )
            for name, found in self._layers.items()
        )
        notes = tuple(f"{key}: {value}" for key, value in self.about.items())
        return Table(
            title="batch-norm statistics",
            columns=("layer", "channels", "values", "mean", "std"),
            rows=rows,
            notes=notes,
        )

    def __rich__(self) -> Any:
        return self.table().__rich__()

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain lists and numbers, layer by layer."""
        return {
            name: {"mean": found.mean.tolist(), "var": found.var.tolist(), "count": found.count}
            for name, found in self._layers.items()
        }


def merge_statistics(parts: Iterable[Statistics]) -> Statistics:
    """Pool the statistics that several processes or passes measured, weighted by count.

    Layers that a part lacks (no batch reached them there) come from the others.

    Raises:
        InvalidInput: no parts, or a layer without counts.

    Example:
        >>> import torch
        >>> from truenorm.stats.moments import moments
        >>> x = torch.randn(8, 2)
        >>> ranks = [Statistics({"bn": moments(x[:2])}), Statistics({"bn": moments(x[2:])})]
        >>> torch.allclose(merge_statistics(ranks)["bn"].var, moments(x).var)
        True
    """
    found = list(parts)
    if not found:
        raise InvalidInput("nothing to merge: no statistics were given")
    names = dict.fromkeys(name for part in found for name in part)
    return Statistics(
        {name: merge(part[name] for part in found if name in part) for name in names},
        provenance=merged([part.provenance for part in found]),
    )


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item() if len(values) else torch.nan
