"""Prometheus metrics of one party: a reader of its events, and an endpoint that is off by default.

Needs the extra ``metrics`` (prometheus-client). No figure tells anything of data or updates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ostraka.drivers.trace import Record

Address = tuple[str, int]


class MetricsMissing(ImportError):  # noqa: N818
    """The package behind the endpoint is not installed."""


class Metrics:
    """Counts events; ``serve`` makes the counts readable at http://host:port/metrics."""

    def __init__(self, party: str, role: str) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise MetricsMissing(
                "the metrics endpoint needs prometheus-client: pip install 'ostraka[metrics]', or "
                "leave place.metrics out of site.toml"
            ) from None
        self._serve = prometheus.start_http_server
        self._registry = registry = prometheus.CollectorRegistry()
        about = prometheus.Info("ostraka_party", "This party.", registry=registry)
        about.info({"name": party, "role": role})
        gauges = {
            "round": "Rounds that are done.",
            "rounds": "Rounds in all.",
            "connected": "Peers connected now.",
            "accuracy": "Accuracy at the last evaluation, a fraction.",
            "epsilon": "Privacy spent against whoever sees the vectors, at the written delta.",
        }
        self._gauges = {
            name: prometheus.Gauge(f"ostraka_{name}", text, registry=registry)
            for name, text in gauges.items()
        }
        self._bytes = prometheus.Gauge(
            "ostraka_message_bytes",
            "Bytes of messages so far on this party's own links, by the other side's role.",
            ["direction", "role"],
            registry=registry,
        )
        self._events = prometheus.Counter(
            "ostraka_events", "What happened, by event.", ["event"], registry=registry
        )
        self._excluded = prometheus.Counter(
            "ostraka_excluded", "Updates refused or missing.", ["reason"], registry=registry
        )

    def serve(self, address: Address) -> Callable[[], Any]:
        """Listen there; gives what stops it. Raises OSError when that cannot be."""
        host, port = address
        server, _ = self._serve(port, addr=host, registry=self._registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()

        return stop

    def __call__(self, record: Record) -> None:
        """Take in one event."""
        event = record["event"]
        self._events.labels(event).inc()
        for direction in ("sent", "received"):
            for role, count in record.get(direction, {}).items():
                self._bytes.labels(direction, role).set(count)
        match event:
            case "connected":
                self._gauges["connected"].inc()
            case "disconnected":
                self._gauges["connected"].dec()
            case "excluded":
                self._excluded.labels(record["reason"]).inc()
            case "missing":
                self._excluded.labels("missing").inc()
            case "round" | "followed":
                self._round(record, record["round"])
            case "trained":
                self._round(record, record["round"] + 1)

    def _round(self, record: Record, done: int) -> None:
        self._gauges["round"].set(done)
        self._gauges["rounds"].set(record["rounds"])
        if "accuracy" in record:
            self._gauges["accuracy"].set(record["accuracy"])
        spent = record.get("epsilon")
        if spent is not None:
            self._gauges["epsilon"].set(float("inf") if spent["local"] is None else spent["local"])
