"""All kinds of situations, by name."""

from collections.abc import Callable

from situations import (
    folded_detectors,
    frozen_encoders,
    masks,
    not_batch_norm,
    other_inputs,
    ported_signals,
    ported_tags,
    taggers,
    value_networks,
    weights_only_volumes,
)
from situations.situation import Situation

KINDS: dict[str, Callable[[int], Situation]] = {
    "ported signals": ported_signals.build,
    "weights-only volumes": weights_only_volumes.build,
    "tagger with randomness": taggers.build,
    "masks, small momentum": masks.build,
    "ported tags": ported_tags.build,
    "value network after drift": value_networks.build,
    "frozen encoder, wrong": frozen_encoders.build,
    "folded detector": folded_detectors.build,
    "other inputs": other_inputs.build,
    "not batch norm": not_batch_norm.build,
}
"""Name → how one of the kind is built from a seed, which also chooses the variant."""
