"""Each request has its line, with its way and its end, and with nothing that is the client's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_http
import pytest
from answers import CHAT, ask_one
from fleet_under_test import MODEL, Engines, Gateway
from images import text_chat, vision_chat
from keyed_gateway import Keys
from processes import wait_until

MakeGateway = Callable[..., Gateway]
SECRET = "the-secret-that-nobody-may-log"


def logging(form: str, directory: Path) -> dict[str, Any]:
    return {"logging_config": {"request_log": form, "request_log_directory": str(directory)}}


def lines_of(directory: Path) -> list[str]:
    return [line for file in sorted(directory.glob("requests-*.log")) for line in file.read_text().splitlines()]


def ask_all(gateway: Gateway) -> int:
    """Requests of all kinds, each with a secret wherever a client may put one; returns how many."""
    headers = {"X-Request-Id": "mine", "Authorization": f"Bearer {SECRET}", "X-Api-Key": SECRET}
    for body in (
        vision_chat(700, text=f"What is {SECRET}?", stream=True, max_tokens=6),
        text_chat(SECRET, max_tokens=6),
        text_chat(SECRET, model="nobody"),
        {"model": MODEL, "messages": SECRET},
    ):
        plain_http.post(f"{gateway.url}{CHAT}?key={SECRET}", json=body, headers=headers, timeout=60)
    plain_http.get(f"{gateway.url}/v1/models", headers=headers, timeout=60)
    plain_http.get(f"{gateway.url}/{SECRET}", headers=headers, timeout=60)
    return 6


def test_json_lines_tell_way_times_and_end(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(engines, "encode-0", "prefill-0", "decode-0", config=logging("json", tmp_path))
    asked = ask_all(gateway)
    wait_until(lambda: len(lines_of(tmp_path)) == asked, "all lines are written")
    assert SECRET not in "".join(lines_of(tmp_path))
    media, text, unknown, broken, models, nowhere = map(json.loads, lines_of(tmp_path))
    assert [(leg["leg"], leg["instance"]) for leg in media["legs"]] == [
        ("encode", "encode-0"), ("prefill", "prefill-0"), ("decode", "decode-0"),
    ]  # fmt: skip
    assert 0 < media["first_token_seconds"] <= media["seconds"]
    assert media["stream"]
    assert media["media_items"] == 1
    assert media["request_bytes"] > 100
    assert 6 <= media["answer_events"] <= 7
    assert (media["path"], media["model"], media["status"], media["outcome"]) == (CHAT, MODEL, 200, "answered")
    assert (media["request_id"], media["client"], media["method"]) == ("mine", "127.0.0.1", "POST")
    assert len(media["engine_request_id"]) == 32
    assert text["answer_bytes"] > 100
    assert "stream" not in text
    assert (unknown["status"], unknown["outcome"], unknown["reason"]) == (404, "refused", "model_not_found")
    assert unknown["model"] == "nobody"
    assert (broken["status"], broken["outcome"]) == (400, "refused")
    assert (models["path"], models["status"]) == ("/v1/models", 200)
    assert (nowhere["path"], nowhere["status"]) == ("other", 404)


def test_those_who_are_not_let_in_have_their_lines(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    keys = {"api_key_config": {"enable_api_key": True, "keys_file": str(tmp_path / "keys.json")}}
    Keys(tmp_path / "keys.json").create("somebody")
    gateway = make_gateway(engines, "prefill-0", "decode-0", config={**logging("json", tmp_path), **keys})
    plain_http.post(f"{gateway.url}{CHAT}", json=text_chat("x"), headers={"X-Api-Key": SECRET}, timeout=60)
    plain_http.get(f"{gateway.url}/v1/models", timeout=60)
    wait_until(lambda: len(lines_of(tmp_path)) == 2, "both lines are written")
    assert SECRET not in "".join(lines_of(tmp_path))
    wrong, missing = map(json.loads, lines_of(tmp_path))
    assert (wrong["path"], wrong["status"], wrong["outcome"]) == (CHAT, 401, "refused")
    assert wrong["reason"] == "invalid_api_key"
    assert (missing["path"], missing["status"], missing["reason"]) == ("/v1/models", 401, "missing_api_key")
    assert gateway.count("pymotor_requests_total", path="/v1/models", status="401") == 1


def test_text_lines_say_the_same(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(engines, "encode-0", "prefill-0", "decode-0", config=logging("text", tmp_path))
    asked = ask_all(gateway)
    wait_until(lambda: len(lines_of(tmp_path)) == asked, "all lines are written")
    assert SECRET not in "".join(lines_of(tmp_path))
    first = lines_of(tmp_path)[0]
    assert f" POST {CHAT} 200 answered request_id=mine " in first
    assert " legs=encode:encode-0:" in first


def test_without_a_directory_lines_go_to_standard_error(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config={"logging_config": {"request_log": "json"}})
    ask_all(gateway)
    wait_until(lambda: '"outcome":"answered"' in gateway.log(), "a line is in the log")
    assert SECRET not in gateway.log()


def test_nobody_asked_for_a_log(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(engines, "union-0", config=logging("off", tmp_path))
    ask_all(gateway)
    assert not list(tmp_path.glob("**/requests-*"))
    assert SECRET not in gateway.log()


def test_who_failed_the_request_is_named(mended: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=logging("json", tmp_path))
    mended["decode-0"].fail("error:code=500")
    for _ in range(4):
        assert ask_one(gateway.url, text_chat(max_tokens=4)).status == 200
    mended["decode-1"].fail("error:code=500")
    assert ask_one(gateway.url, text_chat(max_tokens=4)).status >= 500
    wait_until(lambda: len(lines_of(tmp_path)) == 5, "all lines are written")
    *answered, failed = map(json.loads, lines_of(tmp_path))
    assert any(line.get("spared") for line in answered)
    assert failed["outcome"] == "failed"
    assert failed["reason"]


@pytest.mark.parametrize("workers", [2])
def test_lines_that_wait_are_written_at_the_end(
    engines: Engines, make_gateway: MakeGateway, tmp_path: Path, workers: int
) -> None:
    gateway = make_gateway(engines, "union-0", workers=workers, config=logging("json", tmp_path))
    for _ in range(20):
        assert ask_one(gateway.url, text_chat(max_tokens=2)).status == 200
    gateway.close()
    assert len(lines_of(tmp_path)) == 20
    assert {json.loads(line)["worker"] for line in lines_of(tmp_path)} <= {0, 1}


def test_a_directory_that_cannot_be_made_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    config = {
        "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu", "image_name": "none"},
        "motor_coordinator_config": logging("json", tmp_path / "taken" / "logs"),
    }
    (tmp_path / "user_config.json").write_text(json.dumps(config))
    argv = [sys.executable, "-m", "pymotor", "coordinator", "--user_config_path", str(tmp_path / "user_config.json")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "request_log_directory" in done.stderr
    assert "is no directory" in done.stderr
    assert "Traceback" not in done.stderr
