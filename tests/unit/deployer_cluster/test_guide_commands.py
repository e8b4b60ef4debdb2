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

import pytest
from cluster_played import Cluster
from coordinator_door import open_door

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs" / "guides").glob("kubernetes-*.md"))
HERE = Path(__file__).relative_to(ROOT)
_BLOCK = re.compile(rf"^<!-- tested by: {re.escape(str(HERE))} -->\n```shell\n(.*?)^```$", re.M | re.S)
_IMAGE = "registry/pymotor:1"


class Reader:
    """Somebody who types what a guide says, with a copy of the examples that is adapted as it says."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        shutil.copytree(ROOT / "examples", directory / "examples", ignore=shutil.ignore_patterns("log", "output_yamls"))
        python = cluster.bin / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        for name in ("epd", "pd_hybrid"):
            self.adapt(name, image_name=_IMAGE)
        ini = directory / "examples" / "deployer" / "log_collect" / "log_config.ini"
        ini.write_text(ini.read_text().replace("name_sapce =", "name_sapce = mindie-motor"))

    def adapt(self, name: str, **values: object) -> None:
        """Change keys of `motor_deploy_config`."""
        file = self.directory / "examples" / "infer_engines" / "vllm" / name / "user_config.json"
        config = json.loads(file.read_text())
        config["motor_deploy_config"].update(values)
        file.write_text(json.dumps(config))

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


@pytest.mark.skipif(not (ROOT / "examples/deployer/deploy.py").exists(), reason="deploy.py is not there yet")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_guide(cluster: Cluster, tmp_path: Path, page: Path) -> None:
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) == page.read_text(encoding="utf-8").count("```shell")
    (cluster.directory / "objects" / "Namespace" / "_" / "mindie-motor.json").unlink()
    (cluster.directory / "logs").mkdir()
    reader = Reader(cluster, tmp_path / "checkout")
    with open_door() as door:
        cluster.set(forward_to=door)
        if page.stem == "kubernetes-scaling":
            reader.type("cd examples/deployer\npython3 deploy.py --config_dir ../infer_engines/vllm/pd_hybrid")
        for block in blocks:
            if "--update_instance_num" in block:
                reader.adapt("pd_hybrid", hybrid_instances_num=2)
            printed = reader.type(block)
            if "deploy.py" in block and "--diff" not in block:
                assert printed.splitlines()[-1] == "...... all deploy end."
            if "--update_instance_num" in block:
                assert len([name for name in cluster.objects("Pod") if "union" in name]) == 2
    if any("delete.sh" in block for block in blocks):
        assert cluster.names() == set()
