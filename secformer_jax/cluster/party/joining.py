"""Several clients' inputs as one, and one result as several: a server's own shares, put together and taken apart.

Shares are sums, row by row of the texts, so rows of different requests never meet: each client gets those rows of the
result that its own input has, and nothing that depends on another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secformer_jax.cluster.wire.message import Message, shares_of, with_shares
from secformer_jax.mpc.runtime.shares import Share, pack


def joined(messages: Sequence[Message], fields: Mapping[str, Any]) -> Message:
    """What the worker takes for a run: one request's shares as they came, or those of several, texts after texts.

    Args:
        messages: of requests of one size.
        fields: of the run; where its "rows" are more than those of all requests, shares of zero fill them, which
            are no texts.
    """
    if len(messages) == 1 and messages[0].fields["rows"] == fields["rows"]:
        return Message("request", {**fields, "shares": messages[0].fields["shares"]}, messages[0].chunks)
    all_of_them = [shares_of(message) for message in messages]
    together = {}
    for name, first in all_of_them[0].items():
        rings = [shares[name].stacked() for shares in all_of_them]
        missing = fields["rows"] - sum(ring.shape[1] for ring in rings)
        rings.append(np.zeros((len(rings[0]), missing, *rings[0].shape[2:]), np.int64))
        whole = np.concatenate(rings, axis=1)
        components = tuple(pack(ring, first.bits) for ring in whole)
        together[name] = Share(first.dtype, whole.shape[1:], components, first.bits)
    return with_shares("request", fields, together)


def parted(answer: Message, count: int) -> list[Message]:
    """Each request's part of a result, in their order; costs of the run are divided evenly among them."""
    costs = {key: value for key, value in answer.fields.items() if key not in ("shares", "wrong")}
    costs |= {key: costs[key] / count for key in ("send_bytes", "send_actions") if key in costs}
    pieces: list[dict[str, Share]] = [{} for _ in range(count)]
    for name, share in shares_of(answer).items():
        parts = [np.split(ring, count) for ring in share.rings()]
        for i, own in enumerate(pieces):
            components = tuple(pack(part[i], share.bits) for part in parts)
            own[name] = Share(share.dtype, parts[0][i].shape, components, share.bits)
    return [with_shares("result", costs, own) for own in pieces]
