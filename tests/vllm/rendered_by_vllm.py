"""Run by vLLM's Python: chats rendered and tokenised by vLLM's and transformers' own code, without an engine.

Standard input: the model's directory, templates (null: the model's own) and requests; standard output: for each
template, for each request, token ids or null where vLLM refuses it.
"""

from __future__ import annotations

import copy
import json
import sys
from types import SimpleNamespace
from typing import Any


class _Media:
    """In place of what loads media: their places come from the template."""

    model_config = SimpleNamespace(enable_prompt_embeds=False)

    def create_parser(self, **_: Any) -> _Media:
        return self

    def mm_placeholder_storage(self) -> dict[str, Any]:
        return {}

    def __getattr__(self, _: str) -> Any:
        return lambda *_arguments, **_options: None


def main() -> None:
    """See the module."""
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers import chat_utils, hf

    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model = SimpleNamespace(hf_config=SimpleNamespace(model_type=""), trust_remote_code=False)

    def tokens(template: str, body: dict[str, Any]) -> list[int]:
        request = ChatCompletionRequest.model_validate({"model": "m", **copy.deepcopy(body)})
        options = request.build_chat_params(template, "auto").get_apply_chat_template_kwargs()
        content_format = hf._detect_content_format(template, default="string")
        conversation = [
            message
            for given in request.messages
            for message in chat_utils._parse_chat_message_content(given, _Media(), content_format, False)
        ]
        chat_utils._postprocess_messages(conversation)
        tools = None if request.tools is None else [tool.model_dump() for tool in request.tools]
        options = {**options, "tokenize": False}
        for name in ("tools", "chat_template"):
            options.pop(name, None)
        text = hf.safe_apply_chat_template(
            model, tokenizer, conversation, tools=tools, chat_template=template, **options
        )
        return tokenizer.encode(text, add_special_tokens=False)

    def tokens_or_refusal(template: str, body: dict[str, Any]) -> list[int] | None:
        try:
            return tokens(template, body)
        except ValueError:
            return None

    own = tokenizer.get_chat_template()
    found = [
        [tokens_or_refusal(template or own, body) for body in asked["requests"]] for template in asked["templates"]
    ]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
