"""Which endpoints are spared because they failed again and again.

| state | legs | ends when |
|---|---|---|
| closed | as they come | so many legs in a row failed: opens |
| open | none while another endpoint of the group is left | the pause is over: half open |
| half open | one, the probe | the probe brings content: closes; it fails: open, for twice as long |

Failures are refused connections, resets, time-outs and statuses from 500 on: what says that the engine is in
trouble. What the client did wrong, 429 and an answer to be computed elsewhere are none. Each worker learns for
itself. When every circuit of a group is open, circuits are ignored: a slow answer is better than none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from pymotor.coordinator.scheduling.target import Group, Policy, Target
from pymotor.fleet import EndpointState, Instance

CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"
_PROBE_SECONDS = 10.0
"""A probe that has not been heard of for so long, or for the pause if that is longer, counts for nothing."""
_NOBODY: frozenset[str] = frozenset()


class _Circuit:
    """What is known of one endpoint that failed."""

    __slots__ = ("failures", "out_of_service", "pause", "state", "target", "until")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.state = CLOSED
        self.out_of_service = False
        """Whether a snapshot said that it does not serve; when it does again, it was started again."""
        self.failures = 0
        self.pause = 0.0
        self.until = 0.0
        """Open: when it may be probed. Half open: until when the probe that runs is waited for."""


class Circuits:
    """The circuits of one worker. Nothing is kept of endpoints that do not fail.

    Two attributes say whether anything has to be done: `watched` is empty unless some endpoint failed, `tripped`
    unless some circuit is not closed.
    """

    __slots__ = (
        "_barred",
        "_changed",
        "_failures",
        "_groups",
        "_longest",
        "_pause",
        "_random",
        "tripped",
        "watched",
    )

    def __init__(
        self,
        failures: int,
        pause: float,
        longest_pause: float,
        *,
        changed: Callable[[str, str, str], None] = lambda endpoint, former, state: None,  # noqa: ARG005  a default
        chance: random.Random | None = None,
    ) -> None:
        """`failures` in a row open a circuit, 0: never; pauses in seconds. `changed(endpoint, former, state)` is told
        of each change; the empty string stands for an endpoint nothing is known of."""
        self._failures = failures
        self._pause = pause
        self._longest = longest_pause
        self._changed = changed
        self._random = chance or random.Random()
        self._barred = _NOBODY
        self._groups: dict[int, tuple[Group, Group]] = {}
        """By the identity of a group: the group, and what of it is left."""
        self.watched: dict[str, _Circuit] = {}
        """Circuits of endpoints that failed, by endpoint id."""
        self.tripped: dict[str, _Circuit] = {}
        """Those of them that are not closed."""

    def use(self, failures: int, pause: float, longest_pause: float) -> None:
        """These limits hold from now on; what is open stays so until its probe."""
        self._failures = failures
        self._pause = pause
        self._longest = longest_pause

    def failed(self, target: Target, now: float) -> None:
        """A leg to `target` failed in a way that says something about the engine; `now` is `monotonic()`."""
        if not self._failures:
            return
        circuit = self._circuit_of(target)
        circuit.failures += 1
        if circuit.state == HALF_OPEN or (circuit.state == CLOSED and circuit.failures >= self._failures):
            circuit.pause = min(self._longest, circuit.pause * 2 if circuit.pause else self._pause)
            circuit.until = now + circuit.pause * (0.5 + self._random.random() / 2)
            self._set(circuit, OPEN)

    def succeeded(self, target: Target) -> None:
        """A leg to `target` brought what it was sent for. Call it only where `watched` is not empty."""
        circuit = self.watched.get(target.endpoint_id)
        if circuit is None or circuit.target is not target:
            return
        self._forget(circuit)

    def answering(self, target: Target) -> None:
        """Content comes from `target`: the probe is good, but the leg is not over. Only where `tripped` is not
        empty."""
        circuit = self.tripped.get(target.endpoint_id)
        if circuit is not None and circuit.target is target:
            circuit.failures = 0
            self._set(circuit, CLOSED)

    def choose(self, policy: Policy, group: Group, avoid: frozenset[str], now: float) -> Target:
        """Like `policy.choose`, without endpoints whose circuits are open, as long as another is left."""
        rest = self.without_barred(group, now)
        found = policy.choose(rest, avoid) if rest.targets else None
        target = found or policy.choose(group, avoid) or policy.choose(group, _NOBODY) or group.targets[0]
        if self.tripped:
            self.probe(target, now)
        return target

    def without_barred(self, group: Group, now: float) -> Group:
        """The endpoints of `group` that may get a leg, maybe none; made anew only when that changes."""
        barred = self.barred(now)
        if barred != self._barred:
            self._barred = barred
            self._groups.clear()
        known = self._groups.get(id(group))
        if known is None or known[0] is not group:
            rest = [target for target in group.targets if target.endpoint_id not in barred]
            known = self._groups[id(group)] = (group, Group(rest) if len(rest) < len(group.targets) else group)
        return known[1]

    def barred(self, now: float) -> frozenset[str]:
        """Endpoint ids that get no leg at `now`."""
        return frozenset(endpoint for endpoint, circuit in self.tripped.items() if now < circuit.until)

    def probe(self, target: Target, now: float) -> None:
        """A leg is about to go to `target`: if its circuit is open, it is the probe, and no other goes there."""
        circuit = self.tripped.get(target.endpoint_id)
        if circuit is None or circuit.target is not target or now < circuit.until:
            return
        circuit.until = now + max(_PROBE_SECONDS, circuit.pause)
        self._set(circuit, HALF_OPEN)

    def fleet_changed(self, instances: Iterable[Instance], targets: Mapping[str, Target]) -> None:
        """Forget what is known of endpoints that are gone, are others by now, or serve again after they did not;
        `instances` and `targets` (by endpoint id) are those of the new snapshot."""
        self._groups.clear()
        if not self.watched:
            return
        serving = {
            endpoint.id
            for instance in instances
            if instance.serves
            for endpoint in instance.endpoints
            if endpoint.state is EndpointState.READY
        }
        for endpoint_id, circuit in list(self.watched.items()):
            if endpoint_id not in serving and targets.get(endpoint_id) is circuit.target:
                circuit.out_of_service = True
            elif circuit.out_of_service or targets.get(endpoint_id) is not circuit.target:
                self._forget(circuit)

    def _circuit_of(self, target: Target) -> _Circuit:
        circuit = self.watched.get(target.endpoint_id)
        if circuit is not None and circuit.target is target:
            return circuit
        if circuit is not None:
            self._forget(circuit)
        self._changed(target.endpoint_id, "", CLOSED)
        found = self.watched[target.endpoint_id] = _Circuit(target)
        return found

    def _forget(self, circuit: _Circuit) -> None:
        self._set(circuit, CLOSED)
        self._changed(circuit.target.endpoint_id, CLOSED, "")
        del self.watched[circuit.target.endpoint_id]

    def _set(self, circuit: _Circuit, state: str) -> None:
        endpoint = circuit.target.endpoint_id
        if state == circuit.state:
            return
        self._changed(endpoint, circuit.state, state)
        circuit.state = state
        if state == CLOSED:
            del self.tripped[endpoint]
        else:
            self.tripped[endpoint] = circuit
