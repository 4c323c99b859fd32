"""What a computing process holds of conversations between their passes: each one's cache, and no other's.

A cache is made for one conversation of one session and ends with it; the masks that it lies under serve nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np

from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.inference.decoders.serving import DecoderServing
from secformer_jax.mpc.runtime.party import Held
from secformer_jax.mpc.runtime.shares import Share


@dataclass
class Conversation:
    """One.

    Attributes:
        masks: this party's shares of its cache's masks, by the dealer's names.
        state: of the next pass's program: nothing before the first.
        filled: which rows of the cache hold a token.
        start: rows that were used.
    """

    filled: np.ndarray
    masks: dict[str, Share] = field(default_factory=dict)
    state: list[Held] = field(default_factory=list)
    start: int = 0


class Conversations:
    """All that a process holds; its lanes share them, and each is in one pass at a time.

    Args:
        serving: the decoder.
    """

    def __init__(self, serving: DecoderServing) -> None:
        self._serving = serving
        self._held: dict[str, Conversation] = {}

    def give(self, name: str, masks: Mapping[str, Share]) -> None:
        """Some of a conversation's masks, as they come from the dealer; the first begin it.

        Raises:
            ValueError: a mask that no cache has, or a second one of a place.
        """
        conversation = self._held.setdefault(name, Conversation(np.zeros(self._serving.capacity, bool)))
        shapes = self._serving.cache_masks()
        for place, share in masks.items():
            if shapes.get(place) != share.shape or place in conversation.masks or share.dtype != "int64":
                raise ValueError(f"{place} {share.shape} is no mask that this conversation's cache takes")
            conversation.masks[place] = share

    def masks(self, name: str) -> dict[str, np.ndarray]:
        """This party's shares of a conversation's masks, one component each."""
        return {place: share.rings()[0] for place, share in self._held[name].masks.items()}

    def enter(self, shape: RequestShape) -> tuple[list[Held], list[np.ndarray]]:
        """What the program of a pass takes: the state, and what everybody knows. Its rows are used up.

        Raises:
            ValueError: a conversation that is not there, or is elsewhere.
        """
        conversation = self._held.get(shape.conversation)
        if conversation is None or conversation.start != shape.start:
            raise ValueError("a pass of a conversation that is not there, or not at this place")
        state = conversation.state or list(self._first(conversation))
        known = self._serving.known(conversation.filled, shape.length, start=shape.start, real=shape.real)
        conversation.filled[shape.start : shape.start + shape.real] = True
        conversation.start += shape.length
        return state, [np.asarray(leaf) for leaf in jax.tree.leaves(known)]

    def leave(self, shape: RequestShape, state: list[Held]) -> None:
        """Keep what a pass has left."""
        # It may have been ended meanwhile.
        if shape.conversation in self._held:
            self._held[shape.conversation].state = state

    def end(self, name: str) -> None:
        """Forget a conversation."""
        self._held.pop(name, None)

    def _first(self, conversation: Conversation) -> Iterator[Held]:
        """The state before the first pass: rows are their masks, with 0 opened (`known.Rows`)."""
        for place, shape in self._serving.cache_masks().items():
            if place not in conversation.masks:
                raise ValueError(f"the dealer's mask of {place} is missing")
            mask = Held(conversation.masks[place], True)
            yield from (mask, Held(np.zeros(shape, np.int64), False), mask)
