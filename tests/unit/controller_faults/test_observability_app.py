"""Inventory and alarms over HTTP."""

from __future__ import annotations

import httpx
from faulty_fleets import a_fleet, an_instance

from pymotor.control_plane import ClusterToken
from pymotor.controller.alarm_records import Origin
from pymotor.controller.alarms import AlarmLog, FleetAlarms
from pymotor.controller.observability_app import observability_app
from pymotor.fleet import InstanceState

TOKEN = ClusterToken("a-token-for-tests-only")
VIEW = a_fleet(an_instance("prefill-0"), an_instance("decode-0", InstanceState.INACTIVE))
CONGESTION = {"alarmId": "0xFC001005", "category": 3}


def client(log: AlarmLog, *, leads: bool = True, token: ClusterToken | None = TOKEN) -> httpx.AsyncClient:
    app = observability_app(log, lambda: VIEW, variables={"sys_id": "7"}, leads=lambda: leads, token=token)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1")


def a_log() -> AlarmLog:
    return AlarmLog(Origin(), lambda: 1000.0)


async def test_reading_twice_gives_the_same_and_a_cursor_what_is_new():
    log = a_log()
    FleetAlarms(log).look(VIEW)
    async with client(log) as http:
        first = (await http.get("/observability/alarms", params={"source_id": "ccae"})).json()
        assert first == (await http.get("/observability/alarms")).json()
        assert (first["code"], first["message"], first["data"]["total"]) == (200, "Success", 1)
        (records,) = first["data"]["alarms"]
        assert records[0]["alarmId"] == "0xFC001002"
        after = {"after": first["data"]["last"]}
        nothing = (await http.get("/observability/alarms", params=after)).json()["data"]
        assert (nothing["total"], nothing["alarms"]) == (0, [])
        posted = await http.post("/observability/add_alarm", json=CONGESTION, headers=TOKEN.header)
        assert posted.json() == {"code": 200, "message": "Success", "data": {}}
        ((new,),) = (await http.get("/observability/alarms", params=after)).json()["data"]["alarms"]
        assert new["alarmId"] == "0xFC001005"
        assert (await http.get("/observability/alarms", params={"after": "x"})).status_code == 422


async def test_who_may_add_and_what():
    log = a_log()
    async with client(log) as http:
        path = "/observability/add_alarm"
        assert (await http.post(path, json=CONGESTION)).status_code == 401
        assert (await http.post(path, json={}, headers=TOKEN.header)).status_code == 400
        assert (await http.post(path, content=b"\xff", headers=TOKEN.header)).status_code == 400
        deep = b'{"alarmId": ' + b"[" * 60_000
        assert (await http.post(path, content=deep, headers=TOKEN.header)).status_code == 400
        assert (await http.post(path, content=b" " * 70_000, headers=TOKEN.header)).status_code == 413
    async with client(log, token=None) as http:
        assert (await http.post(path, json=CONGESTION)).status_code == 200
    assert len(log.read().records) == 1


async def test_inventory():
    async with client(a_log()) as http:
        answer = (await http.get("/observability/inventory")).json()
    assert answer["code"] == 200
    assert answer["data"]["modelID"] == "7"
    assert len(answer["data"]["inventories"]["PInstanceList"]) == 1


async def test_only_the_leader_has_something_to_tell():
    async with client(a_log(), leads=False) as http:
        for path in ("/observability/inventory", "/observability/alarms"):
            answer = await http.get(path)
            assert answer.status_code == answer.json()["code"] == 503
        assert (await http.post("/observability/add_alarm", headers=TOKEN.header)).status_code == 503


async def test_who_may_read():
    app = observability_app(a_log(), lambda: VIEW, variables={}, leads=lambda: True, token=TOKEN)
    for address, headers, status in (
        ("127.0.0.1", {}, 200),
        ("127.0.0.1", {"Sec-Fetch-Site": "cross-site"}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.9"}, 401),
        ("192.0.2.9", {}, 401),
        ("192.0.2.9", TOKEN.header, 200),
    ):
        transport = httpx.ASGITransport(app=app, client=(address, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1027") as http:
            for path in ("/observability/alarms", "/observability/inventory"):
                assert (await http.get(path, headers=headers)).status_code == status, (address, headers)
