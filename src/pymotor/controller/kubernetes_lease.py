"""A lease in Kubernetes: coordination.k8s.io/v1 Lease, with resourceVersion for compare-and-swap."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

from pymotor.controller.lease import LeaseError, LeaseRecord

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NUMBERS = "pymotor/instance-numbers"
_URL = "pymotor/leader-url"
_TIMEOUT_SECONDS = 5.0


class KubernetesLease:
    """One Lease object. The service account needs get, create and update on leases of its namespace."""

    def __init__(self, api: str, namespace: str, name: str, *, token_file: Path, ca_file: Path | None) -> None:
        """`api`: the URL of the API server. `ca_file`: None where it is plain HTTP."""
        self._url = f"{api}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._token_file = token_file
        verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file is not None else False
        self._client = httpx.AsyncClient(verify=verify, timeout=_TIMEOUT_SECONDS, trust_env=False)

    @classmethod
    def in_cluster(cls, lock_key: str, variables: Mapping[str, str] = os.environ) -> KubernetesLease:
        """That of the pod's own namespace, named after the lock key. Raises `LeaseError` outside of a cluster."""
        host, port = variables.get("KUBERNETES_SERVICE_HOST", ""), variables.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise LeaseError("--lease kubernetes works in a pod only: KUBERNETES_SERVICE_HOST is not set")
        try:
            namespace = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            name = "pymotor-controller-" + (re.sub(r"[^a-z0-9]+", "-", lock_key.lower()).strip("-") or "lock")
            address = f"[{host}]" if ":" in host else host
            return cls(
                f"https://{address}:{port}",
                namespace,
                name,
                token_file=_ACCOUNT / "token",
                ca_file=_ACCOUNT / "ca.crt",
            )
        except OSError as error:
            raise LeaseError(f"the pod's service account cannot be read: {error}") from error

    async def read(self) -> tuple[LeaseRecord | None, str]:
        """See `Lease.read`."""
        response = await self._call("GET", f"{self._url}/{self._name}")
        if response.status_code == 404:
            return None, ""
        return _record(self._checked(response))

    async def swap(self, record: LeaseRecord, version: str) -> str | None:
        """See `Lease.swap`."""
        if version:
            response = await self._call("PUT", f"{self._url}/{self._name}", self._object(record, version))
        else:
            response = await self._call("POST", self._url, self._object(record, version))
        if response.status_code == 409:
            return None
        return _record(self._checked(response))[1]

    def holder_is_dead(self, record: LeaseRecord) -> bool:
        """See `Lease.holder_is_dead`: from another pod it is never certain, unless it says so."""
        return not record.holder

    def identify(self, record: LeaseRecord) -> LeaseRecord:
        """See `Lease.identify`."""
        return record

    def _object(self, record: LeaseRecord, version: str) -> dict[str, Any]:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, Any] = {
            "name": self._name,
            "namespace": self._namespace,
            "annotations": {_NUMBERS: json.dumps(record.numbers, sort_keys=True), _URL: record.url},
        }
        if version:
            metadata["resourceVersion"] = version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": max(1, round(record.duration)),
                "renewTime": now,
                "leaseTransitions": record.epoch,
            },
        }

    async def _call(self, method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            # Read each time: the kubelet renews the file.
            token = self._token_file.read_text(encoding="utf-8").strip()
            return await self._client.request(method, url, json=body, headers={"Authorization": f"Bearer {token}"})
        except (OSError, httpx.HTTPError) as error:
            raise LeaseError(f"the lease {self._name} cannot be reached: {error!r}") from error

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError:
            content = None
        if response.is_success and isinstance(content, dict):
            return content
        said = content.get("message", "") if isinstance(content, dict) else ""
        words = f"the lease {self._name} of {self._namespace}: HTTP {response.status_code} {said}".rstrip()
        if response.status_code == 403:
            words += "; the service account needs get, create and update on leases"
        raise LeaseError(words)


def _record(content: dict[str, Any]) -> tuple[LeaseRecord, str]:
    try:
        metadata, spec = content["metadata"], content.get("spec") or {}
        notes = metadata.get("annotations") or {}
        numbers = json.loads(notes.get(_NUMBERS, "{}"))
        record = LeaseRecord(
            holder=spec.get("holderIdentity") or "",
            epoch=int(spec.get("leaseTransitions") or 0),
            duration=float(spec.get("leaseDurationSeconds") or 10),
            renewals=str(spec.get("renewTime") or ""),
            url=str(notes.get(_URL, "")),
            numbers={str(role): int(number) for role, number in numbers.items()},
        )
        return record, str(metadata["resourceVersion"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LeaseError(f"the Lease object cannot be read: {error!r}") from error
