"""Certificates of a fleet on this machine: which planes have theirs, tried before anything is started."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from pymotor.config import UserConfig
from pymotor.config.deploy import TLSBlock
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.tls import TLSError
from pymotor.local.request import LOOPBACK
from pymotor.local.state import FleetError

PLANES = ("infer_tls_config", "mgmt_tls_config", "observability_tls_config")
"""Those that a fleet speaks."""
_FILES = ("ca_file", "cert_file", "key_file", "passwd_file", "crl_file")
_NEEDED = ("ca_file", "cert_file", "key_file")
_TURNS = 4


def certified_planes(user: UserConfig) -> frozenset[str]:
    """The planes that are on and whose files are on this machine, by whole paths."""
    tls = user.motor_deploy_config.tls_config
    blocks: dict[str, TLSBlock] = {plane: getattr(tls, plane) for plane in PLANES}
    return frozenset(
        plane
        for plane, block in blocks.items()
        if block.enable_tls and all(Path(getattr(block, key)).is_file() for key in _NEEDED)
    )


def plane_tls(user: UserConfig, plane: str) -> PlaneTLS | None:
    """Of a configuration with whole paths; None where the plane speaks no TLS."""
    return PlaneTLS.of(getattr(user.motor_deploy_config.tls_config, plane), Path())


@dataclass(frozen=True)
class KnownPart:
    """How the watch knows a part of the fleet; see `ServerPlan.tls`."""

    plane: PlaneTLS

    @property
    def peer_name(self) -> str:
        """What its certificate names instead of its address."""
        return self.plane.peer_name

    def client(self) -> ssl.SSLContext:
        """For asking it. Raises `OSError`."""
        try:
            return self.plane.client().context()
        except TLSError as error:
            raise OSError(str(error)) from error


def check_certificates(user: UserConfig, planes: tuple[str, ...]) -> None:
    """Greet oneself with the certificates of these planes, as the fleet's parts will greet each other.

    Raises `FleetError` where they would not know each other: else everything would start and wait in vain.
    """
    for plane in planes:
        keys: TLSBlock = getattr(user.motor_deploy_config.tls_config, plane)
        found = PlaneTLS.of(keys, Path())
        if found is None:
            continue
        where = f"$.motor_deploy_config.tls_config.{plane}"
        try:
            _greet(found.server().context(), found.client().context(), found.peer_name or LOOPBACK)
        except TLSError as error:
            raise FleetError(f"{where}: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise FleetError(
                f"{where}: cert_file {found.files.cert_file} is not taken by a fleet on this machine: "
                f"{error.verify_message}. Its parts dial {LOOPBACK}: the authority of ca_file has to vouch for a "
                f"certificate with the subject alternative name IP:{LOOPBACK}, or with that of peer_name"
            ) from error
        except ssl.SSLError as error:
            raise FleetError(f"{where}: {found.files.cert_file} cannot be used: {error.reason}") from error


def _greet(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A handshake in memory, and a word after it: only then a client hears that its certificate is refused.

    Raises `ssl.SSLError`.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_TURNS):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
