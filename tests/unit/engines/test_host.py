"""What a host gives is free and given once."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from pymotor.engines import HostResources, NoPortLeftError


def test_a_port_in_use_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert HostResources().take_port(taken) > taken


def test_a_port_in_use_on_all_interfaces_is_not_given() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        taken = listener.getsockname()[1]
        assert HostResources().take_port(taken) > taken


def test_a_port_that_is_bound_and_not_yet_listened_on_is_not_given() -> None:
    with socket.socket() as early:
        early.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        early.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        early.bind(("127.0.0.1", 0))
        taken = early.getsockname()[1]
        assert HostResources().take_port(taken) > taken


def test_no_port_is_given_twice() -> None:
    host = HostResources(port_is_free=lambda address, port: port != 30002)
    assert host.take_port(30000) == 30000
    assert host.take_port(30000) == 30001
    assert host.take_ports(4, 30000) == 30003
    assert host.take_port(30000) == 30007


def test_no_port_left() -> None:
    with pytest.raises(NoPortLeftError, match="from 65000 up"):
        HostResources(port_is_free=lambda address, port: False).take_port(65000)


def test_devices_are_given_once_and_end() -> None:
    host = HostResources(devices=(2, 3, 5))
    assert (host.take_devices(2), host.take_devices(2), host.take_devices(1)) == ((2, 3), (5,), ())
    assert HostResources().take_devices(3) == (0, 1, 2)


@pytest.mark.parametrize(
    ("content", "experts"),
    [
        ({"hidden_size": 64}, False),
        ({"num_experts": 128}, True),
        ({"text_config": {"num_experts": 128}}, True),
        ({"n_routed_experts": 256}, True),
        ({"num_local_experts": 1}, False),
        ([], None),
    ],
)
def test_experts_are_read_from_the_model(tmp_path: Path, content: object, experts: bool | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert HostResources().is_mixture_of_experts(str(tmp_path)) is experts


def test_nothing_is_known_of_a_model_that_is_not_here() -> None:
    assert HostResources().is_mixture_of_experts("Qwen/Qwen3-8B") is None
