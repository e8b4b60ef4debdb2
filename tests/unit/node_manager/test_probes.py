"""What the NodeManager's own port says, and to whom."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi.testclient import TestClient

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.engine import HealthCheckConfig
from pymotor.control_plane import ClusterToken
from pymotor.fleet import NodeReport, Role, decode_message
from pymotor.node_manager.manager import NodeManager
from pymotor.node_manager.planning import OrderPlanner
from pymotor.node_manager.probes import probes_app
from pymotor.node_manager.settings import NodeSettings

TOKEN = ClusterToken("0123456789abcdef0123")


def idle_manager(tmp_path: Path) -> NodeManager:
    settings = NodeSettings(
        node="node-a",
        job="job",
        role=Role.ENCODE,
        address="10.0.0.7",
        machine="",
        preferred_number=None,
        nodes_per_instance=1,
        devices=(2, 3),
        controllers=("http://controller:1026",),
        token=TOKEN,
        log_directory=tmp_path,
        store=None,
        port=None,
        heartbeat_seconds=3.0,
        grace=30.0,
        start_timeout=60.0,
        parent_pipe=None,
        ranktable="",
        ranktable_path=None,
    )
    planner = OrderPlanner(UserConfig(), EnvConfig(), "job", "10.0.0.7", None, None, None)
    return NodeManager(settings, planner, lambda _: HealthCheckConfig())


def test_probes_and_the_report(tmp_path: Path) -> None:
    manager = idle_manager(tmp_path)
    client = TestClient(probes_app(manager, TOKEN))
    for path in ("/health", "/liveness", "/startup"):
        assert client.get(path).status_code == 200
    assert client.get("/readiness").status_code == 503, "nothing runs here"
    assert client.get("/docs").status_code == 404
    assert client.get("/status").status_code == 401
    assert client.get("/status", headers={"Authorization": "Bearer 0123456789abcdef9999"}).status_code == 401
    answer = client.get("/status", headers=TOKEN.header)
    assert decode_message(answer.content, NodeReport) == manager.report()
    assert json.loads(answer.text)["device_ids"] == ["2", "3"]


def test_on_loopback_everybody_may_read_the_report(tmp_path: Path) -> None:
    assert TestClient(probes_app(idle_manager(tmp_path), None)).get("/status").status_code == 200
