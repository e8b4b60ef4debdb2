"""The management and observability ports: open to this machine and to whoever may, closed to strangers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_under_test import Engines, Gateway
from keyed_gateway import Keys, Stranger, address_elsewhere
from processes import wait_until
from raw_client import RawConnection, RawReply

MakeGateway = Callable[..., Gateway]
TOKEN = "a token of the cluster, which is long".replace(" ", "-").replace(",", "")
PROBES = ("/health", "/readiness", "/liveness", "/startup")
RELAYED = "X-Forwarded-For: 192.0.2.7"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("doors") / "keys.json")
    for scope in ("inference", "read", "admin"):
        keys.create(scope, "--scope", scope)
    return keys


@pytest.fixture(scope="module")
def keyed(engines: Engines, keys: Keys) -> Iterator[Gateway]:
    """With API keys, and a token of the cluster."""
    config = {"api_key_config": {"enable_api_key": True, "keys_file": str(keys.file)}}
    environment = {"PYMOTOR_CLUSTER_TOKEN": TOKEN}
    with Gateway(engines, ["union-0"], config=config, environment=environment, label="doors") as running:
        yield running


@pytest.fixture(scope="module")
def keyless(engines: Engines) -> Iterator[Gateway]:
    """With nothing of that."""
    with Gateway(engines, ["union-0"], label="keyless") as running:
        yield running


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def ask(url: str, path: str, *lines: str, method: str = "GET", address: str = "", host: str = "127.0.0.1") -> RawReply:
    """Ask from this machine, or as somebody at `address`; `host` is what the gateway is called."""
    port = port_of(url)
    with Stranger(port, address) if address else RawConnection(port) as connection:
        connection.send("\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode())
        return connection.reply(head_only=method == "HEAD")


def inside(gateway: Gateway) -> list[tuple[str, str]]:
    return [(gateway.management_url, "/instances"), (gateway.observability_url, "/metrics")]


def test_this_machine_needs_nothing(keyed: Gateway, keyless: Gateway) -> None:
    for gateway in (keyed, keyless):
        for url, path in inside(gateway):
            assert ask(url, path).status == 200


def test_strangers_find_probes_and_closed_doors(keyed: Gateway, keyless: Gateway) -> None:
    address = address_elsewhere()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    for gateway, refused in ((keyed, 401), (keyless, 403)):
        for url, path in inside(gateway):
            assert ask(url, path, address=address).status == refused
        assert [ask(gateway.management_url, path, address=address).status for path in PROBES] == [200] * 4


@pytest.mark.parametrize("lines", [(), ("Sec-Fetch-Site: same-origin",)])
def test_a_page_whose_name_leads_here_is_a_stranger(keyed: Gateway, keyless: Gateway, lines: tuple[str, ...]) -> None:
    for gateway, refused in ((keyed, 401), (keyless, 403)):
        for url, path in inside(gateway):
            assert ask(url, path, *lines, host=f"rebound.example:{port_of(url)}").status == refused
            assert ask(url, path, *lines, host=f"localhost:{port_of(url)}").status == 200


@pytest.mark.parametrize("line", [
    RELAYED, "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1", "Via: 1.1 somebody",
    "Origin: https://elsewhere.example", "Sec-Fetch-Site: cross-site",
])  # fmt: skip
def test_who_only_seems_near_is_a_stranger(keyed: Gateway, keyless: Gateway, line: str) -> None:
    for url, path in inside(keyed):
        assert ask(url, path, line).status == 401
    for url, path in inside(keyless):
        assert ask(url, path, line).status == 403


def test_keys_open_what_they_are_good_for(keyed: Gateway, keys: Keys) -> None:
    inference, read, admin = keys.secrets[:3]
    for url, path in inside(keyed):
        for key, found in ((read, 200), (admin, 200), (inference, 403), ("sk-unknown", 401)):
            assert ask(url, path, RELAYED, f"Authorization: Bearer {key}").status == found
            assert ask(url, path, RELAYED, f"x-api-key: {key}").status == found
        # Nothing is changed here yet, so that who may gets the application's own refusal.
        assert ask(url, path, RELAYED, f"x-api-key: {read}", method="DELETE").status == 403
        assert ask(url, path, RELAYED, f"x-api-key: {admin}", method="DELETE").status == 405


def test_parts_of_the_cluster_show_its_token(keyed: Gateway) -> None:
    for url, path in inside(keyed):
        assert ask(url, path, RELAYED, f"Authorization: Bearer {TOKEN}").status == 200
        assert ask(url, path, RELAYED, f"Authorization: Bearer {TOKEN}x").status == 401
        assert ask(url, path, RELAYED, f"Authorization: {TOKEN}").status == 401


def test_no_tricks_with_headers_and_paths(keyed: Gateway, keys: Keys) -> None:
    read = keys.secrets[1]
    url = keyed.management_url
    twice = (f"Authorization: Bearer {read}", f"Authorization: Bearer {read}")
    assert ask(url, "/instances", RELAYED, *twice).status == 400
    assert ask(url, "/instances", RELAYED, f"x-api-key: {read}", "x-api-key: other").status == 400
    for path in ("/health/../instances", "/%69nstances", "//instances", "/instances/", "/instances?/health",
                 "/health/", "/docs", "/openapi.json", "/nothing"):  # fmt: skip
        assert ask(url, path, RELAYED).status == 401
    assert ask(url, "/health", RELAYED, method="POST").status == 401


def test_explanations_and_the_configuration_are_behind_the_door(keyed: Gateway, keys: Keys) -> None:
    read = f"x-api-key: {keys.secrets[1]}"
    for path in ("/config", "/explain"):
        assert ask(keyed.management_url, path, RELAYED).status == 401
        # The application's own answer: there may be nothing to explain yet.
        assert ask(keyed.management_url, path, RELAYED, read).status not in (401, 403)
    assert ask(keyed.management_url, "/explain", RELAYED, method="POST").status == 401
    assert ask(keyed.management_url, "/explain", RELAYED, read, method="POST").status == 403


def test_doors_follow_the_keys(keyed: Gateway, keys: Keys) -> None:
    key = keys.create("late", "--scope", "read")

    def found() -> int:
        return ask(keyed.observability_url, "/metrics", RELAYED, f"x-api-key: {key}").status

    wait_until(lambda: found() == 200, "the door knows the new key")
    keys.revoke("late")
    wait_until(lambda: found() == 401, "the door does not take the revoked key")


def test_a_door_that_is_to_be_open_can_only_be_read(engines: Engines, make_gateway: MakeGateway) -> None:
    config = {"api_key_config": {"open_doors": ["observability"]}}
    gateway = make_gateway(engines, "union-0", config=config)
    assert ask(gateway.observability_url, "/metrics", RELAYED).status == 200
    assert ask(gateway.observability_url, "/metrics", RELAYED, method="POST").status == 403
    assert ask(gateway.management_url, "/instances", RELAYED).status == 403


def test_nothing_secret_is_logged(keyed: Gateway, keys: Keys) -> None:
    log = Path(keyed.process.log).read_text(errors="replace")
    for secret in (*keys.secrets, TOKEN):
        assert secret not in log
