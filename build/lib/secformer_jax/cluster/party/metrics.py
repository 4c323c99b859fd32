"""What a server counts, for Prometheus; a registry of its own."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class PartyMetrics:
    """Counters of one computing server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: Any = {"registry": self.registry}
        self.requests = Counter("secformer_requests", "Requests by outcome", ["outcome"], **of)
        self.seconds = Histogram("secformer_request_seconds", "From input to answer", buckets=_SECONDS, **of)
        self.waiting = Gauge("secformer_waiting_requests", "Requests that wait for their turn", **of)
        self.sessions = Counter("secformer_sessions", "Sessions started", **of)
        self.ready = Gauge("secformer_ready", "1 while requests are served", **of)
        self.sent = Counter("secformer_sent_bytes", "Bytes sent, by link", ["link"], **of)
        self.received = Counter("secformer_received_bytes", "Bytes received, by link", ["link"], **of)

    def values(self) -> dict[str, float]:
        """Samples by name and labels, for the status report."""
        return {
            " ".join((sample.name, *sample.labels.values())): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith(("_created", "_bucket"))
        }
