"""Rules of pods: containers, ports, probes, mounts, devices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from pymotor.config import Problem
from pymotor.deployer.naming import Manifest
from pymotor.deployer.walk import Workload, items, mapping, workloads

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9._-]{1,128})?(@sha256:[0-9a-f]{64})?"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(1000),
    "M": Decimal(1000) ** 2,
    "G": Decimal(1000) ** 3,
    "T": Decimal(1000) ** 4,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
    "Ti": Decimal(1024) ** 4,
}
_FORBIDDEN = (
    "/",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var",
    "/boot",
    "/root",
    "/home",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
)
"""Directories of the host that no pod gets as a whole."""
_NEVER = (
    "/proc",
    "/sys",
    "/boot",
    "/var/run",
    "/run",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/etc/kubernetes",
)
"""And those of which a pod gets nothing at all."""


def containers(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """A pod has containers with names of their own."""
    for workload in workloads(manifests):
        for key in ("containers", "initContainers", "volumes"):
            value = workload.pod.get(key)
            if value is not None and items(value) != value:
                yield _error(workload, f".{key}", "no list of objects", value=value, suggestion="correct the patch")
        if not items(workload.pod.get("containers")):
            yield _error(workload, ".containers", "no container", suggestion="a template needs one")
        for index, container in enumerate(workload.containers):
            if not _LABEL.fullmatch(str(container.get("name", ""))):
                yield _error(
                    workload,
                    f".containers[{index}].name",
                    "no name that Kubernetes takes",
                    value=container.get("name"),
                    allowed="small letters, digits and -, at most 63",
                    suggestion="rename it",
                )
        yield from _repeated(workload, ".containers", [str(one.get("name")) for one in workload.containers])


def images(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Every container has an image that can be one; none at all is told of with the configuration."""
    for workload in workloads(manifests):
        for index, container in enumerate(workload.containers):
            image = container.get("image")
            if image and not _IMAGE.fullmatch(str(image)):
                yield _error(
                    workload,
                    f".containers[{index}].image",
                    "no reference to an image",
                    value=image,
                    allowed="registry/name:tag",
                    suggestion="correct image_name, or the patch that sets it",
                )


