"""What each key has used, for metrics, and how many tokens an answer had."""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.telemetry.metrics import CounterChild, Registry

_MOST_NAMES = 1000
_OTHERS = "others"


class Usage(msgspec.Struct):
    """The `usage` of an answer, in OpenAI's words or Anthropic's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.prompt_tokens or self.input_tokens

    @property
    def answer(self) -> int:
        """Tokens of the answer."""
        return self.completion_tokens or self.output_tokens


class _Reply(msgspec.Struct):
    usage: Usage | None = None


_decoder = msgspec.json.Decoder(_Reply)


def usage_in(body: bytes) -> Usage | None:
    """What a whole answer says that it cost; None where it does not."""
    try:
        return _decoder.decode(body).usage
    except UNREADABLE:
        return None


class _OfKey:
    __slots__ = ("answer_tokens", "label", "outcomes", "prompt_tokens", "requests")

    def __init__(self, label: str, requests: CounterChild, prompt: CounterChild, answer: CounterChild) -> None:
        self.label = label
        self.requests = requests
        self.prompt_tokens = prompt
        self.answer_tokens = answer
        self.outcomes: dict[str, CounterChild] = {}


class KeyUsage:
    """Counters by the key's name; names beyond the first thousand are counted together."""

    def __init__(self, registry: Registry) -> None:
        self._requests = registry.counter(
            "pymotor_key_requests_total", "Requests that were let in with an API key.", ("key",)
        )
        self._outcomes = registry.counter(
            "pymotor_key_answers_total",
            "Requests that engines were asked for with an API key, by outcome: ok, refused (4xx), failed (5xx), left.",
            ("key", "outcome"),
        )
        self._prompt_tokens = registry.counter(
            "pymotor_key_prompt_tokens_total", "Tokens of prompts, as the gateway charges them.", ("key",)
        )
        self._answer_tokens = registry.counter(
            "pymotor_key_answer_tokens_total", "Tokens of answers, as far as the gateway knows them.", ("key",)
        )
        self._refusals = registry.counter(
            "pymotor_key_refusals_total", "Requests that were not let in, by reason.", ("reason",)
        )
        self._of: dict[str, _OfKey] = {}

    def let_in(self, name: str) -> None:
        """A request came with a good key."""
        (self._of.get(name) or self._of_key(name)).requests.add()

    def refused(self, reason: str) -> None:
        """One was not let in."""
        self._refusals.child(reason).add()

    def answered(self, name: str, status: int, prompt_tokens: int, answer_tokens: int) -> None:
        """A request to engines is over."""
        of_key = self._of.get(name) or self._of_key(name)
        outcome = "ok" if status < 400 else "left" if status == 499 else "refused" if status < 500 else "failed"
        child = of_key.outcomes.get(outcome)
        if child is None:
            child = of_key.outcomes[outcome] = self._outcomes.child(of_key.label, outcome)
        child.add()
        of_key.prompt_tokens.add(prompt_tokens)
        of_key.answer_tokens.add(answer_tokens)

    def _of_key(self, name: str) -> _OfKey:
        label = name if len(self._of) < _MOST_NAMES else _OTHERS
        found = self._of.get(label)
        if found is None:
            found = self._of[label] = _OfKey(
                label, self._requests.child(label), self._prompt_tokens.child(label), self._answer_tokens.child(label)
            )
        return found
