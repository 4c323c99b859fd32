"""How many answers a client may still get: counted by each server for itself, on disk before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from secformer_jax.errors import UserError


class Allowance:
    """Answers by client, over all models and sessions.

    Args:
        path: of the file that keeps the counts.
        limits: texts that each client may have answered in all; who is not named has no limit.

    Raises:
        UserError: a file that can't be read.
    """

    def __init__(self, path: Path, limits: Mapping[str, int]) -> None:
        self._path, self._limits = path, limits
        self._used: dict[str, int] = {}
        if path.exists():
            try:
                self._used = {str(client): int(count) for client, count in json.loads(path.read_text()).items()}
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise UserError(f"{path} does not hold counts of answers ({error}): mend it, or remove it") from None

    def take(self, client: str, texts: int) -> None:
        """Count some texts as answered.

        Raises:
            UserError: more than the client has left.
        """
        if client not in self._limits:
            return
        used, limit = self._used.get(client, 0), self._limits[client]
        if used + texts > limit:
            raise UserError(f"{client} has {max(0, limit - used)} of {limit} answers left, and this asks for {texts}")
        self._used[client] = used + texts
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps(self._used))
        partial.replace(self._path)
