"""The command line of `vllm serve`, as far as the simulated engine heeds it, and its own `--sim-…` flags."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymotor.engines.sim.adapters import Adapter
from pymotor.engines.sim.faults import Fault, parse_fault
from pymotor.engines.sim.kv_events_config import Form, KVEventsConfig, read_kv_events_config
from pymotor.engines.sim.option_words import OptionError, hyphenated, merged, split_dotted
from pymotor.engines.sim.server_tls import TLSOptions
from pymotor.engines.sim.times import Profile, load_profile

__all__ = ["EngineOptions", "OptionError", "add_flags", "read_options"]

log = logging.getLogger("pymotor.sim")

_SIZES = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to run one simulated engine."""

    model: str
    served_names: tuple[str, ...]
    host: str
    port: int
    tls: TLSOptions | None
    """None: plain HTTP."""
    block_size: int
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_caching: bool
    allowed_local_media_path: str
    enable_mm_embeds: bool
    seed: int
    prompt_tokens_details: bool
    api_keys: tuple[str, ...]
    request_id_headers: bool
    data_parallel_size: int
    data_parallel_rank: int
    task: str
    """`generate`, `embed` or `classify`."""
    num_labels: int
    """Of a classifier."""
    scale_out: bool
    """Whether `/inference/v1/generate` is served."""
    kv_transfer: Mapping[str, Any]
    ec_transfer: Mapping[str, Any]
    kv_events: KVEventsConfig
    kv_events_form: Form
    adapters: tuple[Adapter, ...]
    disaggregation_mode: str | None
    disaggregation_bootstrap_port: int
    speed: float
    profile: Profile
    faults: tuple[Fault, ...]
    control: bool


