"""`pymotor proxy`: requests in, answers out, with the engines that the command line names."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from pymotor.control_plane.foreground import announce_url, failed
from pymotor.control_plane.ports import PortError
from pymotor.coordinator.pairing import is_loopback, is_wildcard
from pymotor.coordinator.proxy import flags
from pymotor.coordinator.proxy.access import Access, AccessError
from pymotor.coordinator.proxy.addresses import Address, AddressError, host_from
from pymotor.coordinator.proxy.flags import Listed, UsageError, listed_engines
from pymotor.coordinator.proxy.handoffs import Handoffs
from pymotor.coordinator.proxy.operations import Operations
from pymotor.coordinator.proxy.static_fleet import Care, StaticFleet
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.supervisor import CoordinatorOptions, supervise
from pymotor.coordinator.worker_pool import WorkerStartError
from pymotor.fleet import ECDialect, KVDialect, Role
from pymotor.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

_PROGRAM = "proxy"
WORKER_MODULE = "pymotor.coordinator.worker_control"
ENGINE_KEY = "OPENAI_API_KEY"
"""The environment variable with the engines' `--api-key`, as the originals have it."""

_WORKER_TIMEOUT = 30.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_EPILOG = f"""\
It prints one line to standard output, `pymotor proxy ready on http://HOST:PORT`, when it accepts requests, and its
log to standard error. Engines may start later: until they answer, requests get 503 with what is missing.

  pymotor proxy --prefiller-hosts 10.0.0.1 --prefiller-ports 13700 --decoder-hosts 10.0.0.2 --decoder-ports 13700
  pymotor proxy --encoder-ports 23001 --pd-ports 33003 --port 8001

GET  /healthcheck                                      how many instances there are
POST /instances/add, /instances/remove                 {{"type": "decode", "instances": ["10.0.0.3:13700"]}}
GET  /instances, /metrics                              states and load; Prometheus
POST /reset_prefix_cache, /start_profile, /stop_profile

All but the first are answered to clients on this machine, or, where PYMOTOR_PROXY_TOKEN or --token-file is set, to
those who send it as `Authorization: Bearer TOKEN`. The engines' own --api-key is read from {ENGINE_KEY}.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = (
        "%(prog)s --ROLE-hosts HOST ... --ROLE-ports PORT ... [options]; ROLE: encoder, prefiller, decoder, pd"
    )
    parser.epilog = _EPILOG
    flags.configure(parser)
    parser.set_defaults(usage_error=parser.error)


class Plan(NamedTuple):
    """What the command line asks for."""

    listed: Sequence[Listed]
    handoffs: Handoffs
    care: Care
    options: CoordinatorOptions
    access: Access


def run(arguments: argparse.Namespace) -> int:
    """Run until it is told to end; returns the exit status. Exits with 2 where flags contradict each other."""
    try:
        plan = plan_from(arguments, os.environ)
    except (UsageError, AccessError) as error:
        arguments.usage_error(str(error))
    configure_logging(plan.options.log_level, process="proxy")
    if arguments.log_requests:
        logger.warning("--log-requests has no effect: requests are counted and timed at GET /metrics")
    if arguments.encoder_dispatch_mode == "single":
        logger.warning("--encoder-dispatch-mode single has no effect: each item goes to the encoder that suits it best")
    try:
        asyncio.run(_serve(plan, os.environ.get(ENGINE_KEY, ""), arguments.allowed_local_media_path))
    except (PortError, WorkerStartError) as error:
        return failed(_PROGRAM, str(error))
    return 0


async def _serve(plan: Plan, key: str, media_path: str) -> None:
    callback_host = plan.options.settings.callback_host

    def obstacle(role: Role, address: Address) -> str:
        """Why what is added is no engine, or one that could not call the proxy back."""
        if _is_proxy(address, plan.options.host, plan.options.port):
            return f"{address} is this proxy itself"
        calls = role is Role.DECODE and plan.handoffs.dialect is KVDialect.CALLBACK
        return _unreached(callback_host, [address]) if calls else ""

    fleet = StaticFleet(plan.listed, plan.handoffs, plan.care, key=key, media_path=media_path)
    await supervise(plan.options, fleet, partial(announce_url, _PROGRAM), Operations(fleet, plan.access, key, obstacle))


def plan_from(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Plan:
    """What the flags ask for. Raises `UsageError`, `AccessError`."""
    listed = listed_engines(arguments)
    own = next((one.address for one in listed if _is_proxy(one.address, arguments.host, arguments.port)), None)
    if own is not None:
        raise UsageError(f"{own} is where the proxy itself listens: give it another --port, or the engine its own")
    handoffs = handoffs_from(arguments, listed)
    access = Access.load(environment, arguments.token_file)
    return Plan(
        listed,
        handoffs,
        Care(arguments.health_interval, arguments.waiting_retry_interval, arguments.max_waiting_retries),
        msgspec.structs.replace(options_from(arguments, listed, handoffs, environment), door_token=access),
        access,
    )


def handoffs_from(arguments: argparse.Namespace, listed: Sequence[Listed]) -> Handoffs:
    """How the engines hand over. Raises `UsageError`."""
    prefills = [one.address for one in listed if one.role is Role.PREFILL]
    ports = arguments.prefiller_bootstrap_ports
    if ports and len(ports) != len(prefills):
        raise UsageError(
            f"--prefiller-bootstrap-ports has {len(ports)} and there are {len(prefills)} prefill engines: give one for"
            " each"
        )
    consumers = prefills or [one.address for one in listed if one.role is Role.UNION]
    told = [text.strip() for text in arguments.ec_consumer_zmq_addrs.split(",") if text.strip()]
    embeddings = ECDialect.PUSH if told else ECDialect(arguments.embeddings)
    if embeddings is ECDialect.PUSH and len(told) != len(consumers):
        raise UsageError(
            f"--ec-consumer-zmq-addrs has {len(told)} addresses, and {len(consumers)} engines take embeddings: give"
            " one for each, in their order"
        )
    handoffs = Handoffs(
        kv=arguments.handoff,
        ec=embeddings,
        bootstrap_ports=dict(zip(prefills, ports, strict=False)),
        ec_consumers=dict(zip(consumers, told, strict=False)),
    )
    try:
        handoffs.dialect  # noqa: B018 - known or not
    except ValueError as error:
        raise UsageError(f"--handoff: {error}") from error
    return handoffs


def options_from(
    arguments: argparse.Namespace, listed: Sequence[Listed], handoffs: Handoffs, environment: Mapping[str, str]
) -> CoordinatorOptions:
    """What the Coordinator is started with. Raises `UsageError`."""
    host = "127.0.0.1" if arguments.host == "localhost" else arguments.host.strip("[]")
    tries = arguments.max_retries - 1
    settings = Settings(
        callback_host=_callback_host(host, _advertised(arguments, host, environment), listed, handoffs),
        callbacks_at_inference_port=True,
        retry_delay=arguments.retry_delay,
        transport_max_retry=tries,
        max_retry=tries if arguments.decode_retries is None else arguments.decode_retries,
        forward_media="always" if arguments.no_rewrite else "prefill",
        engine_api_key_env=ENGINE_KEY if environment.get(ENGINE_KEY) else "",
    )
    return CoordinatorOptions(
        settings=settings,
        host=host,
        port=arguments.port,
        management_port=arguments.management_port,
        observability_port=arguments.observability_port,
        workers=arguments.workers,
        # Nothing is logged as critical: what ends a process is an error.
        log_level="ERROR" if arguments.log_level == "CRITICAL" else arguments.log_level,
        grace=arguments.grace,
        worker_timeout=_WORKER_TIMEOUT,
        worker_module=WORKER_MODULE,
    )


def _advertised(arguments: argparse.Namespace, host: str, environment: Mapping[str, str]) -> str:
    """The address that others dial, as far as it is known. Raises `UsageError`."""
    if not arguments.advertise_address:
        return environment.get("POD_IP", "") if is_wildcard(host) else host
    if is_wildcard(arguments.advertise_address):
        raise UsageError(f"--advertise-address {arguments.advertise_address}: nobody can dial all interfaces")
    try:
        return host_from(arguments.advertise_address)
    except AddressError as error:
        raise UsageError(f"--advertise-address: {error}") from error


def _callback_host(host: str, advertised: str, listed: Sequence[Listed], handoffs: Handoffs) -> str:
    """Where decode engines call back. Raises `UsageError` where they could not reach it."""
    found = advertised or _LOOPBACK.get(host, host)
    if handoffs.dialect is KVDialect.CALLBACK:
        obstacle = _unreached(found, [one.address for one in listed if one.role is Role.DECODE])
        if obstacle:
            raise UsageError(obstacle)
    return found


def _is_proxy(address: Address, host: str, port: int) -> bool:
    """Whether requests to this address would come back to the proxy, as far as that is seen without asking anybody."""
    own = {"127.0.0.1", "::1", "localhost"} if is_wildcard(host) else {host.strip("[]"), _LOOPBACK.get(host, host)}
    return address.port == port and (address.socket[0] in own or address.host in own)


def _unreached(callback_host: str, decodes: Sequence[Address]) -> str:
    """Why one of these engines could not call back to this host; nothing where all can."""
    remote = next((address.host for address in decodes if not is_loopback(address.host)), "")
    if not remote or not is_loopback(callback_host):
        return ""
    return (
        f"decode engines call the proxy back, and from {remote} nobody reaches {callback_host}: start the proxy with"
        " --host or, where that is 0.0.0.0, --advertise-address with an address of this machine that they reach"
    )
