"""What pods need of a cluster to get their accelerators, by `hardware_type`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pymotor.config import UserConfig

_SCHEDULE_POLICIES = {
    "350-Atlas-8": "chip1-node8",
    "350-Atlas-16": "chip1-node16",
    "350-Atlas-4p-8": "chip4-node8",
    "350-Atlas-4p-16": "chip4-node16",
    "850-Atlas-8p-8": "chip8-node8",
    "850-SuperPod-Atlas-8": "chip8-node8-sp",
    "950-SuperPod-Atlas-8": "chip8-node8-ra64-sp",
}
"""Of the generation after A3: how MindCluster places their pods."""


@dataclass(frozen=True)
class HostFile:
    """A path of the host that the device's software needs in pods."""

    name: str
    path: str
    kind: str
    """As Kubernetes checks it: `Directory`, `File` …"""


_ASCEND_FILES = (
    # The driver's directory holds hccn_tool too, as driver/tools/hccn_tool.
    HostFile("ascend-driver", "/usr/local/Ascend/driver", "Directory"),
    HostFile("hccn-conf", "/etc/hccn.conf", "File"),
)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One kind of accelerator, as Kubernetes knows it. Nothing of it is there for `cpu`."""

    resource: str = ""
    """What a device is called among a node's resources; empty: there are none."""
    per_node: int = 0
    """Devices of a node; 0: nobody can tell."""
    scheduler: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """Of pods and their workloads."""
    annotations: dict[str, str] = field(default_factory=dict)
    host_files: tuple[HostFile, ...] = ()
    in_blocks: bool = False
    """Whether an instance's pods have to be told apart as one block of a super pod."""
    device_table: bool = False
    """Whether engines look for a table of the instance's devices."""

    @property
    def ascend(self) -> bool:
        """Whether it is an Ascend product."""
        return self.resource.startswith("huawei.com/")


def hardware_of(user: UserConfig) -> Hardware:
    """The hardware that a configuration names; none where it names none."""
    kind = user.motor_deploy_config.hardware_type
    if kind is None or kind == "cpu":
        return Hardware()
    if kind == "gpu":
        return Hardware(resource="nvidia.com/gpu")
    labels = {"fault-scheduling": "grace", "fault-retry-times": "10000"}
    if kind in _SCHEDULE_POLICIES:
        return Hardware(
            resource="huawei.com/npu",
            per_node=16 if kind.endswith("-16") else 8,
            scheduler="volcano",
            node_selector={"accelerator": "huawei-npu", "accelerator-type": kind},
            labels=labels,
            annotations={"huawei.com/schedule_policy": _SCHEDULE_POLICIES[kind]},
            host_files=_ASCEND_FILES,
            in_blocks=True,
        )
    a2 = kind == "800I_A2"
    return Hardware(
        resource="huawei.com/Ascend910",
        per_node=8 if a2 else 16,
        scheduler="volcano",
        node_selector=(
            {"accelerator": "huawei-Ascend910", "accelerator-type": "module-910b-8"}
            if a2
            else {"accelerator-type": "module-a3-16"}
        ),
        labels={**labels, "ring-controller.atlas": "ascend-910b"},
        host_files=_ASCEND_FILES,
        in_blocks=not a2,
        device_table=True,
    )
