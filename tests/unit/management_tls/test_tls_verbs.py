"""Operators' verbs before a part that speaks TLS: what they find, what they say, what they never do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import OPENSSL, make_ca, make_certificate
from free_ports import free_port

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

TOKEN = "a-token-for-these-tests-only"
CONFIG = """{
  "motor_deploy_config": {
    "hybrid_instances_num": 1, "hardware_type": "cpu",
    "tls_config": {"mgmt_tls_config": {
      "enable_tls": true, "ca_file": "ca.crt", "cert_file": "server.crt", "key_file": "server.key", "passwd_file": ""
    }}
  },
  "motor_engine_union_config": {"engine_type": "sim", "engine_config": {"model": "m"}},
  "motor_controller_config": {"instance_config": {"listen_seconds": 0.2}}
}"""


class Place:
    """A Controller that speaks TLS, and the files of an operator elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = make_ca(directory / "authority")
        shutil.copy(self.authority.ca_file, directory / "ca.crt")
        make_certificate(self.authority, directory, "server")
        make_certificate(self.authority, directory, "operator")
        (directory / "user_config.json").write_text(CONFIG)
        self.other = make_ca(directory / "other", "another authority")
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[str]:
        words = ["controller", "--user_config_path", str(self.directory / "user_config.json"), "--port", str(self.port)]
        return subprocess.Popen(
            [sys.executable, "-m", "pymotor", *words, "--state-dir", str(self.directory / "state")],
            env={**os.environ, "PYMOTOR_CLUSTER_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            stderr=(self.directory / "log").open("w"),
            text=True,
        )

    def run(self, *words: str, shows: str = "operator", ca: Path | None = None, token: str = "") -> tuple[int, str]:
        files = ["--ca-file", str(ca or self.directory / "ca.crt")]
        if shows:
            files += [f"--cert-file={self.directory}/{shows}.crt", f"--key-file={self.directory}/{shows}.key"]
        return self.plain(*words, *files, token=token)

    def plain(self, *words: str, token: str = "", **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pymotor", *words],
            env={**os.environ, "PYMOTOR_CLUSTER_TOKEN": token, "PYMOTOR_CLUSTER_TOKEN_FILE": "", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert not token or token not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    process = made.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"pymotor controller ready on {made.url}\n"
        yield made
    finally:
        process.terminate()
        process.wait(60)
    assert TOKEN not in (made.directory / "log").read_text()


def test_a_certificate_is_enough(place: Place) -> None:
    status, said = place.run("instances", "--controller", place.url)
    assert status == 0, said
    status, said = place.run("config", place.url)
    assert (status, '"error":null' in said) == (0, True), said


def test_variables_name_the_files(place: Place) -> None:
    named = {
        "PYMOTOR_TLS_CA_FILE": f"{place.directory}/ca.crt",
        "PYMOTOR_TLS_CERT_FILE": f"{place.directory}/operator.crt",
        "PYMOTOR_TLS_KEY_FILE": f"{place.directory}/operator.key",
        "PYMOTOR_CONTROLLER": place.url,
    }
    status, said = place.plain("events", **named)
    assert status == 0, said
    assert "leads" in said


def test_a_token_without_a_certificate_is_not_enough(place: Place) -> None:
    status, said = place.run("instances", "--controller", place.url, shows="", token=TOKEN)
    assert status == 1
    assert "it wants a certificate, and none is shown: name cert_file and key_file" in said


def test_another_authority_is_told(place: Place) -> None:
    status, said = place.run("config", place.url, ca=place.other.ca_file, token=TOKEN)
    assert status == 1
    assert "its certificate is not taken: " in said


def test_a_name_that_the_certificate_does_not_have(place: Place) -> None:
    status, said = place.run("config", place.url, "--peer-name", "controller.example")
    assert status == 1
    assert "its certificate is not taken: Hostname mismatch" in said
    assert place.run("config", place.url, "--peer-name", "localhost")[0] == 0


def test_any_name_is_taken_only_where_it_is_said(place: Place) -> None:
    assert place.run("config", place.url, "--any-name")[0] == 0
    status, said = place.run("config", place.url, "--any-name", ca=place.other.ca_file)
    assert status == 1
    assert "its certificate is not taken" in said
    status, said = place.plain("config", place.url, "--any-name")
    assert (status, "--ca-file" in said) == (1, True)


def test_nothing_is_sent_in_clear_where_certificates_are_named(place: Place) -> None:
    plain = place.url.replace("https", "http")
    status, said = place.run("config", plain, token=TOKEN)
    assert status == 1
    assert "plain HTTP; write https:" in said


def test_plain_http_is_not_answered(place: Place) -> None:
    status, said = place.plain("config", place.url.replace("https", "http"), token=TOKEN)
    assert status == 1
    assert "nobody answers" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--cert-file", "{}/operator.crt", "--key-file", "{}/operator.key"], "no authority: add --ca-file"),
        (["--ca-file", "{}/ca.crt", "--cert-file", "{}/operator.crt"], "goes with its private key"),
        (["--ca-file", "{}/nothing.crt"], "nothing.crt cannot be read"),
        (
            ["--ca-file", "{}/ca.crt", "--cert-file", "{}/operator.crt", "--key-file", "{}/server.key"],
            "is not the key of cert_file",
        ),
    ],
)
def test_files_that_do_not_go_together(place: Place, words: list[str], expected: str) -> None:
    status, said = place.plain("config", place.url, *(word.format(place.directory) for word in words))
    assert status == 1
    assert expected in said
    assert "Traceback" not in said


def test_a_probe_asks_with_the_certificates_of_the_pod(place: Place) -> None:
    assert place.run("probe", "--any-name", str(place.port), "/readiness")[0] == 0
    assert place.run("probe", "--host", "127.0.0.1", str(place.port), "/liveness")[0] == 0
    status, said = place.run("probe", str(place.port), "/nothing")
    assert (status, "answers 404" in said) == (1, True), said
    status, said = place.run("probe", str(place.port), "/readiness", shows="")
    assert (status, "it wants a certificate" in said) == (1, True), said
    status, said = place.run("probe", str(free_port()), "/readiness")
    assert (status, "does not answer" in said) == (1, True), said


def test_parts_refuse_a_plain_address_of_a_plane_with_tls(place: Place) -> None:
    config = ["--user_config_path", str(place.directory / "user_config.json"), "--controller", "http://127.0.0.1:1"]
    for words in (["coordinator", *config], ["kv-conductor", *config], ["node-manager", *config, "--role", "union"]):
        status, said = place.plain(*words)
        assert status != 0
        assert "http://127.0.0.1:1 is plain HTTP while mgmt_tls_config is on; write https:" in said, words
