"""The supervisor with the worker that serves: what clients see of starts, deaths and ends."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
from running_coordinator import Coordinator, gone, running, wait_for
from sample_fleets import DECODE, ENCODE, PREFILL, fleet

FLEET = fleet(ENCODE, PREFILL, DECODE)


def coordinator_in(directory: Path, workers: int) -> AbstractContextManager[Coordinator]:
    return running(directory, "--workers", str(workers), worker_module="pymotor.coordinator.worker_control")


def models(coordinator: Coordinator) -> list[str] | None:
    """The models that a client is told of, or None while nobody accepts connections."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{coordinator.port}/v1/models", timeout=60)
    except httpx.TransportError:
        return None
    return [model["id"] for model in answer.json()["data"]]


def answered(coordinator: Coordinator, path: str) -> float:
    """How many requests for `path` the workers have counted, living and dead ones."""
    lines = coordinator.metrics().splitlines()
    found = [line for line in lines if line.startswith(f'pymotor_requests_total{{path="{path}"')]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_clients_are_served_again_after_a_worker_was_killed(tmp_path: Path) -> None:
    with coordinator_in(tmp_path, 1) as coordinator:
        assert models(coordinator) == []
        coordinator.write_fleet(FLEET)
        wait_for(lambda: models(coordinator) == ["tiny"], "the model")
        assert coordinator.get("/readiness").status_code == 200
        counted = answered(coordinator, "/v1/models")
        assert counted >= 2
        (worker,) = coordinator.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: coordinator.worker_pids() not in ([], [worker]), "another worker")
        wait_for(lambda: models(coordinator) == ["tiny"], "the model from the other worker")
        wait_for(lambda: answered(coordinator, "/v1/models") > counted, "counts that go on")
        assert coordinator.end() == 0
        assert "Traceback" not in coordinator.log()


def test_all_workers_accept_and_end_with_the_supervisor(tmp_path: Path) -> None:
    with coordinator_in(tmp_path, 2) as coordinator:
        workers = coordinator.worker_pids()
        assert len(workers) == 2
        assert coordinator.get("/health").json()["workers_listening"] == 2
        coordinator.end(signal.SIGKILL)
        wait_for(lambda: gone(workers), "the workers' end")


def test_sigterm_ends_idle_workers_soon(tmp_path: Path) -> None:
    with coordinator_in(tmp_path, 2) as coordinator:
        workers = coordinator.worker_pids()
        with httpx.Client(timeout=60) as client:
            assert client.get(f"http://127.0.0.1:{coordinator.port}/health").status_code == 200
            assert coordinator.end() == 0, "a client's idle connection holds nobody up for long"
        assert gone(workers)
        assert "does not end" not in coordinator.log()
        assert "Traceback" not in coordinator.log()
