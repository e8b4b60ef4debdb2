"""The ports that `pymotor up` takes before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymotor.engines.port_claims import PortClaims
from pymotor.local.fleet_ports import FleetPorts, claim_fleet_ports
from pymotor.local.state import FleetError


@pytest.mark.parametrize(("place", "whose"), [(0, "clients"), (1, "management"), (2, "metrics"), (3, "Controller")])
def test_a_conductor_on_a_port_of_the_fleet_is_told_with_both_keys(tmp_path: Path, place: int, whose: str) -> None:
    ports = FleetPorts(31015, conductor=31015 + place)
    with pytest.raises(FleetError) as told:
        claim_fleet_ports(ports, PortClaims(tmp_path / "claims"))
    message = str(told.value)
    assert f"kv_conductor_config.http_server_port is {ports.conductor}" in message
    assert whose in message
    assert "--port 31015" in message
    assert "in use" not in message
