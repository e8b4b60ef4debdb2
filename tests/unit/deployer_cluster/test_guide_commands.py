"""The commands of the guides for Kubernetes, as they stand there, before a cluster that the fake `kubectl` plays."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_played import Cluster
from coordinator_door import open_door

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs" / "guides").glob("kubernetes-*.md"))
HERE = Path(__file__)
_BLOCK = re.compile(r"^(?:<!-- tested by: (?P<test>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
_IMAGE = "registry.example.org/pymotor:1.0"
_DIRECTORIES = {"kubernetes-epd": "vllm/epd", "kubernetes-pd": "vllm"}
"""Where a page's configuration is; of all others, in vllm/pd_hybrid."""


class Reader:
    """Somebody who types what a guide says, with a copy of the examples that is adapted as it says."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        shutil.copytree(ROOT / "examples", directory / "examples", ignore=shutil.ignore_patterns("log", "output_yamls"))
        python = cluster.bin / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        for program in ("docker", "ctr"):
            shutil.copy(HERE.with_name("fake_containers.sh"), cluster.bin / program)
        shutil.copy(ROOT / "Containerfile", directory)
        for name in ("vllm", "vllm/epd", "vllm/pd_hybrid"):
            self.write(name, {"motor_deploy_config": {"image_name": _IMAGE}})
        ini = directory / "examples" / "deployer" / "log_collect" / "log_config.ini"
        ini.write_text(ini.read_text().replace("name_sapce =", "name_sapce = mindie-motor"))

    def write(self, name: str, keys: dict[str, Any]) -> None:
        """Write keys into the `user_config.json` of an example."""
        config = self.config(name)
        merge(config, keys)
        (self.directory / "examples" / "infer_engines" / name / "user_config.json").write_text(json.dumps(config))

    def config(self, name: str) -> dict[str, Any]:
        """The `user_config.json` of an example as it is now."""
        file = self.directory / "examples" / "infer_engines" / name / "user_config.json"
        config: dict[str, Any] = json.loads(file.read_text())
        return config

    def type(self, block: str) -> str:
        """Run a block in the root of the copy; what it printed."""
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.directory,
            env={**self.cluster.environment, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, f"{block}\n{ended.stdout}\n{ended.stderr}"
        for process in re.findall(r"by process (\d+)$", ended.stdout, re.M):
            os.kill(int(process), signal.SIGTERM)
        return ended.stdout


def merge(config: dict[str, Any], keys: dict[str, Any]) -> None:
    """Add keys at any depth."""
    for key, value in keys.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = value


def keys_of(text: str) -> dict[str, Any] | None:
    """What a block says is to be in `user_config.json`; None of other blocks."""
    try:
        keys = json.loads(text)
    except ValueError:
        return None
    return keys if isinstance(keys, dict) else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_guide(cluster: Cluster, tmp_path: Path, page: Path) -> None:
    (cluster.directory / "objects" / "Namespace" / "_" / "mindie-motor.json").unlink()
    (cluster.directory / "logs").mkdir()
    reader = Reader(cluster, tmp_path / "checkout")
    directory = _DIRECTORIES.get(page.stem, "vllm/pd_hybrid")
    with open_door() as door:
        cluster.set(forward_to=door)
        if page.stem == "kubernetes-scaling":
            reader.type("cd examples/deployer\npython3 deploy.py --config_dir ../infer_engines/vllm/pd_hybrid")
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            block = found["text"]
            if found["language"] != "shell":
                reader.write(directory, keys_of(block) or {})
                continue
            assert found["test"] == str(HERE.relative_to(ROOT)), block
            if "--update_instance_num" in block:
                reader.write(directory, {"motor_deploy_config": {"hybrid_instances_num": 2}})
            printed = reader.type(block)
            if "deploy.py" in block and "--diff" not in block:
                assert printed.splitlines()[-1] == "...... all deploy end."
                assert deployed_as_configured(cluster, reader.config(directory))
            if "--update_instance_num" in block:
                assert len([name for name in cluster.objects("Pod") if "union" in name]) == 2
    if page.stem != "kubernetes-scaling":
        assert cluster.names() == set()


def deployed_as_configured(cluster: Cluster, config: dict[str, Any]) -> bool:
    """Whether there is a pod for each part that the configuration asks for, and a Secret for each plane with TLS."""
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in cluster.objects("Pod").values()}
    wanted = {name.split("_")[2] for name in config if name.startswith("motor_engine_")} | {"controller", "coordinator"}
    if "kv_conductor_config" in config:
        wanted.add("kv-conductor")
    planes = config["motor_deploy_config"].get("tls_config", {})
    secrets = {f"motor-tls-{plane.partition('_')[0]}" for plane in planes}
    assert parts == wanted
    assert secrets <= cluster.objects("Secret").keys()
    return True
