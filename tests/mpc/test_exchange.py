"""Openings over the link: right on every protocol, one message, and no bit on the wire above the width."""

import numpy as np
import pytest
from rings import elements, signed, unsigned, width_bytes

pytest.importorskip("spu")

from memory_link import at_every_end

from secformer_jax.mpc.runtime import shares
from secformer_jax.mpc.runtime.exchange import open_shares

PARTIES = {"SEMI2K": 2, "CHEETAH": 2, "ABY3": 3, "REF2K": 1}


class Noted:
    """A link that remembers what it sent, and to whom."""

    def __init__(self, link) -> None:
        self._link, self.rank, self.world_size, self.sent = link, link.rank, link.world_size, []

    def send_async(self, receiver: int, data: bytes) -> None:
        self.sent.append((receiver, data))
        self._link.send_async(receiver, data)

    def recv(self, sender: int) -> bytes:
        return self._link.recv(sender)


def together(parties: int, task) -> list:
    """task(link) at every end of a link, at once."""
    return at_every_end(parties, lambda link: task(Noted(link)))


@pytest.mark.parametrize("protocol", PARTIES)
def test_openings_of_every_width(protocol):
    widths, parties = tuple(range(1, 65)), PARTIES[protocol]
    secrets = [elements(3, 5) for _ in widths]
    # Components of the whole ring: what stands above the width must not travel.
    held = [shares.share(x, "int64", protocol, parties) for x in secrets]

    def task(link):
        own = [each[link.rank].stacked() for each in held]
        return open_shares(link, protocol, own, widths), own, link

    size = 15 * sum(map(width_bytes, widths))
    for (found, sent, messages), own, link in together(parties, task):
        for opened, x, bits in zip(found, secrets, widths, strict=True):
            np.testing.assert_array_equal(opened, signed(x, bits))
        assert messages == len(link.sent) == (parties > 1)
        assert sent == size * messages == sum(len(data) for _, data in link.sent)
        for receiver, data in link.sent:
            assert receiver == (link.rank + 1) % parties
            start = 0
            for share, bits in zip(own, widths, strict=True):
                count = 15 * width_bytes(bits)
                read = shares.unpack(data[start : start + count], (3, 5), bits)
                np.testing.assert_array_equal(read, unsigned(share[0], bits))
                start += count


def test_another_number_of_values_is_noticed():
    def task(link):
        with pytest.raises(RuntimeError, match="another number of values"):
            open_shares(link, "SEMI2K", [elements(1, 3 + link.rank)], [40])

    together(2, task)
