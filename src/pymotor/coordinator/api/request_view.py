"""What the gateway needs to know of a request, read in one pass over its body.

Hot path. Top-level values stay raw slices of the body; only what decides the way is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, invalid
from pymotor.coordinator.api.media import BARRED_PART_KEYS, MediaItem, barred, media_kind
from pymotor.coordinator.api.media_meaning import Part
from pymotor.coordinator.api.prompt_length import text_tokens, token_ids

if TYPE_CHECKING:
    from pymotor.coordinator.api.surface import Surface

BARRED_FIELDS = (
    "kv_transfer_params",
    "ec_transfer_params",
    "request_id",
    "prompt_embeds",
    "data_parallel_rank",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "rid",
    "custom_logit_processor",
)
"""They name other requests and their KV, stores' paths, addresses to call, and code to run."""
BARRED_EXTRA_ARGUMENTS = ("kv_transfer_params", "ec_transfer_params")
"""`vllm_xargs` ends up beside the transfer parameters inside vLLM."""

DEFAULT_ANSWER_TOKENS = 256
_ANSWER_TOKENS_BOUND = 1024
_ANSWER_LIMIT_BOUND = 1 << 31
"""No model has so long a context; what is charged has to fit into the ledger."""

_BARRED_SET = frozenset(BARRED_FIELDS)
_INLINE_BYTES = 32768

Fields = dict[str, msgspec.Raw]


class _Message(msgspec.Struct):
    content: str | list[dict[str, msgspec.Raw] | str] | None = None


_encode = msgspec.json.Encoder().encode
_fields_decoder = msgspec.json.Decoder(Fields)
_messages_decoder = msgspec.json.Decoder(list[_Message])
_raw_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_string_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool | None)
_count_decoder = msgspec.json.Decoder(int | None)
_BRACKET, _QUOTE = b'["'


class RequestView(msgspec.Struct, eq=False):
    """One generating request: its fields and what was read of them. A `Struct`, since making one has to cost little."""

    fields: Fields
    body: Sequence[bytes | memoryview]
    """The whole as it can be sent on unchanged."""
    size: int
    """Bytes of the body."""
    surface: Surface
    model: str = ""
    """Empty where an engine takes its own and the request names none."""
    stream: bool = False
    n: int = 1
    prompt_tokens: int = 0
    """Estimated from the text's length and the media's pixels."""
    answer_tokens: int = DEFAULT_ANSWER_TOKENS
    """Expected."""
    answer_limit: int | None = None
    """What the client limits the answer to."""
    media: list[MediaItem] = []
    contents: dict[int, Sequence[Part | str]] = {}
    """Of a chat's messages with media, by their place: the content's parts, read once."""
    prompts: list[msgspec.Raw] = []
    """The prompts of a completions request with several; empty for one."""
    alone: bool = False
    """Whether one engine has to compute all of it."""
    previous: str = ""
    """The id of the stored response that a Responses request goes on from; empty for none."""

    def __repr__(self) -> str:
        # Not what it holds: prompts stay out of logs.
        return f"<RequestView of {self.size} bytes>"


def read_chat(surface: Surface, body: bytes, trusted: bool) -> RequestView:
    """Read a chat completions body.

    `trusted` lets fields through that clients may not send otherwise. Raises `ApiError` (400).
    """
    view = read_fields(surface, body, trusted)
    _read_sampling(view)
    _read_messages(view, body, trusted)
    return view


def read_completion(surface: Surface, body: bytes, trusted: bool) -> RequestView:
    """Read a completions body; see `read_chat`."""
    view = read_fields(surface, body, trusted)
    _read_sampling(view)
    _read_prompt(view)
    return view


def read_fields(surface: Surface, body: bytes, trusted: bool) -> RequestView:
    """What all paths that generate have in common; see `read_chat`."""
    try:
        fields = _fields_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid("the request body must be a JSON object") from error
    except UNREADABLE as error:
        raise invalid(f"the request body is not valid JSON: {error}") from error
    if not trusted and not _BARRED_SET.isdisjoint(fields):
        raise barred(next(name for name in BARRED_FIELDS if name in fields))
    staged = surface.staged
    model = _model(fields) if staged or "model" in fields else ""
    stream = bool(_decode(_flag_decoder, fields, "stream", "a boolean")) if staged and "stream" in fields else False
    if "vllm_xargs" in fields and not trusted:
        _check_extra_arguments(fields["vllm_xargs"])
    return RequestView(fields, (body,), len(body), surface, model, stream)


def _read_sampling(view: RequestView) -> None:
    fields = view.fields
    if "n" in fields:
        view.n = _decode(_count_decoder, fields, "n", "an integer") or 1
        if not 1 <= view.n <= 128:
            raise invalid("n must be between 1 and 128", "n")
    if not read_limit(view, "max_completion_tokens"):
        read_limit(view, "max_tokens")


def read_limit(view: RequestView, name: str) -> bool:
    """Whether the field, which limits the answer's tokens, is there and not null. Raises `ApiError` (400)."""
    if name not in view.fields:
        return False
    stated = _decode(_count_decoder, view.fields, name, "an integer")
    if stated is None:
        return False
    if stated < 0:
        raise invalid(f"{name} must not be negative", name)
    view.answer_limit = stated if stated < _ANSWER_LIMIT_BOUND else _ANSWER_LIMIT_BOUND
    view.answer_tokens = stated if stated < _ANSWER_TOKENS_BOUND else _ANSWER_TOKENS_BOUND
    return True


