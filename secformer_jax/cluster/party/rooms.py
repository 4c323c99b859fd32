"""Which conversations a server has: whose they are, how far they have come, and which have been idle too long."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field

from secformer_jax.cluster.party.arrival import BusyError
from secformer_jax.cluster.request_shape import RequestShape
from secformer_jax.errors import UserError

CLIENT_CONVERSATIONS, CONVERSATIONS = 6, 16
"""At a time: of one client, and of all, with those that are over and not forgotten yet. Each has a cache in memory."""
IDLE_SECONDS, CROWDED_SECONDS = 600.0, 60.0
"""A conversation without a pass for so long is over; the latter, where all places are taken, for those of a client with
others that are younger."""


@dataclass
class Room:
    """One conversation's.

    Attributes:
        client: whose it is.
        used: rows of its cache that passes have taken.
        busy: whether a pass is under way.
        over: whether its client has ended it.
        since: when the last one ended, on this host's monotonic clock.
    """

    client: str
    used: int = 0
    busy: bool = False
    over: bool = False
    since: float = field(default_factory=time.monotonic)


class Rooms:
    """Those of one session."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}
        self._ended: set[str] = set()

    def __len__(self) -> int:
        return len(self._rooms)

    def __contains__(self, conversation: str) -> bool:
        return conversation in self._rooms

    def enter(self, client: str, shape: RequestShape) -> None:
        """Let a client's pass in; its conversation begins with the first.

        Raises:
            UserError: a conversation that is elsewhere than the client says, or has a pass under way.
            BusyError: there are too many.
        """
        room = self._rooms.get(shape.conversation)
        if shape.conversation in self._ended or (room is not None and room.over):
            raise UserError("this conversation is over: begin a new one")
        if room is None and shape.start:
            raise UserError(
                "this conversation is not here any more (it was idle, or the servers have begun anew): begin a new one"
            )
        if room is None:
            held = Counter(each.client for each in self._rooms.values())[client]
            if held >= CLIENT_CONVERSATIONS or len(self._rooms) >= CONVERSATIONS:
                raise BusyError(
                    f"{held} conversations of {client} and {len(self._rooms)} in all are under way: end one, or wait"
                )
            room = self._rooms[shape.conversation] = Room(client)
        if room.busy:
            raise UserError("a pass of this conversation is under way: send the next one after its answer")
        if room.used != shape.start:
            raise UserError(f"this conversation has {room.used} tokens here, and not {shape.start}: begin a new one")
        room.busy = True

    def use(self, shape: RequestShape) -> None:
        """A pass is computed: its rows are used up, whatever becomes of it."""
        self._rooms[shape.conversation].used += shape.length

    def leave(self, conversation: str) -> None:
        """A pass is over. Where none was computed there may be no such conversation elsewhere: it is forgotten."""
        room = self._rooms.get(conversation)
        if room is not None and not room.used:
            del self._rooms[conversation]
        elif room is not None:
            room.busy, room.since = False, time.monotonic()

    def end(self, conversation: str) -> None:
        """Forget a conversation; its name serves no other."""
        self._rooms.pop(conversation, None)
        self._ended.add(conversation)

    def end_soon(self, conversation: str) -> bool:
        """Let a conversation end when no pass of it is under way; says whether that is new."""
        room = self._rooms.get(conversation)
        if room is None or room.over:
            return False
        room.over = True
        return True

    def over(self, seconds: float = IDLE_SECONDS, crowded: float = CROWDED_SECONDS) -> list[str]:
        """Those that are ended, or have had no pass for so long, which are over then."""
        now = time.monotonic()
        full = sum(room.busy or not room.over for room in self._rooms.values()) >= CONVERSATIONS
        live = sorted((room for room in self._rooms.values() if not room.over), key=lambda room: room.since)
        held = Counter(room.client for room in live)
        for room in live:
            most = crowded if full and held[room.client] > 1 else seconds
            if not room.busy and now - room.since >= most:
                room.over = True
                held[room.client] -= 1
        return [name for name, room in self._rooms.items() if room.over and not room.busy]


def own_name(session: str, client: str, conversation: str) -> str:
    """What servers and dealer call a client's conversation: another name in every session, and of every client."""
    return hashlib.sha256(f"{session}/{client}/{conversation}".encode()).hexdigest()[:32]
