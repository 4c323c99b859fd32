"""What is public about a request: its size, and of a conversation's pass where it goes on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from secformer_jax.cluster.wire.message import Message


@dataclass(frozen=True)
class RequestShape:
    """The public size of a request: texts, and tokens in each. Equal ones are served by the same work ahead.

    Attributes:
        conversation: whose cache the tokens come behind; "" for a request that stands alone.
        start: rows of that cache that were used before.
        real: tokens that are no padding.
    """

    rows: int
    length: int
    conversation: str = ""
    start: int = 0
    real: int = 0

    @classmethod
    def read(cls, message: Message) -> RequestShape:
        """From a message's fields.

        Raises:
            MessageError: they are none.
        """
        size = message.number("rows"), message.number("length")
        if "conversation" not in message.fields:
            return cls(*size)
        return cls(*size, message.token("conversation"), message.number("start"), message.number("real"))

    def fields(self) -> dict[str, Any]:
        """As JSON values; see `read`."""
        whole = dataclasses.asdict(self)
        return whole if self.conversation else {"rows": self.rows, "length": self.length}

    @property
    def size(self) -> RequestShape:
        """What its program depends on."""
        return RequestShape(self.rows, self.length)
