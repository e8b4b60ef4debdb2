"""Faults, alarms and inventory put together: what the configuration switches, and the running parts."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpx
from small_api_server import NODES, SmallAPIServer

from pymotor.config import UserConfig
from pymotor.controller.faults.cluster_api import ClusterAccess
from pymotor.controller.file_lease import FileLease
from pymotor.controller.leadership import Leadership
from pymotor.controller.oversight import Oversight, OversightSettings, oversight_from
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import Role

NOT_READY = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}


def configured(faults: dict[str, object] | None = None, *, observed: bool = False) -> OversightSettings:
    user = UserConfig.model_validate(
        {
            "motor_deploy_config": {"p_instances_num": 3, "d_instances_num": 2},
            "motor_controller_config": {
                "fault_tolerance_config": faults or {},
                "observability_config": {"observability_enable": observed},
            },
        }
    )
    return oversight_from(user, {})


def test_what_the_configuration_switches():
    plain = configured()
    assert plain.wanted == {Role.PREFILL: 3, Role.DECODE: 2}
    assert plain.switches.fault_tolerance
    assert not plain.switches.scale_p2d_release
    assert plain.cluster is None, "outside a cluster"
    assert plain.observability_port is None
    assert configured(observed=True).observability_port == 1027
    off = configured(
        {
            "enable_fault_tolerance": False,
            "enable_scale_p2d": False,
            "enable_token_reinference": False,
            "scale_p2d_wait": 5,
            "scale_p2d_pause": 6,
            "scale_p2d_release": True,
        }
    ).switches
    assert (off.fault_tolerance, off.scale_p2d, off.token_reinference) == (False, False, False)
    assert (off.scale_p2d_wait, off.scale_p2d_pause, off.scale_p2d_release) == (5.0, 6.0, True)


async def test_all_parts_run(tmp_path):
    leadership = Leadership(FileLease(tmp_path), "test", "http://here", 1e6)
    service = ControllerService(leadership, ControllerSettings())
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with SmallAPIServer().serving() as server, httpx.AsyncClient(base_url=url, timeout=60) as http:
            await server.put(NODES, "m", **NOT_READY)
            oversight = Oversight(service, OversightSettings(cluster=ClusterAccess(url=server.url)), {"sys_id": "7"})
            async with oversight.running(listening, None):
                assert (await http.get("/observability/inventory")).status_code == 503
                assert await leadership.try_to_lead()
                leading = asyncio.create_task(service.lead(leadership.epoch))
                answer = (await http.get("/observability/inventory")).json()
                assert answer["data"]["modelID"] == "7"
                # Both kinds are watched once their lists have been taken over.
                await server.wait_for(server.watched)
                assert [fault.machine for fault in oversight.strategist.view().faults] == ["m"]
                leading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await leading
                await leadership.hand_back()


async def test_faults_of_hardware_are_watched_and_forgotten_as_the_configuration_says(tmp_path):
    leadership = Leadership(FileLease(tmp_path), "test", "http://here", 1e6)
    service = ControllerService(leadership, ControllerSettings())
    async with SmallAPIServer().serving() as server:
        await server.put(NODES, "m", **NOT_READY)
        watching, off = OversightSettings(cluster=ClusterAccess(url=server.url)), OversightSettings()
        oversight = Oversight(service, off, {})
        async with oversight.running(None, None):
            assert await leadership.try_to_lead()
            leading = asyncio.create_task(service.lead(leadership.epoch))
            try:
                await asyncio.sleep(0)
                assert oversight.strategist.view().faults_known, "where nothing is watched, nothing is all"
                await oversight.use(watching, no_port)
                await server.wait_for(server.watched)
                assert [fault.machine for fault in oversight.strategist.view().faults] == ["m"]
                await oversight.use(off, no_port)
                view = oversight.strategist.view()
                assert (view.faults, view.faults_known) == ((), True)
            finally:
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)
                await leadership.hand_back()


def no_port(port: int) -> socket.socket:
    raise AssertionError(f"port {port} is not wanted")
