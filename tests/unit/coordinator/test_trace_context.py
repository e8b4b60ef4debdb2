"""What callers say of their traces, after https://www.w3.org/TR/trace-context/, and which requests are sampled."""

from __future__ import annotations

import uuid

import pytest

import pymotor.coordinator.tracing.tracer
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.settings import TracingSettings
from pymotor.coordinator.tracing.sampling import Sampler
from pymotor.coordinator.tracing.trace_context import RemoteParent, remote_parent
from pymotor.coordinator.tracing.tracer import FinishedRequest, Tracer

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"


def read(traceparent: bytes, tracestate: bytes = b"") -> RemoteParent | None:
    return remote_parent({b"traceparent": traceparent, b"tracestate": tracestate})


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (b"00-%b-%b-01" % (TRACE, SPAN), True),
        (b"00-%b-%b-00" % (TRACE, SPAN), False),
        (b"00-%b-%b-03" % (TRACE, SPAN), True),
        (b" 00-%b-%b-02\t" % (TRACE, SPAN), False),
        (b"cc-%b-%b-01" % (TRACE, SPAN), True),
        (b"cc-%b-%b-01-what-the-future-will-be-like" % (TRACE, SPAN), True),
    ],
)
def test_good(value: bytes, sampled: bool) -> None:
    parent = read(value)
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.sampled) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01-" % (TRACE, SPAN),
        b"cc-%b-%b-01more" % (TRACE, SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-0x" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b-%b-01" % (TRACE + b"0", SPAN),
        b"00_%b_%b_01" % (TRACE, SPAN),
        b"00-%b-%b-01\r\nX-Other: 1" % (TRACE, SPAN),
    ],
)
def test_broken(value: bytes) -> None:
    assert read(value) is None


def test_nobody_said_anything() -> None:
    assert remote_parent({b"tracestate": b"a=1"}) is None


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [
        (b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
        (b" congo=1 ,\t,rojo=a b ", b"congo=1,rojo=a b"),
        (b"0tenant@vendor=x", b"0tenant@vendor=x"),
        (b",".join(b"k%d=v" % number for number in range(32)), b",".join(b"k%d=v" % number for number in range(32))),
        (b",".join(b"k%d=v" % number for number in range(33)), b""),
        (b"a" * 256 + b"=" + b"v" * 256, b"a" * 256 + b"=" + b"v" * 256),
        (b"a" * 257 + b"=v", b""),
        (b"a=" + b"v" * 257, b""),
        (b"a=1,a=2", b""),
        (b"A=1", b""),
        (b"a", b""),
        (b"a=", b""),
        (b"a=1=2", b""),
        (b"a=\x01", b""),
        (b"a=1\r\nX-Other: 1", b""),
    ],
)
def test_state(said: bytes, passed_on: bytes) -> None:
    parent = read(b"00-%b-%b-01" % (TRACE, SPAN), said)
    assert parent is not None
    assert parent.state == passed_on


# -- sampling


def parent(sampled: bool) -> RemoteParent:
    return RemoteParent(TRACE, SPAN, sampled=sampled, state=b"")


class Nobody:
    def put(self, finished: FinishedRequest) -> None:
        raise AssertionError("nothing is over")


def request(**headers: bytes) -> ClientRequest:
    made = ClientRequest()
    made.headers = {name.encode(): value for name, value in headers.items()}
    return made


def is_traced(settings: TracingSettings, trace_id: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a request that comes without a trace is, when this is the next id."""
    monkeypatch.setattr(pymotor.coordinator.tracing.tracer, "new_ids", lambda: [(trace_id[:16], trace_id[16:])])
    trail, _ = Tracer(settings, Nobody()).begin(request())
    return trail is not None


def sampled_of(ratio: float, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    ids = [uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).hex.encode() for number in range(2000)]
    return [one for one in ids if is_traced(TracingSettings(root_ratio=ratio), one, monkeypatch)]


def test_ratios_are_kept_and_larger_ones_hold_what_smaller_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(sampled_of(1.0, monkeypatch)) == 2000
    assert sampled_of(0.0, monkeypatch) == []
    tenth, half = sampled_of(0.1, monkeypatch), sampled_of(0.5, monkeypatch)
    assert 120 < len(tenth) < 280
    assert 900 < len(half) < 1100
    assert set(tenth) < set(half)


def test_the_lower_half_of_the_id_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    half = TracingSettings(root_ratio=0.5)
    assert is_traced(half, b"f" * 16 + b"7fffffffffffffff", monkeypatch)
    assert not is_traced(half, b"0" * 16 + b"8000000000000000", monkeypatch)


@pytest.mark.parametrize("caller_sampled", [False, True])
def test_each_kind_of_caller_has_its_ratio(caller_sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    only = TracingSettings(root_ratio=0, sampled_parent_ratio=caller_sampled, unsampled_parent_ratio=not caller_sampled)
    sampler = Sampler(only)
    assert sampler.samples(parent(caller_sampled))
    assert not sampler.samples(parent(not caller_sampled))
    assert not is_traced(only, TRACE, monkeypatch)


def test_ratios_can_change() -> None:
    tracer = Tracer(TracingSettings(root_ratio=0), Nobody())
    trail, lines = tracer.begin(request())
    assert trail is None
    assert lines.startswith(b"traceparent: 00-")
    assert lines.endswith(b"-00\r\n")
    tracer.use(TracingSettings(root_ratio=1))
    trail, lines = tracer.begin(request())
    assert trail is not None
    assert lines == b""


def test_steps_can_be_left_out() -> None:
    tracer = Tracer(TracingSettings(steps_ratio=0), Nobody())
    trail, _ = tracer.begin(request(traceparent=b"00-%b-%b-01" % (TRACE, SPAN)))
    assert trail is not None
    assert trail.trace is not None
    assert trail.trace.header_lines(b"1" * 16) == b"traceparent: 00-%b-1111111111111111-00\r\n" % TRACE
