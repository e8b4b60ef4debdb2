"""The metrics of one worker; docs/metrics.md says what each means."""

from __future__ import annotations

from pymotor.telemetry.metrics import CounterChild, HistogramChild, Registry


class Instruments:
    """Counters and histograms, with the ones used for each request kept at hand."""

    __slots__ = (
        "_circuits",
        "_failures",
        "_first_token",
        "_first_token_of",
        "_handoff",
        "_handoff_of",
        "_leg_seconds",
        "_legs",
        "_rejections",
        "_request_seconds",
        "_requests",
        "_requests_of",
        "_seconds_of",
        "_token",
        "_token_of",
        "carried_on",
        "connections",
        "failed_handshakes",
        "hedged_legs",
        "log_queue_full",
        "log_write_failed",
        "media_items",
        "queue_seconds",
        "registry",
        "retries",
    )

    def __init__(self, registry: Registry | None = None) -> None:
        """`registry`: a new one of this process by default."""
        registry = self.registry = registry or Registry()
        self._requests = registry.counter(
            "pymotor_requests_total", "Requests answered, by path and HTTP status (499: the client went away).",
            ("path", "status"),
        )  # fmt: skip
        self._request_seconds = registry.histogram(
            "pymotor_request_seconds", "Seconds from a whole request to the end of its answer.", ("path",)
        )
        self._token = registry.histogram(
            "pymotor_time_per_output_token_seconds",
            "Seconds between two events of a stream after its first content, the mean of a stream.",
            ("path",),
        )
        self._handoff = registry.histogram(
            "pymotor_handoff_seconds",
            "Seconds from the end of prefill's reply to decode's first content, of streams.",
            ("instance",),
        )
        self._first_token = registry.histogram(
            "pymotor_time_to_first_token_seconds",
            "Seconds from a whole request to the first content sent.",
            ("path",),
        )
        self._leg_seconds = registry.histogram(
            "pymotor_leg_seconds",
            "Seconds from sending a leg's request to the end of its reply.",
            ("leg", "instance"),
        )
        self._failures = registry.counter(
            "pymotor_leg_failures_total", "Legs that failed, by reason.", ("leg", "instance", "reason")
        )
        self.media_items = registry.counter(
            "pymotor_media_items_total",
            "Media items by what became of them: encoded, shared, joined, reused, inline.",
            ("outcome",),
        )
        self.hedged_legs = registry.counter(
            "pymotor_hedged_legs_total", "Encode legs sent because an earlier one was silent."
        ).child()
        self.retries = registry.counter(
            "pymotor_retries_total",
            "Requests that failed and could be tried again, by what became of it: tried, or why not.",
            ("outcome",),
        )
        self.carried_on = registry.counter(
            "pymotor_broken_streams_total",
            "Streams that broke off: carried_on, completed (only the end was missing), given_up, impossible.",
            ("outcome",),
        )
        self._circuits = registry.gauge(
            "pymotor_circuit_state",
            "Workers in which the circuit of an endpoint that failed lately is in this state.",
            ("endpoint", "state"),
        )
        self.queue_seconds = registry.histogram(
            "pymotor_queue_seconds", "Seconds that requests and media items waited for room at the engines."
        ).child()
        self._rejections = registry.counter(
            "pymotor_rejections_total", "Requests that were not let through to the engines, by reason.", ("reason",)
        )
        unwritten = registry.counter(
            "pymotor_request_log_dropped_total",
            "Lines of the request log that were not written: queue_full, write_failed.",
            ("reason",),
        )
        self.log_queue_full = unwritten.child("queue_full")
        self.log_write_failed = unwritten.child("write_failed")
        self.connections = registry.counter("pymotor_connections_total", "Connections accepted from clients.").child()
        self.failed_handshakes = registry.counter(
            "pymotor_failed_handshakes_total", "Connections of clients that ended in the TLS handshake."
        ).child()
        self._requests_of: dict[tuple[str, int], CounterChild] = {}
        self._seconds_of: dict[str, HistogramChild] = {}
        self._first_token_of: dict[str, HistogramChild] = {}
        self._token_of: dict[str, HistogramChild] = {}
        self._handoff_of: dict[str, HistogramChild] = {}
        self._legs: dict[tuple[str, str], HistogramChild] = {}

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request is over."""
        child = self._requests_of.get((path, status))
        if child is None:
            child = self._requests_of[path, status] = self._requests.child(path, str(status))
        child.add()
        timer = self._seconds_of.get(path)
        if timer is None:
            timer = self._seconds_of[path] = self._request_seconds.child(path)
        timer.observe(seconds)

    def first_token(self, path: str, seconds: float) -> None:
        """The first content of an answer was sent."""
        child = self._first_token_of.get(path)
        if child is None:
            child = self._first_token_of[path] = self._first_token.child(path)
        child.observe(seconds)

    def time_per_output_token(self, path: str, seconds: float) -> None:
        """A stream came to its end."""
        child = self._token_of.get(path)
        if child is None:
            child = self._token_of[path] = self._token.child(path)
        child.observe(seconds)

    def handoff(self, instance: str, seconds: float) -> None:
        """A decode instance has turned a KV cache from elsewhere into the first content of a stream."""
        child = self._handoff_of.get(instance)
        if child is None:
            child = self._handoff_of[instance] = self._handoff.child(instance)
        child.observe(seconds)

    def leg(self, leg: str, instance: str, seconds: float) -> None:
        """A leg ended well."""
        child = self._legs.get((leg, instance))
        if child is None:
            child = self._legs[leg, instance] = self._leg_seconds.child(leg, instance)
        child.observe(seconds)

    def rejected(self, reason: str) -> None:
        """There is no room for a request."""
        self._rejections.child(reason).add()

    def leg_failed(self, leg: str, instance: str, reason: str) -> None:
        """A leg failed."""
        self._failures.child(leg, instance, reason).add()

    def circuit(self, endpoint: str, former: str, state: str) -> None:
        """An endpoint's circuit went from one state to another; empty: nothing is known of the endpoint."""
        if former:
            self._circuits.child(endpoint, former).add(-1.0)
        if state:
            self._circuits.child(endpoint, state).add()
