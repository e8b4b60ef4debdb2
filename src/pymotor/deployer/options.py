"""What a rendering needs to know beyond the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONFIG_DIRECTORY = "/etc/pymotor/config"
"""Where `motor-config` is in pods: CONFIG_PATH. Not under /mnt, which may be a directory of the host."""

TOKEN_DIRECTORY = "/etc/pymotor/token"  # noqa: S105  a directory
IMAGE_BOOT_SCRIPT = "/tmp/motor/examples/deployer/startup/boot.sh"  # noqa: S108  a place in the image
"""Where the image has `boot.sh`."""


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """All that is not in the two configuration files."""

    boot_script: str | None = None
    """The text of `boot.sh`; None: pods start with the image's own."""
    cluster_token: str | None = None
    """For a Secret that is made where there is none; None: no Secret among the objects."""
    tls_files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    """Certificates by plane (`infer_tls_config`) and key of the Secret (`tls.crt`), where files are here."""
