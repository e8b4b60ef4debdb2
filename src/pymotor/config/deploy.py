"""`motor_deploy_config`: how many instances of each role, on what hardware, deployed how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pymotor.config.kubernetes import KubernetesConfig
from pymotor.config.section import AtLeastOne, Count, Section, no_effect

DeployMode = Literal["infer_service_set", "multi_deployment", "single_container"]
ClientAuth = Literal["required", "optional", "none"]
HardwareType = Literal[
    "800I_A2",
    "800I_A3",
    "350-Atlas-8",
    "350-Atlas-16",
    "350-Atlas-4p-8",
    "350-Atlas-4p-16",
    "850-Atlas-8p-8",
    "850-SuperPod-Atlas-8",
    "950-SuperPod-Atlas-8",
    "gpu",
    "cpu",
]
InstanceCount = Annotated[int, Field(ge=1, le=16)]

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


class TLSBlock(Section):
    """One plane's TLS: whether, and where the files are in the pod."""

    enable_tls: bool = Field(False, description="Whether this plane speaks TLS.")
    ca_file: str = Field("security/mgmt/cert/ca.crt", description="Certificate authority that signs the peers.")
    cert_file: str = Field("security/mgmt/cert/server.crt", description="Certificate shown to peers.")
    key_file: str = Field("security/mgmt/keys/server.key", description="Private key of the certificate.")
    passwd_file: str = Field(
        "security/mgmt/keys/key_pwd.txt", description="File with the private key's password; empty: none."
    )
    crl_file: str = Field("", description="Certificate revocation list; empty: none.")
    client_auth: ClientAuth = Field(
        "required",
        description="Whether clients must show a certificate of the authority: required; optional: none, or a good "
        "one; none: they are not asked.",
    )
    peer_name: str = Field(
        "",
        description="Name that the certificates of those we dial must have, for pods whose addresses none can name; "
        "empty: the address or name that is dialled.",
    )
    tls_enable: Any = no_effect("the switch is called enable_tls", instead="enable_tls")
    tls_crl: Any = no_effect("the revocation list is called crl_file", instead="crl_file")


class TLSConfig(Section):
    """TLS of each plane."""

    infer_tls_config: TLSBlock = Field(default_factory=TLSBlock, description="Clients to Coordinator to engines.")
    mgmt_tls_config: TLSBlock = Field(default_factory=TLSBlock, description="Management between PyMotor's parts.")
    etcd_tls_config: TLSBlock = Field(default_factory=TLSBlock, description="To etcd.")
    observability_tls_config: TLSBlock = Field(
        default_factory=TLSBlock, description="Alarms and inventory of the Controller."
    )
    north_tls_config: TLSBlock = Field(default_factory=TLSBlock, description="To the north-bound reporter.")
    grpc_tls_config: Any = no_effect("no part of PyMotor speaks gRPC")


class DeployConfig(Section):
    """How many instances of each role, on what hardware, deployed how."""

    deploy_mode: DeployMode = Field("infer_service_set", description="How Kubernetes objects are made.")
    e_instances_num: Annotated[int, Field(ge=0, le=16)] = Field(0, description="Encode instances.")
    p_instances_num: InstanceCount | None = Field(None, description="Prefill instances.")
    d_instances_num: InstanceCount | None = Field(None, description="Decode instances.")
    hybrid_instances_num: InstanceCount | None = Field(
        None, description="Union instances: prefill and decode in one engine."
    )
    single_e_instance_pod_num: AtLeastOne = Field(1, description="Pods of one encode instance.")
    single_p_instance_pod_num: AtLeastOne = Field(1, description="Pods of one prefill instance.")
    single_d_instance_pod_num: AtLeastOne = Field(1, description="Pods of one decode instance.")
    single_hybrid_instance_pod_num: AtLeastOne = Field(1, description="Pods of one union instance.")
    e_pod_npu_num: Count | None = Field(None, description="Devices of one encode pod.")
    p_pod_npu_num: Count | None = Field(None, description="Devices of one prefill pod.")
    d_pod_npu_num: Count | None = Field(None, description="Devices of one decode pod.")
    hybrid_pod_npu_num: Count | None = Field(None, description="Devices of one union pod.")
    image_name: str = Field("", description="Container image of every pod.")
    job_id: Annotated[str, Field(pattern=DNS_LABEL)] = Field(
        "mindie-motor", description="Name of the deployment; also its Kubernetes namespace."
    )
    hardware_type: HardwareType | None = Field(None, description="What the engines run on.")
    weight_mount_path: str = Field(
        "/mnt/weight", description="Directory of the host with model weights, mounted at the same path in pods."
    )
    enable_pd_heterogeneous: bool = Field(
        False, description="Whether prefill and decode run on nodes with different labels."
    )
    pd_heterogeneous_label_key: str = Field("card_type", description="Node label that tells them apart.")
    pd_heterogeneous_prefill_label_value: str = Field("Ascend950PR", description="Its value for prefill.")
    pd_heterogeneous_decode_label_value: str = Field("Ascend950DT", description="Its value for decode.")
    tls_config: TLSConfig = Field(default_factory=TLSConfig, description="TLS of each plane.")
    kubernetes_config: KubernetesConfig = Field(
        default_factory=KubernetesConfig, description="What pods get beyond what engines need."
    )
    engine_topology: Any = no_effect("instances, pods and devices are counted by the keys of this section")
