"""One line of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what is to be done about it.

    Attributes:
        what: looked at, for example "certificate of S0".
        found: in words.
        advice: what to do; empty where all is well.
        waits: whether it still works, and only will not for long.
    """

    what: str
    found: str
    advice: str = ""
    waits: bool = False

    @property
    def verdict(self) -> str:
        """One of "ok", "soon" and "mend"."""
        if not self.advice:
            return "ok"
        return "soon" if self.waits else "mend"
