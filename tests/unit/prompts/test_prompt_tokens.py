"""Prompts counted by a real tokenizer, made on the spot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers

from prompt_models import read, template_model, tokens
from pymotor.coordinator.affinity.composition import prompt_tokens
from pymotor.coordinator.prompts.model_files import read_model_files, why_not
from pymotor.coordinator.prompts.prompt import prompt_of_ids
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.coordinator.prompts.text_tokens import FILE_NAME, TextTokens
from pymotor.coordinator.settings import Settings

IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y"}}
START, END, PAD = 257, 258, 261


@pytest.fixture
def words(tmp_path: Path) -> str:
    """A directory with a tokenizer of whole words, and no template."""
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    found.save(str(tmp_path / FILE_NAME))
    return str(tmp_path)


class Counting:
    """Passes on to a tokenizer and counts the texts that it gets."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.texts = 0

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[Any]:
        self.texts += len(texts)
        found: list[Any] = self.inner.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return found

    def token_to_id(self, token: str) -> int | None:
        found: int | None = self.inner.token_to_id(token)
        return found


def chat(*contents: Any, **more: Any) -> dict[str, Any]:
    """A chat in which user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return {"messages": messages, **more}


async def test_words_are_tokens_and_media_their_pixels(words: str) -> None:
    counted = PromptTokens.load(words, asyncio.get_running_loop())
    view = read("/v1/chat/completions", chat([IMAGE, {"type": "text", "text": "one two three"}]))
    await counted.count(view)
    assert view.prompt_tokens == 3 + 4 + view.media[0].tokens
    text = read("/v1/completions", {"prompt": ["one two", "three four five"]})
    await counted.count(text)
    assert text.prompt_tokens == 2 + 3
    alone = read("/v1/completions", {"prompt": ["one two three"]})
    await counted.count(alone)
    assert alone.prompt_tokens == 3
    ids = read("/v1/completions", {"prompt": [5, 6, 7]})
    await counted.count(ids)
    assert ids.prompt_tokens == 3
    message = read(
        "/v1/messages", {"max_tokens": 1, "system": "be kind", "messages": [{"role": "user", "content": "hi"}]}
    )
    await counted.count(message)
    assert message.prompt_tokens == 3 + 8


async def test_a_chat_that_goes_on_costs_only_what_is_new(tmp_path: Path) -> None:
    template_model(tmp_path)
    counting = Counting(tokenizers.Tokenizer.from_file(str(tmp_path / FILE_NAME)))
    loaded = PromptTokens.load(str(tmp_path), asyncio.get_running_loop())
    loaded._texts = TextTokens(counting, ["<|im_start|>", "<|im_end|>"])
    contents = [f"word {number} " * 400 for number in range(5)]
    await loaded.read(read("/v1/chat/completions", chat(*contents[:1])))
    for length in range(2, 6):
        before = counting.texts
        view = read("/v1/chat/completions", chat(*contents[:length]))
        assert await loaded.read(view) is not None
        # The new message; the line that opens the answer is there since the first.
        assert counting.texts - before <= 1 + (length == 2)


async def test_the_prompt_is_what_the_template_says(tmp_path: Path) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    view = read("/v1/chat/completions", chat("hi"))
    prompt = await loaded.read(view)
    assert prompt is not None
    assert tokens(prompt) == [START, *b"user\nhi", END, *b"\n", START, *b"assistant\n"]
    assert view.prompt_tokens == len(tokens(prompt))


async def test_media_are_one_placeholder_each_in_their_places(tmp_path: Path) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    view = read("/v1/chat/completions", chat([{"type": "text", "text": "a"}, IMAGE, IMAGE]))
    prompt = await loaded.read(view)
    assert prompt is not None
    assert [tokens(prompt)[place] for place in prompt.places] == [PAD, PAD]
    assert view.prompt_tokens == len(tokens(prompt)) - 2 + sum(item.tokens for item in view.media)


async def test_a_client_that_writes_placeholders_has_no_known_prompt(tmp_path: Path) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    assert (
        await loaded.read(read("/v1/chat/completions", chat([IMAGE, {"type": "text", "text": "<|image_pad|>"}])))
        is None
    )


@pytest.mark.parametrize(
    "body",
    [
        chat("hi", chat_template="{{ messages }}"),
        chat("hi", chat_template_kwargs=[1]),
        chat("refuse"),
        chat([{"type": "thumbnail"}]),
        chat("hi", tools=[{"type": "function"}]),
        {"messages": [{"content": "no role"}]},
    ],
)
async def test_what_only_the_engine_knows(tmp_path: Path, body: dict[str, Any]) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    assert await loaded.read(read("/v1/chat/completions", body)) is None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [97, 98]),
        (["ab"], [97, 98]),
        ([7, 8, 9], [7, 8, 9]),
        ([[7, 8, 9]], [7, 8, 9]),
        (["a", "b"], None),
        ([-1], None),
        ([2**40], None),
    ],
)
async def test_prompts_of_completions(tmp_path: Path, prompt: Any, expected: list[int] | None) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    found = await loaded.read(read("/v1/completions", {"prompt": prompt}))
    assert (None if found is None else tokens(found)) == expected


@pytest.mark.parametrize(
    ("prompt", "more", "expected"),
    [
        ("abc", {"truncate_prompt_tokens": 2}, [98, 99]),
        ("abc", {"truncate_prompt_tokens": 3}, [97, 98, 99]),
        ("abc", {"truncate_prompt_tokens": None}, [97, 98, 99]),
        ("abc", {"truncate_prompt_tokens": -1}, None),
        ("abc", {"truncate_prompt_tokens": "2"}, None),
        ("abc", {"truncate_prompt_tokens": 2, "truncation_side": "right"}, None),
        ([7, 8, 9], {"truncate_prompt_tokens": 1, "truncation_side": "left"}, [9]),
    ],
)
async def test_of_a_prompt_that_is_cut_the_end_is_left(
    tmp_path: Path, prompt: Any, more: dict[str, Any], expected: list[int] | None
) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    view = read("/v1/completions", {"prompt": prompt, **more})
    found = await loaded.read(view)
    assert (None if found is None else tokens(found)) == expected
    assert expected is None or view.prompt_tokens == len(expected)


async def test_what_stands_around_a_prompt_stays_when_it_is_cut(tmp_path: Path) -> None:
    """Which of its tokens then go the engine's tokenizer decides."""
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    inner = tokenizers.Tokenizer.from_file(str(tmp_path / FILE_NAME))
    loaded._texts = TextTokens(inner, [], before=[START])

    async def cut_to(kept: int, **more: Any) -> list[int] | None:
        found = await loaded.read(read("/v1/completions", {"prompt": "abc", "truncate_prompt_tokens": kept, **more}))
        return None if found is None else tokens(found)

    assert await cut_to(4) == [START, 97, 98, 99]
    assert await cut_to(3) is None
    assert await cut_to(2, add_special_tokens=False) == [98, 99]


