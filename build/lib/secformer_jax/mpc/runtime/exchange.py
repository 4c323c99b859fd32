"""Openings over the parties' link: what each party sends so that all know the sums of some shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from spu import libspu

from secformer_jax.mpc.runtime.shares import pack, packed_bytes, sum_packed


def open_shares(
    link: libspu.link.Context, protocol: str, shares: Sequence[np.ndarray], bits: Sequence[int]
) -> tuple[list[np.ndarray], int, int]:
    """Open shared values modulo 2^bits, all in one message.

    Args:
        link: to the other parties.
        protocol: whose shares these are.
        shares: this party's, int64 (components, *shape).
        bits: of each; the message has whole bytes of each element.

    Returns:
        Public int64 arrays in [-2^(bits-1), 2^(bits-1)); the bytes and the messages that this party sent.
    """
    own = b"".join(pack(share[0], width).data for share, width in zip(shares, bits, strict=True))
    rank, size = link.rank, link.world_size
    # ABY3: everybody lacks one component, and the party before it has that.
    receivers = [(rank + 1) % 3] if protocol == "ABY3" else [r for r in range(size) if r != rank]
    senders = [(rank + 2) % 3] if protocol == "ABY3" else receivers
    for receiver in receivers:
        link.send_async(receiver, own)
    received = [link.recv(sender) for sender in senders]
    if any(len(data) != len(own) for data in received):
        raise RuntimeError("a party opened another number of values")
    found, start = [], 0
    for share, width in zip(shares, bits, strict=True):
        count = packed_bytes(share[0].size, width)
        others = [np.frombuffer(data, np.uint8, count, start) for data in received]
        found.append(sum_packed(share, others, width))
        start += count
    return found, len(own) * len(receivers), len(receivers)
