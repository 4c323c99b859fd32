"""Which sizes of request stay compiled: each client has some, the runs of several have some, the oldest go."""

from __future__ import annotations

from collections import OrderedDict

from secformer_jax.cluster.request_shape import RequestShape

SIZES_OF_ONE = 6
TOGETHER = ""
"""Whose the sizes of runs of several requests are: no client's name."""


class Sizes:
    """Sizes by who uses them, those that were used last."""

    def __init__(self, most: int = SIZES_OF_ONE) -> None:
        self._most = most
        self._used: dict[str, OrderedDict[RequestShape, None]] = {}

    def use(self, client: str, shape: RequestShape) -> list[RequestShape]:
        """Note a use; returns the sizes that nobody has any more."""
        own = self._used.setdefault(client, OrderedDict())
        own[shape] = None
        own.move_to_end(shape)
        gone = [own.popitem(last=False)[0]] if len(own) > self._most else []
        return [each for each in gone if not any(each in others for others in self._used.values())]
