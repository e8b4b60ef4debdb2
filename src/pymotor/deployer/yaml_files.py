"""The objects as YAML files in `output_yamls/`, for people to read and to apply by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from pymotor.deployer.naming import ENGINE_ROLES, INSTANCE_LABEL, NUMBER_LABEL, PART_LABEL, Manifest

SET_FILE = "infer_service.yaml"
CONFIG_FILE = "motor_config.yaml"
ACCOUNTS_FILE = "service_accounts.yaml"
_HEADER = "# Written by deploy.py; what is to be otherwise goes into yaml_template/.\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks; no anchors, which some readers of these files do not know."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  as PyYAML calls it
        """Write everything out."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def write_yaml(manifests: Iterable[Manifest], directory: Path) -> list[Path]:
    """Write the objects, several to a file; returns the files, in the order in which to apply them.

    The directory holds one deployment. What another namespace's wrote there before moves to a directory of its name
    beside the files, and what an earlier run of the same namespace wrote and is no more goes. Secrets are not
    written. Raises OSError.
    """
    files: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        if manifest["kind"] != "Secret":
            files.setdefault(file_name(manifest), []).append(manifest)
    directory.mkdir(parents=True, exist_ok=True)
    namespace = next((owner for parts in files.values() for owner in map(owner_of, parts) if owner), "")
    _make_room(directory, namespace)
    paths = []
    for name, parts in files.items():
        path = directory / name
        path.write_text(_HEADER + to_yaml(parts), encoding="utf-8")
        paths.append(path)
    return paths


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """The objects as documents of one YAML text."""
    return yaml.dump_all(
        manifests, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110
    )


def file_name(manifest: Manifest) -> str:
    """The file that an object belongs to."""
    kind, labels = manifest["kind"], manifest["metadata"].get("labels", {})
    part = labels.get(PART_LABEL, "")
    if kind == "InferServiceSet":
        return SET_FILE
    if kind == "ConfigMap":
        return CONFIG_FILE
    if kind == "ServiceAccount" or kind.startswith(("Role", "ClusterRole")):
        return ACCOUNTS_FILE
    if kind == "PodDisruptionBudget":
        return "disruption_budgets.yaml"
    if part in ENGINE_ROLES and NUMBER_LABEL in labels:
        return f"{manifest['metadata']['name'].replace('-', '_')}.yaml"
    return f"{part.replace('-', '_')}.yaml"


def owner_of(manifest: Manifest) -> str:
    """The namespace of the deployment that an object belongs to; empty when it does not say."""
    labels = (manifest.get("metadata") or {}).get("labels") or {}
    return str(labels.get(INSTANCE_LABEL, ""))


def written_for(directory: Path) -> str:
    """The namespace of the deployment whose files are in a directory; empty where there are none.

    Raises OSError or yaml.YAMLError when a file cannot be read.
    """
    for path in sorted(directory.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(manifest, dict) and owner_of(manifest):
                return owner_of(manifest)
    return ""


def directory_of(output: Path, namespace: str) -> Path | None:
    """Where the files of a namespace's deployment are; None where there are none. Raises as `written_for`."""
    if written_for(output) == namespace:
        return output
    return output / namespace if (output / namespace).is_dir() else None


def _make_room(directory: Path, namespace: str) -> None:
    before = sorted(directory.glob("*.yaml"))
    owner = written_for(directory)
    if owner and owner != namespace:
        aside = directory / owner
        aside.mkdir(exist_ok=True)
        for path in [*aside.glob("*.yaml")]:
            path.unlink()
        for path in before:
            path.rename(aside / path.name)
        before = []
    for path in before:
        path.unlink()
    mine = directory / namespace
    if namespace and mine.is_dir():
        for path in mine.glob("*.yaml"):
            path.unlink()
        if not any(mine.iterdir()):
            mine.rmdir()
