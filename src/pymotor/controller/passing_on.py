"""A Controller that stands by passes on what it is asked to the one that leads.

Behind one Service of Kubernetes a request may come to either. A standby that refused would never be ready, so that a
Deployment with one is never complete; and a connection that was opened before the leader changed would end at one that
refuses for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import NamedTuple

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.certificate_trouble import certificate_trouble
from pymotor.control_plane.client_certificate import (
    PASSED_ON,
    PASSED_ON_FOR_KNOWN,
    PASSED_ON_FOR_STRANGER,
    shows_certificate,
)
from pymotor.control_plane.tls import ClientTLS

logger = logging.getLogger(__name__)

_ONE_HOP = frozenset((b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding", PASSED_ON))
"""Headers of requests that are not the client's, or that httpx writes itself."""
_OWN = _ONE_HOP | {b"date", b"server"}
"""Headers of answers that this server writes itself."""

_CONNECT_SECONDS = 3.0


class LeaderTLS(NamedTuple):
    """How the leader is known, where its port speaks TLS."""

    certificates: ClientTLS
    name: str
    """What its certificate is to say, since it is dialled by the address of its pod; empty: that address."""


class PassingOn:
    """Answers with the application while this Controller leads or nobody does, else with what the leader answers."""

    def __init__(
        self,
        app: ASGIApp,
        leader: Callable[[], str],
        *,
        kept: Collection[str],
        longest_body: int,
        tls: LeaderTLS | None = None,
    ) -> None:
        """`leader`: the URL of the Controller that leads, empty where this one does or none is known. `kept`: paths
        that are asked of this Controller itself. `longest_body`: bytes that are passed on, more is left to the
        application, which refuses it. `tls`: None where the leader's port speaks none."""
        self._tls = tls
        self._app = app
        self._leader = leader
        self._kept = kept
        self._longest_body = longest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        leader = self._leader() if scope["type"] == "http" and scope["path"] not in self._kept else ""
        if not leader or any(name == PASSED_ON for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        messages = await self._read(receive)
        body = b"".join(message.get("body", b"") for message in messages)
        if messages[-1]["type"] == "http.disconnect":
            return
        passing = _Passing(leader, scope, body, send, self._tls)
        if len(body) > self._longest_body or not await _unless_gone(receive, passing.run()):
            # The leader has just gone: the application says that this one does not lead.
            await self._app(scope, _again(messages, receive), send)

    async def _read(self, receive: Receive) -> list[Message]:
        messages: list[Message] = []
        size = 0
        while not messages or (messages[-1].get("more_body") and size <= self._longest_body):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
        return messages


class _Passing:
    """One request on its way to the leader, and its answer."""

    def __init__(self, leader: str, scope: Scope, body: bytes, send: Send, tls: LeaderTLS | None) -> None:
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        self._method: str = scope["method"]
        self._url = leader + scope["raw_path"].decode("latin-1") + query
        # The leader sees this Controller's certificate, so it has to hear whether the client had one.
        passed_on = PASSED_ON_FOR_KNOWN if shows_certificate(scope) else PASSED_ON_FOR_STRANGER
        kept = [(name, value) for name, value in scope["headers"] if name not in _ONE_HOP]
        self._headers = [*kept, (PASSED_ON, passed_on)]
        self._tls = tls
        self._body = body
        self._send = send
        self._answering = False

    async def run(self) -> bool:
        """Whether there is an answer; there is none of a leader that is not there."""
        # Who asked has a deadline of its own, and the leader holds answers back until there is news.
        limits = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        certificates, name = self._tls or (None, "")
        extensions = {"sni_hostname": name} if name else {}
        try:
            async with (
                asking_client(certificates, timeout=limits) as client,
                client.stream(
                    self._method, self._url, headers=self._headers, content=self._body, extensions=extensions
                ) as answer,
            ):
                await self._relay(answer)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if trouble := certificate_trouble(error):
                logger.warning("nothing is passed on to the Controller that leads, %s: %s", self._url, trouble)
            return False
        except httpx.HTTPError as error:
            logger.warning("the Controller that leads broke off an answer to %s: %r", self._url, error)
            if not self._answering:
                await self._send({"type": "http.response.start", "status": 502, "headers": []})
                await self._send({"type": "http.response.body", "body": b""})
        return True

    async def _relay(self, answer: httpx.Response) -> None:
        kept = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _OWN]
        await self._send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        self._answering = True
        async for part in answer.aiter_raw():
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})


async def _unless_gone(receive: Receive, passing: Coroutine[None, None, bool]) -> bool:
    """What it comes to; once the client is gone it is ended, and with it the leader's connection."""
    work = asyncio.ensure_future(passing)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else True
    finally:
        work.cancel()
        watch.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _again(messages: list[Message], receive: Receive) -> Receive:
    left = iter(messages)

    async def receive_again() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return receive_again
