"""What a dealer counts, for Prometheus; in a registry of its own, so that one process can hold several."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

log = logging.getLogger(__name__)


class Outcome:
    """How one request ended; failed until it is said to be otherwise."""

    def __init__(self, operation: str, metrics: DealerMetrics) -> None:
        self._operation, self._metrics = operation, metrics
        self.name = "failed"

    def served(self, sent_bytes: int, seconds: float) -> None:
        """It is answered with so many bytes."""
        self.name = "served"
        self._metrics.sent_bytes.labels(self._operation).inc(sent_bytes)
        self._metrics.seconds.labels(self._operation).observe(seconds)

    def refused(self, peer: str, error: Exception) -> str:
        """It is refused; returns the line that the peer is told."""
        self.name = "refused"
        log.warning("refused", extra={"operation": self._operation, "peer": peer, "reason": str(error)})
        return str(error)


class DealerMetrics:
    """Requests, bytes and seconds by operation, and what is under way."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "secformer_dealer_requests", "Requests by outcome", ["operation", "outcome"], registry=registry
        )
        self.sent_bytes = Counter("secformer_dealer_sent_bytes", "Bytes of answers", ["operation"], registry=registry)
        self.seconds = Histogram(
            "secformer_dealer_seconds", "From a request to its answer", ["operation"], registry=registry
        )
        self.under_way = Gauge("secformer_dealer_under_way", "Requests under way", registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when asked for."""
        Gauge(f"secformer_dealer_{name}", text, registry=self.registry).set_function(value)

    @contextmanager
    def request(self, operation: str) -> Iterator[Outcome]:
        """Count one request."""
        outcome, started = Outcome(operation, self), time.perf_counter()
        self.under_way.inc()
        try:
            yield outcome
        finally:
            self.under_way.dec()
            self.requests.labels(operation, outcome.name).inc()
            log.debug(
                outcome.name,
                extra={"operation": operation, "seconds": round(time.perf_counter() - started, 6)},
            )
