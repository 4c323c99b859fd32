"""What makes one family of decoders differ on disk: keys of config.json, and names and layouts of tensors.

Every family's parameters are kept in one tree, that of `model.Decoder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from secformer_jax.models.decoders.architecture import DecoderArchitecture
from secformer_jax.models.families import family as encoders

Path = tuple[str, ...]

OF_ENCODERS = ("is_decoder", "position_embedding_type")
FIXED: Mapping[str, Any] = {key: value for key, value in encoders.FIXED.items() if key not in OF_ENCODERS}
"""Keys that change the mathematics, with the one value that is computed."""

HARMLESS = encoders.HARMLESS | {"attention_dropout", "is_decoder", "pad_token_id"}
"""Keys that say nothing about the function that is computed."""


class Source(NamedTuple):
    """Where on disk a parameter is.

    Attributes:
        name: of the tensor, without the family's prefix.
        transposed: whether it is (outputs, inputs), as torch's linear layers have it.
        part: which of so many equal parts of the outputs it is.
    """

    name: str
    transposed: bool = False
    part: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class DecoderFamily:
    """One family of decoders.

    Attributes:
        model_type: Hugging Face's.
        class_name: of the model with its head of language.
        prefix: what all tensors but the head's own begin with.
        keys: keys of config.json to fields of `DecoderArchitecture`, or to names that `fields` reads.
        fields: the architecture's fields, from what was read.
        sources: where each parameter is.
        buffers: ends of names of tensors that follow from the sizes.
        defaults: values of keys that config.json may leave out.
        fixed: more keys like `FIXED`.
        harmless: more keys that say nothing about the function.
    """

    model_type: str
    class_name: str
    prefix: str
    keys: Mapping[str, str]
    fields: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    sources: Callable[[DecoderArchitecture], dict[Path, Source]]
    buffers: tuple[str, ...]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    harmless: frozenset[str] = frozenset()

    def read(self, values: Mapping[str, Any]) -> DecoderArchitecture:
        """Read config.json.

        Raises:
            UserError: a key that changes the mathematics, or one that is not known; a value out of range.
        """
        fixed, harmless = {**FIXED, **self.fixed}, HARMLESS | self.harmless
        known = encoders.read_keys(values, self.keys, fixed, harmless, self.defaults)
        return DecoderArchitecture(model_type=self.model_type, **self.fields(known))


def token_ids(value: Any) -> tuple[int, ...]:
    """eos_token_id: one, several or none."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
