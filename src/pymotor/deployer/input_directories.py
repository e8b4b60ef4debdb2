"""Which directories of the host a configuration may name for pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pymotor.config import Problem, UserConfig, json_path
from pymotor.deployer.check_pods import refused_path
from pymotor.deployer.hardware import hardware_of
from pymotor.deployer.naming import ENGINE_ROLES
from pymotor.deployer.options import CONFIG_DIRECTORY, TOKEN_DIRECTORY
from pymotor.deployer.storage import clean, mounts_of, named_paths, shared_on_hosts
from pymotor.deployer.tls import FILE_KEYS, block_of, enabled_planes

DEPLOY = "$.motor_deploy_config"
_OF_IMAGES = tuple(f"{stem}/{name}" for stem in ("", "/usr", "/usr/local") for name in ("bin", "sbin", "lib", "lib64"))


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
        why = refused_path(path) or _refused_place(path, user)
        if why:
            yield Problem.error(
                file,
                where,
                why,
                value=path,
                allowed="an absolute path without .., as /mnt/weight",
                suggestion="name a directory for this alone",
            )


def _refused_place(path: str, user: UserConfig) -> str:
    """Why a container cannot have a directory at this path; empty where it can."""
    if ":" in path or not path.isprintable():
        return "a path that Kubernetes does not mount"
    place = PurePosixPath(clean(path))
    if any(place.is_relative_to(one) for one in _OF_IMAGES):
        return "a place where images have their programs"
    taken = ["/dev", CONFIG_DIRECTORY, TOKEN_DIRECTORY, *(one.path for one in hardware_of(user).host_files)]
    if any(place.is_relative_to(one) or PurePosixPath(one).is_relative_to(place) for one in taken):
        return "a place where pods have something else"
    return ""


def certificate_places(user: UserConfig, file: str) -> Iterator[Problem]:
    """Certificates have a directory to themselves: what lies under a mount is hidden by it."""
    for plane in enabled_planes(user):
        block = block_of(user, plane)
        for key in FILE_KEYS:
            name: str = getattr(block, key)
            path = PurePosixPath(name)
            if not name:
                continue
            absolute = name.startswith("/")
            why = refused_path(str(path.parent)) or _refused_place(str(path.parent), user) if absolute else ""
            if ".." in path.parts:
                why = "a path with .. may lead anywhere"
            elif not absolute and len(path.parts) < 2:
                why = "among the files of the configuration, where it could take the place of one"
            if why:
                yield Problem.error(
                    file,
                    f"{DEPLOY}.tls_config.{plane}.{key}",
                    why,
                    value=name,
                    allowed="a path such as security/mgmt/cert/ca.crt, or an absolute one in a directory of its own",
                    suggestion="choose another directory",
                )


def unused_claims(user: UserConfig, file: str) -> Iterator[Problem]:
    """A claim that no directory comes from is most likely misspelt."""
    roles = [role for role in ENGINE_ROLES if user.instance_count(role)]
    used = {mount.path for role in roles for mount in mounts_of(user, role) if mount.claim}
    for path, claim in user.motor_deploy_config.kubernetes_config.persistent_volume_claims.items():
        if not refused_path(path) and clean(path) not in used:
            yield Problem.warning(
                file,
                json_path(("motor_deploy_config", "kubernetes_config", "persistent_volume_claims", path)),
                "no pod gets this claim: neither weight_mount_path nor an option of an engine names a path in it",
                value=claim,
                suggestion="write the directory as the engines' options have it",
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
