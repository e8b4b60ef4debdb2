"""Runs kubectl: argument vectors, never a shell; objects go in and come out as JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pymotor.deployer.kubectl_errors import KubectlError, KubectlMissingError, NotThereError, TimedOutError, error_of
from pymotor.deployer.naming import Manifest

FIELD_MANAGER = "pymotor"
_NONE_LEFT_SECONDS = 15.0
_SECONDS_FOR_EACH = 5.0


@dataclass(frozen=True)
class Ran:
    """What kubectl printed, and its exit status."""

    status: int
    out: str
    said: str


class Kubectl:
    """kubectl with the kubeconfig of the environment, for one namespace."""

    def __init__(
        self,
        namespace: str,
        *,
        program: str = "kubectl",
        timeout: float = 60.0,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`timeout`: seconds that one call may take, of which the API server gets a little less."""
        self.namespace = namespace
        self._program = program
        self._timeout = timeout
        self._environment = dict(environment)

    def run(
        self,
        doing: str,
        *words: str,
        text: str | None = None,
        timeout: float | None = None,
        good: Sequence[int] = (0,),
        objects: int = 1,
    ) -> Ran:
        """Run it to its end. `doing` says in errors what was tried; `good` are exit statuses that are no failure;
        a call for several `objects` has more time.

        Raises `KubectlError`, or one of its kinds.
        """
        limit = self._timeout + _SECONDS_FOR_EACH * (objects - 1) if timeout is None else timeout
        argv = [self._program, *words]
        if timeout is None:
            # By itself kubectl waits for an API server that is silent as long as the system's TCP does. It comes
            # before a `--`, after which words are a pod's.
            argv.insert(1, f"--request-timeout={max(1, int(self._timeout) - 2)}s")
        try:
            ended = subprocess.run(
                argv,
                input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=limit,
                env=self._environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOutError(doing, f"kubectl did not end within {limit:g} s") from error
        except FileNotFoundError as error:
            raise KubectlMissingError(doing, f"{self._program} is not found") from error
        except OSError as error:
            raise KubectlMissingError(doing, f"{self._program} cannot be started: {error}") from error
        if ended.returncode not in good:
            raise error_of(doing, ended.stderr or ended.stdout)
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    @contextmanager
    def started(self, doing: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """kubectl that keeps running, both outputs as pipes; ended when the context is left.

        Raises `KubectlMissingError`.
        """
        try:
            process = subprocess.Popen(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=self._environment,
            )
        except OSError as error:
            raise KubectlMissingError(doing, f"{self._program} cannot be started: {error}") from error
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_NONE_LEFT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def get(self, kind: str, name: str, *, namespaced: bool = True) -> Manifest | None:
        """One object, or None. Raises `KubectlError`."""
        try:
            ran = self.run(f"get {kind} {name}", "get", kind, name, "-o", "json", *self._where(namespaced))
        except NotThereError:
            return None
        return self._parsed(f"get {kind} {name}", ran.out)

    def live(self, manifest: Manifest) -> Manifest | None:
        """The object of the same kind and name as it is in the cluster, or None. Raises `KubectlError`."""
        doing = f"get {named(manifest)}"
        words = ("get", kind_with_group(manifest), str(manifest["metadata"]["name"]), "-o", "json")
        try:
            return self._parsed(doing, self.run(doing, *words, *self._where_of(manifest)).out)
        except NotThereError:
            return None

    def listed(
        self, kinds: Sequence[str], *, selector: str = "", namespaced: bool = True, everywhere: bool = False
    ) -> list[Manifest]:
        """All objects of these kinds that the selector takes; `everywhere`: of all namespaces.

        Raises `KubectlError`.
        """
        where = ("--all-namespaces",) if everywhere else self._where(namespaced)
        words = ["get", ",".join(kinds), "-o", "json", *where]
        if selector:
            words += ["-l", selector]
        doing = f"list {', '.join(kinds)}"
        items = self._parsed(doing, self.run(doing, *words).out).get("items")
        return items if isinstance(items, list) else []

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> str:
        """Server-side apply of one object; what kubectl printed. Raises `KubectlError`.

        On the server's side, because then a field that is misspelt is refused, also in custom resources. With
        `dry_run` the API server does all but store it.
        """
        ran = self.run(
            f"apply {named(manifest)}",
            *("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-"),
            *(("--dry-run=server",) if dry_run else ()),
            *self._where_of(manifest),
            text=json.dumps(manifest),
        )
        return ran.out.strip()

    def apply_all(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> str:
        """Server-side apply of several objects by few calls; what kubectl printed.

        kubectl goes on after an object that is refused, and then fails as a whole. Raises `KubectlError`.
        """
        printed = ""
        # One call has one namespace; objects of the cluster as a whole go with any.
        for namespace in sorted({namespace_of(manifest) or self.namespace for manifest in manifests}):
            items = [one for one in manifests if (namespace_of(one) or self.namespace) == namespace]
            printed += self.run(
                f"apply {len(items)} objects in {namespace}",
                *("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-"),
                *(("--dry-run=server",) if dry_run else ()),
                *("-n", namespace),
                text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
                objects=len(items),
            ).out
        return printed.strip()

    def create(self, manifest: Manifest) -> None:
        """Create one object. Raises `AlreadyThereError` where it is, `KubectlError`."""
        self.run(
            f"create {named(manifest)}",
            *("create", f"--field-manager={FIELD_MANAGER}", "-f", "-"),
            *self._where_of(manifest),
            text=json.dumps(manifest),
        )

    def diff(self, manifest: Manifest) -> str:
        """What applying the object would change in the cluster, as `diff` tells it; empty: nothing.

        Raises `KubectlError`.
        """
        ran = self.run(
            f"compare {named(manifest)}",
            *("diff", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-"),
            *self._where_of(manifest),
            text=json.dumps(manifest),
            good=(0, 1),
        )
        if ran.status == 1 and not ran.out:
            # Status 1 is that of a difference, but also of some failures.
            raise error_of(f"compare {named(manifest)}", ran.said)
        return ran.out

    def delete(self, manifest: Manifest) -> None:
        """Ask for the end of an object; not to be there is good. Raises `KubectlError`."""
        self.run(
            f"delete {named(manifest)}",
            *("delete", kind_with_group(manifest), str(manifest["metadata"]["name"])),
            *("--ignore-not-found", "--wait=false"),
            *self._where_of(manifest),
        )

    def execute(self, pod: str, container: str, *words: str, timeout: float) -> str:
        """Run a command in a pod; its standard output. `container` may be empty. Raises `KubectlError`."""
        chosen = ["-c", container] if container else []
        return self.run(
            f"run {' '.join(words)} in {pod}",
            *("exec", "-n", self.namespace, pod, *chosen, "--", *words),
            timeout=timeout,
        ).out

    def _where_of(self, manifest: Manifest) -> tuple[str, ...]:
        """A few objects, as rights to read what others write, belong into a namespace of others."""
        return ("-n", namespace_of(manifest) or self.namespace) if is_namespaced(manifest) else ()

    def _where(self, namespaced: bool) -> tuple[str, ...]:
        return ("-n", self.namespace) if namespaced else ()

    @staticmethod
    def _parsed(doing: str, out: str) -> dict[str, Any]:
        try:
            content = json.loads(out)
        except ValueError as error:
            raise KubectlError(doing, f"kubectl printed no JSON: {out[:200]!r}") from error
        if not isinstance(content, dict):
            raise KubectlError(doing, f"kubectl printed no object: {out[:200]!r}")
        return content


CLUSTER_KINDS = frozenset(
    {"Namespace", "ClusterRole", "ClusterRoleBinding", "PersistentVolume", "PriorityClass", "StorageClass"}
)


def is_namespaced(manifest: Manifest) -> bool:
    """Whether an object of this kind lives in a namespace."""
    return manifest.get("kind") not in CLUSTER_KINDS


def namespace_of(manifest: Manifest) -> str:
    """The namespace that the object itself names; empty: none."""
    return str(manifest.get("metadata", {}).get("namespace") or "")


def named(manifest: Manifest) -> str:
    """`Deployment vllm-p0`, for people."""
    return f"{manifest.get('kind', '?')} {manifest.get('metadata', {}).get('name', '?')}"


def kind_with_group(manifest: Manifest) -> str:
    """The kind as kubectl takes it without doubt: `deployment.apps`, `configmap`."""
    group = str(manifest.get("apiVersion", "")).rpartition("/")[0]
    kind = str(manifest["kind"]).lower()
    return f"{kind}.{group}" if group else kind
