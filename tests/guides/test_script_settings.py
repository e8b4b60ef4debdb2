"""What the run scripts make of their settings: the command line and the environment that `vllm` really gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from private_machine import CHECKOUT

ENCODER = CHECKOUT / "examples" / "online_serving" / "disaggregated_encoder"
PD = CHECKOUT / "examples" / "disaggregated_prefill_v1"
ALL = [*ENCODER.glob("*/run_*.sh"), *PD.glob("run_*.sh")]
TELL = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"words": sys.argv[1:], "environment": dict(os.environ)}}))
"""


class Told(NamedTuple):
    """What an engine was started with."""

    words: list[str]
    environment: dict[str, str]

    def value(self, flag: str) -> str:
        """The last value of a flag, which is the one that counts."""
        last = len(self.words) - 1 - self.words[::-1].index(flag)
        return self.words[last + 1]

    def config(self, flag: str) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.value(flag))
        return config


class Place(NamedTuple):
    """Where scripts are run: `vllm` on PATH tells what it was started with."""

    directory: Path

    def run(self, script: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        model, store = self.directory / "model", self.directory / "store"
        given = {"MODEL": str(model), "EC_SHARED_STORAGE_PATH": str(store), "HOME": str(self.directory), **environment}
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(script), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": path, **given},
        )

    def told(self, script: Path, *words: str, **environment: str) -> Told:
        done = self.run(script, *words, **environment)
        assert done.returncode == 0, done.stderr
        return Told(**json.loads(done.stdout))

    def refusal(self, script: Path, **environment: str) -> str:
        """What a script says that ends with 2 before it has started anything."""
        done = self.run(script, **environment)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "bin").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "ranktable.json").touch()
    (tmp_path / "bin" / "vllm").write_text(TELL)
    (tmp_path / "bin" / "vllm").chmod(0o755)
    return Place(tmp_path)


def test_encode_is_started_as_the_guide_has_it(place: Place) -> None:
    told = place.told(ENCODER / "disagg_1e1pd" / "run_e.sh", http_proxy="http://proxy.example:3128")
    assert told.words[:2] == ["serve", str(place.directory / "model")]
    assert told.value("--port") == "23001"
    assert told.value("--gpu-memory-utilization") == "0.01"
    assert told.value("--max-num-batched-tokens") == "114688"
    assert told.value("--max-model-len") == "32768"
    assert {"--enforce-eager", "--no-enable-prefix-caching", "--enable-request-id-headers"} < set(told.words)
    assert told.config("--ec-transfer-config") == {
        "ec_connector": "ECExampleConnector",
        "ec_role": "ec_producer",
        "ec_connector_extra_config": {"shared_storage_path": str(place.directory / "store")},
    }
    assert told.environment["ASCEND_RT_VISIBLE_DEVICES"] == "0"
    assert "http_proxy" not in told.environment


def test_the_two_encodes_are_one(place: Place) -> None:
    pd, p_d = (place.told(ENCODER / f"disagg_{case}" / "run_e.sh") for case in ("1e1pd", "1e1p1d"))
    assert pd.words == p_d.words


def test_prefill_and_decode_of_1e1p1d(place: Place) -> None:
    prefill = place.told(ENCODER / "disagg_1e1p1d" / "run_p.sh")
    decode = place.told(ENCODER / "disagg_1e1p1d" / "run_d.sh")
    assert prefill.config("--ec-transfer-config")["ec_role"] == "ec_consumer"
    assert "--ec-transfer-config" not in decode.words
    p_kv, d_kv = prefill.config("--kv-transfer-config"), decode.config("--kv-transfer-config")
    assert (p_kv["kv_role"], d_kv["kv_role"]) == ("kv_producer", "kv_consumer")
    assert p_kv["kv_connector"] == d_kv["kv_connector"] == "MooncakeLayerwiseConnector"
    assert p_kv["kv_connector_extra_config"] == d_kv["kv_connector_extra_config"]
    assert p_kv["engine_id"] != d_kv["engine_id"]
    assert p_kv["kv_port"] != d_kv["kv_port"]
    assert (prefill.value("--port"), decode.value("--port")) == ("33003", "33006")


def test_on_a_gpu_kv_goes_by_nixl(place: Place) -> None:
    prefill = place.told(ENCODER / "disagg_1e1p1d" / "run_p.sh", ENGINE="gpu", P_DEVICES="3")
    decode = place.told(ENCODER / "disagg_1e1p1d" / "run_d.sh", ENGINE="gpu", D_HOST="10.0.0.7")
    assert prefill.config("--kv-transfer-config") == {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}
    assert prefill.environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert "ASCEND_RT_VISIBLE_DEVICES" not in prefill.environment
    ports = {told.environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] for told in (prefill, decode)}
    assert len(ports) == 2
    assert decode.environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == decode.value("--host") == "10.0.0.7"


