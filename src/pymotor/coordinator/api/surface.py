"""The paths of the API that generate: how their requests are read, and how their answers, streams and failures look.

Flows and relays know a `Surface` only, so that a path is described in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.events import DONE, ends_with_done, has_content
from pymotor.coordinator.api.request_view import Fields, RequestView, read_chat, read_completion

_ONE_TOKEN = b'"stream":false,"max_tokens":1,"min_tokens":1'
_PREFILL_WITHOUT = frozenset((
    "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "logprobs",
    "top_logprobs", "prompt_logprobs", "echo", "stop", "stop_token_ids", "include_stop_str_in_output",
    "return_token_ids", "use_beam_search", "kv_transfer_params", "suffix",
))  # fmt: skip
"""What would let prefill end by anything but length, or answer more than anybody reads."""


class Surface:
    """One path. The instances below are constants; a subclass differs in how streams look."""

    __slots__ = ("label", "one_token", "path", "prefill_without", "read", "staged", "takes_embeds")

    closing: bytes | None = DONE
    """What a stream's last event is, word for word, or None where that has to be looked for in the event."""
    names_answers = False
    """Whether a request names its answer; see `named`."""

    def __init__(
        self,
        path: str,
        read: Callable[[Surface, bytes, bool], RequestView],
        *,
        one_token: bytes = _ONE_TOKEN,
        prefill_without: frozenset[str] = _PREFILL_WITHOUT,
        takes_embeds: bool = False,
        staged: bool = True,
    ) -> None:
        """`read(surface, body, trusted)` reads a request's body and raises `ApiError` (400). `one_token` are the
        members that end prefill's leg after one token, `prefill_without` the fields it must not get.
        `takes_embeds`: whether metadata of encoded media can stand in a request in place of the media. `staged`:
        whether it goes through the stages; else one endpoint answers it, computing nothing that could be handed on."""
        self.path = path.encode()
        self.label = path
        self.read = read
        self.one_token = one_token
        self.prefill_without = prefill_without
        self.takes_embeds = takes_embeds
        self.staged = staged

    def has_content(self, events: bytes) -> bool:
        """Whether whole events hold something a client waits for. Raises `ErrorEvent` when an error comes first."""
        return has_content(events)

    def ends(self, events: bytes) -> bool:
        """Whether whole events end a stream as it should end."""
        return ends_with_done(events)

    def broken_off(self, error: ApiError) -> bytes:
        """Events that end a stream which cannot go on."""
        return error.event() + DONE

    def refusal(self, error: ApiError) -> bytes:
        """The body of a response that is an error."""
        return error.body()

    def prefill_alone(self, fields: Fields) -> bytes:  # noqa: ARG002  for subclasses
        """More members, each with a comma behind it, for prefill where the handoff needs none."""
        return b""

    def named(
        self,
        view: RequestView,  # noqa: ARG002  for subclasses
        body: Sequence[bytes | memoryview],
        leg_id: bytes,  # noqa: ARG002
        endpoint_id: str,  # noqa: ARG002
    ) -> Sequence[bytes | memoryview]:
        """The body of a leg with the id that the answer is to have. Only asked where `names_answers`."""
        return body

    def engines_refusal(self, status: int, body: bytes) -> bytes:  # noqa: ARG002  for subclasses
        """What the client gets of the body of an engine's 4xx."""
        return body


CHAT = Surface("/v1/chat/completions", read_chat, takes_embeds=True)
COMPLETIONS = Surface("/v1/completions", read_completion)
