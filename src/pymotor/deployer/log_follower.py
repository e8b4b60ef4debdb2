"""Follows the logs of all pods of a namespace, of those that come later too, until none is left."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.kubectl_errors import KubectlError
from pymotor.deployer.log_files import RotatingFile, file_name
from pymotor.deployer.log_settings import LogSettings
from pymotor.deployer.naming import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PodRun:
    """A pod between two restarts of a container."""

    uid: str
    pod: str
    node: str
    retry: int

    @classmethod
    def of(cls, pod: Manifest) -> PodRun | None:
        """The run that has a log now; None where no container has started yet."""
        statuses = (pod.get("status") or {}).get("containerStatuses") or []
        if not any({"running", "terminated"} & (status.get("state") or {}).keys() for status in statuses):
            return None
        metadata = pod["metadata"]
        restarts = sum(int(status.get("restartCount") or 0) for status in statuses)
        node = str(pod.get("spec", {}).get("nodeName") or "")
        return cls(str(metadata.get("uid", "")), str(metadata["name"]), node, restarts)


class LogFollower:
    """One `kubectl logs -f` for each run of each pod, each into a file of its own."""

    def __init__(
        self,
        kubectl: Kubectl,
        settings: LogSettings,
        directory: Path,
        *,
        poll_seconds: float = 5.0,
        quiet_seconds: float = 30.0,
    ) -> None:
        """`quiet_seconds`: how long there may be no pod before it ends."""
        self._kubectl = kubectl
        self._settings = settings
        self._directory = directory
        self._poll_seconds = poll_seconds
        self._quiet_seconds = quiet_seconds
        self._streams: dict[PodRun, threading.Thread] = {}
        self._ended: set[PodRun] = set()
        self._processes: dict[PodRun, subprocess.Popen[str]] = {}
        # A stream that starts while it ends would be ended by nobody.
        self._lock = threading.Lock()
        self._ending = False

    def follow(self, stopped: threading.Event, tell: Callable[[str], None]) -> None:
        """Until `stopped`, or no pod was there for a while. All streams have ended when it returns."""
        last_seen = time.monotonic()
        try:
            while not stopped.is_set():
                try:
                    pods = self._kubectl.listed(["pods"])
                except KubectlError as error:
                    # A cluster that cannot be asked says nothing of its pods; those that are followed go on.
                    tell(str(error))
                    last_seen = time.monotonic()
                else:
                    if pods:
                        last_seen = time.monotonic()
                    self._attend(pods, tell)
                    if not pods and time.monotonic() - last_seen >= self._quiet_seconds:
                        tell(f"no pod was there for {self._quiet_seconds:g} s: nothing to follow any more")
                        return
                stopped.wait(self._poll_seconds)
        finally:
            with self._lock:
                self._ending = True
                for process in self._processes.values():
                    process.terminate()
            for thread in self._streams.values():
                thread.join()

    def _attend(self, pods: list[Manifest], tell: Callable[[str], None]) -> None:
        for pod in pods:
            run = PodRun.of(pod)
            if run is None or run in self._ended:
                continue
            thread = self._streams.get(run)
            if thread is not None and thread.is_alive():
                continue
            if thread is not None and not _is_running(pod):
                # Its stream ended because the container did.
                self._ended.add(run)
                continue
            again = thread is not None
            if not again:
                tell(f"following {file_name(run.pod, run.node, run.retry)}")
            self._streams[run] = threading.Thread(target=self._stream, args=(run, again), name=run.pod, daemon=True)
            self._streams[run].start()

    def _stream(self, run: PodRun, again: bool) -> None:
        words = ["logs", "-f", run.pod, "-n", self._settings.namespace, "--all-containers=true"]
        if again:
            # The connection broke while the container runs on: what is in the file is not asked for once more.
            words.append(f"--since={max(1, int(self._poll_seconds) + 1)}s")
        path = self._directory / file_name(run.pod, run.node, run.retry)
        try:
            with (
                RotatingFile(path, self._settings.max_log_size, self._settings.backup_count) as file,
                self._kubectl.started(f"follow the log of {run.pod}", *words) as process,
            ):
                with self._lock:
                    if self._ending:
                        return
                    self._processes[run] = process
                try:
                    for line in process.stdout or ():
                        file.write(line.encode("utf-8", "replace"))
                finally:
                    with self._lock:
                        del self._processes[run]
        except (OSError, KubectlError) as error:
            logger.warning("the log of %s cannot be followed: %s", run.pod, error)


def _is_running(pod: Manifest) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any("running" in (status.get("state") or {}) for status in statuses)