def test_on_a_cpu_the_options_are_those_of_a_small_machine(place: Place) -> None:
    told = place.told(
        ENCODER / "disagg_1e1pd" / "run_pd.sh", ENGINE="cpu", VLLM_PYTHON=str(place.directory / "bin/vllm")
    )
    assert told.words[:3] == ["-m", "vllm.entrypoints.cli.main", "serve"]
    assert told.value("--dtype") == "float32"
    assert "--gpu-memory-utilization" not in told.words
    assert told.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_further_words_come_last(place: Place) -> None:
    told = place.told(ENCODER / "disagg_1e1pd" / "run_pd.sh", "--max-model-len", "1000", "--seed", "a b")
    assert told.value("--max-model-len") == "1000"
    assert told.words[-1] == "a b"


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=("C",), exclude_characters="/"), min_size=1, max_size=20))
def test_any_path_of_a_store(place: Place, name: str) -> None:
    """Quotes, blanks, backslashes, dollars: they reach the engine as they are, and no shell reads them."""
    store = str(place.directory / "stores" / f"x{name}")
    told = place.told(ENCODER / "disagg_1e1pd" / "run_e.sh", EC_SHARED_STORAGE_PATH=store)
    assert told.config("--ec-transfer-config")["ec_connector_extra_config"]["shared_storage_path"] == store
    assert os.listdir(place.directory / "stores") == [f"x{name}"]
    Path(store).rmdir()


def test_only_embeddings_are_cleared(place: Place) -> None:
    store = place.directory / "store"
    kept = [store / "notes.txt", store / "project" / "thesis.tex", store / "a" / "b" / "encoder_cache.safetensors"]
    gone = [store / "f00d" / "encoder_cache.safetensors", store / "-rf" / "encoder_cache.safetensors"]
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (store / "empty").mkdir()
    (store / ("ab" * 32)).mkdir()
    script = ENCODER / "disagg_1e1pd" / "run_e.sh"
    place.told(script, EC_CLEAR="0")
    assert all(path.exists() for path in (*kept, *gone))
    place.told(script)
    assert all(path.exists() for path in kept)
    assert {path.name for path in store.iterdir()} == {"notes.txt", "project", "a", "empty"}


@pytest.mark.parametrize(
    ("script", "environment", "said"),
    [
        (ENCODER / "disagg_1e1pd/run_e.sh", {"ENGINE": "tpu"}, "ENGINE=tpu is not known: ascend, gpu, cpu or sim"),
        (
            ENCODER / "disagg_1e1pd/run_pd.sh",
            {"MODEL": "/nowhere"},
            "there is no model at /nowhere; name yours: MODEL=",
        ),
        (ENCODER / "disagg_1e1pd/run_e.sh", {"EC_SHARED_STORAGE_PATH": "here"}, "is not an absolute path"),
        (ENCODER / "disagg_1e1pd/run_e.sh", {"EC_SHARED_STORAGE_PATH": "/a\nb"}, "has a control character"),
        (PD / "run_prefill.sh", {}, "ranktable.json; make it with gen_ranktable.sh"),
        (PD / "run_decode.sh", {"INSTANCE": "two"}, "INSTANCE=two is not a number"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    place: Place, script: Path, environment: dict[str, str], said: str
) -> None:
    if script.parent == PD:
        environment = {"DISAGGREGATED_PREFILL_RANK_TABLE_PATH": "/nowhere/ranktable.json", **environment}
    assert said in place.refusal(script, **environment)


def test_llmdatadist(place: Place) -> None:
    table = str(place.directory / "ranktable.json")
    told = [
        place.told(script, DISAGGREGATED_PREFILL_RANK_TABLE_PATH=table, **environment)
        for script, environment in (
            (PD / "run_prefill.sh", {}),
            (PD / "run_decode.sh", {}),
            (PD / "run_decode.sh", {"NODE_IP": "192.0.0.3", "INSTANCE": "2"}),
        )
    ]
    addresses = ["192.0.0.1", "192.0.0.2", "192.0.0.3"]
    assert [one.environment["HCCL_IF_IP"] for one in told] == addresses
    assert [one.value("--host") for one in told] == addresses
    assert [one.environment["DISAGGREGATED_PREFILL_RANK_TABLE_PATH"] for one in told] == [table] * 3
    assert [one.environment["ASCEND_RT_VISIBLE_DEVICES"] for one in told] == ["0,1", "6,7", "6,7"]
    # Two ports for the two devices of each, so that all could be on one node.
    assert [one.environment["VLLM_ASCEND_LLMDD_RPC_PORT"] for one in told] == ["5557", "5559", "5561"]
    configs = [one.config("--kv-transfer-config") for one in told]
    assert [config["kv_role"] for config in configs] == ["kv_producer", "kv_consumer", "kv_consumer"]
    assert len({config["engine_id"] for config in configs}) == 3
    assert all("kv_parallel_size" not in config for config in configs), "newer vLLM refuses it"
    assert ["--enforce-eager" in one.words for one in told] == [True, False, False]
    assert told[0].config("--additional-config")["ascend_scheduler_config"]["enabled"] is True


@pytest.mark.parametrize("script", ALL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_script_can_be_run_and_parsed(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n#")
    assert "\nset -euo pipefail\n" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