def size(text: str) -> int:
    """A number with an optional suffix: `8k` is 8,000, `8K` is 8,192."""
    number, unit = (text[:-1], _SIZES[text[-1]]) if text[-1:] in _SIZES else (text, 1)
    return int(float(number) * unit)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` for anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - argparse reports ValueError
    return value


def lora_module(text: str) -> tuple[str, str]:
    """Name and path of an adapter, from `name=path` or a JSON object. Raises `ValueError` for anything else."""
    if text.startswith("{"):
        value = json_object(text)
        text = f"{value.get('name', '')}={value.get('path', '')}"
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError("not name=path")
    return name, path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags the simulated engine heeds. All others of `vllm serve` are accepted and passed over."""
    serving = parser.add_argument_group("as in `vllm serve`; flags not listed are accepted and have no effect")
    serving.add_argument(
        "--model",
        "--model-path",
        dest="model_flag",
        metavar="MODEL",
        help="the model, instead of the word after `serve`; --model-path as SGLang has it",
    )
    serving.add_argument(
        "--host", help="address to listen on (default: 127.0.0.1; vllm's own default is all addresses)"
    )
    serving.add_argument(
        "--port", type=int, default=8000, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    serving.add_argument("--ssl-keyfile", default="", metavar="FILE", help="private key; with it HTTPS is served")
    serving.add_argument("--ssl-certfile", default="", metavar="FILE", help="certificate that clients are shown")
    serving.add_argument("--ssl-ca-certs", default="", metavar="FILE", help="who signs the certificates of clients")
    serving.add_argument(
        "--ssl-cert-reqs",
        type=int,
        choices=[0, 1, 2],
        default=0,
        help="whether clients show one: 0 no, 1 they may, 2 they must (default: %(default)s)",
    )
    serving.add_argument("--enable-ssl-refresh", action="store_true", help="take up files that have changed")
    serving.add_argument("--served-model-name", nargs="+", metavar="NAME", help="names clients may ask for")
    serving.add_argument("--api-key", nargs="+", default=[], metavar="KEY", help="keys that open paths below /v1")
    serving.add_argument("--block-size", type=int, default=16, help="tokens in a KV block (default: %(default)s)")
    serving.add_argument("--num-gpu-blocks-override", type=int, metavar="N", help="KV blocks (default: 262144 tokens)")
    serving.add_argument(
        "--max-model-len", type=size, default=32_768, help="tokens of prompt and answer (default: 32768)"
    )
    serving.add_argument("--max-num-seqs", type=int, default=256, help="requests in a batch (default: %(default)s)")
    serving.add_argument(
        "--max-num-batched-tokens", type=size, default=8_192, help="tokens in a step, and of encoder cache"
    )
    serving.add_argument("--enable-prefix-caching", dest="prefix_caching", action="store_true", default=True)
    serving.add_argument("--no-enable-prefix-caching", dest="prefix_caching", action="store_false")
    serving.add_argument(
        "--allowed-local-media-path", default="", metavar="DIR", help="where file:// media may be read"
    )
    serving.add_argument("--enable-mm-embeds", action="store_true", help="accept image_embeds and the like")
    serving.add_argument(
        "--seed",
        "--random-seed",
        type=int,
        default=0,
        metavar="N",
        help="what the seeds of requests that have none are drawn from (default: %(default)s)",
    )
    serving.add_argument("--enable-prompt-tokens-details", action="store_true", help="report cached tokens in usage")
    serving.add_argument("--enable-request-id-headers", action="store_true", help="answer with X-Request-Id")
    serving.add_argument(
        "--runner", choices=("auto", "generate", "pooling"), default="auto", help="pooling: numbers instead of text"
    )
    serving.add_argument(
        "--convert",
        choices=("auto", "none", "embed", "classify"),
        default="auto",
        help="what --runner pooling makes of the model (default: embed)",
    )
    serving.add_argument(
        "--hf-overrides", type=json_object, default={}, metavar="JSON", help="num_labels: how many a classifier has"
    )
    serving.add_argument(
        "--data-parallel-size",
        "-dp",
        type=int,
        default=1,
        help="ranks that X-data-parallel-rank may name; all are one engine",
    )
    serving.add_argument(
        "--data-parallel-rank", type=int, default=0, help="shifts the ports of KV events (default: %(default)s)"
    )
    serving.add_argument(
        "--lora-modules", nargs="+", type=lora_module, default=[], metavar="NAME=PATH", help="adapters by their names"
    )
    for flag in ("--enable-scale-out", "--tokens-only"):
        serving.add_argument(flag, dest="scale_out", action="store_true", help="serve /inference/v1/generate")
    serving.add_argument("--kv-transfer-config", type=json_object, default={}, metavar="JSON")
    serving.add_argument("--ec-transfer-config", type=json_object, default={}, metavar="JSON")
    serving.add_argument("--kv-events-config", type=json_object, default={}, metavar="JSON")
    sglang = parser.add_argument_group("as in `sglang.launch_server`")
    sglang.add_argument(
        "--disaggregation-mode",
        choices=("null", "prefill", "decode"),
        default="null",
        help="hand KV over as SGLang does (default: %(default)s, as vLLM by --kv-transfer-config)",
    )
    sglang.add_argument(
        "--disaggregation-bootstrap-port",
        type=int,
        default=8998,
        help="where prefill's bootstrap server listens, 0 for a free port (default: %(default)s)",
    )
    simulation = parser.add_argument_group("simulation")
    simulation.add_argument(
        "--sim-speed",
        type=float,
        default=0.0,
        metavar="F",
        help="1: the profile's real time, 2: twice as slow, 0: as fast as possible (default: %(default)s)",
    )
    simulation.add_argument(
        "--sim-profile", type=Path, metavar="FILE", help="costs in JSON; see docs/simulated-engine.md"
    )
    simulation.add_argument(
        "--sim-fault", action="append", default=[], metavar="SPEC", help="fail on purpose, repeatable"
    )
    simulation.add_argument(
        "--sim-kv-events-form",
        choices=("map", "array"),
        default="map",
        help="how KV events are written: as vLLM 0.32 does or as versions before it (default: %(default)s)",
    )
    simulation.add_argument("--sim-control", action="store_true", help="serve /sim/faults and /sim/state")


def read_options(arguments: argparse.Namespace, words: Sequence[str]) -> EngineOptions:
    """Options from what the verb's parser took and the words it left. Raises `OptionError`."""
    parser = argparse.ArgumentParser(prog="pymotor sim-engine", allow_abbrev=False, add_help=False)
    add_flags(parser)
    parser.add_argument("words", nargs="*")
    plain, dotted = split_dotted(words)
    parsed, ignored = parser.parse_known_args([hyphenated(word) for word in plain], namespace=arguments)
    positional = list(parsed.words)
    if positional[:1] == ["serve"]:
        del positional[0]
    model = positional.pop(0) if positional else parsed.model_flag
    if model is None:
        raise OptionError("name a model: pymotor sim-engine serve MODEL")
    ignored += positional
    if ignored:
        log.info("flags without effect in the simulated engine: %s", " ".join(ignored))
    if parsed.block_size < 1 or parsed.max_num_seqs < 1 or parsed.max_num_batched_tokens < 1:
        raise OptionError("--block-size, --max-num-seqs and --max-num-batched-tokens must be at least 1")
    blocks = parsed.num_gpu_blocks_override or max(262_144, parsed.max_model_len) // parsed.block_size
    if blocks * parsed.block_size < parsed.max_model_len:
        raise OptionError(
            f"{blocks} KV blocks of {parsed.block_size} tokens hold less than --max-model-len {parsed.max_model_len}: "
            f"raise --num-gpu-blocks-override or lower --max-model-len"
        )
    return EngineOptions(
        model=model,
        served_names=tuple(parsed.served_model_name or (model,)),
        host=parsed.host or "127.0.0.1",
        port=parsed.port,
        tls=_tls(parsed),
        block_size=parsed.block_size,
        num_blocks=blocks,
        max_model_len=parsed.max_model_len,
        max_num_seqs=parsed.max_num_seqs,
        max_num_batched_tokens=parsed.max_num_batched_tokens,
        prefix_caching=parsed.prefix_caching,
        allowed_local_media_path=parsed.allowed_local_media_path,
        enable_mm_embeds=parsed.enable_mm_embeds,
        seed=parsed.seed,
        prompt_tokens_details=parsed.enable_prompt_tokens_details,
        api_keys=tuple(parsed.api_key),
        request_id_headers=parsed.enable_request_id_headers,
        data_parallel_size=parsed.data_parallel_size,
        data_parallel_rank=parsed.data_parallel_rank,
        task=_task(parsed.runner, parsed.convert),
        num_labels=int(parsed.hf_overrides.get("num_labels", 2)),
        scale_out=parsed.scale_out,
        kv_transfer=merged(parsed.kv_transfer_config, dotted["kv-transfer"]),
        ec_transfer=merged(parsed.ec_transfer_config, dotted["ec-transfer"]),
        kv_events=_kv_events(merged(parsed.kv_events_config, dotted["kv-events"])),
        kv_events_form=parsed.sim_kv_events_form,
        adapters=tuple(Adapter(name, number, path) for number, (name, path) in enumerate(parsed.lora_modules, 1)),
        disaggregation_mode=None if parsed.disaggregation_mode == "null" else parsed.disaggregation_mode,
        disaggregation_bootstrap_port=parsed.disaggregation_bootstrap_port,
        speed=parsed.sim_speed,
        profile=_profile(parsed.sim_profile),
        faults=_faults(parsed.sim_fault),
        control=parsed.sim_control,
    )


def _tls(parsed: argparse.Namespace) -> TLSOptions | None:
    if not parsed.ssl_certfile and not parsed.ssl_keyfile:
        return None
    return TLSOptions(
        certificate=parsed.ssl_certfile,
        key=parsed.ssl_keyfile,
        authority=parsed.ssl_ca_certs,
        requirement=parsed.ssl_cert_reqs,
        refresh=parsed.enable_ssl_refresh,
    )


def _task(runner: str, convert: str) -> str:
    if runner != "pooling":
        return "generate"
    return "classify" if convert == "classify" else "embed"


def _profile(path: Path | None) -> Profile:
    if path is None:
        return Profile()
    try:
        return load_profile(path)
    except (OSError, ValueError) as error:
        raise OptionError(str(error)) from error


def _kv_events(value: Mapping[str, Any]) -> KVEventsConfig:
    try:
        return read_kv_events_config(value)
    except ValueError as error:
        raise OptionError(str(error)) from error


def _faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    try:
        return tuple(parse_fault(text) for text in texts)
    except ValueError as error:
        raise OptionError(f"--sim-fault: {error}") from error
