"""What env.json may say when it becomes the environment of pods."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pymotor.config import EnvConfig, Problem, json_path
from pymotor.config.env import environment_string

_SHELL = re.compile(r"\$\(|`|\$\{?[A-Za-z_]")
_SET_BY_DEPLOYER = frozenset(
    {
        "ROLE",
        "JOB_NAME",
        "POD_NAME",
        "POD_NAMESPACE",
        "POD_IP",
        "HOST_IP",
        "NODE_NAME",
        "CONFIG_PATH",
        "CONFIGMAP_PATH",
        "TMPDIR",
        "CONTROLLER_SERVICE",
        "COORDINATOR_SERVICE",
        "COORDINATOR_INFER_SERVICE",
        "COORDINATOR_OBS_SERVICE",
        "KVP_MASTER_SERVICE",
        "KV_CONDUCTOR_SERVICE",
        "PYMOTOR_CLUSTER_TOKEN_FILE",
        "HCCL_PATH",
        "RANKTABLE_PATH",
        "MOONCAKE_CONFIG_PATH",
        "CONDUCTOR_CONFIG_PATH",
    }
)
_READ_BY_SHELLS = frozenset({"BASH_ENV", "BASHOPTS", "ENV", "IFS", "PS4", "SHELLOPTS"})
"""What a shell does by them; `boot.sh` is run by one."""
_SECRET = "PYMOTOR_CLUSTER_TOKEN"  # noqa: S105  the name of a variable


def env_values(env: EnvConfig, file: str) -> Iterator[Problem]:
    """Values go into pods as they are: what only a shell would read is a mistake."""
    for section, variables in env.sections():
        for name, value in variables.items():
            path = json_path((section, name))
            if name in _SET_BY_DEPLOYER:
                yield Problem.error(
                    file, path, "the deployer sets this variable itself", suggestion="remove it from env.json"
                )
            elif name in _READ_BY_SHELLS:
                yield Problem.error(
                    file,
                    path,
                    "it changes what the shell does that starts the pod",
                    value=value,
                    suggestion="remove it from env.json",
                )
            elif name == _SECRET:
                yield Problem.error(
                    file,
                    path,
                    "a secret does not belong in env.json, which becomes a ConfigMap",
                    suggestion="remove it: the deployer makes a Secret with the token",
                )
            elif isinstance(value, str) and _SHELL.search(environment_string(value)):
                yield Problem.error(
                    file,
                    path,
                    "no shell reads this value: it would stay as it is written",
                    value=value,
                    allowed="text without $(…), `…` and $NAME",
                    suggestion="write out what it stands for",
                )
