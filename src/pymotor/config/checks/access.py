"""Who may call, and by which certificates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pymotor.config.deploy import TLSBlock
from pymotor.config.problems import Problem
from pymotor.config.user import UserConfig

TLS = "$.motor_deploy_config.tls_config"
COORDINATOR = "$.motor_coordinator_config"
_HASHED_KEY = re.compile(r"[^:\s]{1,256}:[1-9]\d{0,6}:[0-9a-fA-F]{64}")


def api_keys(user: UserConfig, file: str) -> Iterator[Problem]:
    """Keys asked for must exist, and be hashes."""
    keys = user.motor_coordinator_config.api_key_config
    path = f"{COORDINATOR}.api_key_config.valid_keys"
    if keys.enable_api_key and not keys.valid_keys and not keys.keys_file:
        yield Problem.error(
            file,
            path,
            "empty while enable_api_key is true: no request could pass",
            allowed="a list of hashes, salt:iterations:hash",
            suggestion="name a keys_file (`pymotor api-key create`), or write false for enable_api_key",
        )
    for index, key in enumerate(keys.valid_keys):
        if not _HASHED_KEY.fullmatch(key):
            # With keys on, nobody could get in by it.
            problem = Problem.error if keys.enable_api_key else Problem.warning
            yield problem(
                file,
                f"{path}[{index}]",
                "this looks like a plain key, not a hash: whoever reads this file can use it",
                value=key,
                allowed="salt:iterations:hash, with a hash of 64 hexadecimal digits",
            )


def cross_origin(user: UserConfig, file: str) -> Iterator[Problem]:
    """Browsers refuse credentials for any origin at all."""
    cors = user.motor_coordinator_config.http_config.cors
    if cors.allow_credentials and "*" in cors.allow_origins:
        yield Problem.error(
            file,
            f"{COORDINATOR}.http_config.cors.allow_origins",
            '"*" cannot stand beside allow_credentials: true, browsers refuse it',
            value=cors.allow_origins,
            suggestion="name the origins",
        )


def rate_limit(user: UserConfig, file: str) -> Iterator[Problem]:
    """The olc provider has its own configuration."""
    limit = user.motor_coordinator_config.rate_limit_config
    if limit.enable_rate_limit and limit.provider == "olc" and not limit.olc_config_path:
        yield Problem.error(
            file,
            f"{COORDINATOR}.rate_limit_config.olc_config_path",
            "empty while provider is olc",
            value=limit.olc_config_path,
            allowed="a directory",
        )


def tls_files(user: UserConfig, file: str, directory: Path) -> Iterator[Problem]:
    """Files of planes that speak TLS; they may exist only in the pod, so their absence here is a warning."""
    tls = user.motor_deploy_config.tls_config
    for plane in type(tls).model_fields:
        block = getattr(tls, plane)
        if not isinstance(block, TLSBlock) or not block.enable_tls:
            continue
        for key in ("ca_file", "cert_file", "key_file", "passwd_file", "crl_file"):
            name: str = getattr(block, key)
            # That one is named by default, and needed only where the key has a password.
            if key == "passwd_file" and key not in block.model_fields_set:
                continue
            if name and not _is_file(directory / name):
                yield Problem.warning(
                    file,
                    f"{TLS}.{plane}.{key}",
                    "this machine has no such file; it must be there where PyMotor runs",
                    value=name,
                    suggestion="check the path" if key != "passwd_file" else 'check the path; "" for no password',
                )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
