"""From request bodies to what the engine is asked: prompts and sampling, checked as vLLM checks them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.adapters import Adapter
from pymotor.engines.sim.chat_template import Prompt, render
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.fields import Fields, invalid, is_integers
from pymotor.engines.sim.handoffs import BOOTSTRAP_FIELDS
from pymotor.engines.sim.media import Media, MediaReader
from pymotor.engines.sim.requests import PLAIN, CacheScope, Sampling

_MOST_STOPS = 4


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request for answers, checked."""

    chat: bool
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    max_tokens: int | None
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    logprobs: int | None
    """How many alternatives to report with each token; None for no logprobs at all."""
    echo: bool
    kv_transfer_params: dict[str, Any] | None
    request_id: str | None
    ec_transfer_params: dict[str, Any] | None = None
    scope: CacheScope = PLAIN

    def sampling_for(self, prompt: Prompt, choice: int, max_model_len: int) -> Sampling:
        """The sampling of one choice for one prompt."""
        room = max_model_len - len(prompt.tokens)
        most = room if self.max_tokens is None else min(self.max_tokens, room)
        seed = self.sampling.seed
        return replace(self.sampling, max_tokens=most, seed=None if seed is None else seed + choice)


class PromptBuilder:
    """Checks bodies and builds prompts under the engine's settings."""

    def __init__(
        self, media: MediaReader, max_model_len: int, adapters: Sequence[Adapter] = (), *, seed: int = 0
    ) -> None:
        """`seed`: what the seeds are drawn from of requests that have none."""
        self._media = media
        self._max_model_len = max_model_len
        self._adapters = {adapter.name: adapter for adapter in adapters}
        self._draws = random.Random(seed)

    def chat(self, body: Mapping[str, Any]) -> Generation:
        """A chat completion. Raises `RequestError`."""
        fields = Fields(body)
        prompt = self.checked(self.chat_prompt(fields))
        max_tokens = fields.integer("max_completion_tokens")
        if max_tokens is None:
            max_tokens = fields.integer("max_tokens")
        top_logprobs = fields.integer("top_logprobs", 0) or 0
        logprobs = top_logprobs if fields.boolean("logprobs") else None
        if top_logprobs and logprobs is None:
            raise RequestError("when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
        if body.get("tools") == []:
            raise RequestError("`tools` must not be an empty array.", param="tools")
        return self._generation(fields, True, (prompt,), max_tokens, logprobs)

    def completion(self, body: Mapping[str, Any]) -> Generation:
        """A completion of one or several prompts. Raises `RequestError`."""
        fields = Fields(body)
        prompts = tuple(self.plain(prompt) for prompt in _prompts(body.get("prompt")))
        max_tokens = fields.integer("max_tokens", 16)
        logprobs = fields.integer("logprobs", None, -1)
        return self._generation(fields, False, prompts, max_tokens, logprobs)

    def chat_prompt(self, fields: Fields, *, generation_prompt: bool = True) -> Prompt:
        """The prompt of a chat, however long. `generation_prompt`: whether the assistant's turn is begun by default."""
        messages = fields.body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise invalid("messages", "Input should be a valid list" if "messages" in fields.body else "Field required")
        if not messages:
            raise RequestError("`messages` must not be empty.")
        continue_final = fields.boolean("continue_final_message")
        if continue_final and fields.boolean("add_generation_prompt"):
            raise RequestError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
        return render(
            messages,
            fields.body.get("tools"),
            self._all_media(messages, fields),
            generation_prompt=fields.boolean("add_generation_prompt", generation_prompt),
            continue_final=continue_final,
        )

    def _all_media(self, messages: Sequence[Mapping[str, Any]], fields: Fields) -> list[Media]:
        processor_kwargs = fields.mapping("mm_processor_kwargs") or {}
        io_kwargs = fields.mapping("media_io_kwargs") or {}
        media = []
        for message in messages:
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                item = self._media.read(part, processor_kwargs, io_kwargs) if isinstance(part, dict) else None
                if item is not None:
                    media.append(item)
        raw = {item.modality for item in media if item.content_digest is not None}
        for item in media:
            if item.content_digest is None and item.modality in raw:
                raise RequestError(
                    f"Mixing raw {item.modality} and embedding inputs is not allowed", param=f"{item.modality}_embeds"
                )
        return media

    def plain(self, prompt: str | list[int]) -> Prompt:
        """A prompt of text or token ids."""
        if isinstance(prompt, str):
            return self.checked(Prompt(tokenizer.encode(prompt), text=prompt))
        wrong = next((token for token in prompt if not 0 <= token < tokenizer.VOCABULARY), None)
        if wrong is not None:
            raise RequestError(f"Token id {wrong} is out of vocabulary", param="prompt")
        return self.checked(Prompt(np.array(prompt, dtype=np.uint64)))

    def checked(self, prompt: Prompt) -> Prompt:
        """The prompt, if it leaves room for an answer. Raises `RequestError`."""
        count, limit = len(prompt.tokens), self._max_model_len
        if count == 0:
            raise RequestError("The decoder prompt cannot be empty", param="prompt")
        if count >= limit:
            raise RequestError(
                f"This model's maximum context length is {limit} tokens. However, your prompt contains {count} input "
                f"tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
                f"input prompt.",
                param="input_tokens",
            )
        return prompt

    def _generation(
        self,
        fields: Fields,
        chat: bool,
        prompts: tuple[Prompt, ...],
        max_tokens: int | None,
        logprobs: int | None,
    ) -> Generation:
        if max_tokens is not None and max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
        if max_tokens is not None and max_tokens > self._max_model_len:
            raise RequestError(
                f"max_tokens={max_tokens} cannot be greater than max_model_len = {self._max_model_len}. "
                f"Please request fewer output tokens.",
                param="max_tokens",
            )
        min_tokens = fields.integer("min_tokens", 0, 0) or 0
        if max_tokens is not None and min_tokens > max_tokens:
            raise RequestError(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")
        stream = fields.boolean("stream")
        options = Fields(fields.mapping("stream_options") or {})
        if options.body and not stream:
            raise RequestError("Stream options can only be defined when `stream=True`.", param="stream_options")
        include_usage = options.boolean("include_usage")
        stops = fields.strings("stop")
        if chat and len(stops) > _MOST_STOPS:
            raise invalid("stop", f"List should have at most {_MOST_STOPS} items after validation")
        if "" in stops:
            raise RequestError("stop cannot contain an empty string.")
        seed = _seed(fields, self._draws)
        return Generation(
            chat=chat,
            prompts=prompts,
            sampling=Sampling(
                max_tokens=0,
                min_tokens=min_tokens,
                seed=seed,
                ignore_eos=fields.boolean("ignore_eos"),
                stop=stops,
                stop_token_ids=fields.integers("stop_token_ids"),
                include_stop=fields.boolean("include_stop_str_in_output"),
            ),
            max_tokens=max_tokens,
            n=_choices(fields, greedy=seed is None),
            stream=stream,
            include_usage=include_usage,
            continuous_usage=include_usage and options.boolean("continuous_usage_stats"),
            return_token_ids=fields.boolean("return_token_ids"),
            logprobs=logprobs,
            echo=fields.boolean("echo"),
            kv_transfer_params=_transfer_params(fields),
            ec_transfer_params=fields.mapping("ec_transfer_params"),
            request_id=fields.text("request_id"),
            scope=self._scope(fields),
        )

    def _scope(self, fields: Fields) -> CacheScope:
        salt = fields.text("cache_salt")
        if salt == "":
            raise RequestError("`cache_salt` must be a non-empty string.", param="cache_salt")
        return CacheScope(self._adapters.get(fields.text("model") or ""), salt, fields.text("session_id"))


def _transfer_params(fields: Fields) -> dict[str, Any] | None:
    """`kv_transfer_params` of vLLM, or what SGLang has in the body itself."""
    sglang = {name: fields.body[name] for name in BOOTSTRAP_FIELDS if name in fields.body}
    return sglang or fields.mapping("kv_transfer_params")


def reading(prompts: tuple[Prompt, ...]) -> Generation:
    """What makes an engine read prompts for numbers: one token, that nobody is told."""
    return Generation(
        chat=False,
        prompts=prompts,
        sampling=Sampling(max_tokens=1),
        max_tokens=1,
        n=1,
        stream=False,
        include_usage=False,
        continuous_usage=False,
        return_token_ids=False,
        logprobs=None,
        echo=False,
        kv_transfer_params=None,
        request_id=None,
    )


def _seed(fields: Fields, draws: random.Random) -> int | None:
    """None where the answer is greedy; drawn where the request has none."""
    temperature = fields.number("temperature", 1.0, 0.0, 2.0)
    top_k = fields.integer("top_k", 0, -1)
    seed = fields.integer("seed")
    fields.number("top_p", 1.0, 0.0, 1.0)
    if temperature < 1e-5 or top_k == 1:
        return None
    return draws.getrandbits(64) if seed is None else seed


def _choices(fields: Fields, greedy: bool) -> int:
    number = fields.integer("n", 1)
    if number is None or number < 1:
        raise RequestError(f"n must be at least 1, got {number}.")
    if number > 1 and greedy:
        raise RequestError(f"n must be 1 when using greedy sampling, got {number}.")
    return number


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, list) and value:
        if is_integers(value):
            return [value]
        if all(isinstance(item, str) or (is_integers(item) and item) for item in value):
            return value
    if value is None or value in ("", []):
        raise RequestError("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    raise invalid("prompt", "Input should be a string, a list of strings, token ids or lists of token ids")
