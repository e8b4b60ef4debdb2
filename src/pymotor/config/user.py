"""`user_config.json` as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pymotor.config.controller import ControllerConfig
from pymotor.config.coordinator import CoordinatorConfig
from pymotor.config.deploy import DeployConfig
from pymotor.config.engine import EngineSection
from pymotor.config.section import Count, OpenSection, Port, Ratio, Section, no_effect

ROLES = ("encode", "prefill", "decode", "union")
DEPLOY_LETTER = {"encode": "e", "prefill": "p", "decode": "d", "union": "hybrid"}
"""How keys of `motor_deploy_config` name a role: `p_instances_num`, `hybrid_pod_npu_num`."""


class KVCachePoolConfig(OpenSection):
    """The pool of KV cache that engines share; what PyMotor does not know goes to Mooncake as it is."""

    metadata_server: str | None = Field(None, description="Mooncake's metadata server, P2PHANDSHAKE for none.")
    protocol: str | None = Field(None, description="Mooncake's transport, as ascend.")
    device_name: str = Field("", description="Network devices; empty: all.")
    alloc_in_same_node: Any = Field(None, description="Whether the pool prefers memory of the same node.")
    global_segment_size: int | str | None = Field(None, description="Bytes that each rank gives to the pool.")
    eviction_high_watermark_ratio: Ratio | None = Field(None, description="Fill from which entries are evicted.")
    eviction_ratio: Ratio | None = Field(None, description="Part that is evicted at once.")
    port: Port = Field(50088, description="Port of the pool's master.")
    default_kv_lease_ttl: Count = Field(11000, description="Milliseconds for which a read entry is kept.")


class KVEventInstances(OpenSection):
    """Where the conductor gets its events from; passed on to it."""

    mooncake_master: dict[str, Any] = Field(
        default_factory=dict, description="The pool's master; endpoint and modelname are filled in."
    )


class KVConductorConfig(OpenSection):
    """The index of cached prefixes."""

    http_server_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of the conductor, 13333 by custom; 0: no conductor."
    )
    kvevent_instance: KVEventInstances = Field(default_factory=KVEventInstances, description="Where events come from.")


class NorthConfig(Section):
    """The reporter to a management platform."""

    name: str | None = Field(None, description="Name of the reporter, as ccae_reporter.")
    ip: str | None = Field(None, description="Address of the platform.")
    port: Port | None = Field(None, description="Port of the platform.")


class UserConfig(Section):
    """`user_config.json`: one file for all parts of PyMotor."""

    schema_location: str | None = Field(None, alias="$schema", description="Where an editor finds the JSON schema.")
    version: str | int | float | None = Field(None, description="For the reader; PyMotor does not use it.")
    motor_deploy_config: DeployConfig = Field(default_factory=DeployConfig, description="Instances and hardware.")
    motor_controller_config: ControllerConfig = Field(
        default_factory=ControllerConfig, description="What should run against what does run."
    )
    motor_coordinator_config: CoordinatorConfig = Field(
        default_factory=CoordinatorConfig, description="A request in, an answer out."
    )
    motor_engine_encode_config: EngineSection | None = Field(None, description="Engines that encode media.")
    motor_engine_prefill_config: EngineSection | None = Field(None, description="Engines that prefill.")
    motor_engine_decode_config: EngineSection | None = Field(None, description="Engines that decode.")
    motor_engine_union_config: EngineSection | None = Field(None, description="Engines that prefill and decode.")
    kv_cache_pool_config: KVCachePoolConfig | None = Field(None, description="The shared pool of KV cache.")
    kv_conductor_config: KVConductorConfig | None = Field(None, description="The index of cached prefixes.")
    north_config: NorthConfig | None = Field(None, description="The reporter to a management platform.")
    motor_nodemanger_config: Any = no_effect("the NodeManager reads the section of this name inside an engine section")

    def engine_section(self, role: str) -> EngineSection | None:
        """The section of a role's engines, None where there is none. KeyError for no role."""
        sections = {
            "encode": self.motor_engine_encode_config,
            "prefill": self.motor_engine_prefill_config,
            "decode": self.motor_engine_decode_config,
            "union": self.motor_engine_union_config,
        }
        return sections[role]

    def instance_count(self, role: str) -> int:
        """How many instances of a role there are, 0 where none is asked for. KeyError for no role."""
        count: int | None = getattr(self.motor_deploy_config, f"{DEPLOY_LETTER[role]}_instances_num")
        return count or 0

    def pods_per_instance(self, role: str) -> int:
        """How many pods form one instance of a role, at least 1. KeyError for no role."""
        count: int = getattr(self.motor_deploy_config, f"single_{DEPLOY_LETTER[role]}_instance_pod_num")
        return count

    def devices_per_pod(self, role: str) -> int:
        """How many accelerators one pod of a role has, 0 where none is stated. KeyError for no role."""
        count: int | None = getattr(self.motor_deploy_config, f"{DEPLOY_LETTER[role]}_pod_npu_num")
        return count or 0
