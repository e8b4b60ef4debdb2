"""A cluster for the steps of the deployer: the fake `kubectl`, and what is asked of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.naming import Manifest
from pymotor.deployer.request import DeployRequest
from pymotor.deployer.steps import deploy

FAKE = Path(__file__).with_name("fake_kubectl.py")
NAMESPACE = "mindie-motor"


class Cluster:
    """The fake's directory, what is in it, and what was asked of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        program = self.bin / "kubectl"
        program.write_text(f"#!{sys.executable} -SE\n{FAKE.read_text()}")
        program.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "FAKE_CLUSTER": str(directory),
        }
        self.said: list[str] = []

    def kubectl(self, namespace: str = NAMESPACE, timeout: float = 60.0) -> Kubectl:
        return Kubectl(namespace, program=str(self.bin / "kubectl"), timeout=timeout, environment=self.environment)

    def deploy(self, manifests: list[Manifest], **flags: Any) -> int:
        """Run the steps; what they say is in `said`."""
        config = json.loads(
            next(one for one in manifests if one["metadata"]["name"] == "motor-config")["data"]["user_config.json"]
        )
        request = DeployRequest(
            user=UserConfig.model_validate(config),
            env=EnvConfig(),
            namespace=NAMESPACE,
            home=self.directory / "deployer",
            output=self.directory / "output_yamls",
            poll_seconds=0.01,
            **{"timeout": 300.0, **flags},
        )
        self.said = []
        return deploy(manifests, request, self.kubectl(), self.said.append)

    def add(self, manifest: Manifest, namespace: str = NAMESPACE) -> None:
        """Put an object there as somebody else would."""
        namespace = "_" if manifest["kind"] in ("Namespace", "Node") else namespace
        file = self.directory / "objects" / manifest["kind"] / namespace / f"{manifest['metadata']['name']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        manifest = {**manifest, "metadata": {"generation": 1, "uid": "0", **manifest["metadata"]}}
        file.write_text(json.dumps(manifest))

    def objects(self, kind: str) -> dict[str, Manifest]:
        """What is there of a kind, by name."""
        files = (self.directory / "objects" / kind).glob("*/*.json")
        return {file.stem: json.loads(file.read_text()) for file in sorted(files)}

    def names(self) -> set[str]:
        """All there is but pods and the namespace, as `Kind/name`."""
        kinds = (directory.name for directory in (self.directory / "objects").iterdir())
        return {f"{kind}/{name}" for kind in kinds if kind not in ("Pod", "Namespace") for name in self.objects(kind)}

    def set(self, **settings: Any) -> None:
        """Say how the cluster behaves from now on."""
        (self.directory / "settings.json").write_text(json.dumps(settings))

    def play(self, match: str, said: str = "", *, times: int = 1, **more: Any) -> None:
        """Answer calls that have these words with a recorded error, so many times."""
        directory = self.directory / "played"
        directory.mkdir(exist_ok=True)
        file = directory / f"{len(list(directory.iterdir()))}.json"
        file.write_text(json.dumps({"match": match, "said": said, "times": times, **more}))

    def calls(self, verb: str) -> list[list[str]]:
        """The calls of a verb, without what each one has."""
        lines = (self.directory / "calls").read_text().splitlines()
        calls = [[word for word in json.loads(line) if not word.startswith("--request-timeout")] for line in lines]
        return [call for call in calls if call[0] == verb]
