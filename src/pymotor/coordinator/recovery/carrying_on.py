"""Which answers can be carried on exactly, and the request for the rest of one.

The rest is asked for as a completion whose prompt is the tokens of the prompt and of the answer so far. That is exact
only where the next token depends on nothing else. So a request is carried on only if each of its fields is one of
`CARRIED` (they mean the same for the rest), `SPENT` (they made the prompt, which is known by now, or name the request
for people) or has a value that changes nothing (`NEUTRAL`). What no table knows might matter: such a request is not
carried on.

Not carried on are therefore: several answers, media, `logprobs`, `tools`, reasoning, structured output, `stop`
strings, penalties that count generated tokens, `min_tokens`, `echo`, usage in each event, `seed` unless greedy, and
extensions of an engine that nothing here knows.

Two limits: an engine whose own generation defaults restrict `max_tokens` applies them to the rest anew, and a
character whose bytes are spread over two events of several tokens each may come out damaged.
"""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import Fields, RequestView, body_of, view_of
from pymotor.coordinator.api.surface import CHAT, COMPLETIONS
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer

CARRIED = frozenset((
    "model", "temperature", "top_p", "top_k", "min_p", "ignore_eos", "stop_token_ids", "logit_bias",
    "allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens", "repetition_penalty", "priority",
    "cache_salt", "user", "include_stop_str_in_output",
))  # fmt: skip
"""`repetition_penalty` counts prompt and answer alike."""
SPENT = frozenset((
    "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "return_token_ids",
    "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template", "chat_template_kwargs",
    "documents", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
    "seed",
))  # fmt: skip
NEUTRAL = {
    "n": (b"1",), "best_of": (b"1",), "stop": (b"[]", b'""'), "logprobs": (b"false",), "top_logprobs": (b"0",),
    "echo": (b"false",), "min_tokens": (b"0",), "frequency_penalty": (b"0", b"0.0"), "suffix": (b'""',),
    "presence_penalty": (b"0", b"0.0"), "tools": (b"[]",), "tool_choice": (b'"none"', b'"auto"'),
    "use_beam_search": (b"false",), "length_penalty": (b"1", b"1.0"),
}  # fmt: skip
"""Beside null, which is neutral for every field."""

_KNOWN = CARRIED | SPENT
_GREEDY = (b"0", b"0.0")
_TRUE, _NULL = msgspec.Raw(b"true"), b"null"
_ASKED = b'{"return_token_ids":true,'
_COMPLETION_TOKENS = 16
"""OpenAI's `max_tokens` of a completion that names none."""


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


def keep_answer(view: RequestView) -> AnswerSoFar | RepeatableAnswer | None:
    """Have the engine tell token ids if the stream that `view` asks for can be carried on from them, which changes the
    view's fields and body. Otherwise what has to be kept to ask for the same answer again, or None where that would
    be another one.
    """
    fields = view.fields
    surface = view.surface
    if (
        not view.stream
        or (surface is not CHAT and surface is not COMPLETIONS)
        or view.media
        or view.prompts
        or (not _KNOWN.issuperset(fields) and not _neutral(fields))
        or ("stream_options" in fields and _counts_usage_in_each_event(fields["stream_options"]))
        or ("seed" in fields and not _seed_is_spent(fields))
    ):
        return RepeatableAnswer(usage_wanted=wants_usage(view)) if is_repeatable(view) else None
    stated = fields.get("return_token_ids")
    shows_ids = stated is not None and bytes(stated) == b"true"
    if not shows_ids:
        fields["return_token_ids"] = _TRUE
        view.body = _asking(view) if stated is None else body_of(fields)
        view.size = sum(map(len, view.body))
    return AnswerSoFar(chat=surface is CHAT, shows_ids=shows_ids)


def _asking(view: RequestView) -> list[bytes | memoryview]:
    body = view.body[0]
    if len(view.body) > 1 or not isinstance(body, bytes):
        return body_of(view.fields)
    return [_ASKED + body[body.index(b"{") + 1 :]]


