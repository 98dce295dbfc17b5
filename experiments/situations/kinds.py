"""All kinds of situations, by name."""

from collections.abc import Callable

from situations import (
    always_by_batch,
    folded_detectors,
    frozen_encoders,
    graphs,
    masks,
    not_batch_norm,
    other_domains,
    other_inputs,
    other_norms,
    patches_of_volumes,
    point_clouds,
    ported_signals,
    ported_tags,
    ragged_text,
    sparse_and_complex,
    taggers,
    teachers,
    value_networks,
    videos,
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

FURTHER: dict[str, Callable[[int], Situation]] = {
    "point clouds": point_clouds.build,
    "graphs": graphs.build,
    "volumes in patches": patches_of_volumes.build,
    "video": videos.build,
    "ragged text": ragged_text.build,
    "several domains": other_domains.build,
    "teacher and student": teachers.build,
    "other libraries' norms": other_norms.build,
    "sparse and complex": sparse_and_complex.build,
    "always by the batch": always_by_batch.build,
}
"""Ten more, of other inputs, ways to train and classes; the same form."""
