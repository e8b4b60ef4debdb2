"""Which bodies are taken for JSON, compared with the standard library's json.

The reference is `json` on text that is strictly UTF-8, without NaN and Infinity, which are not JSON (RFC 8259, section
6). Of a name that comes twice both take the last value. What is no JSON object gets an `ApiError` with status 400,
never another exception.

Two differences, both of texts that no engine takes either:

* Half a character (an escaped surrogate without its other half) is refused here; `json` makes a string of it that
  nothing can be written as.
* Bytes that are no UTF-8, inside a value that the gateway does not read, are passed on as they came for the engine to
  refuse: to look for them would cost a pass over every image. They cannot end a string, so that what is read and what
  is passed on do not come apart.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from body_texts import body_text

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.surface import CHAT


class NotJson(ValueError):
    """The reference refuses."""


def _no_constant(name: str) -> object:
    raise NotJson(f"{name} is not JSON")


def reference(data: bytes, errors: str = "strict") -> object:
    """What the text says; `errors` is for bytes that are no UTF-8. Raises `NotJson`."""
    try:
        return json.loads(data.decode("utf-8", errors), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error


def check(data: bytes) -> str:
    """Read one body on both sides; returns what happened. Raises `AssertionError`."""
    try:
        expected = reference(data)
    except NotJson:
        expected = None
    try:
        view = CHAT.read(CHAT, data, False)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017  anything else must not be raised
        not_json = str(error).startswith("the request body is not valid JSON")
        not_object = str(error) == "the request body must be a JSON object"
        if isinstance(expected, dict):
            if not_json:
                assert re.search(rb"\\ud[89a-f]", data, re.IGNORECASE), f"refused as no JSON: {error}"  # noqa: PT017
                return "half a character"
            assert not not_object, "refused as no object"
            return "refused for what it says"
        return "refused by both"
    if isinstance(expected, dict):
        assert view.model == expected["model"]
        assert view.stream == bool(expected.get("stream"))
        assert view.fields.keys() == expected.keys()
        assert {name: json.loads(bytes(raw)) for name, raw in view.fields.items()} == expected
        return "taken by both"
    loose = reference(data, "surrogateescape")
    assert isinstance(loose, dict)
    assert view.model == loose["model"]
    assert view.fields.keys() == loose.keys()
    return "passed on for the engine to judge"


@pytest.mark.parametrize("inputs", [4000, pytest.param(300_000, marks=pytest.mark.soak)])
def test_bodies_are_taken_as_json_takes_them(inputs: int) -> None:
    met: Counter[str] = Counter()
    for seed in range(inputs):
        data = body_text(random.Random(seed))
        try:
            met[check(data)] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, the input belongs to it
            pytest.fail(f"seed {seed}: {error!r}\n{data!r}")
    for what in ("taken by both", "refused by both", "refused for what it says"):
        assert met[what] > inputs // 50, met
