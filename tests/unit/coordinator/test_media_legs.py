"""What goes to encoders and from them to the next stage, who waits for whose leg, and what a failure of one means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from played_stages import Body, PlayedFleet, chat, encoding_of, played
from pymotor.coordinator.settings import RequestLimits
from pymotor.fleet import ECDialect, InstanceState, Role

STORE, PULL, PUSH = ECDialect.STORE, ECDialect.PULL, ECDialect.PUSH
EPD = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1}
EU = {Role.ENCODE: 1, Role.UNION: 1}
CAT, DOG, CAR = (f"data:image/png;base64,{name}" for name in ("Y2F0", "ZG9n", "Y2Fy"))
LINK = "http://pictures.example/cat.png"


def image(url: str) -> Body:
    return {"type": "image_url", "image_url": {"url": url}}


def parts(body: Body) -> list[Body]:
    found: list[Body] = body["messages"][0]["content"]
    return found


def kinds(body: Body) -> list[str]:
    return [part["type"] for part in parts(body)]


def said_of(*urls: str) -> Body:
    """All that encoders say of these images."""
    return {name: value for url in urls for name, value in encoding_of(chat(url)).items()}


def name_of(url: str) -> str:
    return next(iter(said_of(url)))


def broken(number: int) -> list[Any]:
    return [(500, {"error": {"message": "broken"}})] * number


def busy(status: int, number: int) -> list[Any]:
    return [(status, {"error": {"message": "busy"}})] * number


# What is passed on.


@pytest.mark.parametrize(("roles", "reader"), [(EPD, "prefill-0"), (EU, "union-0")])
def test_pull_what_the_encoders_said_goes_to_the_stage_that_reads(roles: dict[Role, int], reader: str) -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, roles) as fleet:
            status, _ = await fleet.ask(chat(CAT, DOG, CAT))
            assert status == 200
            assert [body.get("ec_transfer_params") for body in fleet["encode-0"].bodies] == [None, None]
            (body,) = fleet[reader].bodies
            assert body["ec_transfer_params"] == said_of(CAT, DOG)
            assert kinds(body) == ["image_url"] * 3 + ["text"]
            for _, later in fleet.sent(Role.DECODE):
                assert "ec_transfer_params" not in later
                assert kinds(later) == ["image_embeds"] * 3 + ["text"]
            assert fleet.outcomes() == {"encoded": 2, "shared": 1}

    played(scenario)


@pytest.mark.parametrize(("roles", "reader"), [(EPD, "prefill-0"), (EU, "union-0")])
def test_push_encoder_and_consumer_get_the_same_names(roles: dict[Role, int], reader: str) -> None:
    async def scenario() -> None:
        async with PlayedFleet(PUSH, roles) as fleet:
            status, _ = await fleet.ask(chat(CAT, DOG, CAT))
            assert status == 200
            names = {}
            for body in fleet["encode-0"].bodies:
                params = body["ec_transfer_params"]
                assert params.keys() == {"consumer_zmq", "ec_items"}
                assert params["consumer_zmq"] == fleet[reader].address
                (item,) = params["ec_items"]
                assert item.keys() == {"transfer_id"}
                names[parts(body)[0]["image_url"]["url"]] = item["transfer_id"]
            assert len(set(names.values())) == 2
            assert all(len(name) == 32 for name in names.values())
            (body,) = fleet[reader].bodies
            params = body["ec_transfer_params"]
            items = params.pop("ec_items")
            assert items == [{"mm_hash": name_of(url), "transfer_id": names[url]} for url in (CAT, DOG, CAT)]
            assert params == said_of(CAT, DOG)

    played(scenario)


def test_store_nothing_is_passed_on_but_metadata() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert all("ec_transfer_params" not in body for stage in fleet.stages.values() for body in stage.bodies)

    played(scenario)


@pytest.mark.parametrize("dialect", list(ECDialect))
@pytest.mark.parametrize("forward_media", ["prefill", "never", "always"])
def test_who_gets_media_and_who_metadata(dialect: ECDialect, forward_media: str) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, EPD, forward_media=forward_media) as fleet:
            assert (await fleet.ask(chat(CAT)))[0] == 200
            (prefill,), (decode,) = fleet["prefill-0"].bodies, fleet["decode-0"].bodies
            metadata = {
                "type": "image_embeds",
                "image_embeds": {"image_grid_thw": [1, 6, 6]},
                "uuid": name_of(CAT),
            }
            assert parts(prefill)[0] == (metadata if forward_media == "never" else image(CAT))
            assert parts(decode)[0] == (image(CAT) if forward_media == "always" else metadata)

    played(scenario)


def test_an_encoder_that_does_not_say_more_leaves_the_media_as_they_are() -> None:
    """Engines before vLLM 0.32."""

    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD, forward_media="never") as fleet:
            fleet["encode-0"].replies = [(200, {"choices": []}), (200, {"ec_transfer_params": None})]
            assert (await fleet.ask(chat(CAT, DOG)))[0] == 200
            assert kinds(fleet["prefill-0"].bodies[0]) == ["image_url", "image_url", "text"]
            assert kinds(fleet["decode-0"].bodies[0]) == ["image_url", "image_url", "text"]

    played(scenario)


def test_a_push_whose_item_has_no_name_goes_by_its_place() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PUSH, EU) as fleet:
            fleet["encode-0"].replies = [(200, {"choices": []})]
            assert (await fleet.ask(chat(CAT)))[0] == 200
            (item,) = fleet["encode-0"].bodies[0]["ec_transfer_params"]["ec_items"]
            assert fleet["union-0"].bodies[0]["ec_transfer_params"] == {"ec_items": [item]}

    played(scenario)


@pytest.mark.parametrize("forward_media", ["prefill", "never"])
@pytest.mark.parametrize(
    ("path", "body", "items"),
    [
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "Y2F0"}}]}]},
            [("content", "image")],
        ),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": CAT}]}]},
            [("content", "input_image")],
        ),
    ],
)  # fmt: skip
def test_paths_without_a_place_for_metadata_keep_their_media(
    path: str, body: Body, items: list[Any], forward_media: str
) -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, EPD, forward_media=forward_media) as fleet:
            asked = {"model": "tiny", "max_tokens": 5, **body}
            await fleet.ask(asked, path)
            (encode,), (prefill,), (decode,) = (fleet[f"{name}-0"].bodies for name in ("encode", "prefill", "decode"))
            assert parts(encode)[0]["type"] == "image_url"
            assert parts(encode)[0]["image_url"]["url"] == CAT
            field = next(iter(body))
            assert prefill[field] == body[field] == decode[field]
            assert prefill["ec_transfer_params"] == said_of(CAT)

    played(scenario)


# Who waits for whose leg.


@pytest.mark.parametrize(("dialect", "legs"), [(STORE, 1), (PULL, 1), (PUSH, 20)])
def test_twenty_requests_with_one_image_at_the_same_time(dialect: ECDialect, legs: int) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, {**EPD, Role.ENCODE: 2}) as fleet:
            for name in ("encode-0", "encode-1"):
                fleet[name].hold()
            asked = [asyncio.ensure_future(fleet.ask(chat(CAT, user=f"user {number}"))) for number in range(20)]
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) >= legs, "the item is with an encoder")
            await fleet.until(lambda: fleet.worker.loads()[2][1] == 20, "all requests have their prefill endpoint")
            for name in ("encode-0", "encode-1"):
                fleet[name].held.set()
            assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 20
            assert len(fleet.sent(Role.ENCODE)) == legs
            assert fleet.outcomes() == ({"encoded": 20} if legs == 20 else {"encoded": 1, "joined": 19})
            for body in fleet["prefill-0"].bodies:
                assert (dialect is STORE) == ("ec_transfer_params" not in body)

    played(scenario)


def test_pulled_embeddings_are_for_one_consumer() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, {**EPD, Role.PREFILL: 2}) as fleet:
            fleet["encode-0"].hold()
            asked = [asyncio.ensure_future(fleet.ask(chat(CAT))) for _ in range(4)]
            await fleet.until(lambda: len(fleet["encode-0"].bodies) == 2, "one leg for each consumer")
            await fleet.until(lambda: fleet.worker.loads()[1][1] + fleet.worker.loads()[2][1] == 4, "all have begun")
            fleet["encode-0"].held.set()
            assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 4
            assert len(fleet["encode-0"].bodies) == 2
            assert fleet.outcomes() == {"encoded": 2, "joined": 2}

    played(scenario)


@pytest.mark.parametrize(
    "other",
    [
        chat(DOG),
        chat(CAT, model="tiny", mm_processor_kwargs={"max_pixels": 100}),
        chat(CAT, media_io_kwargs={"video": {"num_frames": 3}}),
        {**chat(), "messages": [{"role": "user", "content": [{**image(CAT), "detail": "high"}]}]},
    ],
)
def test_what_is_not_the_same_is_not_shared(other: Body) -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            fleet["encode-0"].hold()
            asked = [asyncio.ensure_future(fleet.ask(body)) for body in (chat(CAT), other)]
            await fleet.until(lambda: len(fleet["encode-0"].bodies) == 2, "both are with the encoder")
            fleet["encode-0"].held.set()
            assert [status for status, _ in await asyncio.gather(*asked)] == [200, 200]
            assert (await fleet.ask(other))[0] == 200
            assert fleet.outcomes() == {"encoded": 2, "reused": 1}

    played(scenario)


def test_the_client_whose_request_began_a_leg_may_go() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            encode = fleet["encode-0"]
            encode.hold()
            first = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: encode.bodies, "the item is with the encoder")
            others = [asyncio.ensure_future(fleet.ask(chat(CAT))) for _ in range(3)]
            await fleet.until(lambda: fleet.worker.loads()[1][1] == 4, "the others wait too")
            first.cancel()
            await fleet.until(lambda: fleet.worker.loads()[1][1] == 3, "the gateway has noticed")
            assert not encode.closed
            encode.held.set()
            assert [status for status, _ in await asyncio.gather(*others)] == [200] * 3
            assert len(encode.bodies) == 1
            assert fleet.outcomes() == {"joined": 3}

    played(scenario)


def test_when_nobody_waits_any_more_the_leg_is_closed() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            encode = fleet["encode-0"]
            encode.hold()
            asked = [asyncio.ensure_future(fleet.ask(chat(CAT))) for _ in range(3)]
            await fleet.until(lambda: fleet.worker.loads()[1][1] == 3, "all wait")
            for request in asked:
                request.cancel()
            await fleet.until(lambda: encode.closed == 1, "the leg is closed")
            await fleet.worker.until_idle()
            encode.held.set()
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert fleet.outcomes() == {"encoded": 1}

    played(scenario)


def test_a_failure_is_shared_by_all_who_wait() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD, encode_fallback="fail") as fleet:
            encode = fleet["encode-0"]
            encode.hold()
            encode.replies = [(500, {"error": {"message": "broken"}})]
            asked = [asyncio.ensure_future(fleet.ask(chat(CAT))) for _ in range(3)]
            await fleet.until(lambda: fleet.worker.loads()[1][1] == 3, "all wait")
            encode.held.set()
            answers = await asyncio.gather(*asked)
            assert [(status, body["error"]["code"]) for status, body in answers] == [(502, "encode_failed")] * 3
            assert len(encode.bodies) == 1

    played(scenario)


def test_who_has_time_left_does_not_share_the_end_of_anothers() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            encode = fleet["encode-0"]
            encode.hold()
            encode.replies = broken(1)
            asked = [asyncio.ensure_future(fleet.ask(chat(CAT))) for _ in range(3)]
            await fleet.until(lambda: fleet.worker.loads()[1][1] == 3, "all wait")
            (leg,) = fleet.worker.worker._services.encodings._underway.values()
            leg.until = 0.0
            encode.held.set()
            assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 3
            assert len(encode.bodies) == 2
            assert fleet.outcomes() == {"inline": 1, "encoded": 1, "joined": 1}

    played(scenario)


# What is in the store a moment ago.


def test_a_chat_that_sends_its_image_again_needs_no_second_leg() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            for _ in range(3):
                assert (await fleet.ask(chat(CAT)))[0] == 200
            assert (await fleet.ask(chat(CAT, DOG)))[0] == 200
            assert [parts(body)[0] for body in fleet["encode-0"].bodies] == [image(CAT), image(DOG)]
            assert fleet.outcomes() == {"encoded": 2, "reused": 3}
            assert kinds(fleet["decode-0"].bodies[-1]) == ["image_embeds", "image_embeds", "text"]

    played(scenario)


@pytest.mark.parametrize(
    ("dialect", "url", "settings"),
    [
        (STORE, LINK, {}),
        (STORE, CAT, {"reuse_seconds": 0.0}),
        (STORE, CAT, {"forward_media": "never"}),
        (STORE, CAT, {"reuse_bytes": 10}),
        (PULL, CAT, {}),
        (PUSH, CAT, {}),
    ],
)
def test_what_is_not_surely_in_a_store_is_encoded_again(dialect: ECDialect, url: str, settings: Body) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, EPD, **settings) as fleet:
            for _ in range(2):
                assert (await fleet.ask(chat(url)))[0] == 200
            assert fleet.outcomes() == {"encoded": 2}

    played(scenario)


@pytest.mark.parametrize(("leg", "status"), [("prefill-0", 500), ("prefill-0", 0), ("decode-0", 500)])
def test_a_later_leg_that_may_have_missed_the_embeddings_has_them_made_again(leg: str, status: int) -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert (await fleet.ask(chat(DOG)))[0] == 200
            fleet[leg].replies = [(status, {"error": {"message": "broken"}}) if status else None]
            assert (await fleet.ask(chat(CAT)))[0] == 200, "tried again"
            assert len(fleet["encode-0"].bodies) == 2, "in a store: not encoded again for the same request"
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert (await fleet.ask(chat(DOG)))[0] == 200
            assert fleet.outcomes() == {"encoded": 3, "reused": 2}

    played(scenario)


@pytest.mark.parametrize("status", [503, 429, 400])
def test_a_later_leg_that_says_something_else_changes_nothing(status: int) -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            assert (await fleet.ask(chat(CAT)))[0] == 200
            fleet["prefill-0"].replies = [(status, {"error": {"message": "not now"}})]
            await fleet.ask(chat(CAT))
            await fleet.ask(chat(CAT))
            assert len(fleet["encode-0"].bodies) == 1

    played(scenario)


def test_a_store_whose_instances_change_is_not_trusted() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, {**EPD, Role.ENCODE: 2}) as fleet:
            assert (await fleet.ask(chat(CAT)))[0] == 200
            told = fleet.worker.instances
            fleet.worker.tell_fleet(told)
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert len(fleet.sent(Role.ENCODE)) == 1, "nothing has changed"
            gone = msgspec.structs.replace(told[0], state=InstanceState.INACTIVE)
            fleet.worker.tell_fleet([gone, *told[1:]])
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert len(fleet.sent(Role.ENCODE)) == 2
            assert len(fleet["encode-1"].bodies) >= 1

    played(scenario)


# Later legs that are tried again.


@pytest.mark.parametrize(("dialect", "legs"), [(STORE, 1), (PULL, 2), (PUSH, 2)])
def test_prefill_tried_again_has_its_embeddings(dialect: ECDialect, legs: int) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, {**EPD, Role.PREFILL: 2}) as fleet:
            fleet["prefill-0"].replies = fleet["prefill-1"].replies = broken(1)
            assert (await fleet.ask(chat(CAT)))[0] == 200
            encode = fleet["encode-0"].bodies
            assert len(encode) == legs
            for name in ("prefill-0", "prefill-1"):
                (body,) = fleet[name].bodies
                assert parts(body)[0] == image(CAT)
                if dialect is PUSH:
                    (item,) = body["ec_transfer_params"]["ec_items"]
                    told = [found["ec_transfer_params"] for found in encode]
                    (push,) = [found for found in told if found["consumer_zmq"] == fleet[name].address]
                    assert push["ec_items"] == [{"transfer_id": item["transfer_id"]}]

    played(scenario)


@pytest.mark.parametrize("dialect", list(ECDialect))
def test_never_a_request_that_failed_carries_its_media(dialect: ECDialect) -> None:
    """Metadata alone may have been what broke the engine."""

    async def scenario() -> None:
        async with PlayedFleet(dialect, {**EPD, Role.PREFILL: 2}, forward_media="never") as fleet:
            for name in ("prefill-0", "prefill-1"):
                fleet[name].replies = [None]
            status, _ = await fleet.ask(chat(CAT))
            sent = sorted(fleet.sent(Role.PREFILL), key=lambda found: kinds(found[1])[0])
            assert [kinds(body)[0] for _, body in sent] == ["image_embeds", "image_url"]
            assert status == 502, "after a reset once more at most"

    played(scenario)


# Encoders that fail.


@pytest.mark.parametrize(
    ("replies", "legs", "outcome"),
    [
        pytest.param(lambda: broken(1), 2, "encoded", id="500"),
        pytest.param(lambda: [None], 2, "encoded", id="reset"),
        pytest.param(lambda: broken(2), 2, "inline", id="500 twice: not a third"),
        pytest.param(lambda: [None, *broken(1)], 2, "inline", id="reset and 500"),
        pytest.param(lambda: busy(503, 3), 4, "encoded", id="503 three times"),
        pytest.param(lambda: busy(429, 3), 4, "encoded", id="429 three times"),
        pytest.param(lambda: busy(429, 4), 4, "inline", id="429 from all"),
        pytest.param(lambda: [*busy(503, 1), *broken(1), *busy(408, 1)], 4, "encoded", id="503, 500, 408"),
        pytest.param(lambda: [(401, {})], 2, "encoded", id="401"),
        pytest.param(lambda: [(401, {}), (403, {})], 2, "inline", id="401 and 403"),
    ],
)
def test_an_item_goes_elsewhere_when_its_encoder_fails(
    replies: Callable[[], list[Any]], legs: int, outcome: str
) -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, {**EPD, Role.ENCODE: 4}) as fleet:
            script = replies()
            for number in range(4):
                fleet[f"encode-{number}"].replies = script
            assert (await fleet.ask(chat(CAT)))[0] == 200
            asked = [name for name, _ in fleet.sent(Role.ENCODE)]
            assert len(asked) == len(set(asked)) == legs
            assert fleet.outcomes() == {outcome: 1}

    played(scenario)


def test_encoders_that_refuse_do_not_use_up_the_try() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, {**EPD, Role.ENCODE: 4}) as fleet:
            order: list[str] = []
            for _ in range(3):
                assert (await fleet.ask(chat(CAT, user=str(len(order)), mm_processor_kwargs={"n": len(order)})))[
                    0
                ] == 200
                (name,) = [name for name, _ in fleet.sent(Role.ENCODE) if name not in order]
                order.append(name)
                await fleet[name].server.__aexit__(None, None, None)
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert fleet.outcomes() == {"encoded": 4}

    played(scenario)


@pytest.mark.parametrize("dialect", list(ECDialect))
def test_an_item_the_encoder_finds_wrong_is_the_clients_mistake(dialect: ECDialect) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, {**EPD, Role.ENCODE: 2}) as fleet:
            said = {"error": {"message": "not an image", "type": "BadRequestError", "param": None, "code": 400}}
            for name in ("encode-0", "encode-1"):
                fleet[name].replies = [(400, said)]
            assert await fleet.ask(chat(CAT)) == (400, said)
            assert len(fleet.sent(Role.ENCODE)) == 1
            assert not fleet["prefill-0"].bodies

    played(scenario)


def test_one_item_that_fails_has_all_of_its_modality_go_as_media() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD, forward_media="never") as fleet:
            video = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,dmlkZW8="}}
            body = chat(CAT, DOG)
            parts(body).append(video)
            fleet["encode-0"].replies = [
                (200, {"ec_transfer_params": {"cat": {"metadata": {"image_grid_thw": [1, 2, 2]}}}}),
                (500, {"error": {"message": "broken"}}),
                (200, {"ec_transfer_params": {"video": {"metadata": {"video_grid_thw": [1, 2, 2]}}}}),
            ]
            assert (await fleet.ask(body))[0] == 200
            failed = kinds(fleet["encode-0"].bodies[1])[0]
            expected = (
                ["image_url", "image_url", "text", "video_embeds"]
                if failed == "image_url"
                else ["image_embeds", "image_embeds", "text", "video_url"]
            )
            assert kinds(fleet["prefill-0"].bodies[0]) == expected
            assert kinds(fleet["decode-0"].bodies[0]) == expected
            assert fleet.outcomes() == {"encoded": 2, "inline": 1}

    played(scenario)


@pytest.mark.parametrize("fallback", ["inline", "fail"])
@pytest.mark.parametrize("dialect", list(ECDialect))
def test_when_no_encoder_can(dialect: ECDialect, fallback: str) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, {**EPD, Role.ENCODE: 2}, encode_fallback=fallback) as fleet:
            for name in ("encode-0", "encode-1"):
                fleet[name].replies = broken(1)
            status, body = await fleet.ask(chat(CAT, DOG))
            if fallback == "inline" and dialect is not PUSH:
                assert status == 200
                assert kinds(fleet["prefill-0"].bodies[0]) == ["image_url", "image_url", "text"]
            else:
                assert (status, body["error"]["code"]) == (502, "encode_failed")
                assert not fleet["prefill-0"].bodies
            assert (await fleet.ask(chat()))[0] == 200, "text needs no encoder"

    played(scenario)


@pytest.mark.parametrize("fallback", ["inline", "fail"])
@pytest.mark.parametrize("dialect", list(ECDialect))
def test_a_fleet_that_lost_its_encoders(dialect: ECDialect, fallback: str) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, EPD, encode_fallback=fallback) as fleet:
            fleet.worker.tell_fleet(fleet.worker.instances[1:])
            goes_on = fallback == "inline" and dialect is not PUSH
            assert (await fleet.ask(chat(CAT, CAT)))[0] == (200 if goes_on else 503)
            assert fleet.outcomes() == ({"inline": 1} if goes_on else {})
            assert (await fleet.ask(chat()))[0] == 200

    played(scenario)


def test_a_fleet_that_never_had_encoders_is_no_failure() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, {Role.UNION: 1}, encode_fallback="fail") as fleet:
            alone = msgspec.structs.replace(fleet.worker.instances[0], ec=None)
            fleet.worker.tell_fleet([alone])
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert fleet.outcomes() == {}

    played(scenario)


def test_a_consumer_without_an_address_cannot_be_pushed_to() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PUSH, EU) as fleet:
            encode, union = fleet.worker.instances
            assert union.ec is not None
            silent = msgspec.structs.replace(union, ec=msgspec.structs.replace(union.ec, address=""))
            fleet.worker.tell_fleet([encode, silent])
            status, body = await fleet.ask(chat(CAT))
            assert (status, body["error"]["code"]) == (502, "encode_failed")
            assert "ec_ip" in body["error"]["message"]

    played(scenario)


# Hedged legs.


def test_a_silent_encoder_is_not_waited_for_alone() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, {**EPD, Role.ENCODE: 3}, hedge_after=0.05) as fleet:
            stages = [fleet[f"encode-{number}"] for number in range(3)]
            for stage in stages:
                stage.hold()
            asked = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 2, "a second one has the item")
            first, second = (fleet[name] for name, _ in fleet.sent(Role.ENCODE))
            second.held.set()
            assert (await asked)[0] == 200
            await fleet.until(lambda: first.closed == 1, "the other leg is closed")
            assert len(fleet.sent(Role.ENCODE)) == 2, "never more than two"
            assert fleet.outcomes() == {"encoded": 1}
            assert fleet.worker.worker.instruments.hedged_legs.value == 1

    played(scenario)


def test_two_encoders_never_write_one_item_into_a_store() -> None:
    """The leg to the silent one is closed before the other begins."""

    async def scenario() -> None:
        async with PlayedFleet(STORE, {**EPD, Role.ENCODE: 3}, hedge_after=0.05) as fleet:
            stages = [fleet[f"encode-{number}"] for number in range(3)]
            for stage in stages:
                stage.hold()
            asked = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 2, "a second one has the item")
            legs = [fleet[name] for name, _ in fleet.sent(Role.ENCODE)]
            await fleet.until(lambda: sum(stage.closed for stage in legs) == 1, "the silent one's leg is closed")
            assert not asked.done()
            next(stage for stage in legs if not stage.closed).held.set()
            assert (await asked)[0] == 200
            assert fleet.outcomes() == {"encoded": 1}

    played(scenario)


@pytest.mark.parametrize("answering", ["first", "second"])
def test_a_hedged_leg_that_fails_leaves_the_other(answering: str) -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, {**EPD, Role.ENCODE: 3}, hedge_after=0.05) as fleet:
            for number in range(3):
                fleet[f"encode-{number}"].hold()
            asked = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 2, "a second one has the item")
            legs = [fleet[name] for name, _ in fleet.sent(Role.ENCODE)]
            good, bad = legs if answering == "first" else reversed(legs)
            bad.replies = broken(1)
            bad.held.set()
            await fleet.until(lambda: not bad.replies, "one has failed")
            assert not asked.done()
            good.held.set()
            assert (await asked)[0] == 200
            assert fleet.outcomes() == {"encoded": 1}

    played(scenario)


def test_a_hedge_without_a_place_does_not_happen() -> None:
    """Both encoders are at work, one for each request, and have no more places."""

    async def scenario() -> None:
        limits = RequestLimits(encode=1, max_queued=0)
        async with PlayedFleet(PULL, {**EPD, Role.ENCODE: 2}, hedge_after=0.02, limits=limits) as fleet:
            stages = [fleet["encode-0"], fleet["encode-1"]]
            for stage in stages:
                stage.hold()
            asked = [asyncio.ensure_future(fleet.ask(chat(url))) for url in (CAT, DOG)]
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 2, "each has an item")
            done, _ = await asyncio.wait(asked, timeout=0.2)
            assert not done, "nobody is refused for want of a second place"
            for stage in stages:
                stage.held.set()
            assert [(await each)[0] for each in asked] == [200, 200]
            assert fleet.worker.worker.instruments.hedged_legs.value == 0

    played(scenario)


def test_an_answer_without_end_is_charged_as_what_fits() -> None:
    """A `max_tokens` beyond what the ledger's integers hold; decode has not said how long its context is."""

    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD) as fleet:
            for limit in (2**31, 2**62, 2**63 - 1, 2**64 - 1, 10**26):
                replies = await asyncio.gather(*(fleet.ask({**chat(CAT), "max_tokens": limit}) for _ in range(3)))
                assert [status for status, _ in replies] == [200, 200, 200]

    played(scenario)


