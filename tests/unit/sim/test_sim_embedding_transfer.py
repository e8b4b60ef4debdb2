"""Embeddings that go from engine to engine: fetched from the encoder, or pushed to who will need them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_legs import Engine, Engines, chat_body, ec_peer_flags, embeds, eventually, idle, image, text, unread

FREE = {"VLLM_EC_SIDE_CHANNEL_PORT": "0"}
HOST_MEMORY = {"ec_cpu_bytes": 1 << 28, "ec_enable_nixl": True}


class Trio(NamedTuple):
    encode: Engine
    consume: Engine
    plain: Engine


def encoded(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    params: dict[str, Any] = reply.json()["ec_transfer_params"]
    return params


@pytest.fixture(scope="module")
def plain(engines: Engines) -> Engine:
    return engines.start()


@pytest.fixture(scope="module")
def pulled(engines: Engines, plain: Engine) -> Trio:
    return Trio(
        engines.start(*ec_peer_flags("ECCPUConnector", "ec_producer", **HOST_MEMORY), environment=FREE),
        engines.start(*ec_peer_flags("ECCPUConnector", "ec_consumer", **HOST_MEMORY)),
        plain,
    )


@pytest.fixture(scope="module")
def pushed(engines: Engines, plain: Engine) -> Trio:
    flags = ec_peer_flags("ECMooncakeConnector", "ec_consumer", ip_port=0, push_wait_timeout_s=2)
    return Trio(engines.start(*ec_peer_flags("ECMooncakeConnector", "ec_producer")), engines.start(*flags), plain)


def consumer_address(engine: Engine) -> str:
    return f"tcp://127.0.0.1:{engine.state()['ports']['ec']}"


def items(identifiers: Sequence[str | None]) -> list[dict[str, Any]]:
    """`ec_items` with new transfer ids; None for one that is matched by its position."""
    named = [{} if identifier is None else {"mm_hash": identifier} for identifier in identifiers]
    return [{**entry, "transfer_id": uuid.uuid4().hex} for entry in named]


def push(trio: Trio, part: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """E's leg for one item; returns its part for the consumer and the consumer's `ec_items`."""
    ids = items([None])
    sent = {"consumer_zmq": consumer_address(trio.consume), "ec_items": ids}
    reply = trio.encode.chat([part], ec_transfer_params=sent)
    ((identifier, entry),) = encoded(reply).items()
    assert entry["transfer_id"] == ids[0]["transfer_id"]
    return embeds(reply)[0], [{"mm_hash": identifier, **ids[0]}]


def through_push(trio: Trio, content: Sequence[dict[str, Any]]) -> list[int]:
    parts, wanted = [], []
    for part in content:
        if part["type"] == "text":
            parts.append(part)
        else:
            embedded, ids = push(trio, part)
            parts.append(embedded)
            wanted += ids
    return trio.consume.tokens(parts, ec_transfer_params={"ec_items": wanted})


def through_pull(trio: Trio, content: Sequence[dict[str, Any]]) -> list[int]:
    parts: list[dict[str, Any]] = []
    handles: dict[str, Any] = {}
    for part in content:
        if part["type"] == "text":
            parts.append(part)
        else:
            reply = trio.encode.chat([part])
            handles |= encoded(reply)
            parts += embeds(reply)
    return trio.consume.tokens(parts, ec_transfer_params=handles)


contents = st.lists(
    st.one_of(
        st.text(max_size=30).map(text),
        st.tuples(st.integers(0, 255), st.integers(1, 300), st.integers(1, 300)).map(lambda size: image(*size)),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents)
def test_pulled_embeddings_answer_as_one_engine(pulled: Trio, content: list[dict[str, Any]]) -> None:
    assert through_pull(pulled, content) == pulled.plain.tokens(content)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents)
def test_pushed_embeddings_answer_as_one_engine(pushed: Trio, content: list[dict[str, Any]]) -> None:
    assert through_push(pushed, content) == pushed.plain.tokens(content)
    for engine in pushed:
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


# Pull.


def test_the_encoder_says_where_its_embedding_is(pulled: Trio) -> None:
    ((identifier, entry),) = encoded(pulled.encode.chat([image(10, 64, 64)])).items()
    assert entry == {
        "item_indices": [0],
        "metadata": {"image_grid_thw": [1, 4, 4]},
        "peer_host": "localhost",
        "peer_port": pulled.encode.state()["ports"]["ec"],
        "size_bytes": 4 * 16384,
        "shape": [4, 8192],
    }
    assert len(identifier) == 64


def test_an_embedding_of_other_content_changes_the_answer(pulled: Trio) -> None:
    pulled.encode.fault("ec_wrong:count=1")
    content = [text("what is it?"), image(11)]
    assert through_pull(pulled, content) != pulled.plain.tokens(content)


def test_a_lost_embedding_is_not_announced(pulled: Trio) -> None:
    pulled.encode.fault("ec_drop:count=1")
    (entry,) = encoded(pulled.encode.chat([image(12)])).values()
    assert entry == {"item_indices": [0], "metadata": {}}


@pytest.mark.parametrize(
    "wrong",
    [{"peer_port": 1}, {"size_bytes": 1}, {"shape": [1, 1]}, {"peer_host": 3}, {"peer_host": "x" * 300}],
    ids=str,
)
def test_what_cannot_be_fetched_is_encoded_where_the_media_is_and_500_where_not(pulled: Trio, wrong: Any) -> None:
    number = sum(map(ord, str(wrong))) % 256
    reply = pulled.encode.chat([image(number, 50, 70)])
    handles = {identifier: {**entry, **wrong} for identifier, entry in encoded(reply).items()}
    failed = pulled.consume.chat(embeds(reply), ec_transfer_params=handles)
    assert failed.status_code == 500
    assert pulled.consume.get("/health").status_code == 200
    content = [image(number, 50, 70)]
    assert pulled.consume.tokens(content, ec_transfer_params=handles) == pulled.plain.tokens(content)


def test_metadata_that_nobody_announced_ends_the_engine(engines: Engines, pulled: Trio) -> None:
    doomed = engines.start(*ec_peer_flags("ECCPUConnector", "ec_consumer", **HOST_MEMORY))
    reply = pulled.encode.chat([image(13)])
    assert doomed.chat(embeds(reply)).status_code == 500
    assert doomed.get("/health").status_code == 503


def test_an_encoder_that_is_gone(engines: Engines, pulled: Trio) -> None:
    encoder = engines.start(*ec_peer_flags("ECCPUConnector", "ec_producer", **HOST_MEMORY), environment=FREE)
    reply = encoder.chat([image(14)])
    encoder.process.kill()
    encoder.process.wait()
    assert pulled.consume.chat(embeds(reply), ec_transfer_params=encoded(reply)).status_code == 500
    content = [image(14)]
    assert pulled.consume.tokens(content, ec_transfer_params=encoded(reply)) == pulled.plain.tokens(content)


def test_without_nixl_nothing_is_announced(engines: Engines) -> None:
    encoder = engines.start(*ec_peer_flags("ECCPUConnector", "ec_producer", ec_cpu_bytes=1 << 28))
    assert encoder.chat([image(15)]).json()["ec_transfer_params"] is None


def test_a_fetch_that_hangs_ends_with_its_client(pulled: Trio) -> None:
    reply = pulled.encode.chat([image(16)])
    pulled.consume.fault("ec_hang:count=1")
    with unread(pulled.consume, chat_body(embeds(reply), ec_transfer_params=encoded(reply))):
        eventually(lambda: pulled.consume.state()["embeddings_moving"] == 1)
    eventually(lambda: idle(pulled.consume))


# Push.


def test_transfers_are_matched_by_hash_or_by_position(pushed: Trio) -> None:
    content = [image(30), image(31), image(30)]
    known = list(encoded(pushed.encode.chat(content)))
    address = consumer_address(pushed.consume)
    by_position = items([None, None, None])
    by_hash = items([known[1], known[0]])
    for ids, expected in (
        (by_position, [by_position[2]["transfer_id"], by_position[1]["transfer_id"]]),
        (by_hash, [by_hash[1]["transfer_id"], by_hash[0]["transfer_id"]]),
    ):
        reply = pushed.encode.chat(content, ec_transfer_params={"consumer_zmq": address, "ec_items": ids})
        assert [entry["transfer_id"] for entry in encoded(reply).values()] == expected
        parts = [text("which?"), *embeds(reply), embeds(reply)[0]]
        tokens = pushed.consume.tokens(parts, ec_transfer_params={"ec_items": ids})
        assert tokens == pushed.plain.tokens([text("which?"), *content])
        eventually(lambda: idle(pushed.consume))


def test_an_embedding_of_other_content_that_is_pushed_changes_the_answer(pushed: Trio) -> None:
    pushed.encode.fault("ec_wrong:count=1")
    content = [text("what is it?"), image(32)]
    assert through_push(pushed, content) != pushed.plain.tokens(content)


@pytest.mark.parametrize("fault", ["ec_push_lost", "ec_drop"])
@pytest.mark.parametrize("with_media", [True, False], ids=["media", "metadata"])
def test_what_was_never_pushed_is_500_after_a_while(pushed: Trio, fault: str, with_media: bool) -> None:
    raw = image(33 + with_media + 2 * (fault == "ec_drop"))
    pushed.encode.fault(f"{fault}:count=1")
    part, ids = push(pushed, raw)
    reply = pushed.consume.chat([raw if with_media else part], ec_transfer_params={"ec_items": ids})
    assert reply.status_code == 500
    assert pushed.consume.get("/health").status_code == 200
    eventually(lambda: idle(pushed.consume))


def test_a_consumer_may_wait_before_the_encoder_is_asked(pushed: Trio) -> None:
    raw = image(40)
    ids = items([None])
    with unread(pushed.consume, chat_body([raw], ec_transfer_params={"ec_items": ids}, stream=True)):
        eventually(lambda: pushed.consume.state()["embeddings_moving"] == 1)
        pushed.encode.chat(
            [raw], ec_transfer_params={"consumer_zmq": consumer_address(pushed.consume), "ec_items": ids}
        )
        eventually(lambda: pushed.consume.state()["embeddings_moving"] == 0)
    eventually(lambda: idle(pushed.consume))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "tcp://127.0.0.1:99999"])
def test_a_consumer_that_cannot_be_reached_fails_the_encoders_request(pushed: Trio, address: str) -> None:
    sent = {"consumer_zmq": address, "ec_items": items([None])}
    assert pushed.encode.chat([image(41)], ec_transfer_params=sent).status_code == 500
    eventually(lambda: idle(pushed.encode))


def test_a_push_that_hangs_ends_with_its_client(pushed: Trio) -> None:
    pushed.encode.fault("ec_hang:count=1")
    sent = {"consumer_zmq": consumer_address(pushed.consume), "ec_items": items([None])}
    with unread(pushed.encode, chat_body([image(42)], ec_transfer_params=sent)):
        eventually(lambda: pushed.encode.state()["embeddings_moving"] == 1)
    eventually(lambda: idle(pushed.encode))
