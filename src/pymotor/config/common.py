"""Sections that several components have: logging, standby, etcd."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pymotor.config.section import AtLeastOne, Count, Port, Seconds, Section, no_effect


class LoggingConfig(Section):
    """Logs of one component."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level written.")
    log_max_line_length: AtLeastOne = Field(8192, description="Characters after which a line is cut.")
    log_format: str | None = Field(None, description="Format of a line, as Python's logging takes it.")
    log_date_format: str | None = Field(None, description="Format of the time, as strftime takes it.")
    host_log_dir: str = Field("/root/ascend/log", description="Directory of the host that holds the logs.")
    log_rotation_size: AtLeastOne = Field(20, description="MB after which a new file is begun.")
    log_rotation_count: Count = Field(10, description="Old files kept.")
    log_compress: bool = Field(False, description="Whether old files are compressed.")
    log_compress_level: Annotated[int, Field(ge=0, le=9)] = Field(6, description="gzip level.")
    log_max_total_size: AtLeastOne = Field(200, description="MB kept in all.")
    log_cleanup_interval: Seconds = Field(1800, description="Seconds between clean-ups.")
    log_file: Any = no_effect("log files lie in host_log_dir, named by component", instead="host_log_dir")


class StandbyConfig(Section):
    """Two of a component, one of them the leader."""

    enable_master_standby: bool = Field(False, description="Whether a second one stands by.")
    master_standby_check_interval: Seconds = Field(5, description="Seconds between looks at the lease.")
    master_lock_ttl: Seconds = Field(10, description="Seconds after which a silent leader is replaced.")
    master_lock_retry_interval: Seconds = Field(5, description="Seconds between tries to become leader.")
    master_lock_max_failures: AtLeastOne = Field(3, description="Failed renewals after which a leader resigns.")
    master_lock_key: Annotated[str, Field(pattern="^/")] = Field("/master_lock", description="Name of the lock.")


class EtcdConfig(Section):
    """Where etcd is, for locks and state."""

    etcd_host: str = Field("etcd.default.svc.cluster.local", description="Host of etcd.")
    etcd_port: Port = Field(2379, description="Port of etcd.")
    etcd_timeout: Seconds = Field(5, description="Seconds that one call may take.")
    enable_etcd_persistence: bool = Field(False, description="Whether state is kept in etcd.")
    etcd_ca_cert: Any = no_effect("etcd's files are in $.motor_deploy_config.tls_config.etcd_tls_config")
    etcd_cert_key: Any = no_effect("etcd's files are in $.motor_deploy_config.tls_config.etcd_tls_config")
    etcd_cert_cert: Any = no_effect("etcd's files are in $.motor_deploy_config.tls_config.etcd_tls_config")
