"""A dealer that spoils one element of every piece: python cheating_dealer.py CLUSTER_FILE. For test_audits.py."""

import asyncio
import dataclasses
import sys

from secformer_jax.cluster import config, logs
from secformer_jax.cluster.dealer import server
from secformer_jax.cluster.dealer.service import MaterialService, Piece
from secformer_jax.mpc.runtime.shares import pack


class Cheating(MaterialService):
    """Deals as it should, and then changes what the second party gets."""

    def _make(self, published, shape, cache) -> Piece:
        piece = super()._make(published, shape, cache)
        for i, share in enumerate(piece.shares[1]):
            if share.bits > 30 and not isinstance(share.components[0], bytes):
                ring = share.rings()[0].copy()
                ring.reshape(-1)[0] += 1 << 20
                piece.shares[1][i] = dataclasses.replace(share, components=(pack(ring, share.bits),))
                break
        return piece


if __name__ == "__main__":
    logs.start("dealer")
    server.MaterialService = Cheating
    cluster = config.load(sys.argv[1])
    asyncio.run(server.run(cluster, server.state_folder(cluster)))
