"""show_log.sh: the log of each run of each pod in its own file, of pods that come and go."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_played import Cluster
from objects_made import separate

from pymotor.deployer.log_files import RotatingFile
from pymotor.deployer.log_settings import LogSettingsError, read_log_settings

DEPLOYER = Path(__file__).parents[3] / "examples" / "deployer"
NODE = "node01"


class Shown:
    """A copy of the scripts beside a cluster, and the followers that were started."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.home = cluster.directory / "examples" / "deployer"
        shutil.copytree(DEPLOYER, self.home, ignore=shutil.ignore_patterns("log", "output_yamls"))
        self.processes: list[int] = []

    def show(self, *words: str) -> Path:
        """Run the script; the directory that it names."""
        ended = subprocess.run(
            ["bash", self.home / "show_log.sh", "--poll", "0.05", *words],
            env={**self.cluster.environment, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        found = re.fullmatch(r"logs are written to (\S+) by process (\d+)\n", ended.stdout)
        assert found is not None, ended.stdout
        self.processes.append(int(found[2]))
        return Path(found[1])

    def configure(self, text: str) -> None:
        (self.home / "log_collect" / "log_config.ini").write_text(text)


@pytest.fixture
def shown(cluster: Cluster) -> Iterator[Shown]:
    assert cluster.deploy(separate(decode=1)) == 0
    (cluster.directory / "logs").mkdir()
    scripts = Shown(cluster)
    scripts.configure("[LogSetting]\nname_sapce = mindie-motor\n")
    yield scripts
    for process in scripts.processes:
        try:
            os.kill(process, signal.SIGTERM)
        except ProcessLookupError:
            continue
        until(lambda process=process: not is_running(process))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def text_of(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_a_file_for_each_run_of_each_pod(shown: Shown) -> None:
    logs = shown.cluster.directory / "logs"
    (logs / "vllm-d0-0.0").write_text("first line\n")
    directory = shown.show()
    assert directory.parent == shown.home / "log_collect" / "log"
    assert re.fullmatch(r"\d{8}_\d{6}", directory.name)
    until(lambda: text_of(directory / f"vllm-d0-0_{NODE}_0.log") == "first line\n")
    assert (directory / f"mindie-motor-controller-0_{NODE}_0.log").exists()

    with (logs / "vllm-d0-0.0").open("a") as file:
        file.write("second line\n")
    until(lambda: text_of(directory / f"vllm-d0-0_{NODE}_0.log").endswith("second line\n"))

    (logs / "vllm-d0-0.1").write_text("after a restart\n")
    pod = shown.cluster.objects("Pod")["vllm-d0-0"]
    pod["status"]["containerStatuses"][0]["restartCount"] = 1
    (logs / "vllm-d0-0.0.ended").touch()
    shown.cluster.add(pod)
    until(lambda: text_of(directory / f"vllm-d0-0_{NODE}_1.log") == "after a restart\n")

    (logs / "vllm-d1-0.0").write_text("a new pod\n")
    assert shown.cluster.deploy(separate(decode=2), update_instance_num=True) == 0
    until(lambda: text_of(directory / f"vllm-d1-0_{NODE}_0.log") == "a new pod\n")
    assert text_of(directory / f"vllm-d0-0_{NODE}_0.log") == "first line\nsecond line\n"


def test_no_cluster_answers(shown: Shown) -> None:
    shown.cluster.play("pods", "The connection to the server localhost:8080 was refused", times=100)
    ended = subprocess.run(
        ["bash", shown.home / "show_log.sh"],
        env={**shown.cluster.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "KUBECONFIG" in ended.stderr
    assert not (shown.home / "log_collect" / "log").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [(), ("--help",)], ids=["logs", "help"])
def test_where_it_cannot_say_where_the_logs_are(shown: Shown, words: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            ["bash", shown.home / "show_log.sh", "--poll", "0.05", *words],
            env={**shown.cluster.environment, "PYTHON": sys.executable, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    # Takes over from the follower that nobody was told of.
    shown.show()
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert ended.stderr.startswith("show_log.sh: ")
    assert "cannot be written: No space left on device; make room" in ended.stderr


def test_it_ends_when_no_pod_is_left(shown: Shown) -> None:
    shown.show("--quiet", "0.1")
    assert is_running(shown.processes[0])
    for name in ("vllm-d0", "mindie-motor-controller"):
        shown.cluster.kubectl().delete(shown.cluster.objects("Deployment")[name])
    until(lambda: not is_running(shown.processes[0]))


def test_one_follower_for_a_namespace(shown: Shown) -> None:
    first = shown.show()
    second = shown.show()
    assert first != second
    until(lambda: not is_running(shown.processes[0]))
    assert is_running(shown.processes[1])


def test_with_the_deploy(shown: Shown) -> None:
    shown.configure("[LogSetting]\nname_space =\n")
    os.environ["PATH"], old = shown.cluster.environment["PATH"], os.environ["PATH"]
    os.environ["FAKE_CLUSTER"] = shown.cluster.environment["FAKE_CLUSTER"]
    try:
        shutil.copytree(shown.home, shown.cluster.directory / "deployer")
        assert shown.cluster.deploy(separate(decode=1), auto_log_collect=True) == 0
    finally:
        os.environ["PATH"] = old
        del os.environ["FAKE_CLUSTER"]
    told = next(words for words in shown.cluster.said if words.startswith("logs are written to"))
    shown.processes.append(int(told.rpartition(" ")[2]))


@pytest.mark.parametrize("key", ["name_space", "name_sapce"])
def test_both_spellings(tmp_path: Path, key: str) -> None:
    file = tmp_path / "log_config.ini"
    file.write_text(f"[LogSetting]\n{key} = mindie-motor\nout_path = ../out\nmax_log_size = 5\nbackup_count = 0\n")
    settings = read_log_settings(file)
    assert settings.namespace == "mindie-motor"
    assert settings.out_path == tmp_path.parent / "out"
    assert (settings.max_log_size, settings.backup_count) == (5, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[LogSetting]\nname_space =\n", "name_space is ''"),
        ("[LogSetting]\nname_space = a\nname_sapce = b\n", "different namespaces: a, b"),
        ("[LogSetting]\nname_space = A;ls\n", "name_space is 'A;ls'"),
        ("[LogSetting]\nname_space = a\nmax_log_size = 0\n", "max_log_size is '0'"),
        ("[LogSetting]\nname_space = a\nbackup_count = x\n", "backup_count is 'x'"),
        ("name_space = a\n", "no ini file"),
        ("[Other]\n", "no section [LogSetting]"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "log_config.ini"
    file.write_text(text)
    with pytest.raises(LogSettingsError, match=re.escape(told)):
        read_log_settings(file)


@pytest.mark.parametrize("backups", [0, 2])
def test_files_do_not_grow_without_end(tmp_path: Path, backups: int) -> None:
    with RotatingFile(tmp_path / "a.log", 10, backups) as file:
        for number in range(6):
            file.write(f"line {number}\n".encode())
    texts = {file.name: file.read_text() for file in tmp_path.iterdir()}
    kept = {"a.log": "line 5\n", "a.log.1": "line 4\n", "a.log.2": "line 3\n"}
    assert texts == dict(list(kept.items())[: backups + 1])


def test_the_shipped_settings_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LogSettingsError, match="job_id"):
        read_log_settings(DEPLOYER / "log_collect" / "log_config.ini")
    assert read_log_settings(DEPLOYER / "log_collect" / "log_config.ini", "a").namespace == "a"
    assert json.dumps(read_log_settings(DEPLOYER / "log_collect" / "log_config.ini", "a").max_log_size) == "10000000"