def test_many_items_are_compared_and_encoded_in_reasonable_numbers() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD, reuse_seconds=0.0) as fleet:
            stage = fleet["encode-0"]
            stage.hold()
            urls = [f"data:image/png;base64,{number:08d}" for number in range(300)]
            asked = asyncio.ensure_future(fleet.ask(chat(*urls)))
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 64, "as many as go at once")
            await asyncio.wait((asked,), timeout=0.1)
            assert len(fleet.sent(Role.ENCODE)) == 64
            stage.held.set()
            assert (await asked)[0] == 200
            assert len(fleet.sent(Role.ENCODE)) == 300

    played(scenario)


def test_too_many_items_are_refused() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, EPD, limits=RequestLimits(max_media_items=2)) as fleet:
            assert (await fleet.ask(chat(CAT, DOG)))[0] == 200
            status, body = await fleet.ask(chat(CAT, DOG, CAR))
            assert status == 400
            assert body["error"]["message"] == "the request has 3 media items; 2 are allowed"

    played(scenario)


def test_both_hedged_legs_fail() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, {**EPD, Role.ENCODE: 3}, hedge_after=0.05, encode_fallback="fail") as fleet:
            for number in range(3):
                fleet[f"encode-{number}"].hold()
                fleet[f"encode-{number}"].replies = broken(1)
            asked = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 2, "a second one has the item")
            for number in range(3):
                fleet[f"encode-{number}"].held.set()
            assert (await asked)[0] == 502
            assert len(fleet.sent(Role.ENCODE)) == 2

    played(scenario)


