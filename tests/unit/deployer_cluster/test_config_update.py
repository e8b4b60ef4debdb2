"""`--update_config --wait`: each part is asked in its pod whether it runs with what was applied."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cluster_played import Cluster
from objects_made import separate

ENGINES: dict[str, Any] = {"motor_engine_decode_config": {"engine_type": "sim", "engine_config": {"model": "m"}}}
NEW: dict[str, Any] = {**ENGINES, "motor_coordinator_config": {"exception_config": {"max_retry": 3}}}
UPDATE = {"update_config": True, "wait": True}


def revision_of(manifests: list[dict[str, Any]]) -> str:
    text = next(one for one in manifests if one["kind"] == "ConfigMap")["data"]["user_config.json"]
    return hashlib.sha256(text.encode()).hexdigest()


def state(revision: str, **more: Any) -> dict[str, Any]:
    return {"revision": revision, "needs_restart": [], "error": None, **more}


def test_it_waits_for_the_parts(cluster: Cluster) -> None:
    assert cluster.deploy(separate(**ENGINES)) == 0
    new = separate(**NEW)
    cluster.set(config=state(revision_of(new), needs_restart=["$.a.b"]))
    assert cluster.deploy(new, **UPDATE) == 0
    assert "  the coordinator takes up $.motor_coordinator_config.exception_config.max_retry" in cluster.said
    assert "  vllm-d0-0 runs with it; a restart is needed for $.a.b" in cluster.said
    assert cluster.said[-2:] == ["in force in 3 pods", "...... all deploy end."]
    asked = {call[call.index("config") + 1] for call in cluster.calls("exec")}
    assert all(url.startswith("http://10.0.0.") and url.endswith(":1026") for url in asked)
    assert cluster.deploy(new, **UPDATE) == 0, "one that broke off is followed by the next"
    assert "in force in 3 pods" in cluster.said


def test_a_part_that_does_not_take_it_up_is_named(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(separate(decode=1, **ENGINES)) == 0
    cluster.set(config=state("an older one"))
    assert cluster.deploy(separate(decode=1, **NEW), **UPDATE, timeout=0.05) == 1
    error = capsys.readouterr().err
    assert "vllm-d0-0: it still runs with the former configuration" in error


def test_a_part_that_refuses_it_is_not_waited_for(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(separate(**ENGINES)) == 0
    new = separate(**NEW)
    refused = {"message": "max_retry: no", "revision": revision_of(new), "since": 1.0}
    cluster.set(config=state("an older one", error=refused))
    assert cluster.deploy(new, **UPDATE) == 1
    assert "refuses it and goes on as before: max_retry: no" in capsys.readouterr().err


def test_what_no_part_reads_is_said(cluster: Cluster) -> None:
    assert cluster.deploy(separate(**ENGINES)) == 0
    assert cluster.deploy(separate(**ENGINES, north_config={"name": "ccae_reporter"}), update_config=True) == 0
    assert "  no part reads $.north_config.name" in cluster.said
    assert [call for call in cluster.calls("exec") if "config" in call] == [], "nobody is asked without --wait"
