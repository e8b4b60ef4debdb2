"""The nouns all rooms share: roles, endpoints, instances, snapshots of the fleet, handoff dialects. No I/O."""

from pymotor.fleet.dialects import ECDialect, KVDialect, ec_dialect, kv_dialect
from pymotor.fleet.reports import (
    ControllerRefusal,
    FleetWatch,
    NodeOrder,
    NodeReport,
    ReportReply,
    ServerReport,
    SoftwareFault,
    decode_message,
    encode_message,
)
from pymotor.fleet.roles import Role
from pymotor.fleet.snapshot import (
    ECTransfer,
    Endpoint,
    EndpointState,
    FleetSnapshot,
    Instance,
    InstanceState,
    KVTransfer,
    can_hand_over_embeddings,
    can_hand_over_kv,
    decode_snapshot,
    encode_snapshot,
)

__all__ = [
    "ControllerRefusal",
    "ECDialect",
    "ECTransfer",
    "Endpoint",
    "EndpointState",
    "FleetSnapshot",
    "FleetWatch",
    "Instance",
    "InstanceState",
    "KVDialect",
    "KVTransfer",
    "NodeOrder",
    "NodeReport",
    "ReportReply",
    "Role",
    "ServerReport",
    "SoftwareFault",
    "can_hand_over_embeddings",
    "can_hand_over_kv",
    "decode_message",
    "decode_snapshot",
    "ec_dialect",
    "encode_message",
    "encode_snapshot",
    "kv_dialect",
]
