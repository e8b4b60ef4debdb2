"""The supervisor with real processes: starts, deaths, ends."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_coordinator import DEADLINE, Coordinator, gone, launch, running, wait_for
from sample_fleets import DECODE, PREFILL, fleet

from pymotor.cli import main

FLEET = fleet(PREFILL, DECODE)


def figures(coordinator: Coordinator) -> dict[tuple[str, ...], float]:
    """Each sample of /metrics under its name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(coordinator.metrics())
        for sample in family.samples
    }


def test_it_tells_workers_and_operators_of_the_fleet(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2") as coordinator:
        assert len(coordinator.worker_pids()) == 2
        assert coordinator.get("/startup").status_code == 200
        assert coordinator.get("/liveness").status_code == 200
        assert coordinator.get("/health").json() == {"status": "ok", "workers": 2, "workers_listening": 2}
        unready = coordinator.get("/readiness")
        assert unready.status_code == 503
        assert unready.json()["missing"] == ["no fleet snapshot has arrived yet"]
        assert coordinator.get("/instances").json()["instances"] == []

        coordinator.write_fleet(FLEET)
        report = coordinator.wait_version(1)
        assert [(entry["name"], entry["state"]) for entry in report["instances"]] == [
            ("prefill-0", "active"),
            ("decode-0", "active"),
        ]
        ready = coordinator.get("/readiness")
        assert ready.status_code == 200
        assert ready.json() == {"ready": True, "models": ["tiny"], "missing": [], "degraded": []}
        _, _, rows = wait_for(lambda: coordinator.ask("fleet"), "the fleet of one of the workers")
        assert set(rows) == {"prefill-0/0", "decode-0/0"}

        row = rows["decode-0/0"][0]
        coordinator.ask(f"begin {row} 70")
        coordinator.ask(f"begin {row} 5")
        decode = coordinator.get("/instances").json()["instances"][1]
        assert (decode["in_flight"], decode["load_tokens"]) == (2, 7.5)
        seen = figures(coordinator)
        assert seen["pymotor_endpoint_in_flight", "decode-0", "decode-0/0", "decode"] == 2
        assert seen["pymotor_endpoint_load_tokens", "decode-0", "decode-0/0", "decode"] == 7.5
        assert seen["pymotor_endpoint_in_flight", "prefill-0", "prefill-0/0", "prefill"] == 0
        assert seen["pymotor_instance_state", "prefill-0", "prefill", "active"] == 1
        assert seen["pymotor_instance_state", "prefill-0", "prefill", "gone"] == 0
        assert seen["pymotor_workers", "listening"] == 2
        assert seen["pymotor_fleet_version",] == 1
        assert coordinator.end() == 0


def test_a_killed_worker_is_replaced_and_its_charges_and_counts_are_kept_right(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "1") as coordinator:
        coordinator.write_fleet(FLEET)
        coordinator.wait_version(1)
        wait_for(lambda: coordinator.ask("fleet"), "the worker's fleet")
        row = coordinator.ask("fleet")[2]["prefill-0/0"][0]
        first = coordinator.ask(f"begin {row} 1000")
        before = figures(coordinator)
        assert before["pymotor_endpoint_in_flight", "prefill-0", "prefill-0/0", "prefill"] == 1
        connections = before["pymotor_connections_total",]
        assert connections >= 3

        os.kill(first, signal.SIGKILL)
        coordinator.wait_logged("worker 0 ended by itself (signal SIGKILL)")
        wait_for(lambda: coordinator.get("/health").status_code == 200, "the second worker")
        second = coordinator.ask("pid")
        assert second != first
        after = figures(coordinator)
        assert after["pymotor_endpoint_in_flight", "prefill-0", "prefill-0/0", "prefill"] == 0
        assert after["pymotor_endpoint_load_tokens", "prefill-0", "prefill-0/0", "prefill"] == 0
        assert after["pymotor_connections_total",] == connections + 1, "counts of the dead worker stay"
        assert after["pymotor_worker_restarts_total",] == 1
        wait_for(lambda: coordinator.ask("fleet"), "the fleet of the second worker")
        assert coordinator.ask("fleet")[1] == 1
        assert coordinator.end() == 0


def test_ctrl_c_ends_it_with_status_0_and_nothing_left(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2") as coordinator:
        workers = coordinator.worker_pids()
        assert coordinator.end(signal.SIGINT) == 0
        assert gone(workers)
        assert coordinator.process.stdout is not None
        assert coordinator.process.stdout.read() == "", "one line of standard output, not more"
        assert "Traceback" not in coordinator.log()


def test_a_signal_while_workers_start_ends_it_too(tmp_path: Path) -> None:
    with launch(tmp_path, worker_module="pymotor.coordinator.worker_control") as process:
        wait_for(lambda: "management on" in (tmp_path / "log").read_text(), "its first words")
        process.terminate()
        output, _ = process.communicate(timeout=DEADLINE)
    log = (tmp_path / "log").read_text()
    assert process.returncode == 0, log
    assert output == "" or output.startswith("pymotor coordinator ready")
    assert "Traceback" not in log


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, "--worker-timeout", "3", "--workers", "1") as coordinator:
        (worker,) = coordinator.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        coordinator.wait_logged("worker 0 has not answered for 3 s and is killed")
        wait_for(lambda: coordinator.get("/health").status_code == 200, "another worker")
        assert coordinator.worker_pids() != [worker]
        assert coordinator.end() == 0


def test_workers_that_do_not_drain_are_killed_at_the_second_signal(tmp_path: Path) -> None:
    with running(tmp_path, "--grace", "600", environment={"STAND_IN_DEAF": "1"}) as coordinator:
        workers = coordinator.worker_pids()
        coordinator.process.send_signal(signal.SIGTERM)
        coordinator.wait_logged("SIGTERM: running requests are finished")
        refused = coordinator.get("/readiness").json()
        assert refused["missing"][0] == "the Coordinator is ending and accepts nothing new"
        assert coordinator.end() == 0
        assert gone(workers)
        assert "does not end and is killed" in coordinator.log()


def test_it_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        with running(tmp_path, "--parent-pipe", str(reading), pass_fds=(reading,)) as coordinator:
            workers = coordinator.worker_pids()
            os.close(writing)
            writing = -1
            assert coordinator.process.wait(DEADLINE) == 0
            assert gone(workers)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def test_a_worker_that_fails_at_its_start_fails_the_start(tmp_path: Path) -> None:
    process = launch(tmp_path, "--workers", "2", environment={"STAND_IN_FAILS": "1"})
    output, _ = process.communicate(timeout=DEADLINE)
    log = (tmp_path / "log").read_text()
    assert (process.returncode, output) == (1, "")
    assert "stand-in: told to fail" in log
    assert "ended at its start (exit status 1); its own words are above" in log
    assert "Traceback" not in log


def test_a_port_in_use_ends_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = launch(tmp_path, "--observability-port", str(port))
        output, _ = process.communicate(timeout=DEADLINE)
    log = (tmp_path / "log").read_text()
    assert (process.returncode, output) == (1, "")
    assert f"port {port} is in use" in log
    assert "--observability-port" in log


def test_a_second_coordinator_does_not_join_the_port_of_the_first(tmp_path: Path) -> None:
    with running(tmp_path) as coordinator:
        second = tmp_path / "second"
        second.mkdir()
        process = launch(second, "--port", str(coordinator.port))
        assert process.wait(DEADLINE) == 1
        assert f"port {coordinator.port} is in use" in (second / "log").read_text()
        assert process.stdout is not None
        process.stdout.close()


def test_a_broken_config_ends_with_1_and_wrong_usage_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["coordinator", "--user_config_path", str(tmp_path / "absent.json"), "--fleet", "fleet.json"]
    assert main(command) == 1
    assert "absent.json" in capsys.readouterr().err
    for wrong in (["--workers", "0"], ["--port", "65536"], ["--grace", "-1"], ["--parent-pipe", "999"], []):
        with pytest.raises(SystemExit) as ended:
            main([*command, *wrong] if wrong else ["coordinator"])
        assert ended.value.code == 2
    assert capsys.readouterr().out == ""
