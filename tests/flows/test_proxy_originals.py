"""The example proxies: the commands of the guides, and the layerwise protocol's nasty cases."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import plain_http
import pytest
from answers import CHAT, Asked, ask_all, assert_equal_answers
from fleet_under_test import PLAIN, Engine, Engines, Role
from handing_fleets import prompts
from images import text_chat, vision_chat
from processes import PymotorProcess, wait_until
from proxy_under_test import SCRIPTS, Proxy, flags_for, running_proxy, script, urls

GUIDE = Path(__file__).parents[1] / "guides" / "llmdatadist_guide.txt"
LAYERWISE = "load_balance_proxy_layerwise_server_example"
EPD = "epd_load_balance_proxy_layerwise_server_example"
DISAGG = "disagg_epd_proxy"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """All roles, prefill and decode joined by callbacks."""
    roles = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 2, Role.UNION: 1}
    directory = tmp_path_factory.mktemp("layerwise")
    with Engines(directory, roles, kv_connector="MooncakeLayerwiseConnector") as running:
        yield running


@pytest.fixture(autouse=True)
def mended(engines: Engines) -> Iterator[None]:
    yield
    engines.restore()


def assert_as_plain(proxy: Proxy, engines: Engines, requests: list[Asked]) -> None:
    """The proxy's answers are the plain engine's, and nothing is left behind by them."""

    async def both() -> None:
        found = await ask_all(proxy.url, requests, 8)
        expected = await ask_all(engines[PLAIN].url, requests, 8)
        assert_equal_answers(requests, found, expected, "the proxy")

    asyncio.run(both())
    proxy.assert_idle()
    for engine in engines:
        wait_until(lambda engine=engine: not engine.in_hand(), f"{engine.name} has nothing in hand")  # type: ignore[misc]


def chats(count: int) -> list[Asked]:
    """Streams and whole answers."""
    return [Asked(CHAT, text_chat(f"chat {number}", stream=number % 2 == 0)) for number in range(count)]


def served(engine: Engine) -> float:
    return engine.metric("vllm:request_success_total")


# -- the guide's command


def _commands(text: str) -> tuple[str, str]:
    """The proxy's command line and the request, as they stand in the guide."""
    proxy = re.search(r"^python load_balance_proxy_server_example\.py \\\n(?:.*\\\n)*.*$", text, re.MULTILINE)
    request = re.search(r"^curl http://192.*?^\}'$", text, re.MULTILINE | re.DOTALL)
    assert proxy is not None
    assert request is not None
    return proxy[0], request[0]


def test_the_llmdatadist_guides_proxy_word_for_word(tmp_path: Path) -> None:
    """Its three hosts are loopback addresses of this test's own; its ports stay."""
    network = f"127.{tmp_path.stat().st_ino % 200 + 20}.{tmp_path.stat().st_mtime_ns % 250}"
    command, request = (text.replace("192.0.0.", f"{network}.") for text in _commands(GUIDE.read_text()))
    with ExitStack() as opened:
        for number, role in ((1, Role.PREFILL), (2, Role.DECODE), (3, Role.DECODE)):
            flags = ("--host", f"{network}.{number}", "--served-model-name", "qwen3-moe")
            engine = Engine(f"node-{number}", role, tmp_path, flags, "LLMDataDistCMgrConnector", 30.0)
            engine.port = 13700
            engine.url = f"http://{network}.{number}:13700"
            engine.start()
            assert engine.process is not None
            opened.callback(engine.process.end)
        words = shlex.split(command.replace("\\\n", " "))
        assert words[:2] == ["python", "load_balance_proxy_server_example.py"]
        program = (str(script("load_balance_proxy_server_example")),)
        process = PymotorProcess(words[2:], tmp_path / "proxy.log", None, program)
        opened.callback(process.end)
        url = f"http://{network}.1:8080"
        proxy = Proxy(url, process)
        process.wait_until_ok(f"{url}/healthcheck")
        proxy.wait_for(prefill=1, decode=2)
        # By an address of its own machine; nobody needs a token for that.
        assert proxy.ask("GET", "/instances").status_code == 200
        answer = subprocess.run(["bash", "-c", f"{request} -sS --fail-with-body"], capture_output=True, text=True)
        assert answer.returncode == 0, answer
        told = json.loads(answer.stdout)
        assert told["model"] == "qwen3-moe"
        assert told["choices"][0]["text"]
        assert proxy.instances()["prefill-0"]["endpoints"][0]["url"] == f"http://{network}.1:13700"


