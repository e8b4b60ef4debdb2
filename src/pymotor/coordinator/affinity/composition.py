"""What a worker places requests with, put together from its settings."""

from __future__ import annotations

import asyncio
import logging

from pymotor.control_plane.token import ClusterToken
from pymotor.coordinator.affinity.conductor_client import Address, ConductorClient
from pymotor.coordinator.affinity.engine_tokens import EngineTokens
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.affinity.placement import AffinityPlacement, KeyedPlacement, Placement
from pymotor.coordinator.affinity.session_placement import SessionPlacement
from pymotor.coordinator.prompts.model_files import UNUSABLE, in_words
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Policy
from pymotor.coordinator.settings import Settings
from pymotor.telemetry.metrics import Registry

logger = logging.getLogger(__name__)


def prompt_tokens(settings: Settings, loop: asyncio.AbstractEventLoop) -> PromptTokens | None:
    """What reads prompts; None where there is no tokenizer, or none that can be loaded any more."""
    affinity = settings.affinity
    directory = settings.tokenizer_path or affinity.model_directory
    if not directory:
        return None
    # The Coordinator does not start with files that cannot be used: these broke while it ran, and a worker that was
    # started again goes on without them.
    try:
        return PromptTokens.load(
            directory, loop, template=affinity.template, template_options=affinity.template_options
        )
    except UNUSABLE as error:
        by_prefix = settings.scheduler_type == "kv_cache_affinity"
        logger.warning(
            "%s; this worker %s. Mend it, then restart the Coordinator",
            in_words(error, directory),
            "asks engines for the tokens of prompts" if by_prefix else "estimates prompts",
        )
        return None


def placement_for(
    settings: Settings,
    ledger: Ledger,
    base: Policy,
    registry: Registry,
    tokens: PromptTokens | None,
    loop: asyncio.AbstractEventLoop,
) -> Placement | None:
    """By `scheduler_type`; None where load, or a turn, decides alone. `base` decides where nothing else is known.

    The cluster's token is taken from the environment. Raises `TokenError`, `TLSError`.
    """
    affinity = settings.affinity
    if settings.scheduler_type == "prefix_hash":
        return KeyedPlacement(ledger, base, tokens)
    if settings.scheduler_type == "session_affinity":
        return SessionPlacement(ledger, base, tokens, affinity.session_header.encode())
    if settings.scheduler_type != "kv_cache_affinity":
        return None
    conductor = None
    if affinity.conductor_host:
        token = ClusterToken.from_environment()
        plane = affinity.conductor_tls
        conductor = ConductorClient(
            Address(affinity.conductor_host, affinity.conductor_port),
            token.secret if token is not None else "",
            loop,
            patience=affinity.patience,
            tls=plane.client() if plane is not None else None,
        )
        conductor.start()
    return AffinityPlacement(
        affinity.rules,
        ledger,
        base,
        AffinityInstruments(registry),
        tokens=tokens,
        engine_tokens=EngineTokens(loop, settings.connect_timeout),
        conductor=conductor,
    )
