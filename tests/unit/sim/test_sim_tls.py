"""The simulated engine serves TLS with vLLM's flags, as a process."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from certificates import OPENSSL, Authority, Certificate, make_ca, make_certificate

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_ca(tmp_path_factory.mktemp("authority") / "ca")


@contextmanager
def served(*words: str) -> Iterator[str]:
    """The URL that the engine tells, as long as the block runs."""
    command = [sys.executable, "-m", "pymotor", "sim-engine", "serve", "tiny", "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as engine:
        assert engine.stdout is not None
        try:
            yield engine.stdout.readline().rpartition(" ")[2].strip()
        finally:
            engine.terminate()


def asked(url: str, authority: Authority, shown: Certificate | None) -> int:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    if shown is not None:
        context.load_cert_chain(shown.cert_file, shown.key_file)
    return httpx.get(f"{url}/health", verify=context, trust_env=False, timeout=10).status_code


def flags(authority: Authority, own: Certificate) -> list[str]:
    named = ["--ssl-certfile", str(own.cert_file), "--ssl_keyfile", str(own.key_file)]
    return [*named, "--ssl-ca-certs", str(authority.ca_file)]


def test_clients_must_show_a_certificate_where_that_is_asked(authority: Authority, tmp_path) -> None:
    own = make_certificate(authority, tmp_path)
    other = make_certificate(make_ca(tmp_path / "other"), tmp_path, "other")
    with served(*flags(authority, own), "--ssl-cert-reqs", "2") as url:
        assert url.startswith("https://127.0.0.1:")
        assert asked(url, authority, own) == 200
        for shown in (None, other):
            with pytest.raises(httpx.TransportError):
                asked(url, authority, shown)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/health", trust_env=False, timeout=60)


def test_nobody_needs_one_by_default(authority: Authority, tmp_path) -> None:
    with served(*flags(authority, make_certificate(authority, tmp_path))) as url:
        assert asked(url, authority, None) == 200


def test_files_that_do_not_fit_end_the_start(authority: Authority, tmp_path) -> None:
    own = make_certificate(authority, tmp_path)
    own.key_file.write_text("nonsense")
    command = [sys.executable, "-m", "pymotor", "sim-engine", "serve", "tiny", "--port", "0", *flags(authority, own)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--ssl-certfile, --ssl-keyfile or --ssl-ca-certs cannot be used" in done.stderr
