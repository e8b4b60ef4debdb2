"""What operators see: Server-Timing, /metrics, /instances; what engines see of ids and of clients that went away."""

from __future__ import annotations

import re
from collections.abc import Callable

import plain_http
import pytest
from answers import ask_one
from fleet_under_test import MODEL, Engines, Gateway
from images import image_part, text_chat, vision_chat
from prometheus_client.parser import text_string_to_metric_families

MakeGateway = Callable[..., Gateway]
TIMING = re.compile(r'(encode|prefill|decode|union);desc="([a-z]+-\d+)";dur=(\d+(?:\.\d+)?)')


@pytest.mark.parametrize("stream", [False, True])
def test_server_timing_names_legs_with_instances(gateway: Gateway, stream: bool) -> None:
    # Nobody else's images: one that is in the store needs no leg.
    first = 500 + 2 * stream
    answer = ask_one(gateway.url, vision_chat(first, first + 1, first, stream=stream))
    entries = answer.headers["server-timing"].split(", ")
    found = [TIMING.fullmatch(entry) for entry in entries]
    assert all(found), entries
    legs = [(match[1], match[2]) for match in found if match]
    assert [leg for leg, _ in legs] == ["encode", "encode", "prefill", "decode"], "equal images are encoded once"
    assert all(name.startswith(leg) for leg, name in legs)


def test_metrics_can_be_read_and_count_right(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "encode-0", "prefill-0", "decode-0", workers=2)
    for number in range(6):
        assert ask_one(gateway.url, vision_chat(510, number, 510, stream=number % 2 == 0)).status == 200
    for _ in range(3):
        assert ask_one(gateway.url, text_chat(model="unknown")).status == 404
    gateway.wait_until_idle()
    families = {family.name: family for family in text_string_to_metric_families(gateway.metrics())}
    assert all(family.documentation and family.type != "unknown" for family in families.values())
    path = "/v1/chat/completions"
    assert gateway.count("pymotor_requests_total", path=path, status="200") == 6
    assert gateway.count("pymotor_requests_total", path=path, status="404") == 3
    assert gateway.count("pymotor_time_to_first_token_seconds_count", path=path) == 6
    encoded = gateway.count("pymotor_media_items_total", outcome="encoded")
    assert 7 <= encoded <= 8, "image 510 once for each worker that sees it"
    assert gateway.count("pymotor_leg_seconds_count", leg="encode", instance="encode-0") == encoded
    assert gateway.count("pymotor_leg_seconds_count", leg="prefill", instance="prefill-0") == 6
    assert gateway.count("pymotor_leg_seconds_count", leg="decode", instance="decode-0") == 6
    assert gateway.count("pymotor_media_items_total", outcome="reused") == 12 - encoded
    assert gateway.count("pymotor_media_items_total", outcome="shared") == 6
    assert gateway.count("pymotor_leg_failures_total") == 0


def test_metrics_of_strangers_paths_do_not_grow(gateway: Gateway) -> None:
    for number in range(20):
        plain_http.get(f"{gateway.url}/nobody/{number}", timeout=60)
        plain_http.post(f"{gateway.url}/v1/chat/completions", json={"model": f"no-{number}"}, timeout=60)
    assert "/nobody/" not in gateway.metrics()
    assert "no-7" not in gateway.metrics()


def test_instances_are_listed_with_state_and_load(gateway: Gateway) -> None:
    fleet = gateway.fleet()
    assert fleet["ready"]
    assert fleet["models"] == [MODEL]
    assert {instance["name"] for instance in fleet["instances"]} == set(gateway.names)
    for instance in fleet["instances"]:
        assert instance["state"] == "active"
        assert [endpoint["state"] for endpoint in instance["endpoints"]] == ["ready"]


def test_requests_take_turns_among_idle_instances(gateway: Gateway) -> None:
    used = {name for number in range(12) for _, name in ask_one(gateway.url, vision_chat(530 + number)).legs}
    assert used == set(gateway.names)


def test_equal_images_go_to_the_same_encoder(engines: Engines, make_gateway: MakeGateway) -> None:
    """Affinity: its cache is worth something."""
    gateway = make_gateway(engines, config={"encode_config": {"reuse_seconds": 0}})
    encoders = set()
    for turn in range(4):
        body = text_chat(messages=[{"role": "user", "content": [image_part(540), {"type": "text", "text": f"{turn}"}]}])
        encoders |= {name for leg, name in ask_one(gateway.url, body).legs if leg == "encode"}
    assert len(encoders) == 1
