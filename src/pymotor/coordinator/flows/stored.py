"""Responses that an engine keeps: `GET` and `DELETE /v1/responses/{id}`, `POST /v1/responses/{id}/cancel`.

The endpoint that holds one stands in its id (see `api.responses`), so there is nobody else to try.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.leg_failures import failed, refused
from pymotor.coordinator.flows.legs import begin_step, followed
from pymotor.coordinator.flows.relay import Relay
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.http.exchange import EngineStreamError, StaleConnection, UpstreamError
from pymotor.coordinator.scheduling.target import Reservation, Target
from pymotor.coordinator.trail import Step

_LEG = "stored"


async def ask_holder(context: Context, target: Target, method: bytes, path: bytes) -> None:
    """Pass a request without a body on to the endpoint and its reply, a stream or not, to the client.

    `path` has the query too. Raises `LegFailed` for a refusal that the client is to see, `ApiError` for a failure.
    """
    reservation = Reservation.on(target, 0)
    leg_id = context.services.ids.next()
    trail = context.trail
    try:
        if trail is None:
            relay = await _exchange(context, target, method, path, leg_id, b"", None)
        else:
            step, lines = begin_step(context, trail, _LEG, target, leg_id)
            relay = await followed(trail, step, _exchange(context, target, method, path, leg_id, lines, step))
    finally:
        reservation.end()
    if relay.body is None:
        return
    body = b"".join(relay.body)
    if not 200 <= relay.status < 300:
        failure = refused(context, _LEG, target, relay.status, body)
        raise failure if failure.clients_fault else failure.as_api_error()
    context.committed = True
    context.status = relay.status
    head = context.services.heads.whole(context.request, relay.status, relay.content_type or JSON, len(body))
    context.client.respond(head, body)


async def _exchange(
    context: Context, target: Target, method: bytes, path: bytes, leg_id: bytes, lines: bytes, step: Step | None
) -> Relay:
    settings = context.settings
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\nX-Request-Id: %b\r\n%bContent-Length: 0\r\n\r\n" % (
        method,
        path,
        target.host_header,
        leg_id,
        context.forwarded + lines,
    )
    connection = target.pool.take_idle()
    while True:
        reused = connection is not None
        relay = Relay(context, _LEG, target, None)
        try:
            if connection is None:
                connection = await target.pool.connect(settings.connect_timeout)
            connection.send(
                (head,),
                relay,
                first_byte_by=monotonic() + settings.first_token_timeout,
                idle_seconds=settings.stream_idle_timeout,
                whole_by=context.whole_by,
            )
            relay.connection = connection
            if step is not None:
                step.sent = monotonic()
                step.connection = connection
            await relay.done
        except StaleConnection as error:
            if not reused:
                raise failed(context, _LEG, target, error).as_api_error() from error
            connection = None
        except EngineStreamError as error:
            raise refused(context, _LEG, target, 500, b'{"error":' + error.error + b"}").as_api_error() from error
        except UpstreamError as error:
            raise failed(context, _LEG, target, error).as_api_error() from error
        except asyncio.CancelledError:
            if connection is not None:
                connection.abandon(relay)
            raise
        else:
            return relay
        finally:
            if step is not None:
                step.status = relay.status
