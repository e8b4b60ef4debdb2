"""Whether pods of the Coordinator can have the file of API keys that the configuration names."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from pymotor.config import Problem, UserConfig
from pymotor.deployer.naming import COORDINATOR, SINGLE, Manifest
from pymotor.deployer.options import CONFIG_DIRECTORY, TOKEN_DIRECTORY
from pymotor.deployer.storage import within
from pymotor.deployer.walk import Workload, items, workloads

_PATH = "$.motor_coordinator_config.api_key_config.keys_file"


def check_keys_file(manifests: Sequence[Manifest], user: UserConfig, file: str) -> Iterator[Problem]:
    """A keys file that no mount brings: without it the Coordinator answers nobody who has a key.

    `manifests` are the objects after all patches, `file` is that of the configuration.
    """
    keys = user.motor_coordinator_config.api_key_config
    if not keys.enable_api_key or not keys.keys_file:
        return
    path = posixpath.normpath(posixpath.join(CONFIG_DIRECTORY, keys.keys_file))
    for workload in workloads(manifests):
        if workload.part not in (COORDINATOR, SINGLE) or _mounted(workload, path):
            continue
        yield Problem.error(
            file,
            _PATH,
            f"pods have no such file: nothing is mounted at {path} in those of {workload.part}",
            value=keys.keys_file,
            allowed="a path in a directory that a patch of yaml_template/ mounts, as /etc/pymotor/keys/keys.json",
            suggestion="put the file into a Secret and mount it by a patch in yaml_template/ with defaultMode 0440"
            " (docs/security.md), or write its hashes into valid_keys and remove keys_file",
        )


def _mounted(workload: Workload, path: str) -> bool:
    """Whether a mount covers the path that can have this file: those of the configuration and the token have others,
    and an empty directory only what an init container leaves there."""
    empty = {one.get("name") for one in items(workload.pod.get("volumes")) if "emptyDir" in one}
    filled = bool(items(workload.pod.get("initContainers")))
    return any(
        place not in (CONFIG_DIRECTORY, TOKEN_DIRECTORY) and within(path, place) and (filled or name not in empty)
        for container in items(workload.pod.get("containers"))
        for mount in items(container.get("volumeMounts"))
        for place, name in ((str(mount.get("mountPath", "")).rstrip("/"), mount.get("name")),)
    )
