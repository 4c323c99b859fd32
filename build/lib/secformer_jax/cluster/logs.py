"""Structured logs: one JSON object a line on standard error; only fields that are named here are ever written."""

from __future__ import annotations

import json
import logging
import sys
import time

from aiohttp.http_exceptions import HttpProcessingError

FIELDS = ("operation", "peer", "party", "request", "reason", "address", "seconds", "bytes", "count", "signal")
"""Names that a record may carry in `extra`; nothing else of it is written."""


class JsonFormatter(logging.Formatter):
    """Time, level, role, event and the known fields of a record."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": self._role,
            "event": record.getMessage(),
        }
        entry.update({field: getattr(record, field) for field in FIELDS if hasattr(record, field)})
        if record.exc_info and record.exc_info[0]:
            # The kind and the place, not the message: that could hold what was computed on.
            entry["error"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                entry["where"] = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
        return json.dumps(entry)


def of_this_program(record: logging.LogRecord) -> bool:
    """Whether an error is the program's own: not that a peer spoke no HTTP, or hung up."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, (HttpProcessingError, ConnectionResetError))


def start(role: str, level: str = "info") -> None:
    """Write the package's logs, and the warnings of its libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aiohttp.server").addFilter(of_this_program)
    logging.getLogger("secformer_jax").setLevel(level.upper())
