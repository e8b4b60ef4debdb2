"""`motor_controller_config`: what should run against what does run."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pymotor.config.common import EtcdConfig, LoggingConfig, StandbyConfig
from pymotor.config.section import Count, Host, NotNegative, Port, Seconds, Section, no_effect


class ControllerAPIConfig(Section):
    """Where the Controller listens, and where it finds the Coordinator."""

    controller_api_host: Host | None = Field(None, description="Address to listen on; default: the pod's.")
    controller_api_dns: str | None = Field(None, description="Name by which others call it.")
    controller_api_port: Port = Field(1026, description="Port for nodes and probes.")
    observability_api_port: Port = Field(1027, description="Port for inventory and alarms.")
    coordinator_api_dns: str | None = Field(None, description="Name of the Coordinator.")
    coordinator_api_port: Port = Field(1026, description="The Coordinator's management port.")


class InstanceConfig(Section):
    """How nodes become instances."""

    instance_assemble_timeout: Seconds = Field(600, description="Seconds until an incomplete instance is dropped.")
    instance_assembler_check_interval: Seconds = Field(30, description="Seconds between looks at incomplete ones.")
    instance_assembler_cmd_send_interval: Seconds = Field(30, description="Seconds between start commands.")
    instance_manager_check_interval: Seconds = Field(1, description="Seconds between looks at running ones.")
    send_cmd_retry_times: Count = Field(3, description="Further tries of a start command.")
    node_timeout: Seconds = Field(10, description="Seconds after which a node that does not report is silent.")
    silent_grace: Seconds = Field(
        1, description="Seconds after which a node is silent whose connection broke and that does not report again."
    )
    gone_timeout: Seconds = Field(300, description="Seconds after which a silent node's instance is given up.")
    listen_seconds: NotNegative = Field(9, description="Seconds that a new leader listens before it gives orders.")
    drain_limit: NotNegative = Field(300, description="Seconds that running requests have when an instance drains.")
    coordinator_timeout: Seconds = Field(
        10, description="Seconds after which a Coordinator that is not heard of is not waited for."
    )
    instance_heartbeat_timeout: Any = no_effect("older versions checked it and used a constant", instead="node_timeout")
    instance_expired_timeout: Any = no_effect("older versions checked it and used a constant", instead="gone_timeout")
    instance_assembler_check_internal: Any = no_effect("it is misspelt", instead="instance_assembler_check_interval")


class EventConfig(Section):
    """How the Coordinator is told."""

    coordinator_heartbeat_interval: Seconds = Field(10, description="Seconds between looks at the Coordinator.")
    event_consumer_sleep_interval: Any = no_effect("events are sent when they happen")


class ControllerFaultToleranceConfig(Section):
    """What happens when devices or nodes fail."""

    enable_fault_tolerance: bool = Field(True, description="Whether faults of devices are acted on.")
    strategy_center_check_interval: Seconds = Field(10, description="Seconds between looks at faults.")
    configmap_namespace: str = Field("kube-system", description="Namespace of the device reports.")
    configmap_prefix: str = Field("mindx-dl-deviceinfo-", description="How names of device reports begin.")
    enable_scale_p2d: bool = Field(
        True, description="Whether prefill gives nodes to decode when a decode instance is lost."
    )
    scale_p2d_wait: Seconds = Field(30, description="Seconds for which it is lost before.")
    scale_p2d_pause: Seconds = Field(60, description="Seconds between two changes of that kind.")
    scale_p2d_release: bool = Field(
        False,
        description="Whether prefill pods that cannot switch end for decode pods; something has to delete them then.",
    )
    enable_role_switch: bool = Field(
        True,
        description="Whether a node whose configuration fits another role may be given it, by operators or as above.",
    )
    enable_token_reinference: bool = Field(
        True, description="Whether faults that break streams are told of; Coordinators carry those on."
    )
    k8s_cert_path: Any = no_effect("devices and nodes are watched with the pod's service account")
    strategy_center_check_internal: Any = no_effect("it is misspelt", instead="strategy_center_check_interval")
    enable_lingqu_network_recover: Any = no_effect("it was renamed", instead="enable_token_reinference")


class ObservabilityConfig(Section):
    """Inventory and alarms."""

    observability_enable: bool = Field(False, description="Whether they are offered.")
    metrics_ttl: Seconds = Field(5, description="Seconds for which metrics are cached.")


class ControllerConfig(Section):
    """The Controller: what should run against what does run."""

    logging_config: LoggingConfig = Field(default_factory=LoggingConfig, description="Logs.")
    api_config: ControllerAPIConfig = Field(default_factory=ControllerAPIConfig, description="Addresses.")
    instance_config: InstanceConfig = Field(default_factory=InstanceConfig, description="Instances.")
    event_config: EventConfig = Field(default_factory=EventConfig, description="Telling the Coordinator.")
    fault_tolerance_config: ControllerFaultToleranceConfig = Field(
        default_factory=ControllerFaultToleranceConfig, description="Faults of devices and nodes."
    )
    observability_config: ObservabilityConfig = Field(
        default_factory=ObservabilityConfig, description="Inventory and alarms."
    )
    standby_config: StandbyConfig = Field(default_factory=StandbyConfig, description="Leader and standby.")
    etcd_config: EtcdConfig = Field(default_factory=EtcdConfig, description="etcd.")
