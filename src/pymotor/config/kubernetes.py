"""`motor_deploy_config.kubernetes_config`: what pods get in a cluster beyond what the engines need."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pymotor.config.section import AtLeastOne, Section

LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
ABSOLUTE_PATH = r"^/[^\x00-\x1f:]*$"

Label = Annotated[str, Field(pattern=LABEL)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=QUANTITY)]
ResourceName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9]([-a-zA-Z0-9._/]{0,100}[a-zA-Z0-9])?$")]
NodePort = Annotated[int, Field(ge=30000, le=32767)] | Literal[0]
UserId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Quantities = dict[ResourceName, Quantity]


class PodResources(Section):
    """What one pod of a part asks for, instead of what it gets by default. Devices are counted elsewhere."""

    requests: Quantities = Field(default_factory=dict, description="What a node must have free, as cpu and memory.")
    limits: Quantities = Field(default_factory=dict, description="What it may use at most.")


class ResourcesConfig(Section):
    """Processors and memory of each part's pods."""

    controller: PodResources | None = Field(None, description="Of a Controller.")
    coordinator: PodResources | None = Field(None, description="Of a Coordinator.")
    encode: PodResources | None = Field(None, description="Of an encode pod.")
    prefill: PodResources | None = Field(None, description="Of a prefill pod.")
    decode: PodResources | None = Field(None, description="Of a decode pod.")
    union: PodResources | None = Field(None, description="Of a union pod.")
    kv_pool: PodResources | None = Field(None, description="Of the KV pool's master.")
    kv_conductor: PodResources | None = Field(None, description="Of the KV conductor.")
    single_container: PodResources | None = Field(None, description="Of the one pod of single_container.")


class TLSSecrets(Section):
    """Secrets that are in the cluster already, with the keys ca.crt, tls.crt, tls.key and, where named, passwd and
    ca.crl. For a plane without one the deployer makes a Secret of the files that `tls_config` names."""

    infer_tls_config: Name | None = Field(None, description="Of the plane of clients and engines.")
    mgmt_tls_config: Name | None = Field(None, description="Of management.")
    etcd_tls_config: Name | None = Field(None, description="Of the way to etcd.")
    observability_tls_config: Name | None = Field(None, description="Of alarms and inventory.")
    north_tls_config: Name | None = Field(None, description="Of the north-bound reporter.")


class KubernetesConfig(Section):
    """What pods get in a cluster beyond what the engines need."""

    infer_service_name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,14}[a-z0-9])?$")] = Field(
        "vllm", description="Name of the InferServiceSet, with which pods' names begin."
    )
    coordinator_node_port: NodePort = Field(31015, description="Port of every node for clients; 0: any free one.")
    observability_node_port: NodePort = Field(31017, description="Port of every node for metrics; 0: any free one.")
    alarm_node_port: NodePort = Field(
        31027, description="Port of every node for alarms and inventory, where they are enabled; 0: any free one."
    )
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When nodes pull the image."
    )
    image_pull_secrets: list[Name] = Field(default_factory=list, description="Secrets for the image's registry.")
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="Processors and memory.")
    shared_memory_size: Quantity = Field("8Gi", description="Size of /dev/shm in engine pods, which is memory.")
    persistent_volume_claims: dict[Annotated[str, Field(pattern=ABSOLUTE_PATH)], Name] = Field(
        default_factory=dict,
        description="Directories that come from a claim instead of the host: path in the pod to name of the claim.",
    )
    host_rdma: bool | None = Field(
        None, description="Whether engine pods see /dev/infiniband of the host; default: on Ascend."
    )
    rdma_resource: ResourceName | None = Field(
        None, description="Resource of an RDMA device plugin, one of which each engine pod gets, as rdma/hca."
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Further labels of the engines' nodes.")
    control_run_as_user: UserId | None = Field(
        1000, description="User of Controller and Coordinator; null: the image's own."
    )
    engine_run_as_user: UserId | None = Field(None, description="User of engine pods; null: the image's own.")
    engine_capabilities: list[Annotated[str, Field(pattern=r"^[A-Z_]+$")]] = Field(
        default_factory=list, description="Linux capabilities of engine containers; all others are dropped."
    )
    engine_privileged: bool = Field(False, description="Whether engine containers are privileged.")
    engine_seccomp_profile: Literal["RuntimeDefault", "Unconfined"] = Field(
        "RuntimeDefault", description="Which system calls engines may make."
    )
    drain_seconds: AtLeastOne = Field(
        60, description="Seconds that running requests have when a pod of engines or a Coordinator ends."
    )
    tls_secrets: TLSSecrets = Field(default_factory=TLSSecrets, description="Secrets that hold the certificates.")