# -- decode first


def test_several_prompts_by_callback(engines: Engines, tmp_path: Path) -> None:
    flags = flags_for([engines[name] for name in ("prefill-0", "decode-0", "decode-1")])
    # Listening everywhere, as the original refuses to; two workers share the port that decode calls back.
    everywhere = ("--host", "0.0.0.0", "--advertise-address", "127.0.0.1", "--workers", "2")
    with running_proxy(tmp_path, *flags, *everywhere, example=LAYERWISE) as proxy:
        proxy.wait_for(prefill=1, decode=2)
        assert_as_plain(proxy, engines, [*chats(6), prompts(3), prompts(2, stream=True)])
        for nasty in ("callback_twice", "callback_late:seconds=0.3"):
            for name in ("decode-0", "decode-1"):
                engines[name].fail(nasty)
            assert_as_plain(proxy, engines, [*chats(4), prompts(4)])
        # Nobody can guess where to call.
        reply = plain_http.post(f"{proxy.url}/v1/metaserver", json={"request_id": "chatcmpl-x"}, timeout=60)
        assert reply.status_code == 404


def test_a_remote_decode_that_could_not_call_back_is_not_added(engines: Engines, tmp_path: Path) -> None:
    flags = flags_for([engines["prefill-0"], engines["decode-0"]])
    with running_proxy(tmp_path, *flags, example=LAYERWISE) as proxy:
        reply = proxy.ask("POST", "/instances/add", {"type": "decode", "instances": "10.9.9.9:1"})
        assert reply.status_code == 400
        assert "--advertise-address" in reply.json()["error"]
        assert proxy.ask("POST", "/instances/add", {"type": "prefill", "instances": "10.9.9.9:1"}).status_code == 200


# -- encode


def test_one_encode_and_one_pd(engines: Engines, tmp_path: Path) -> None:
    flags = flags_for([engines["encode-0"], engines["union-0"]])
    before = served(engines["encode-0"])
    with running_proxy(tmp_path, *flags, example=EPD) as proxy:
        proxy.wait_for(encode=1, pd=1)
        assert_as_plain(proxy, engines, [Asked(CHAT, vision_chat(801, 802)), *chats(2), prompts(2)])
    assert served(engines["encode-0"]) == before + 2


def test_encode_prefill_and_decode_with_an_encoder_that_is_not_there(engines: Engines, tmp_path: Path) -> None:
    """As the guide has it: one host and two encode ports, of which one is used."""
    stages = ("encode-0", "prefill-0", "decode-0")
    flags = flags_for([engines[name] for name in stages])
    flags.insert(flags.index("--prefiller-hosts"), "1")
    with running_proxy(tmp_path, *flags, example=EPD) as proxy:
        proxy.wait_for(encode=1, prefill=1, decode=1)
        assert_as_plain(proxy, engines, [Asked(CHAT, vision_chat(803)), *chats(2)])
        assert proxy.instances()["encode-1"]["state"] == "initial"


@pytest.mark.parametrize("prefill", ["disable", "prefill-0"])
def test_servers_by_url(engines: Engines, tmp_path: Path, prefill: str) -> None:
    last = "union-0" if prefill == "disable" else "decode-0"
    flags = ["--encode-servers-urls", urls(engines, "encode-0"), "--decode", urls(engines, last)]
    flags += ["--handoff", "callback"]
    flags += ["--prefill-servers-urls", prefill if prefill == "disable" else urls(engines, prefill)]
    with running_proxy(tmp_path, *flags, "--encoder-dispatch-mode", "single", example=DISAGG) as proxy:
        proxy.wait_for(encode=1, **({"pd": 1} if prefill == "disable" else {"prefill": 1, "decode": 1}))
        assert_as_plain(proxy, engines, [Asked(CHAT, vision_chat(804, 805)), *chats(2)])
        assert proxy.ask("GET", "/health").json()["encode_cluster"] == "healthy"


# -- where PyMotor is not installed


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_python_without_pymotor_is_told_what_to_do(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(script(name))], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert ended.returncode == 1
    assert "run this script with the Python that PyMotor is installed for" in ended.stderr
    assert "Traceback" not in ended.stderr
