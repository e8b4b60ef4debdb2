"""API keys before a running gateway: who gets in, who does not, and what the attackers learn."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import openai
import plain_http
import psutil
import pytest
from anthropic import Anthropic
from fleet_under_test import MODEL, Engines, Gateway
from keyed_gateway import BODY, CHAT, Keys, bearer, chat
from local_shell import Shell, write_config
from openai import OpenAI
from processes import wait_until
from raw_client import RawConnection, RawReply, post

from pymotor.coordinator.keys.key_hash import hash_of

MakeGateway = Callable[..., Gateway]
OLD_KEY = "sk-of-older-pymotor"
OLD_HASH = hash_of(OLD_KEY)
MESSAGES: Any = CHAT["messages"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    keys.secrets.append(OLD_KEY)
    return keys


@pytest.fixture(scope="module")
def good(keys: Keys) -> str:
    return keys.create("good")


@pytest.fixture(scope="module")
def reader(keys: Keys) -> str:
    return keys.create("reader", "--scope", "read")


@pytest.fixture(scope="module")
def keyed(engines: Engines, keys: Keys, good: str, reader: str) -> Iterator[Gateway]:
    """Two workers; keys of the file, and one of the configuration."""
    assert good
    assert reader
    keys.create("expired", "--expires", "1h")
    keys.create("revoked")
    keys.revoke("revoked")
    contents = json.loads(keys.file.read_text())
    next(key for key in contents["keys"] if key["name"] == "expired")["expires_at"] = "2020-01-01T00:00:00Z"
    keys.file.write_text(json.dumps(contents))
    config = {"api_key_config": {"enable_api_key": True, "valid_keys": [OLD_HASH], "keys_file": str(keys.file)}}
    with Gateway(engines, ["union-0"], config=config, workers=2, label="keyed") as running:
        yield running


def ask(gateway: Gateway, *lines: str, path: str = "/v1/chat/completions", body: bytes = BODY) -> RawReply:
    """A request with these header lines, as they are."""
    with RawConnection(gateway.port) as connection:
        connection.send(post(body, *lines, path=path))
        return connection.reply()


# -- who gets in


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: bearer {}", "Authorization: {}",
                                    "x-api-key: {}", "X-Api-Key:{}"])  # fmt: skip
def test_a_good_key_gets_in_wherever_clients_put_it(keyed: Gateway, good: str, header: str) -> None:
    for key in (good, OLD_KEY):
        assert ask(keyed, header.format(key)).status == 200


def test_the_openai_sdk(keyed: Gateway, good: str, reader: str) -> None:
    def client(key: str) -> OpenAI:
        return OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0, timeout=60)

    answer = client(good).chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4, temperature=0)
    assert answer.choices[0].message.content
    assert [model.id for model in client(reader).models.list()] == [MODEL]
    with pytest.raises(openai.AuthenticationError) as caught:
        client("sk-wrong").chat.completions.create(model=MODEL, messages=MESSAGES)
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client(reader).chat.completions.create(model=MODEL, messages=MESSAGES)
    assert refused.value.code == "insufficient_scope"


def test_the_anthropic_sdk(keyed: Gateway, good: str, reader: str) -> None:
    def client(key: str) -> Anthropic:
        return Anthropic(base_url=keyed.url, api_key=key, max_retries=0, timeout=60)

    assert client(good).messages.create(model=MODEL, messages=MESSAGES, max_tokens=4).content
    with pytest.raises(anthropic.AuthenticationError) as caught:
        client("sk-wrong").messages.create(model=MODEL, messages=MESSAGES, max_tokens=4)
    told: Any = caught.value.body
    assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")
    with pytest.raises(anthropic.PermissionDeniedError):
        client(reader).messages.create(model=MODEL, messages=MESSAGES, max_tokens=4)


def test_probes_and_what_the_configuration_names_need_no_key(keyed: Gateway) -> None:
    for path in ("/health", "/liveness", "/readiness", "/startup", "/health?verbose=1"):
        assert plain_http.get(f"{keyed.url}{path}", timeout=60).status_code == 200
    assert plain_http.get(f"{keyed.url}/v1/models", timeout=60).status_code == 401


# -- who does not

REFUSED: list[tuple[str, list[str], str]] = [
    ("no key", [], "missing_api_key"),
    ("an empty header", ["Authorization:"], "missing_api_key"),
    ("only the prefix", ["Authorization: Bearer"], "invalid_api_key"),
    ("an unknown key", ["Authorization: Bearer sk-unknown"], "invalid_api_key"),
    ("an unknown id", [f"x-api-key: sk-pm-{'0' * 12}-{'A' * 43}"], "invalid_api_key"),
    ("the id of a good key", ["Authorization: Bearer {good_with_another_end}"], "invalid_api_key"),
    ("a good key and more", ["Authorization: Bearer {good}x"], "invalid_api_key"),
    ("a good key in capitals", ["Authorization: Bearer {good_in_capitals}"], "invalid_api_key"),
    ("a stored hash", ["Authorization: Bearer {hash}"], "invalid_api_key"),
    ("the hash part alone", ["x-api-key: {hash_part}"], "invalid_api_key"),
    ("the hash in valid_keys", [f"Authorization: Bearer {OLD_HASH}"], "invalid_api_key"),
    ("the hash part of valid_keys", [f"x-api-key: {OLD_HASH.split(':')[2]}"], "invalid_api_key"),
    ("expired", ["Authorization: Bearer {expired}"], "expired_api_key"),
    ("revoked", ["Authorization: Bearer {revoked}"], "invalid_api_key"),
    ("two keys", ["Authorization: Bearer {good}", "x-api-key: sk-unknown"], "ambiguous_api_key"),
    ("the wrong scheme", ["Authorization: Basic {good_basic}"], "invalid_api_key"),
    ("a key in a cookie", ["Cookie: api_key={good}"], "missing_api_key"),
    ("a key for a proxy", ["Proxy-Authorization: Bearer {good}"], "missing_api_key"),
    ("a header of another name", ["Authorization_: Bearer {good}", "api-key: {good}"], "missing_api_key"),
    ("another's address", ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"], "missing_api_key"),
    ("another path", ["X-Original-URL: /liveness", "X-Rewrite-URL: /liveness"], "missing_api_key"),
    ("an oversize key", ["Authorization: Bearer {good}" + "x" * 20_000], "invalid_api_key"),
    ("bytes that are no text", ["Authorization: Bearer {good}\x80\xff"], "invalid_api_key"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_strangers_are_refused_and_learn_nothing(
    keyed: Gateway, keys: Keys, good: str, lines: list[str], code: str
) -> None:
    by_name = {key["name"]: key["id"] for key in json.loads(keys.file.read_text())["keys"]}
    known = {
        "good": good,
        "good_with_another_end": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "good_in_capitals": good.upper(),
        "good_basic": base64.b64encode(f"user:{good}".encode()).decode(),
        "hash": keys.hash_of("good"),
        "hash_part": keys.hash_of("good").split(":")[2],
        **{name: next(one for one in keys.secrets if by_name[name] in one) for name in ("expired", "revoked")},
    }
    filled = [line.format(**known) for line in lines]
    with RawConnection(keyed.port) as connection:
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: gateway", "Content-Type: application/json", *filled]
        connection.send("\r\n".join([*head, f"Content-Length: {len(BODY)}", "", ""]).encode("latin-1"), BODY)
        reply = connection.reply()
    assert reply.status == 401
    assert reply.json()["error"]["code"] == code
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert not any(secret in reply.body.decode() for secret in [*keys.secrets, OLD_HASH, known["hash"]])


@pytest.mark.parametrize("lines", [
    ["Authorization: Bearer sk-unknown", "Authorization: Bearer {good}"],
    ["Authorization: Bearer {good}", "Authorization: Bearer sk-unknown"],
    ["Authorization: Bearer {good}", "AUTHORIZATION: Bearer {good}"],
    ["x-api-key: {good}", "x-api-key: {good}"],
])  # fmt: skip
def test_a_header_with_a_key_comes_once(keyed: Gateway, good: str, lines: list[str]) -> None:
    assert ask(keyed, *[line.format(good=good) for line in lines]).status == 400


def test_a_key_behind_the_body_is_none(keyed: Gateway, good: str) -> None:
    with RawConnection(keyed.port) as connection:
        connection.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"
            b"Trailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n" % (len(BODY), BODY, good.encode()),
        )
        assert connection.reply().status == 401


def test_a_key_is_good_for_its_own_request_only(keyed: Gateway, good: str) -> None:
    with RawConnection(keyed.port) as connection:
        connection.send(post(BODY, f"Authorization: Bearer {good}"), post(BODY), post(BODY, f"x-api-key: {good}"))
        assert [connection.reply().status for _ in range(3)] == [200, 401, 200]


@pytest.mark.parametrize("path", [
    "/v1/chat/completions?/liveness", "/v1/chat/completions#/liveness", "/liveness/../v1/chat/completions",
    "/liveness/%2e%2e/v1/chat/completions", "//v1/chat/completions", "/v1/chat/completions/", "/v1//chat/completions",
    "/./v1/chat/completions", "/%6civeness", "/liveness%00", "/liveness;x", "/liveness/", "//liveness", "/LIVENESS",
    "http://gateway/v1/chat/completions", "http://liveness/v1/chat/completions", "/v1/chat%2fcompletions", "*",
    "/v1/models", "/v1/models/..%2f..%2fliveness", "/v1/responses/resp_1", "/v1/messages/count_tokens",
    "/v1/chat/completions?api_key={good}", "/v1/chat/completions?access_token={good}", "/nothing",
])  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_no_way_of_writing_a_path_gets_around_the_key(keyed: Gateway, good: str, method: str, path: str) -> None:
    with RawConnection(keyed.port) as connection:
        head = f"{method} {path.format(good=good)} HTTP/1.1\r\nHost: liveness\r\nContent-Type: application/json\r\n"
        connection.send(head.encode(), b"Content-Length: %d\r\n\r\n" % len(BODY), BODY)
        assert connection.reply().status in (400, 401)


@pytest.mark.parametrize("path", [
    "/v1/metaserver/0.0", f"/v1/metaserver/0.{'0' * 32}", "/v1/metaserver/", "/v1/metaserver/../chat/completions",
    "/v1/metaserver/99999.x", "/v1/metaserver/0.%30",
])  # fmt: skip
def test_nobody_calls_back_without_the_secret(keyed: Gateway, path: str) -> None:
    for body in (b'{"request_id": "chatcmpl-guessed"}', BODY):
        reply = ask(keyed, path=path, body=body)
        assert reply.status == 404
        assert b"choices" not in reply.body


def test_other_methods_and_versions(keyed: Gateway) -> None:
    with RawConnection(keyed.port) as connection:
        connection.send(b"HEAD /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")
        assert connection.reply(head_only=True).status == 401
        connection.send(b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: g\r\n\r\n")
        assert connection.reply().status == 401
    with RawConnection(keyed.port) as connection:
        connection.send(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY)
        assert connection.reply().status == 401


def test_headers_too_large_are_refused_before_any_key_is_looked_at(keyed: Gateway, good: str) -> None:
    assert ask(keyed, f"Authorization: Bearer {good}", "X-Fill: " + "x" * 70_000).status == 431


def test_whoever_guesses_keeps_nobody_out(keyed: Gateway, good: str) -> None:
    def guess(number: int) -> int:
        return chat(keyed.url, f"guess-{number}").status_code

    assert chat(keyed.url, good).status_code == 200
    with ThreadPoolExecutor(40) as pool:
        guesses = [pool.submit(guess, number) for number in range(120)]
        for _ in range(10):
            assert chat(keyed.url, good).status_code == 200
        assert {guessed.result() for guessed in guesses} <= {401, 503}


# -- keys that change


def everybody(gateway: Gateway, key: str) -> set[int]:
    """What all workers say; each new connection goes to any of them."""
    return {plain_http.get(f"{gateway.url}/v1/models", headers=bearer(key), timeout=60).status_code for _ in range(12)}


def test_new_and_revoked_keys_are_taken_up_by_all_workers(keyed: Gateway, keys: Keys) -> None:
    key = keys.create("late")
    wait_until(lambda: everybody(keyed, key) == {200}, "all workers know the new key")
    keys.revoke("late")
    wait_until(lambda: everybody(keyed, key) == {401}, "no worker takes the revoked key")


def test_a_broken_file_changes_nothing_and_is_told(keyed: Gateway, keys: Keys, good: str) -> None:
    before = keys.file.read_bytes()
    try:
        keys.file.write_text('{"version": 1, "keys": [')
        wait_until(lambda: "cannot be understood" in keyed.log(), "the log tells of the broken file")
        assert everybody(keyed, good) == {200}
        keys.file.unlink()
        wait_until(lambda: "cannot be read" in keyed.log(), "the log tells that the file is gone")
        assert everybody(keyed, good) == {200}
        keys.file.write_bytes(before)
        keys.file.chmod(0o644)
        wait_until(lambda: "chmod 600" in keyed.log(), "the log tells of the file's mode")
        assert everybody(keyed, good) == {200}
    finally:
        keys.file.write_bytes(before)
        keys.file.chmod(0o600)
    after = keys.create("after-the-break")
    wait_until(lambda: everybody(keyed, after) == {200}, "a file that is whole again is read")


def test_a_worker_that_comes_later_knows_the_newest_keys(keyed: Gateway, keys: Keys) -> None:
    key = keys.create("newest")
    wait_until(lambda: everybody(keyed, key) == {200}, "all workers know the new key")
    supervisor = psutil.Process(keyed.process.pid)
    former = {child.pid for child in supervisor.children()}
    for pid in former:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not former & {child.pid for child in supervisor.children()} and keyed.fleet()["workers_listening"] == 2,
        "other workers listen",
        60,
    )
    assert everybody(keyed, key) == {200}


def test_no_keys_no_start(engines: Engines, tmp_path: Path) -> None:
    config = {"api_key_config": {"enable_api_key": True, "keys_file": str(tmp_path / "absent.json")}}
    gateway = Gateway(engines, ["union-0"], config=config, label="absent")
    with pytest.raises(RuntimeError, match="pymotor api-key create"), gateway:
        pass


# -- what is counted, and what is never told


def test_usage_is_counted_by_the_keys_name(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    first, second = keys.create("first"), keys.create("second", "--scope", "read")
    config = {"api_key_config": {"enable_api_key": True, "keys_file": str(keys.file)}}
    gateway = make_gateway(engines, "union-0", config=config, workers=2)
    tokens = 0
    for stream in (False, True, False, True):
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        reply = chat(gateway.url, first, max_tokens=70, ignore_eos=True, stream=stream, **usage)
        assert reply.status_code == 200
        tokens += 70
    assert chat(gateway.url, first, temperature=-1).status_code == 400
    assert chat(gateway.url, second).status_code == 403
    assert chat(gateway.url).status_code == 401
    assert gateway.count("pymotor_key_requests_total", key="first") == 5
    # An answer may be whole at the client before it is settled.
    wait_until(lambda: gateway.count("pymotor_key_answers_total", key="first", outcome="ok") == 4, "all are settled")
    assert gateway.count("pymotor_key_answers_total", key="first", outcome="refused") == 1
    assert gateway.count("pymotor_key_answer_tokens_total", key="first") == tokens
    assert gateway.count("pymotor_key_prompt_tokens_total", key="first") > 0
    assert gateway.count("pymotor_key_requests_total", key="second") == 0
    assert gateway.count("pymotor_key_refusals_total", reason="insufficient_scope") == 1
    assert gateway.count("pymotor_key_refusals_total", reason="missing_api_key") == 1


def test_no_key_and_no_hash_is_in_any_log_or_metric(keyed: Gateway, keys: Keys) -> None:
    hashes = [key["hash"].split(":")[2] for key in json.loads(keys.file.read_text())["keys"]]
    told = keyed.log() + keyed.metrics() + json.dumps(keyed.fleet())
    engines_log = keyed.engines["union-0"].process
    assert engines_log is not None
    told += engines_log.log.read_text(errors="replace")
    for secret in [*keys.secrets, *hashes, OLD_HASH.split(":")[2]]:
        assert secret not in told
        assert secret[-43:] not in told


# -- on one machine


def test_a_local_fleet_with_keys(shell: Shell, tmp_path: Path) -> None:
    directory = write_config(tmp_path / "config")
    keys = Keys(directory / "keys.json")
    key = keys.create("mine")
    config = json.loads((directory / "user_config.json").read_text())
    config.setdefault("motor_coordinator_config", {})["api_key_config"] = {
        "enable_api_key": True,
        "keys_file": "keys.json",
    }
    (directory / "user_config.json").write_text(json.dumps(config))
    shell.environment["PYMOTOR_API_KEY"] = key
    up = shell.up(directory, "--first-request")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "First request answered" in up.stdout
    assert '"Authorization: Bearer $PYMOTOR_API_KEY"' in up.stdout
    assert shell.ask().status_code == 401
    assert key not in up.stdout + up.stderr
    assert shell.status()["phase"] == "ready"
    later = keys.create("later")
    url = f"{shell.url}/v1/models"
    wait_until(
        lambda: plain_http.get(url, headers=bearer(later), timeout=60).status_code == 200,
        "the fleet reads the file beside its configuration",
    )
