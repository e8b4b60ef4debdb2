"""Secrets: the cluster's token, and certificates whose files are on this machine."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

from pymotor.config import UserConfig
from pymotor.deployer.naming import CREATE_ONLY, TOKEN_KEY, TOKEN_SECRET, Manifest, Naming
from pymotor.deployer.options import RenderOptions
from pymotor.deployer.tls import enabled_planes, secret_of


def secrets(user: UserConfig, naming: Naming, options: RenderOptions) -> Iterator[Manifest]:
    """The Secrets that are made here. The token is created where there is none and kept where there is one."""
    if options.cluster_token is not None:
        token = _secret(naming, TOKEN_SECRET, {TOKEN_KEY: options.cluster_token.encode()})
        token["metadata"]["annotations"] = {CREATE_ONLY: "true"}
        yield token
    for plane in enabled_planes(user):
        if plane in options.tls_files:
            yield _secret(naming, secret_of(user, plane), options.tls_files[plane])


def _secret(naming: Naming, name: str, data: Mapping[str, bytes]) -> Manifest:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    metadata = naming.metadata(name, "all")
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}
