"""What SGLang's server calls its options, and which of them PyMotor sets itself."""

from __future__ import annotations

from pymotor.engines.command_line import CommandLineStyle

STYLE = CommandLineStyle(switches=frozenset(), flags=frozenset(), json_lists=frozenset())
"""SGLang's booleans are flags without a negative form."""

OWN_OPTIONS = frozenset({"enable_multi_endpoints", "kv_dialect", "ec_dialect"})
"""Keys in `engine_config` that mean something to PyMotor and nothing to SGLang."""

PLACED_OPTIONS = frozenset({"host", "port", "nnodes", "node_rank", "dist_init_addr", "disaggregation_mode"})
"""Options that the plan decides: the user's value is not passed on."""

PLACED_FOR_SEVERAL_NODES = frozenset({"nnodes", "dist_init_addr"})
"""Those that the user may set for instances of several nodes; of the address only the port counts."""

DIST_INIT_PORT = 29500
"""Where the nodes of one instance meet, unless dist_init_addr names another port."""

BOOTSTRAP_PORT = 8998
"""Where prefill and decode find each other, by SGLang's own default."""

DISAGGREGATION_MODES = {"prefill": "prefill", "decode": "decode"}
"""By role; others run both stages."""


def server_command(python: str) -> tuple[str, ...]:
    """How the server is started, up to its first option."""
    return (python or "python3", "-m", "sglang.launch_server")
