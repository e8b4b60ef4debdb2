"""What the flags of `pymotor proxy` and of the example proxies come to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest

from pymotor.coordinator.control import OperatorRequest
from pymotor.coordinator.proxy import command
from pymotor.coordinator.proxy.access import Access, AccessError, Refused
from pymotor.coordinator.proxy.addresses import Address, address_from, address_from_url
from pymotor.coordinator.proxy.command import Plan, plan_from
from pymotor.coordinator.proxy.flags import UsageError
from pymotor.coordinator.proxy.originals import ORIGINALS, full_command_line
from pymotor.fleet import ECDialect, KVDialect, Role


def plan(flags: str, environment: Mapping[str, str] = {}) -> Plan:
    """The plan of a command line."""
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return plan_from(parser.parse_args(flags.split()), environment)


def engines(flags: str) -> list[tuple[Role, str]]:
    """The engines that a command line names."""
    return [(role, str(address)) for role, address in plan(flags).listed]


def test_one_host_for_many_ports() -> None:
    flags = "--prefiller-hosts 10.0.0.1 --prefiller-ports 1 2 --decoder-hosts a b --decoder-ports 3 4 --pd-ports 5"
    assert engines(flags) == [
        (Role.PREFILL, "10.0.0.1:1"),
        (Role.PREFILL, "10.0.0.1:2"),
        (Role.DECODE, "a:3"),
        (Role.DECODE, "b:4"),
        (Role.UNION, "localhost:5"),
    ]


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
def test_ipv6_is_written_one_way(host: str) -> None:
    assert engines(f"--pd-hosts {host} --pd-ports 80") == [(Role.UNION, "[::1]:80")]


def test_all_interfaces_are_dialled_as_this_machine() -> None:
    assert engines("--pd-hosts 0.0.0.0 :: --pd-ports 1 2") == [(Role.UNION, "127.0.0.1:1"), (Role.UNION, "[::1]:2")]


@pytest.mark.parametrize("word", ["", "disable", "none", "NONE"])
def test_urls_without_prefill_name_engines_that_do_both(word: str) -> None:
    found = plan_of_words(
        "--encode-servers-urls", "http://e:1, e2:2", "--prefill-servers-urls", word, "--decode-servers-urls", "http://d"
    )
    assert [(role, str(address)) for role, address in found.listed] == [
        (Role.ENCODE, "e:1"),
        (Role.ENCODE, "e2:2"),
        (Role.UNION, "d:80"),
    ]


def plan_of_words(*words: str) -> Plan:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return plan_from(parser.parse_args(words), {})


def test_urls_with_prefill() -> None:
    flags = "--prefill-servers-urls http://[::1]:1/ --decode-servers-urls http://d:2"
    assert engines(flags) == [(Role.PREFILL, "[::1]:1"), (Role.DECODE, "d:2")]


def test_handoffs_by_dialect_and_by_connector() -> None:
    pair = "--prefiller-ports 1 --decoder-ports 2"
    assert plan(pair).handoffs.dialect is KVDialect.PULL
    transfer = plan(f"{pair} --handoff MooncakeConnectorV1").handoffs.kv_transfer(Role.PREFILL, Address("a", 1))
    assert transfer is not None
    assert (transfer.dialect, transfer.handoff_seconds) == (KVDialect.PULL, 480.0)
    paired = plan(f"{pair} --handoff paired --prefiller-bootstrap-ports 7").handoffs
    transfer = paired.kv_transfer(Role.PREFILL, Address("localhost", 1))
    assert transfer is not None
    assert transfer.bootstrap == "http://localhost:7"
    pushed = plan(f"{pair} --encoder-ports 3 --ec-consumer-zmq-addrs tcp://p:5").handoffs
    consumer = pushed.ec_transfer(Role.PREFILL, Address("localhost", 1))
    assert consumer is not None
    assert (consumer.dialect, consumer.address) == (ECDialect.PUSH, "tcp://p:5")


def test_callbacks_come_to_an_address_that_decode_reaches() -> None:
    remote = "--handoff callback --prefiller-ports 1 --decoder-hosts 10.1.1.1 --decoder-ports 2"
    local = "--handoff callback --prefiller-ports 1 --decoder-ports 2"
    for flags, environment, host in (
        (local, {}, "127.0.0.1"),
        (f"{local} --host 0.0.0.0", {}, "127.0.0.1"),
        (f"{local} --host ::", {}, "::1"),
        (f"{remote} --host 10.0.0.1", {}, "10.0.0.1"),
        (f"{remote} --host 0.0.0.0 --advertise-address 10.0.0.1", {}, "10.0.0.1"),
        (f"{remote} --host 0.0.0.0", {"POD_IP": "10.0.0.9"}, "10.0.0.9"),
    ):
        assert plan(flags, environment).options.settings.callback_host == host


def test_a_token_comes_from_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    for environment, token in (
        ({}, "of-the-file"),
        ({"PYMOTOR_PROXY_TOKEN": "of-the-environment"}, "of-the-environment"),
    ):
        access = plan(f"--pd-ports 1 --token-file {file}", environment).access
        access.check(asked(authorization=f"Bearer {token}"))
        for wrong in (f"Bearer {token}x", token, f"Basic {token}", ""):
            with pytest.raises(Refused) as refused:
                access.check(asked(authorization=wrong))
            assert refused.value.status == 401
    for text in ("", "two words", "no ascii: é"):
        file.write_text(text)
        with pytest.raises(AccessError):
            plan(f"--pd-ports 1 --token-file {file}")


@pytest.mark.parametrize(
    ("peer", "reached_at", "near"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "10.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.2", "10.0.0.1", False),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.1", False),
        ("", "", False),
    ],
)
def test_without_a_token_clients_must_be_near(peer: str, reached_at: str, near: bool) -> None:
    access = Access()
    if near:
        access.check(asked(peer=peer, reached_at=reached_at))
        with pytest.raises(Refused):
            access.check(asked(peer=peer, reached_at=reached_at, origin="http://localhost"))
    else:
        with pytest.raises(Refused) as refused:
            access.check(asked(peer=peer, reached_at=reached_at))
        assert refused.value.status == 403


def asked(peer: str = "127.0.0.1", reached_at: str = "127.0.0.1", **headers: str) -> OperatorRequest:
    """An operator's request."""
    path = "/instances"
    return OperatorRequest(
        number=1, method="GET", path=path, query="", headers=headers, body=b"", peer=peer, reached_at=reached_at
    )


