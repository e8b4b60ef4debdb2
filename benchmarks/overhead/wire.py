"""The fake engine's answers, byte for byte, and what of them a client can check.

Shapes are vLLM's: chat completion objects, SSE events, and the `kv_transfer_params` of NixlConnector.
"""

from __future__ import annotations

MODEL = "bench"
EVENTS_PER_STREAM = 64
"""SSE events of one stream: the role, 62 with content, the finish reason. `[DONE]` travels with the last."""
CONTENT_EVENTS = EVENTS_PER_STREAM - 2
DONE = b"data: [DONE]\n\n"
STAMP = b'"content":"@'
"""What precedes the time at which the engine wrote an event."""
STAMP_DIGITS = 20
FINISHED = b'"finish_reason":"stop"'
TOKEN_IDS = b'"token_ids":['

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"

_EVENT = (
    b'data: {"id":"chatcmpl-bench-0123456789abcdef","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"bench","choices":[{"index":0,"delta":{%s},"logprobs":null,"finish_reason":%s%s}]}\n\n'
)
_COMPLETION = (
    b'{"id":"chatcmpl-bench-0123456789abcdef","object":"chat.completion","created":1790000000,"model":"bench",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%s","refusal":null,"tool_calls":[]},'
    b'"logprobs":null,"finish_reason":"%s","stop_reason":null}],"usage":{"prompt_tokens":128,"total_tokens":%d,'
    b'"completion_tokens":%d,"prompt_tokens_details":null},"kv_transfer_params":%s}'
)


def response(status: bytes, body: bytes) -> bytes:
    """A whole JSON answer, as uvicorn would send it."""
    return b"HTTP/1.1 %s\r\nserver: uvicorn\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


def completion() -> bytes:
    """The answer of decode or union to a request that does not stream."""
    return response(b"200 OK", _COMPLETION % (b"forty-two " * 16, b"stop", 144, 16, b"null"))


def encoded(identifier: str) -> bytes:
    """Encode's answer: no token, and the metadata of one image of 1,024 x 768 pixels."""
    body = (
        b'{"id":"chatcmpl-bench-0123456789abcdef","object":"chat.completion","created":1790000000,"model":"bench",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":""},"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":800,"total_tokens":800,"completion_tokens":0},"kv_transfer_params":null,'
        b'"ec_transfer_params":{"%s":{"item_indices":[0],"metadata":{"image_grid_thw":[1,48,64]}}}}'
    ) % identifier.encode()
    return response(b"200 OK", body)


def prefilled(request_id: str, engine_id: str, port: int) -> bytes:
    """Prefill's answer: one token, and where decode finds the KV cache."""
    blocks = b",".join(b"%d" % number for number in range(1, 9))
    parameters = (
        b'{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[%s]],"remote_engine_id":"%s",'
        b'"remote_request_id":"%s","remote_host":"127.0.0.1","remote_port":%d,"tp_size":1,"remote_num_tokens":128}'
    ) % (blocks, engine_id.encode(), request_id.encode(), port)
    return response(b"200 OK", _COMPLETION % (b"forty", b"length", 129, 1, parameters))


class StreamEvents:
    """The events of a stream as HTTP chunks; with `token_ids` as vLLM adds them for `return_token_ids`."""

    def __init__(self, token_ids: bool) -> None:
        ids = b',"token_ids":[40289]' if token_ids else b""
        prompt = b',"prompt_token_ids":[' + b",".join(b"%d" % (1000 + n) for n in range(128)) + b"]"
        self.head = STREAM_HEAD + _chunk(
            _EVENT % (b'"role":"assistant","content":""', b"null", b',"token_ids":null' + prompt if token_ids else b"")
        )
        stamp = b"0" * STAMP_DIGITS
        content = _chunk(_EVENT % (b'"content":"@' + stamp + b'"', b"null", ids))
        self._before, self._after = content.split(stamp)
        self.finish = _chunk(_EVENT % (b"", FINISHED.partition(b":")[2], ids) + DONE) + STREAM_END

    def content(self, now: int) -> bytes:
        """A content event that carries `now` (nanoseconds of the monotonic clock)."""
        return b"%b%020d%b" % (self._before, now, self._after)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
