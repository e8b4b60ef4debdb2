"""The metrics of choices by cached prefixes; docs/metrics.md says what each means."""

from __future__ import annotations

from pymotor.telemetry.metrics import CounterChild, Registry

_TOKENS_BOUNDS = (0, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_ERROR_BOUNDS = (0, 1, 16, 64, 128, 256, 1024, 4096, 16384, 65536)


class AffinityInstruments:
    """One worker's; made only where such choices are made."""

    def __init__(self, registry: Registry) -> None:
        self._questions = registry.counter(
            "pymotor_kv_affinity_questions_total",
            "Requests by how the prefixes that endpoints hold were found out: answered, late, lost, closed (the "
            "conductor is not there), unfollowed (it follows no endpoint of the request's), text (no tokens or no "
            "conductor), several (more than one prompt).",
            ("outcome",),
        )
        self._matched = registry.histogram(
            "pymotor_kv_affinity_matched_tokens",
            "Tokens of the prompt that the chosen endpoint was expected to hold.",
            bounds=_TOKENS_BOUNDS,
        ).child()
        self._prompt = registry.counter(
            "pymotor_kv_affinity_prompt_tokens_total", "Tokens of the prompts that were placed."
        ).child()
        self._expected = registry.counter(
            "pymotor_kv_affinity_expected_tokens_total",
            "Tokens of them that the chosen endpoints were expected to hold.",
        ).child()
        self._error = registry.histogram(
            "pymotor_kv_affinity_prediction_error_tokens",
            "Difference, in either direction, between the tokens that an endpoint was expected to hold and those that "
            "its reply says were cached, by which of them was more.",
            ("more",),
            bounds=_ERROR_BOUNDS,
        )
        self._outcomes: dict[str, CounterChild] = {}

    def asked(self, outcome: str) -> None:
        """A request's prefixes were asked about."""
        child = self._outcomes.get(outcome)
        if child is None:
            child = self._outcomes[outcome] = self._questions.child(outcome)
        child.add()

    def placed(self, prompt_tokens: int, expected: int) -> None:
        """A prompt goes to an endpoint that is expected to hold so many of its tokens."""
        self._prompt.add(prompt_tokens)
        self._expected.add(expected)
        self._matched.observe(expected)

    def told(self, expected: int, cached: int) -> None:
        """An endpoint said how many of a prompt's tokens were cached."""
        more = "expected" if expected > cached else "cached" if cached > expected else "neither"
        self._error.child(more).observe(abs(expected - cached))