def _neutral(fields: Fields) -> bool:
    for name, raw in fields.items():
        if name in _KNOWN:
            continue
        value = bytes(raw)
        if value != _NULL and value not in NEUTRAL.get(name, ()):
            return name == "response_format" and _is_text(value)
    return True


def _is_text(value: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(value) == {"type": "text"})
    except UNREADABLE:
        return False


def _counts_usage_in_each_event(raw: msgspec.Raw) -> bool:
    options = _stream_options(raw)
    return options is None or bool(options.continuous_usage_stats)


def _stream_options(raw: msgspec.Raw) -> _StreamOptions | None:
    try:
        return msgspec.json.decode(raw, type=_StreamOptions | None) or _StreamOptions()
    except UNREADABLE:
        return None


def _seed_is_spent(fields: Fields) -> bool:
    """Whether the seed decides nothing: there is none, or the most likely token is always taken."""
    temperature = fields.get("temperature")
    return bytes(fields["seed"]) == _NULL or (temperature is not None and bytes(temperature) in _GREEDY)


def is_repeatable(view: RequestView) -> bool:
    """Whether the answer to `view` is the same each time: a stream of one answer, greedy or with a seed."""
    fields = view.fields
    if (
        not view.stream
        or (view.surface is not CHAT and view.surface is not COMPLETIONS)
        or view.n > 1
        or view.prompts
        or ("stream_options" in fields and _counts_usage_in_each_event(fields["stream_options"]))
    ):
        return False
    return is_deterministic(fields)


def is_deterministic(fields: Fields) -> bool:
    """Whether the fields of a request leave nothing to chance: the most likely token is always taken, or there is a
    seed."""
    temperature, seed = fields.get("temperature"), fields.get("seed")
    greedy = temperature is not None and bytes(temperature) in _GREEDY
    return greedy or (seed is not None and bytes(seed) != _NULL)


def wants_usage(view: RequestView) -> bool:
    """Whether the client asked for a last event with the usage."""
    raw = view.fields.get("stream_options")
    options = _stream_options(raw) if raw is not None else None
    return options is not None and bool(options.include_usage)


def usage_comes_last(view: RequestView) -> bool:
    """Whether the usage comes in a last event, and in no other."""
    raw = view.fields.get("stream_options")
    options = _stream_options(raw) if raw is not None else None
    return options is not None and bool(options.include_usage) and not options.continuous_usage_stats


def request_for_the_rest(view: RequestView, so_far: AnswerSoFar, max_model_len: int | None) -> RequestView | None:
    """The request for what is missing of the answer to `view`; None where it cannot be known how much that is.

    `max_model_len` is the model's, where known: the limit of an answer to a chat that states none.
    """
    if so_far.prompt is None:
        return None
    prompt = msgspec.json.decode(so_far.prompt, type=list[int])
    generated = so_far.tokens()
    limit = _limit(view, len(prompt), max_model_len)
    if limit is None or limit <= len(generated):
        return None
    fields: Fields = {name: raw for name, raw in view.fields.items() if name in CARRIED}
    fields["prompt"] = msgspec.Raw(msgspec.json.encode(prompt + generated))
    fields["max_tokens"] = msgspec.Raw(b"%d" % (limit - len(generated)))
    fields["stream"] = _TRUE
    fields["return_token_ids"] = _TRUE
    if wants_usage(view):
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    rest = view_of(fields, COMPLETIONS)
    rest.model = view.model
    rest.stream = True
    rest.prompt_tokens = len(prompt) + len(generated)
    rest.answer_tokens = min(limit - len(generated), view.answer_tokens)
    return rest


def _limit(view: RequestView, prompt_tokens: int, max_model_len: int | None) -> int | None:
    """How many tokens the whole answer may have."""
    names = ("max_completion_tokens", "max_tokens") if view.surface is CHAT else ("max_tokens",)
    for name in names:
        raw = view.fields.get(name)
        if raw is not None and bytes(raw) != _NULL:
            return msgspec.json.decode(raw, type=int)
    if view.surface is COMPLETIONS:
        return _COMPLETION_TOKENS
    return max_model_len - prompt_tokens if max_model_len is not None else None
