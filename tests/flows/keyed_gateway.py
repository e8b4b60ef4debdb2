"""Gateways that ask for API keys, and clients that come from elsewhere."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import plain_http
from fleet_under_test import MODEL
from raw_client import SECONDS, RawConnection

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 4}
BODY = json.dumps(CHAT).encode()


class Keys:
    """A keys file, and the verb that changes it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.secrets: list[str] = []
        """All keys there ever were."""

    def create(self, name: str, *options: str) -> str:
        """A new key."""
        key: str = self._run("create", "--name", name, *options)["key"]
        self.secrets.append(key)
        return key

    def revoke(self, name: str) -> None:
        """It is not good any more."""
        self._run("revoke", name)

    def hash_of(self, name: str) -> str:
        """What is stored of a key."""
        keys = json.loads(self.file.read_text())["keys"]
        found: str = next(key["hash"] for key in keys if key["name"] == name)
        return found

    def _run(self, *words: str) -> Any:
        argv = [sys.executable, "-m", "pymotor", "api-key", words[0], "--keys-file", str(self.file), "--json"]
        done = subprocess.run([*argv, *words[1:]], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


def chat(url: str, key: str = "", **fields: Any) -> httpx.Response:
    """One request on a connection of its own, so that any worker may get it."""
    headers = bearer(key) if key else {}
    return plain_http.post(f"{url}/v1/chat/completions", json={**CHAT, **fields}, headers=headers, timeout=60)


def address_elsewhere() -> str | None:
    """An address of this machine that is not loopback; None where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: the kernel only says from where it would.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


class Stranger(RawConnection):
    """A connection to a port of 127.0.0.1 that comes from an address which is neither that nor loopback."""

    def __init__(self, port: int, address: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS, source_address=(address, 0))
        self._received = b""