async def test_a_chat_that_is_cut(tmp_path: Path) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    found = await loaded.read(read("/v1/chat/completions", chat("hi", truncate_prompt_tokens=11)))
    assert found is not None
    assert tokens(found) == [START, *b"assistant\n"]
    pictured = chat([IMAGE], truncate_prompt_tokens=100)
    assert await loaded.read(read("/v1/chat/completions", pictured)) is None, "how many tokens are its media?"


async def test_a_long_prompt_is_the_same_in_a_thread(tmp_path: Path) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    found = await loaded.read(read("/v1/chat/completions", chat("é" * 20000)))
    assert found is not None
    assert tokens(found)[: 1 + 5 + 2] == [START, *b"user\n", *"é".encode()]
    assert found.length == 1 + 5 + 40000 + 2 + 1 + 10


def test_options_and_templates_of_the_model(tmp_path: Path) -> None:
    with_tools = "{{ bos_token }}{{ tools | tojson }}"
    config = {
        "bos_token": {"content": "<s>"},
        "chat_template": [
            {"template": "{{ mood }}"},
            {"name": "tool_use", "template": with_tools},
        ],
    }
    template_model(tmp_path, config=config)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}

    async def rendered(body: dict[str, Any]) -> str:
        loaded = PromptTokens.load(str(tmp_path), asyncio.get_running_loop(), template_options={"mood": "calm"})
        found = await loaded.read(read("/v1/chat/completions", body))
        assert found is not None
        return bytes(tokens(found)).decode()

    assert asyncio.run(rendered(chat("hi"))) == "calm"
    assert asyncio.run(rendered(chat("hi", chat_template_kwargs={"mood": "gay"}))) == "gay"
    expected = {"type": "function", "function": {"name": "f", "description": None, "parameters": {}}}
    assert asyncio.run(rendered(chat("hi", tools=[tool]))) == "<s>" + json.dumps([expected])


