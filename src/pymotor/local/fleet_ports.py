"""Where the servers of a fleet on this machine listen, engines apart."""

from __future__ import annotations

from dataclasses import dataclass

from pymotor.config import UserConfig
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import http_url
from pymotor.engines.port_claims import PortClaims
from pymotor.local.certificates import KnownPart, plane_tls
from pymotor.local.request import DEFAULT_PORT, LOOPBACK
from pymotor.local.state import FleetError


@dataclass(frozen=True)
class FleetPorts:
    """Where the Coordinator listens (inference, management and observability), and the Controller, one after the
    other."""

    inference: int
    host: str = LOOPBACK
    """Where the Coordinator listens, as far as its three ports go; all others stay on loopback."""
    conductor: int | None = None
    """Of the KV Conductor, where there is one."""
    management_tls: PlaneTLS | None = None
    """Of Coordinator, Controller and KV Conductor; None: plain HTTP."""
    observability_tls: PlaneTLS | None = None
    """Of the Coordinator's metrics."""
    secure: bool = False
    """Whether clients speak TLS."""

    @property
    def management(self) -> int:
        """The port after the first."""
        return self.inference + 1

    @property
    def observability(self) -> int:
        """The port after that."""
        return self.inference + 2

    @property
    def controller(self) -> int:
        """The port after that."""
        return self.inference + 3

    @property
    def known(self) -> KnownPart | None:
        """How Controller, Coordinator and KV Conductor are known; None: they speak plain HTTP."""
        return None if self.management_tls is None else KnownPart(self.management_tls)

    def url(self, port: int) -> str:
        """The URL of one of them."""
        if port == self.inference:
            return http_url(LOOPBACK, port, secure=self.secure)
        plane = self.observability_tls if port == self.observability else self.management_tls
        return http_url(LOOPBACK, port, secure=plane is not None)


def fleet_ports(user: UserConfig, first: int, host: str) -> FleetPorts:
    """The ports of a fleet whose clients ask at `first`. Its KV Conductor has the configured port, but with another
    first port than usual the one after the Controller's: then it may be a second fleet."""
    conductor, port = user.kv_conductor_config, None
    if conductor is not None and conductor.http_server_port:
        port = conductor.http_server_port if first == DEFAULT_PORT else first + 4
    management, observability = (plane_tls(user, plane) for plane in ("mgmt_tls_config", "observability_tls_config"))
    secure = user.motor_deploy_config.tls_config.infer_tls_config.enable_tls
    return FleetPorts(first, host, port, management, observability, secure)


def claim_fleet_ports(ports: FleetPorts, claims: PortClaims) -> None:
    """Take all of them. Raises `FleetError` when one is not to be had."""
    own = (ports.inference, ports.management, ports.observability, ports.controller)
    if ports.conductor in own:
        servers = ("the Coordinator's clients", "its management", "its metrics", "the Controller")
        whose = servers[own.index(ports.conductor)]
        raise FleetError(
            f"kv_conductor_config.http_server_port is {ports.conductor}, and so is the port for {whose}: --port "
            f"{ports.inference} takes {ports.inference} to {ports.controller}. Choose another port for one of them."
        )
    if ports.conductor is not None and not claims.claim(LOOPBACK, ports.conductor):
        raise FleetError(
            f"port {ports.conductor} of the KV Conductor is in use. Stop what listens there, or change "
            "kv_conductor_config.http_server_port; with another --port than the usual one it is N+4."
        )
    for port in own:
        if not claims.claim(LOOPBACK, port):
            raise FleetError(
                f"port {port} is in use. Stop what listens there (`pymotor down`, if it is a fleet of yours), or "
                f"choose four other ports with --port N (N to N+3)."
            )
