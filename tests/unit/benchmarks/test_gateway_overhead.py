"""The benchmark's own arithmetic and its judgement of answers: a wrong figure or a skipped leg must show."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from overhead import wire
from overhead.gateways import BENCHMARKS, EngineFleet, fleet_snapshot
from overhead.measure import Measurement, control, fake_engines, measure, warm_up_requests, wrong_legs
from overhead.processes import Pinned, ProcessError
from overhead.profile import add_up
from overhead.questions import LARGE, SMALL, bodies, framed
from overhead.report import Run, as_markdown
from overhead.scenarios import SCENARIOS
from overhead.summary import compare, spread

from pymotor.fleet import can_hand_over_kv, decode_snapshot

CORES = (0, 0)


def measurement(gateway: str, number: int, cpu_us: float, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "gateway": gateway,
        "scenario": "pd",
        "endpoints": 2,
        "round": number,
        "requests": 100,
        "errors": {},
        "seconds": 1.0,
        "cpu_us": cpu_us,
        "system_us": cpu_us / 2,
        "processes": 1,
        "peak_rss_mb": 50.0,
        "pss_mb": 40.0,
        "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0},
        "first_byte_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0},
        "delay_ms": None,
        "endpoints_used": 2,
        "gateway_core_busy": 0.5,
        "others_on_core": 0.0,
        "load_core_busy": 0.5,
    }
    return Measurement(**{**fields, **changes})


def run_of(*measurements: Measurement) -> Run:
    machine = {"processor": "a processor", "cores": "2", "kernel": "6", "python": "3.11"}
    versions = {"pymotor": "0.1.0", "vllm-router": "0.1.17"}
    return Run(
        date="2026-01-01",
        machine=machine,
        versions=versions,
        rounds=3,
        seconds=5,
        measurements=list(measurements),
        missing={},
    )


class TestVerdicts:
    def test_ratios_are_taken_round_by_round(self) -> None:
        ours = [measurement("pymotor", number, cpu) for number, cpu in ((1, 50.0), (2, 60.0), (3, 110.0))]
        theirs = [measurement("vllm-router", number, cpu) for number, cpu in ((3, 200.0), (1, 100.0), (2, 100.0))]
        (verdict,) = compare([*ours, *theirs])
        assert verdict.ratio == pytest.approx((0.55, 0.5, 0.6))
        assert verdict.ours == (60.0, 50.0, 110.0)
        assert verdict.kept is True

    def test_a_ratio_over_the_limit_is_not_kept(self) -> None:
        (verdict,) = compare([measurement("pymotor", 1, 61.0), measurement("vllm-router", 1, 100.0)])
        assert SCENARIOS["pd"].limit == 0.6
        assert verdict.kept is False

    def test_cheap_but_wrong_is_not_kept(self) -> None:
        cheap = measurement("pymotor", 1, 1.0, errors={"status 503": 1})
        found = [cheap, measurement("vllm-router", 1, 100.0)]
        assert compare(found)[0].kept is False
        page = as_markdown(run_of(*found))
        assert "**failed: wrong answers**" in page
        assert "status 503 (1 times)" in page

    def test_rounds_that_only_one_side_has_do_not_count(self) -> None:
        found = [measurement("pymotor", 1, 50.0), measurement("pymotor", 2, 1.0), measurement("vllm-router", 1, 100.0)]
        assert compare(found)[0].ours.median == 50.0

    def test_keeping_token_ids_has_a_limit_of_its_own(self) -> None:
        peer = measurement("vllm-router", 1, 100.0, scenario="pd_stream")
        for gateway, kept in (("pymotor", False), ("pymotor-carry-on", True)):
            (verdict,) = compare([measurement(gateway, 1, 120.0, scenario="pd_stream"), peer])
            assert verdict.kept is kept

    def test_numbers_of_endpoints_are_not_mixed(self) -> None:
        found = [measurement("pymotor", 1, 50.0), measurement("vllm-router", 1, 100.0, endpoints=1024)]
        assert compare(found) == []

    def test_no_rounds_have_no_median(self) -> None:
        with pytest.raises(ValueError, match="no rounds"):
            spread([])


class TestLegs:
    def test_right_legs(self) -> None:
        assert (
            wrong_legs(("prefill", "decode"), 5, {"legs": {"prefill": 5, "decode": 5, "union": 0}, "refused": {}}) == {}
        )

    def test_a_gateway_that_skips_prefill_is_found_out(self) -> None:
        assert wrong_legs(("prefill", "decode"), 5, {"legs": {"prefill": 0, "decode": 5, "union": 0}, "refused": {}})

    def test_refusals_are_errors(self) -> None:
        counters = {"legs": {"prefill": 5, "decode": 5, "union": 0}, "refused": {"decode: no handoff": 2}}
        assert sum(wrong_legs(("prefill", "decode"), 5, counters).values()) == 2

    def test_every_endpoint_is_warm_before_it_is_measured(self) -> None:
        assert all(warm_up_requests(each, 1024) >= 1024 for each in SCENARIOS.values())


class TestQuestions:
    @pytest.mark.parametrize(("kind", "size"), [("small", SMALL), ("image", LARGE), ("text", LARGE)])
    def test_sizes(self, kind: str, size: int) -> None:
        for body in bodies(kind, True, 2):
            assert size * 0.99 - 8 <= len(body) <= size
            assert json.loads(body)["stream"] is True

    def test_all_differ(self) -> None:
        assert len(set(bodies("small", False, 100))) == 100

    def test_framing(self) -> None:
        head, _, body = framed(b"{}", 80).partition(b"\r\n\r\n")
        assert body == b"{}"
        assert b"Content-Length: 2" in head


class TestWire:
    @given(st.integers(min_value=0, max_value=10**wire.STAMP_DIGITS - 1), st.booleans())
    def test_a_stamp_comes_back(self, now: int, token_ids: bool) -> None:
        chunk = wire.StreamEvents(token_ids).content(now)
        start = chunk.index(wire.STAMP) + len(wire.STAMP)
        assert int(chunk[start : start + wire.STAMP_DIGITS]) == now
        size, _, rest = chunk.partition(b"\r\n")
        assert int(size, 16) == len(rest) - 2
        event = json.loads(rest.removeprefix(b"data: "))
        assert event["choices"][0]["delta"]["content"] == f"@{now:020d}"

    def test_ends_are_what_clients_look_for(self) -> None:
        finish = wire.StreamEvents(False).finish
        assert wire.FINISHED in finish
        assert wire.DONE in finish
        assert wire.FINISHED in wire.completion()

    def test_a_snapshot_of_the_fleet_pairs(self) -> None:
        fleet = EngineFleet(prefill=(1,), decode=(2,), union=(), control=3)
        prefill, decode = decode_snapshot(fleet_snapshot(fleet)).instances
        assert prefill.serves
        assert decode.serves
        assert can_hand_over_kv(prefill, decode)


class TestProfile:
    def test_recursion_counts_once(self) -> None:
        own, within, total = add_up(["a (src/x.py:1);b (src/x.py:2);a (src/x.py:9) 3", "a (src/x.py:1) 2", "nonsense"])
        assert own == Counter({"a (x.py)": 5})
        assert within == Counter({"a (x.py)": 5, "b (x.py)": 3})
        assert total == 5


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineFleet]:
    with fake_engines("union", 2, tmp_path_factory.mktemp("engine"), 0) as engines:
        yield engines


class TestLoad:
    @pytest.mark.parametrize("name", ["plain", "plain_stream"])
    def test_clients_and_engine_understand_each_other(self, fleet: EngineFleet, name: str, tmp_path: Path) -> None:
        scenario = SCENARIOS[name]
        found = measure("none", None, fleet.union[0], fleet, scenario, 1, 0.01, tmp_path, CORES)
        assert found.errors == {}
        assert found.requests >= 2 * scenario.connections
        assert (found.delay_ms is not None) is scenario.stream

    def test_a_handoff_that_nobody_made_is_refused(self, tmp_path: Path) -> None:
        with fake_engines("pd", 2, tmp_path, 0) as engines:
            found = measure("none", None, engines.decode[0], engines, SCENARIOS["pd"], 1, 0.01, tmp_path, CORES)
        assert found.requests == 0
        assert any("no handoff" in error for error in found.errors)

    def test_a_stream_that_is_cut_is_an_error(self, tmp_path: Path, cut_stream: int) -> None:
        argv = [sys.executable, str(BENCHMARKS / "load_generator.py"), "--port", str(cut_stream), "--stream"]
        load = Pinned(
            "load generator", [*argv, "--warm-up", "4", "--connections", "4"], 0, tmp_path / "log", piped=True
        )
        try:
            warm = json.loads(load.read_line(60))["warm"]
        finally:
            load.stop()
        assert warm["requests"] == 0
        assert sum(warm["errors"].values()) == 4

    def test_counters_start_anew(self, fleet: EngineFleet) -> None:
        control(fleet, "/counters")
        assert control(fleet, "/counters")["legs"] == {"encode": 0, "prefill": 0, "decode": 0, "union": 0}


@pytest.fixture
def cut_stream() -> Iterator[int]:
    """A server whose streams lack their last event but end well-formed."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                length = 0
                while (line := self.rfile.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.rfile.read(length)
                events = wire.StreamEvents(False)
                contents = b"".join(events.content(1) for _ in range(wire.CONTENT_EVENTS))
                self.wfile.write(events.head + contents + wire.STREAM_END)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class TestProcesses:
    def test_a_tree_is_counted_and_ended(self, tmp_path: Path) -> None:
        code = (
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
            "print(child.pid, flush=True)\n"
            "child.wait()\n"
        )
        tree = Pinned("tree", [sys.executable, "-c", code], 0, tmp_path / "log", piped=True)
        try:
            child = int(tree.read_line(60))
            while tree.cost().cpu < 0.1:
                pass
            assert tree.cost().processes == 2
            assert tree.busiest(2.0) == child
            assert tree.memory().peak_rss > tree.memory().pss > 0
        finally:
            tree.stop()
        assert not Path(f"/proc/{child}").exists()

    def test_one_that_ends_says_why(self, tmp_path: Path) -> None:
        process = Pinned("failing", [sys.executable, "-c", "raise SystemExit('no port')"], 0, tmp_path / "log")
        try:
            with pytest.raises(ProcessError, match="no port"):
                process.wait_for("http://127.0.0.1:9/", 60)
        finally:
            process.stop()