async def test_a_template_for_tools_that_is_broken_has_no_stand_in(tmp_path: Path) -> None:
    template_model(tmp_path, {"chat_template": [{"template": "x"}, {"name": "tool_use", "template": "{% for"}]})
    loaded = PromptTokens.load(str(tmp_path), asyncio.get_running_loop())
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert await loaded.read(read("/v1/chat/completions", chat("hi", tools=[tool]))) is None


def test_a_directory_without_tokenizer_is_told(words: str, tmp_path: Path) -> None:
    assert why_not(words) is None
    assert FILE_NAME in (why_not(str(tmp_path / "elsewhere")) or "")


@pytest.mark.parametrize("ids", [[], [-1], [1 << 32], [1.0], [1, "2"], [[1]], [None], "12", {"1": 1}])
def test_what_is_no_list_of_token_ids(ids: Any) -> None:
    assert prompt_of_ids(ids) is None


def test_token_ids_of_any_size() -> None:
    prompt = prompt_of_ids([0, 1, (1 << 32) - 1])
    assert prompt is not None
    assert (prompt.length, bytes(prompt.tokens)) == (3, b"\0\0\0\0\1\0\0\0\xff\xff\xff\xff")


async def test_files_that_broke_while_the_coordinator_ran(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(tokenizer_path=template_model(tmp_path))
    loop = asyncio.get_running_loop()
    assert prompt_tokens(settings, loop) is not None
    for name, words in ((FILE_NAME, "tokenizer.json cannot be used"), ("tokenizer_config.json", "cannot be read")):
        (tmp_path / name).write_text("{broken")
        assert prompt_tokens(settings, loop) is None
        (message,) = caplog.messages
        assert words in message
        assert message.endswith("this worker estimates prompts. Mend it, then restart the Coordinator")
        caplog.clear()
        template_model(tmp_path)
    (tmp_path / FILE_NAME).write_text("{broken")
    assert prompt_tokens(msgspec.structs.replace(settings, scheduler_type="kv_cache_affinity"), loop) is None
    assert "this worker asks engines for the tokens of prompts." in caplog.text


async def test_what_the_files_lack_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = PromptTokens.load(template_model(tmp_path), asyncio.get_running_loop())
    assert not caplog.messages
    (tmp_path / "config.json").unlink()
    loaded = PromptTokens.load(str(tmp_path), asyncio.get_running_loop())
    for _ in range(2):
        assert await loaded.read(read("/v1/chat/completions", chat([IMAGE]))) is None
    (message,) = caplog.messages
    assert message.startswith("no config.json beside the tokenizer names the placeholder of image items")
    caplog.clear()
    (tmp_path / "chat_template.jinja").unlink()
    loaded = PromptTokens.load(str(tmp_path), asyncio.get_running_loop())
    for _ in range(2):
        assert await loaded.read(read("/v1/chat/completions", chat("hi"))) is None
    (message,) = caplog.messages
    assert message.startswith(f"there is no chat template in {tmp_path} ")


@pytest.mark.parametrize("named", [[{"name": "default", "template": 5}], [{"name": ["default"], "template": "x"}], 5])
def test_a_template_that_is_no_text_is_none(tmp_path: Path, named: object) -> None:
    template_model(tmp_path, {"chat_template": named})
    assert read_model_files(str(tmp_path)).template == ""
