"""Which directories of the host a configuration may name for pods."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config import Problem, UserConfig, json_path
from pymotor.deployer.check_pods import refused_path
from pymotor.deployer.naming import ENGINE_ROLES
from pymotor.deployer.storage import clean, named_paths, shared_on_hosts

DEPLOY = "$.motor_deploy_config"


def paths(user: UserConfig, file: str) -> Iterator[Problem]:
    """Directories of the host are named plainly, and are none that the host itself lives on."""
    named = []
    if "weight_mount_path" in user.motor_deploy_config.model_fields_set:
        named.append((f"{DEPLOY}.weight_mount_path", user.motor_deploy_config.weight_mount_path))
    for role in ENGINE_ROLES:
        section = user.engine_section(role)
        if section is not None:
            stem = f"$.motor_engine_{role}_config.engine_config"
            named += [(f"{stem}.{one.key}", one.path) for one in named_paths(section)]
    named += [
        (json_path(("motor_deploy_config", "kubernetes_config", "persistent_volume_claims", path)), path)
        for path in user.motor_deploy_config.kubernetes_config.persistent_volume_claims
    ]
    for where, path in named:
        why = refused_path(path)
        if why:
            yield Problem.error(
                file,
                where,
                why,
                value=path,
                allowed="an absolute path without .., as /mnt/weight",
                suggestion="name a directory for this alone",
            )


def relative_models(user: UserConfig, file: str) -> Iterator[Problem]:
    """A path that begins where somebody stands means nothing in a pod."""
    for role in ENGINE_ROLES:
        section = user.engine_section(role)
        if section is None or not user.instance_count(role):
            continue
        for option in ("model", "model_path", "tokenizer"):
            value = section.options.get(option)
            if isinstance(value, str) and value.startswith(("./", "../", "~")):
                yield Problem.error(
                    file,
                    f"$.motor_engine_{role}_config.engine_config.{section.written(option)}",
                    "a path that begins where somebody stands means nothing in a pod",
                    value=value,
                    allowed="an absolute path, or the name of a model in a hub",
                    suggestion="write the path under weight_mount_path",
                )


def shared_stores(user: UserConfig, file: str) -> Iterator[Problem]:
    """A directory of the host is another one on each node."""
    pods = sum(user.instance_count(role) * user.pods_per_instance(role) for role in ENGINE_ROLES)
    if user.motor_deploy_config.deploy_mode == "single_container" or pods < 2:
        return
    for path, roles in shared_on_hosts(user).items():
        for role in roles:
            section = user.engine_section(role)
            assert section is not None
            for named in named_paths(section):
                if named.writable and clean(named.path) == path:
                    yield Problem.warning(
                        file,
                        f"$.motor_engine_{role}_config.engine_config.{named.key}",
                        "a directory of the host: pods on several nodes do not find what the others left there",
                        value=named.path,
                        suggestion="mount one shared file system there on all nodes, or name a claim in"
                        " kubernetes_config.persistent_volume_claims",
                    )
