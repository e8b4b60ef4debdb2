"""What a writer of answers is, and the answers that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.prompts import Generation
from pymotor.engines.sim.requests import Output


@dataclass
class Choice:
    """One answer in the making."""

    index: int
    prompt_index: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    sent: int = 0
    """Characters of `text` that a stream has sent."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    cached_tokens: int | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None

    def take(self, output: Output, held: int) -> str:
        """Add an output; returns the text that may be sent now, all but the last `held` characters.

        These are held back until the end because they may become part of a stop string.
        """
        if output.token is not None:
            self.tokens.append(output.token)
            if output.token < tokenizer.FIRST_SPECIAL:
                self.text += chr(output.token)
        if output.finish_reason is not None:
            self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason
            self.cached_tokens = output.request.cached_tokens
            self.kv_transfer_params, self.ec_transfer_params = output.kv_transfer_params, output.ec_transfer_params
            if output.stop_reason in output.request.sampling.stop:
                self.text = output.request.text
            held = 0
        until = max(self.sent, len(self.text) - held)
        delta = self.text[self.sent : until]
        self.sent = until
        return delta


class Writer(Protocol):
    """Writes one request's answer as the API wants it."""

    generation: Generation

    def greeting(self) -> list[bytes]:
        """The events of a stream that go out at once, before the engine did anything."""

    def opening(self) -> list[bytes]:
        """The events that go out with the engine's first sign of life."""

    def delta(self, choice: Choice, text: str, output: Output, /) -> list[bytes]:
        """The events of one output, of which `text` may be told; none when there is nothing to tell."""

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        """The events after all choices ended well."""

    def failure(self, message: str, /) -> list[bytes] | None:
        """The events of an answer that fails in mid-stream, the last ones; None where the connection is just cut."""

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that is not streamed."""