def _model(fields: Fields) -> str:
    raw = fields.get("model")
    if raw is None:
        raise invalid("you must provide a model parameter", "model")
    try:
        return _string_decoder.decode(raw)
    except UNREADABLE as error:
        raise invalid("model must be a string", "model") from error


def _decode(decoder: msgspec.json.Decoder[int | None], fields: Fields, name: str, kind: str) -> int | None:
    try:
        return decoder.decode(fields[name])
    except UNREADABLE as error:
        raise invalid(f"{name} must be {kind}", name) from error


def _check_extra_arguments(raw: msgspec.Raw) -> None:
    try:
        arguments = msgspec.json.decode(raw, type=Fields | None)
    except UNREADABLE as error:
        raise invalid("vllm_xargs must be an object", "vllm_xargs") from error
    for name in BARRED_EXTRA_ARGUMENTS:
        if arguments and name in arguments:
            raise barred(name)


def _read_messages(view: RequestView, body: bytes, trusted: bool) -> None:
    raw = view.fields.get("messages")
    if raw is None:
        raise invalid("messages is required", "messages")
    try:
        messages = _messages_decoder.decode(raw)
    except UNREADABLE as error:
        raise invalid(
            f"messages must be a list of objects with text or parts as content: {error}", "messages"
        ) from error
    if not messages:
        raise invalid("messages must not be empty", "messages")
    media_bytes = media_tokens = 0
    for index, message in enumerate(messages):
        content = message.content
        if isinstance(content, list):
            for position, part in enumerate(content):
                item = _media_of(index, position, part, trusted, body)
                if item is not None:
                    view.media.append(item)
                    view.contents[index] = content
                    media_tokens += item.tokens
                    media_bytes += item.size
    texts = (raw, view.fields["tools"]) if "tools" in view.fields else (raw,)
    view.prompt_tokens = text_tokens(texts, media_bytes) + media_tokens


def _media_of(index: int, position: int, part: Part | str, trusted: bool, body: bytes) -> MediaItem | None:
    """The media in a content part, or None."""
    if isinstance(part, str):
        return None
    if not trusted and not BARRED_PART_KEYS.isdisjoint(part):
        raise barred(next(name for name in part if name in BARRED_PART_KEYS))
    kind = media_kind(part, trusted)
    return MediaItem(index, position, kind, part, body) if kind is not None else None


def _read_prompt(view: RequestView) -> None:
    raw = view.fields.get("prompt")
    if raw is None:
        raise invalid("prompt is required", "prompt")
    text = memoryview(raw)
    if text[0] == _QUOTE:
        view.prompt_tokens = text_tokens((raw,))
        return
    ids = token_ids(raw)
    if ids is not None and bytes(text[1:64]).lstrip()[:1].isdigit():
        # One prompt. Tens of thousands of ids are not looked at one by one.
        view.prompt_tokens = ids
        return
    try:
        items = _raw_list_decoder.decode(raw)
    except UNREADABLE as error:
        raise invalid("prompt must be a string, a list of strings, or token ids", "prompt") from error
    if not items:
        raise invalid("prompt must not be empty", "prompt")
    if memoryview(items[0])[0] in (_QUOTE, _BRACKET):
        view.prompts = items if len(items) > 1 else []
    view.prompt_tokens = ids or text_tokens((raw,))


def sole_prompt(fields: Fields) -> msgspec.Raw:
    """The prompt of a completions request that has one, taken out of the list that it may stand in alone. Raises as
    decoders do."""
    raw = fields["prompt"]
    if memoryview(raw)[0] == _QUOTE:
        return raw
    # Only what is short to look through: tens of thousands of token ids are not looked at one by one.
    opening = bytes(memoryview(raw)[1:64]).lstrip()[:1]
    if opening not in (b'"', b"["):
        return raw
    items = _raw_list_decoder.decode(raw)
    return items[0] if len(items) == 1 else raw


def assemble(fields: Fields, added: bytes, without: frozenset[str], size: int) -> list[bytes | memoryview]:
    """The body with `added` (members as JSON text, not empty) and without the fields named in `without`.

    `size` is about how many bytes the fields have: large values are not copied, the buffers are views of the
    client's body.
    """
    kept = fields.copy()
    for name in without.intersection(fields):
        del kept[name]
    if not kept:
        return [b"{" + added + b"}"]
    if size <= _INLINE_BYTES:
        return [b"{" + added + b"," + _encode(kept)[1:]]
    buffers: list[bytes | memoryview] = []
    small = b"{" + added
    for name, raw in kept.items():
        value = memoryview(raw)
        small += b"," + _encode(name) + b":"
        if len(value) > _INLINE_BYTES:
            buffers += [small, value]
            small = b""
        else:
            small += value
    buffers.append(small + b"}")
    return buffers


def with_member(body: Sequence[bytes | memoryview], member: bytes) -> list[bytes | memoryview]:
    """A body, which is an object that is not empty, with one more member; what is large is not copied."""
    first = body[0]
    brace = first.find(b"{") if isinstance(first, bytes) else 0
    if len(body) == 1 and len(first) <= _INLINE_BYTES:
        return [b"{" + member + b"," + first[brace + 1 :]]
    return [b"{" + member + b",", memoryview(first)[brace + 1 :], *body[1:]]


def view_of(fields: Fields, surface: Surface) -> RequestView:
    """A request that is made here of these fields; nothing is read of them."""
    body = body_of(fields)
    return RequestView(fields, body, len(body[0]), surface)


def body_of(fields: Fields) -> list[bytes | memoryview]:
    """The fields as a body."""
    return [_encode(fields)]