def test_a_client_that_goes_takes_both_hedged_legs_with_it() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PULL, {**EPD, Role.ENCODE: 2}, hedge_after=0.05) as fleet:
            for number in range(2):
                fleet[f"encode-{number}"].hold()
            asked = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: len(fleet.sent(Role.ENCODE)) == 2, "a second one has the item")
            asked.cancel()
            await fleet.until(lambda: fleet["encode-0"].closed + fleet["encode-1"].closed == 2, "both are closed")

    played(scenario)


def test_a_push_is_not_hedged() -> None:
    async def scenario() -> None:
        async with PlayedFleet(PUSH, {**EPD, Role.ENCODE: 2}, hedge_after=0.001) as fleet:
            for number in range(2):
                fleet[f"encode-{number}"].hold()
            asked = asyncio.ensure_future(fleet.ask(chat(CAT)))
            await fleet.until(lambda: fleet.sent(Role.ENCODE), "the item is with an encoder")
            for _ in range(20):
                assert (await fleet.ask(chat()))[0] == 200
            assert len(fleet.sent(Role.ENCODE)) == 1
            for number in range(2):
                fleet[f"encode-{number}"].held.set()
            assert (await asked)[0] == 200

    played(scenario)


# Deadlines and circuits.


def test_a_silent_encoder_is_a_failure_after_the_time_for_it() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, {**EPD, Role.ENCODE: 2}, first_token_timeout=1.0) as fleet:
            for number in range(2):
                fleet[f"encode-{number}"].hold()
            assert (await fleet.ask(chat(CAT)))[0] == 200
            assert fleet.outcomes() == {"inline": 1}
            assert len(fleet.sent(Role.ENCODE)) == 2

    played(scenario)


def test_an_encoder_whose_circuit_is_open_is_spared() -> None:
    async def scenario() -> None:
        async with PlayedFleet(STORE, {**EPD, Role.ENCODE: 2}, circuit_failures=1, reuse_seconds=0.0) as fleet:
            for number in range(2):
                fleet[f"encode-{number}"].replies = broken(1)
                fleet[f"encode-{1 - number}"].replies = []
                if (await fleet.ask(chat(CAT)))[0] == 200 and fleet.worker.worker._services.circuits.tripped:
                    break
            sick = next(iter(fleet.worker.worker._services.circuits.tripped)).removesuffix("/0")
            before = len(fleet[sick].bodies)
            for _ in range(5):
                assert (await fleet.ask(chat(CAT)))[0] == 200
            assert len(fleet[sick].bodies) == before

    played(scenario)