def test_retries_are_counted_as_the_originals_count_them() -> None:
    settings = plan("--pd-ports 1").options.settings
    assert (settings.transport_max_retry, settings.max_retry, settings.retry_delay) == (2, 2, 0.001)
    settings = plan("--pd-ports 1 --max-retries 1 --decode-retries 4 --retry-delay 0").options.settings
    assert (settings.transport_max_retry, settings.max_retry, settings.retry_delay) == (0, 4, 0)


def test_nothing_but_the_port_is_listened_on_and_only_locally() -> None:
    options = plan("--pd-ports 1").options
    assert (options.host, options.port) == ("127.0.0.1", 8000)
    assert options.management_port is None
    assert options.observability_port is None


@pytest.mark.parametrize(
    ("name", "given", "full"),
    [
        ("load_balance_proxy_server_example", "--prefiller-port 1 --dec 2", "--prefiller-ports 1 --dec 2"),
        ("load_balance_proxy_server_example", "--max-w 1 --wo 2 --l INFO", "--max-waiting-retries 1 --workers 2"),
        ("load_balance_proxy_layerwise_server_example", "--m=4 --r 1", "--max-retries=4 --retry-delay 1"),
        ("epd_load_balance_proxy_layerwise_server_example", "--encoder-h a", "--encoder-hosts a"),
        (
            "disagg_epd_proxy",
            "--d d:1 --pre p:1 --ho ::",
            "--decode-servers-urls d:1 --prefill-servers-urls p:1 --host",
        ),
    ],
)
def test_flags_of_an_original_are_shortened_as_there(name: str, given: str, full: str) -> None:
    assert full in " ".join(full_command_line(name, given.split()))


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_flag_of_an_original_is_taken(name: str) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    known = {flag for action in parser._actions for flag in action.option_strings}
    assert set(ORIGINALS[name].flags) <= known


def test_a_pair_is_expected_where_the_original_expects_it() -> None:
    words = full_command_line("load_balance_proxy_server_example", [])
    found = plan_of_words(*words[1:])
    assert [str(address) for _, address in found.listed] == ["localhost:8001", "localhost:8002"]


@pytest.mark.parametrize("text", ["a:1", "[::1]:1", "127.0.0.1:65535"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(address_from(text)) == text
    assert address_from_url(f"http://{text}") == address_from(text)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "no engine is named that could answer"),
        ("--encoder-ports 1", "no engine is named that could answer"),
        ("--prefiller-hosts a b --prefiller-ports 1 2 3 --decoder-ports 4", "--prefiller-hosts has 2 and --prefiller"),
        ("--prefiller-hosts a b --prefiller-ports 1 --decoder-ports 4", "--prefiller-ports 1"),
        ("--pd-ports 1 1", "named twice"),
        ("--pd-hosts 127.0.0.1 localhost --pd-ports 1 1", "named twice"),
        ("--pd-ports 70000", "'70000' is no port"),
        ("--pd-hosts 10.0.0.110.0.0.2 --pd-ports 1", "separated by spaces"),
        ("--pd-hosts http://a --pd-ports 1", "no IP address"),
        ("--decode-servers-urls https://a:1", "http only"),
        ("--decode-servers-urls http://a:1/v1", "nothing more"),
        ("--pd-ports 1 --handoff telepathy", "MooncakeLayerwiseConnector"),
        ("--handoff callback --prefiller-ports 1 --decoder-hosts 10.1.1.1 --decoder-ports 2", "nobody reaches"),
        (
            "--handoff callback --host 0.0.0.0 --prefiller-ports 1 --decoder-hosts 10.1.1.1 --decoder-ports 2",
            "--advertise-address",
        ),
        ("--pd-ports 1 --advertise-address ::", "nobody can dial"),
        ("--decode-servers-urls http://[::1", "must be http://host:port"),
        ("--pd-ports 8100 --port 8100", "where the proxy itself listens"),
        ("--pd-hosts 10.0.0.5 --pd-ports 8100 --host 10.0.0.5 --port 8100", "where the proxy itself listens"),
        ("--pd-ports 1 --token-file /nowhere/at/all", "cannot be read"),
        ("--pd-ports 1 --max-retries 0", "less than 1"),
        ("--pd-ports 1 --workers 99999", "more than 256"),
    ],
)
def test_flags_that_cannot_be_right(flags: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((UsageError, AccessError, SystemExit)) as refused:
        plan(flags)
    assert words in f"{refused.value} {capsys.readouterr().err}"
