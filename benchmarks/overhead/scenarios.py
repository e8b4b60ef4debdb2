"""What is measured: the kinds of request, how many at once, and the limits that PyMotor is to keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One kind of load."""

    name: str
    title: str
    mode: str
    """`union`: one leg for each request; `pd`: prefill, then decode; `epd`: encode for the image before them. A gateway
    that knows no encoders does `pd` in its place."""
    stream: bool = False
    body: str = "small"
    connections: int = 64
    pace: int = 2
    """Milliseconds between two events of a stream."""
    limit: float | None = None
    """The most that PyMotor may use of vllm-router's CPU time."""
    limit_carrying_on: float | None = None
    """The same where PyMotor keeps the token ids of streams, to carry them on elsewhere when decode is lost."""

    @property
    def ramp(self) -> float:
        """Seconds over which clients start, so that many streams do not beat in step."""
        return self.connections * 0.001 if self.stream and self.connections > 64 else 0.0

    @property
    def distinct(self) -> int:
        """How many different bodies are sent."""
        if self.mode == "epd":
            # More than are under way at once: an image that is being encoded would not be sent again.
            return 4 * self.connections
        return 512 if self.body == "small" else 16


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("plain", "one engine", "union"),
        Scenario("plain_stream", "one engine, stream of 64 events", "union", stream=True),
        Scenario(
            "plain_stream_2000",
            "one engine, 2,000 streams at once",
            "union",
            stream=True,
            connections=2000,
            pace=50,
        ),
        Scenario("pd", "PD", "pd", limit=0.6),
        Scenario("pd_stream", "PD, stream of 64 events", "pd", stream=True, limit=0.9, limit_carrying_on=1.3),
        Scenario(
            "pd_stream_2000",
            "PD, 2,000 streams at once",
            "pd",
            stream=True,
            connections=2000,
            pace=50,
            limit=0.9,
            limit_carrying_on=1.3,
        ),
        Scenario("pd_image", "PD, 1 MiB body (image as data URL)", "pd", body="image", limit=0.8),
        Scenario(
            "epd_image", "E, P, D, 1 MiB body (image as data URL)", "epd", body="image", connections=32, limit=0.8
        ),
        Scenario("pd_text", "PD, 1 MiB body (text)", "pd", body="text", limit=0.8),
    )
}
ENDPOINTS = (2, 1024)
"""How many engine endpoints there are; in modes `pd` and `epd` half of them prefill, and as many encoders as that come
beside them in `epd`."""
