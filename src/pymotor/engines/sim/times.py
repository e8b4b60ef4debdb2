"""How long things take: a profile of costs, and what one step did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Costs of one engine. Times in microseconds; the defaults are of the order of an 8B model on one accelerator."""

    step_base_us: float = 3_000.0
    """Any step that computes something."""
    prefill_us_per_token: float = 40.0
    decode_us_per_sequence: float = 60.0
    decode_us_per_context_token: float = 0.02
    encode_base_us: float = 4_000.0
    """Each item that is encoded."""
    encode_us_per_token: float = 25.0
    embedding_bytes_per_token: int = 16_384
    embedding_transfer_us_per_mib: float = 400.0
    kv_bytes_per_token: int = 147_456
    kv_transfer_base_us: float = 500.0
    kv_transfer_us_per_mib: float = 80.0
    kv_handshake_timeout_seconds: float = 5.0
    """How long a consumer of KV waits for a producer that does not answer."""

    def kv_transfer_seconds(self, tokens: int) -> float:
        """Fetching the KV of so many tokens from another engine."""
        mib = tokens * self.kv_bytes_per_token / 2**20
        return (self.kv_transfer_base_us + mib * self.kv_transfer_us_per_mib) / 1e6


@dataclass
class Work:
    """What one step computed and moved."""

    prefill_tokens: int = 0
    decode_sequences: int = 0
    decode_context_tokens: int = 0
    encoded_items: int = 0
    encoded_tokens: int = 0
    moved_embedding_tokens: int = 0

    def seconds(self, profile: Profile) -> float:
        """How long the step takes; 0 when there was nothing to do."""
        if not (self.prefill_tokens or self.decode_sequences or self.encoded_items or self.moved_embedding_tokens):
            return 0.0
        moved_mib = self.moved_embedding_tokens * profile.embedding_bytes_per_token / 2**20
        return (
            profile.step_base_us
            + self.prefill_tokens * profile.prefill_us_per_token
            + self.decode_sequences * profile.decode_us_per_sequence
            + self.decode_context_tokens * profile.decode_us_per_context_token
            + self.encoded_items * profile.encode_base_us
            + self.encoded_tokens * profile.encode_us_per_token
            + moved_mib * profile.embedding_transfer_us_per_mib
        ) / 1e6


def load_profile(path: Path) -> Profile:
    """A profile from a JSON file; keys that are left out keep their defaults.

    Raises `ValueError` naming the file and the key when it is not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{path} is no profile of the simulated engine: {error}") from error
