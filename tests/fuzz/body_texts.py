"""Bodies of chat requests as JSON texts: right, odd, and broken in ways that parsers disagree on."""

from __future__ import annotations

import json
import random

_TEXTS = ("", "hello", "\u00e9", "\U0001f600", 'a"b', "a\\b", "line\nline", "\x7f", "\u2028", "x" * 200, "</s>", "{}")
_NUMBERS = ("0", "1", "-1", "1.5", "1e3", "1E+2", "-0", "0.0", "1e400", "9" * 40, "1e-400")
_WORDS = ("null", "true", "false")
_STRINGS = ('"\\u0041"', '"\\ud83d\\ude00"', '"\\/"', '"\\b\\f\\n\\r\\t"', '"\x7f"')
_SPACES = ("", "", " ", "\n", "\t", "\r\n")
_NO_VALUES = (
    "01", "+1", "1.", ".5", "1e", "0x1", "NaN", "Infinity", "-Infinity", "--1", "1_0", "-", "1 2", "nan", "\u0661",
    "Null", "True", "nul", "tru", "undefined", "None", "''", "'a'", "/*c*/1", "", '"\\ud800"', '"\\udc00\\ud800"',
    '"\\u00"',
    '"\\x41"', '"\t"', '"\n"', '"\0"', '"\x1f"', '"a', '"\\"', '"\\U0041"', '"\\u004G"', '"\\u 041"', "\x0b1", "1\xa0",
    "\ufeff1", "\x0c1", "1,", "[1,]", '{"a":1,}', "[", "{", '{"a"}', "{1:2}", "]", "}",
)  # fmt: skip
_KEYS = ("model", "messages", "stream", "n", "max_tokens", "temperature", "stop", "role", "content", "type", "text",
    "image_url", "url",
         "tools", "kv_transfer_params", "uuid", "mod\\u0065l", "vllm_xargs", "", "\\ud800", "x")  # fmt: skip
_BYTES = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x28\xa1", b"\x80", b"\xef\xbb\xbf",
    b"\0", b"\x1f", b"\\", b'"', b",",
          b"]", b"}", b"[", b"{", b":", b"\x7f", b"e", b"0", b".")  # fmt: skip


def body_text(chance: random.Random) -> bytes:
    """One body, mostly a chat request, changed in a few places."""
    kind = chance.random()
    if kind < 0.8:
        text = _chat(chance)
    elif kind < 0.97:
        text = _value(chance, 4)
    else:
        text = chance.choice(
            ("[" * 600 + "]" * 600, '{"a":' * 300 + "1" + "}" * 300, "", " ", "{}", "{}{}", "null", "\ufeff{}")
        )
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.01:
        data = text.encode(chance.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-le")), "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 0, 0, 1, 1, 2))):
        data = _changed(chance, data)
    return data


def _chat(chance: random.Random) -> str:
    parts = [{"type": "text", "text": chance.choice(_TEXTS)}]
    if chance.random() < 0.3:
        parts.append({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}})  # type: ignore[dict-item]
    content = chance.choice((json.dumps(chance.choice(_TEXTS)), json.dumps(parts), _value(chance, 2)))
    fields = [
        '"model":' + (_value(chance, 1) if chance.random() < 0.1 else '"tiny"'),
        f'"messages":[{{"role":"user","content":{content}}}]',
    ]
    fields += [f'"{chance.choice(_KEYS)}":{_value(chance, 2)}' for _ in range(chance.choice((0, 1, 2)))]
    chance.shuffle(fields)
    return "{" + ",".join(fields) + "}"


def _value(chance: random.Random, depth: int) -> str:
    if chance.random() < 0.03:
        return chance.choice(_NO_VALUES)
    kind = chance.randrange(6 if depth else 4)
    if kind < 3:
        found = chance.choice((_NUMBERS, _WORDS, _STRINGS)[kind])
    elif kind == 3:
        found = json.dumps(chance.choice(_TEXTS), ensure_ascii=chance.random() < 0.5)
    elif kind == 4:
        found = "[" + ",".join(_value(chance, depth - 1) for _ in range(chance.randint(0, 3))) + "]"
    else:
        members = (f'"{chance.choice(_KEYS)}":{_value(chance, depth - 1)}' for _ in range(chance.randint(0, 3)))
        found = "{" + ",".join(members) + "}"
    return chance.choice(_SPACES) + found + chance.choice(_SPACES) if chance.random() < 0.3 else found


def _changed(chance: random.Random, data: bytes) -> bytes:
    at = chance.randint(0, len(data))
    what = chance.randrange(5)
    if what < 2:
        return data[:at] + chance.choice(_BYTES) + data[at + what :]
    if what == 2:
        return data[:at] + data[at + chance.randint(1, 5) :]
    if what == 3:
        start = chance.randint(0, at)
        return data[:at] + data[start:at] + data[at:]
    return data[:at]
