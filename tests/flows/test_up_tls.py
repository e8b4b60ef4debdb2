"""`pymotor up` with TLS on the inference plane: clients, gateway, engines and their watchers by https alone."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from images import data_url, png
from local_shell import Shell, wait_for, write_config
from openai import APIConnectionError, OpenAI

from certificates import OPENSSL, Authority, Certificate, make_ca, make_certificate

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

QUESTION: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": data_url(png(96, 96, 7))}},
            {"type": "text", "text": "What is in the image?"},
        ],
    }
]


def secured(directory: Path, authority: Authority) -> tuple[Path, Certificate]:
    """A configuration with two workers whose certificates are beside it, named relative to it."""
    own = make_certificate(authority, directory / "tls", "own")
    (directory / "tls" / "ca.crt").write_bytes(authority.ca_file.read_bytes())
    files = {"ca_file": "tls/ca.crt", "cert_file": "tls/own.crt", "key_file": "tls/own.key", "passwd_file": ""}

    def change(content: dict[str, Any]) -> None:
        content["motor_deploy_config"]["tls_config"] = {"infer_tls_config": {"enable_tls": True, **files}}
        workers = content.setdefault("motor_coordinator_config", {}).setdefault("inference_workers_config", {})
        workers["num_workers"] = 2

    return write_config(directory, change), own


def trusting(authority: Authority, shown: Certificate | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    if shown is not None:
        context.load_cert_chain(shown.cert_file, shown.key_file)
    return context


def test_a_whole_fleet_speaks_tls(shell: Shell, tmp_path: Path) -> None:
    authority = make_ca(tmp_path / "ca")
    config, own = secured(tmp_path / "config", authority)
    up = shell.up(config, "--first-request")
    assert up.returncode == 0, up.stdout + up.stderr
    url = f"https://127.0.0.1:{shell.port}"
    assert f"{url} " in up.stdout

    # Engines are at https addresses, and tell nothing to whoever has no certificate.
    report = httpx.get(f"http://127.0.0.1:{shell.port + 1}/instances", timeout=60).json()
    engines = [endpoint["url"] for instance in report["instances"] for endpoint in instance["endpoints"]]
    assert engines
    for engine in engines:
        assert engine.startswith("https://"), engine
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{engine}/health", verify=trusting(authority), trust_env=False, timeout=60)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{engine.replace('https', 'http')}/health", trust_env=False, timeout=60)

    # The printed command works as it stands.
    printed = up.stdout[up.stdout.index("curl -i") :].partition("\n\n")[0]
    curl = subprocess.run(["bash", "-c", printed.replace("curl -i", "curl -sS")], capture_output=True, text=True)
    assert json.loads(curl.stdout)["choices"][0]["message"]["content"], curl.stderr

    with httpx.Client(verify=trusting(authority, own), trust_env=False, timeout=60) as http:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)
        model = next(card.id for card in client.models.list())
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=QUESTION, max_tokens=16, temperature=0
        )
        legs = [leg.split(";")[0].strip() for leg in raw.headers["server-timing"].split(",")]
        assert legs == ["encode", "prefill", "decode"]
        whole = raw.parse()
        stream = client.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=16, temperature=0, stream=True
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert whole.choices[0].message.content == streamed != ""
    with httpx.Client(verify=trusting(authority), trust_env=False, timeout=60) as http:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)
        with pytest.raises(APIConnectionError):
            client.models.list()

    # The supervisor and the NodeManagers ask engines by TLS too.
    metrics = httpx.get(f"http://127.0.0.1:{shell.port + 2}/metrics?type=full", timeout=60).text
    assert "vllm:" in metrics
    wait_for(lambda: set(shell.states().values()) == {"active"}, "all are active")

    # Renewed certificates reach the gateway's workers and the engines while they run.
    before = serial_shown(shell.port, authority, own)
    make_certificate(authority, config / "tls", "own")
    wait_for(lambda: serial_shown(shell.port, authority, own) != before, "the gateway shows the new certificate")
    ports = [int(engine.rpartition(":")[2]) for engine in engines]
    wait_for(lambda: before not in {serial_shown(port, authority, own) for port in ports}, "and so do the engines")
    with httpx.Client(verify=trusting(authority, own), trust_env=False, timeout=60) as http:
        asked = {"model": model, "messages": QUESTION, "max_tokens": 4}
        for _ in range(8):
            assert http.post(f"{url}/v1/chat/completions", json=asked).status_code == 200

    assert shell.run("down").returncode == 0
    logs = "".join(path.read_text(errors="replace") for path in shell.home.rglob("*.log"))
    assert "PRIVATE KEY" not in logs
    assert own.key_file.read_text().splitlines()[1] not in logs


def serial_shown(port: int, authority: Authority, shown: Certificate) -> str:
    """Of the certificate that a server shows."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    with trusting(authority, shown).wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
        certificate = wrapped.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda own: own.key_file.chmod(0o644), "open to every user"),
        (lambda own: own.key_file.write_text("nonsense"), "holds no private key in PEM form"),
        (lambda own: own.cert_file.unlink(), "cert_file"),
    ],
    ids=["a key for everybody", "no key", "no certificate"],
)
def test_bad_files_are_told_before_anything_starts(shell: Shell, tmp_path: Path, spoil: Any, words: str) -> None:
    config, own = secured(tmp_path / "config", make_ca(tmp_path / "ca"))
    spoil(own)
    up = shell.up(config)
    assert up.returncode == 1
    assert words in up.stdout + up.stderr
    assert shell.processes() == []


def test_a_certificate_of_a_cluster_is_not_wanted_here(shell: Shell, tmp_path: Path) -> None:
    """`--engine sim` runs without TLS where the certificates are not on this machine, and says so."""
    config, own = secured(tmp_path / "config", make_ca(tmp_path / "ca"))
    own.cert_file.unlink()
    up = shell.up(config, "--engine", "sim", "--first-request")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "its certificates are not on this machine" in up.stdout
    assert shell.ask().status_code == 200
