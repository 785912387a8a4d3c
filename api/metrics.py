"""What the operator's Prometheus is told, counted over the life of the process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest

from relay import Direction, Ended

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """One server's. A rule's word comes from the relay, never from a peer, so labels are few."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._live = Gauge(
            "deskrelay_sessions_live", "Sessions that run now", registry=self._registry
        )
        self._ended = Counter(
            "deskrelay_sessions_ended",
            "Sessions by why they ended",
            ["reason"],
            registry=self._registry,
        )
        self._refused = Counter(
            "deskrelay_refusals",
            "Sessions ended because a peer broke a rule (docs/protocol.md)",
            ["direction", "rule"],
            registry=self._registry,
        )
        self._bytes = Counter(
            "deskrelay_relayed_bytes",
            "RFB bytes forwarded, after the handshakes",
            ["direction"],
            registry=self._registry,
        )

        self._over_budget = Counter(
            "deskrelay_budget_refusals",
            "What was refused because a budget was used up (docs/http.md)",
            ["budget"],
            registry=self._registry,
        )

    def session_begins(self) -> None:
        self._live.inc()

    def session_leaves(self) -> None:
        self._live.dec()

    def session_ended(self, ended: Ended) -> None:
        self._ended.labels(ended.reason.value).inc()
        if ended.direction is not None:
            self.refused(ended.direction, ended.rule)
        self._bytes.labels("from_desktop").inc(ended.counters.bytes_down)
        self._bytes.labels("from_viewer").inc(ended.counters.bytes_up)

    def refused(self, direction: Direction, rule: str) -> None:
        self._refused.labels(direction.value, rule).inc()

    def over_budget(self, budget: str) -> None:
        self._over_budget.labels(budget).inc()

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return generate_latest(self._registry)