def ports(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """The ports of a pod are numbers and names of their own."""
    for workload in workloads(manifests):
        names, numbers = [], []
        for place, container in enumerate(workload.containers):
            for index, port in enumerate(items(container.get("ports"))):
                path = f".containers[{place}].ports[{index}]"
                number, name = port.get("containerPort"), port.get("name")
                if not isinstance(number, int) or not 1 <= number <= 65535:
                    yield _error(
                        workload,
                        f"{path}.containerPort",
                        "no port",
                        value=number,
                        allowed="1 to 65535",
                        suggestion="choose another number",
                    )
                if name is not None and not _PORT_NAME.fullmatch(str(name)):
                    yield _error(
                        workload,
                        f"{path}.name",
                        "no name of a port",
                        value=name,
                        allowed="small letters, digits and -, at most 15",
                        suggestion="choose a shorter one",
                    )
                names += [str(name)] if name is not None else []
                numbers.append(str(number))
        yield from _repeated(workload, ".containers", names)
        yield from _repeated(workload, ".containers", numbers)


def probes(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Every container is asked how it is, at a port that it has."""
    for workload in workloads(manifests):
        for place, container in enumerate(items(workload.pod.get("containers"))):
            known = items(container.get("ports"))
            reachable = {port.get("name") for port in known} | {port.get("containerPort") for port in known}
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = f".containers[{place}].{name}"
                probe = mapping(container.get(name))
                if not probe:
                    yield _error(workload, path, "missing", suggestion="give the container a probe")
                asked = mapping(probe.get("httpGet")) or mapping(probe.get("tcpSocket"))
                if asked and asked.get("port") not in reachable:
                    yield _error(
                        workload,
                        f"{path}.port",
                        "the container has no such port",
                        value=asked.get("port"),
                        suggestion="name one of its ports",
                    )


def environment(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Variables have names, each once."""
    for workload in workloads(manifests):
        for place, container in enumerate(workload.containers):
            names = [str(variable.get("name")) for variable in items(container.get("env"))]
            yield from _repeated(workload, f".containers[{place}].env", names)
            for index, name in enumerate(names):
                if not _VARIABLE.fullmatch(name):
                    yield _error(
                        workload,
                        f".containers[{place}].env[{index}].name",
                        "no name of a variable",
                        value=name,
                        allowed="letters, digits and _",
                        suggestion="rename it",
                    )


def mounts(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """What is mounted is a volume of the pod, each volume is mounted, and no mount hides another."""
    for workload in workloads(manifests):
        volumes = [str(volume.get("name")) for volume in items(workload.pod.get("volumes"))]
        yield from _repeated(workload, ".volumes", volumes)
        used = set()
        for place, container in enumerate(workload.containers):
            paths = []
            for index, mount in enumerate(items(container.get("volumeMounts"))):
                path = f".containers[{place}].volumeMounts[{index}]"
                used.add(mount.get("name"))
                paths.append(str(mount.get("mountPath")))
                if mount.get("name") not in volumes:
                    yield _error(
                        workload,
                        f"{path}.name",
                        "the pod has no such volume",
                        value=mount.get("name"),
                        suggestion="add the volume, or name another",
                    )
                if not str(mount.get("mountPath", "")).startswith("/"):
                    yield _error(
                        workload,
                        f"{path}.mountPath",
                        "not an absolute path",
                        value=mount.get("mountPath"),
                        suggestion="begin it with /",
                    )
            yield from _repeated(workload, f".containers[{place}].volumeMounts", paths)
        for index, name in enumerate(volumes):
            if name not in used:
                yield _error(
                    workload,
                    f".volumes[{index}]",
                    "no container mounts it",
                    value=name,
                    suggestion="mount or remove it",
                )


def host_paths(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """A pod gets directories of the host that are named plainly, and none that the host itself lives on."""
    for workload in workloads(manifests):
        for index, volume in enumerate(items(workload.pod.get("volumes"))):
            if "hostPath" not in volume:
                continue
            path = str(mapping(volume["hostPath"]).get("path", ""))
            why = refused_path(path)
            if why:
                yield _error(
                    workload,
                    f".volumes[{index}].hostPath.path",
                    why,
                    value=path,
                    suggestion="name a directory for weights, media or caches alone",
                )


def refused_path(path: str) -> str:
    """Why a pod must not get this path of the host; empty where it may."""
    pure = PurePosixPath(path)
    if not path.startswith("/"):
        return "not an absolute path"
    if ".." in pure.parts:
        return "a path with .. may lead anywhere"
    if str(pure) in _FORBIDDEN or str(pure).lstrip("/") == "":
        return "a directory of the host itself"
    if any(pure.is_relative_to(never) for never in _NEVER):
        return "a place from which the host can be taken over"
    return ""


def amounts(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """No limit is below its request, and devices are requested as they are limited."""
    for workload in workloads(manifests):
        for place, container in enumerate(workload.containers):
            resources = mapping(container.get("resources"))
            limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
            for name in sorted({*limits, *requests}):
                path = f".containers[{place}].resources"
                limit, request = _amount(limits.get(name)), _amount(requests.get(name))
                for key, value in (("limits", limits.get(name)), ("requests", requests.get(name))):
                    if value is not None and _amount(value) is None:
                        yield _error(
                            workload,
                            f"{path}.{key}.{name}",
                            "no amount",
                            value=value,
                            allowed="as 4, 500m or 16Gi",
                            suggestion="correct it",
                        )
                if "/" in name and limit != request:
                    yield _error(
                        workload,
                        f"{path}.limits.{name}",
                        "a device is requested as it is limited",
                        value=limits.get(name),
                        suggestion="write the same number twice",
                    )
                elif limit is not None and request is not None and limit < request:
                    yield _error(
                        workload,
                        f"{path}.limits.{name}",
                        "less than what is requested",
                        value=limits.get(name),
                        allowed=f"{requests.get(name)} or more",
                        suggestion="raise the limit",
                    )


def _amount(value: object) -> Decimal | None:
    match = _QUANTITY.fullmatch(str(value)) if value is not None else None
    return Decimal(match[1]) * _UNITS[match[2] or ""] if match else None


def _repeated(workload: Workload, path: str, names: list[str]) -> Iterator[Problem]:
    for name, times in Counter(names).items():
        if times > 1:
            yield _error(workload, path, f"{name} is there {times} times", suggestion="keep one")


def _error(workload: Workload, path: str, message: str, **more: Any) -> Problem:
    return Problem.error(workload.file, f"{workload.path}.template.spec{path}", message, **more)
