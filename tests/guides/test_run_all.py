"""All parts of a guide by one script, on simulated engines: as good as one engine, and nothing is left of it."""

from __future__ import annotations

import json

import pytest
from private_machine import PrivateMachine, Running, wait_until

SCRIPTS = "/vllm-workspace/vllm-ascend/examples/online_serving/disaggregated_encoder"
QUESTION = {
    "model": "qwenvl",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "http://images.example/qwen.png"}},
                {"type": "text", "text": "What is the text in the illustrate?"},
            ],
        },
    ],
    "max_tokens": 40,
    "temperature": 0,
}


def started(machine: PrivateMachine, case: str, **settings: str) -> Running:
    """`bash run_all.sh`, when it is ready. Its process id is in /data/pid."""
    script = "echo $$ >/data/pid; exec bash run_all.sh"
    running = machine.start(script, f"{SCRIPTS}/disagg_{case}", ENGINE="sim", **settings)
    wait_until(
        lambda: "ready on http://127.0.0.1:8001" in running.printed or running.status is not None,
        lambda: running.output,
    )
    assert running.status is None, running.output
    return running


def answer(machine: PrivateMachine, port: int) -> str:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    reply = json.loads(machine.run(f"curl -s {url} -H Content-Type:application/json -d '{json.dumps(QUESTION)}'"))
    assert reply["object"] == "chat.completion", reply
    content: str = reply["choices"][0]["message"]["content"]
    return content


def plain_answer(machine: PrivateMachine) -> str:
    """Of one engine without connectors."""
    engine = machine.start(
        "vllm serve /your/local/model/path/Qwen3-VL-8B-Instruct --port 9000 --served-model-name qwenvl"
    )
    machine.wait_until_ok("http://127.0.0.1:9000/health", engine)
    content = answer(machine, 9000)
    machine.run("kill $(ss -Hltnp sport = :9000 | sed 's/.*pid=//; s/,.*//')")
    engine.wait()
    return content


def processes(machine: PrivateMachine) -> set[str]:
    """The command lines in the machine but for its own and those that ask."""
    if not machine.private:
        pytest.skip("what a script leaves behind is NOT TESTED here, since namespaces cannot be made")
    lines = machine.run("ps -e -o args=").splitlines()
    return {
        line
        for line in lines
        # What has ended is there until the machine's init has looked.
        if line and "<defunct>" not in line
        if not line.startswith(("bash -c sleep", "sleep infinity", "ps -e", "bash /"))
    }


@pytest.mark.parametrize(("case", "reader"), [("1e1pd", "run_pd.sh"), ("1e1p1d", "run_p.sh run_d.sh")])
def test_embeddings_come_from_encode(machine: PrivateMachine, case: str, reader: str) -> None:
    """An encoder that writes wrong ones spoils the answer, so whoever reads them does not encode by itself."""
    reference = plain_answer(machine)
    directory = f"{SCRIPTS}/disagg_{case}"
    scripts = ["run_e.sh --sim-fault ec_wrong", *reader.split(), "run_proxy.sh"]
    parts = [machine.start(f"exec bash {script}", directory, ENGINE="sim") for script in scripts]
    machine.wait_until_ok("http://127.0.0.1:8001/healthcheck", *parts)
    machine.wait_until_ok("http://127.0.0.1:23001/health", *parts)
    wait_until(lambda: "encode-0 (127.0.0.1:23001) serves" in parts[-1].output, lambda: parts[-1].output)
    assert answer(machine, 8001) != reference


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_ctrl_c_ends_everything(machine: PrivateMachine, signal: str) -> None:
    reference = plain_answer(machine)
    before = processes(machine)
    running = started(machine, "1e1p1d")
    assert answer(machine, 8001) == reference
    assert machine.run("ls $HOME/.local/state/pymotor/ec_cache/*/encoder_cache.safetensors"), "the image was encoded"
    machine.run(f"kill -{signal} $(cat /data/pid)")
    assert running.wait() == {"INT": 130, "TERM": 143}[signal]
    assert processes(machine) == before


def test_the_end_of_a_part_is_the_end_of_all(machine: PrivateMachine) -> None:
    before = processes(machine)
    running = started(machine, "1e1pd")
    machine.run("kill -KILL $(ss -Hltnp sport = :33003 | sed 's/.*pid=//; s/,.*//')")
    assert running.wait() == 1
    assert "a part has ended" in running.output
    assert processes(machine) == before


def test_an_engine_that_does_not_start(machine: PrivateMachine) -> None:
    before = processes(machine)
    running = machine.start("exec bash run_all.sh", f"{SCRIPTS}/disagg_1e1pd", ENGINE="sim", PD_PORT="not-a-port")
    assert running.wait() == 2
    assert "not-a-port" in running.output
    assert processes(machine) == before
