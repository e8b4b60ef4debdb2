"""A plane that speaks TLS: both ends of its connections go by the same keys of `tls_config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pymotor.control_plane.tls import ClientTLS, ServerTLS, TLSFiles, TLSKeys, tls_files


class PlaneKeys(TLSKeys, Protocol):
    """A plane's keys of `tls_config`, as both ends read them."""

    @property
    def client_auth(self) -> str:
        """Whether clients show a certificate: `required`, `optional` or `none`."""

    @property
    def peer_name(self) -> str:
        """What certificates of those that are dialled name."""


@dataclass(frozen=True)
class PlaneTLS:
    """The plane's files, and what its doors ask of clients."""

    files: TLSFiles
    client_auth: str
    peer_name: str = ""

    @classmethod
    def of(cls, keys: PlaneKeys, directory: Path) -> PlaneTLS | None:
        """By its keys, relative names under `directory` (that of user_config.json); None where TLS is off."""
        files = tls_files(keys, directory)
        return None if files is None else cls(files, keys.client_auth, keys.peer_name)

    @property
    def keeps_strangers_out(self) -> bool:
        """Whether nobody comes in without a certificate."""
        return self.client_auth == "required"

    def server(self) -> ServerTLS:
        """Of a door. Raises `TLSError`."""
        return ServerTLS(self.files, mutual=self.client_auth != "none", insist=self.keeps_strangers_out)

    def client(self) -> ClientTLS:
        """Of who asks at its doors. Raises `TLSError`."""
        return ClientTLS(self.files, peer_name=self.peer_name)
