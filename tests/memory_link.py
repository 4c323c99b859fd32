"""A task at every end of an SPU link in memory, at once."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spu import libspu

_session = itertools.count()


def at_every_end(parties: int, task: Callable[[libspu.link.Context], Any]) -> list[Any]:
    """What task(link) gives, by rank."""
    description = libspu.link.Desc()
    description.id = f"test-{next(_session)}"
    description.recv_timeout_ms = 20_000
    for rank in range(parties):
        description.add_party(f"party-{rank}", f"memory-{rank}")
    with ThreadPoolExecutor(parties) as pool:
        return list(pool.map(lambda rank: task(libspu.link.create_mem(description, rank)), range(parties)))
