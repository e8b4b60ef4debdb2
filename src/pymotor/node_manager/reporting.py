"""Reports to the Controller: one that waits for orders, and one at once whenever something changes here."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence

import httpx
import msgspec

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.certificate_trouble import certificate_trouble
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.engines.kept_servers import all_or_none
from pymotor.fleet import ControllerRefusal, NodeReport, ReportReply, decode_message, encode_message
from pymotor.node_manager.controllers import ControllerList, Pauses

logger = logging.getLogger(__name__)

PATH = "/nodes/report"
ANSWER_SECONDS = 3.0
"""What an answer may take beyond the time for which it was asked to be held back."""
LAST_SECONDS = 2.0
"""What the last report may take."""

_IDLE_SECONDS = 2.0
"""A connection that nobody used for so long is not used again: servers close theirs after five."""

MakeReport = Callable[[float], NodeReport]
"""The report as things stand, by the seconds that its answer may be held back; each has the next number."""
Take = Callable[[ReportReply], bool]
"""Takes an answer over; whether its order is now the one that is held."""


class NoAnswerError(Exception):
    """A report came to nothing; the message says why."""


def http_client(urls: Sequence[str], tls: ClientTLS | None = None) -> httpx.AsyncClient:
    """A client for these URLs, with the plane's certificates where it speaks TLS."""
    limits = httpx.Limits(keepalive_expiry=_IDLE_SECONDS)
    return asking_client(tls, timeout=ANSWER_SECONDS, limits=limits, urls=urls)


def engine_client(tls: ClientTLS | None) -> httpx.AsyncClient:
    """For asking the engines of this node, by `tls` where they speak it."""
    transport = RenewedTransport(tls, httpx.Limits(keepalive_expiry=_IDLE_SECONDS))
    return httpx.AsyncClient(transport=transport, trust_env=False, timeout=ANSWER_SECONDS)


class Reporting:
    """Reports for as long as it runs. The engines do not need it: without a Controller they go on."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        controllers: ControllerList,
        token: ClusterToken | None,
        make_report: MakeReport,
        take: Take,
        interval: float,
    ) -> None:
        """`interval`: seconds that the answer to a waiting report may be held back, and so between two reports while
        nothing happens."""
        self._client = client
        self._controllers = controllers
        self._token = token
        self._headers = {"Content-Type": "application/json"} | ({} if token is None else token.header)
        self._make_report = make_report
        self._take = take
        self.interval = interval
        """As above; what is set holds from the next report."""
        self._changed = asyncio.Event()
        self._said: set[str] = set()
        self._newest = 0
        """The number of the last report that was sent."""

    def changed(self) -> None:
        """There is something to report at once. Many changes in a row are one report."""
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        await all_or_none((self._wait_for_orders(), self._tell_changes()))

    async def last(self) -> None:
        """One more report of how things stand, to whoever takes it; nothing where nobody does."""
        for url in dict.fromkeys((self._controllers.current, *self._controllers.urls)):
            try:
                await asyncio.wait_for(self._send(url, self._make_report(0.0)), LAST_SECONDS)
            except (NoAnswerError, asyncio.TimeoutError):
                continue
            return

    async def _wait_for_orders(self) -> None:
        pauses = Pauses()
        wait = self.interval
        while True:
            report, began = self._make_report(wait), time.monotonic()
            reply = await self._exchange(report, pauses)
            if reply is None:
                continue
            taken = self._take(reply)
            wait = min(self.interval, reply.report_within) or self.interval
            asked_for = reply.order is not None and reply.order != report.held
            early = time.monotonic() - began < wait / 2
            if early and not (asked_for and taken):
                # it did not hold the answer back: asking again at once would be answered at once for ever
                await asyncio.sleep(wait / 2)

    async def _tell_changes(self) -> None:
        pauses = Pauses()
        while True:
            await self._changed.wait()
            self._changed.clear()
            reply = await self._exchange(self._make_report(0.0), pauses)
            if reply is None:
                self._changed.set()
            else:
                self._take(reply)

    async def _exchange(self, report: NodeReport, pauses: Pauses) -> ReportReply | None:
        """The answer; None when there was none, after a pause that grows."""
        url = self._controllers.current
        self._newest = report.sequence
        try:
            reply = await self._send(url, report)
        except _NotLeaderError as refusal:
            self._say(str(refusal))
            followed = self._controllers.not_leader(url, refusal.leader)
            pause = pauses.next()
            if not followed or pauses.failures > 1:
                await asyncio.sleep(pause)
            return None
        except _RefusedError as refusal:
            if report.sequence < self._newest:
                return None  # overtaken by the other kind of report, which told more
            self._say(str(refusal))
            await asyncio.sleep(pauses.next())
            return None
        except NoAnswerError as error:
            self._say(str(error))
            self._controllers.failed(url)
            await asyncio.sleep(pauses.next())
            return None
        pauses.reset()
        self._say("")
        return reply

    async def _send(self, url: str, report: NodeReport) -> ReportReply:
        """Raises `NoAnswerError`."""
        try:
            response = await self._client.post(
                url + PATH,
                content=encode_message(report),
                headers=self._headers,
                timeout=httpx.Timeout(ANSWER_SECONDS, read=report.wait_seconds + ANSWER_SECONDS),
            )
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            why = certificate_trouble(error) or type(error).__name__
            raise NoAnswerError(f"the Controller {url} does not answer ({why})") from error
        if response.status_code == 200:
            try:
                return decode_message(response.content, ReportReply)
            except msgspec.MsgspecError as error:
                raise NoAnswerError(f"the Controller {url} answers what is no answer: {error}") from error
        refusal = _refusal(response.content)
        if response.status_code == 503:
            raise _NotLeaderError(f"the Controller {url} is not the leader: {refusal.error}", refusal.leader)
        if response.status_code in (401, 409):
            raise _RefusedError(f"the Controller {url} refuses the report ({response.status_code}): {refusal.error}")
        raise NoAnswerError(f"the Controller {url} answers {response.status_code}: {refusal.error}")

    def _say(self, trouble: str) -> None:
        """Log each trouble once until it is over, and that it is over."""
        if trouble and trouble not in self._said:
            self._said.add(trouble)
            logger.warning("%s; the engines go on", trouble)
        elif not trouble and self._said:
            self._said.clear()
            logger.info("the Controller %s answers", self._controllers.current)


class _NotLeaderError(NoAnswerError):
    """Another Controller is the leader."""

    def __init__(self, message: str, leader: str) -> None:
        super().__init__(message)
        self.leader = leader


class _RefusedError(NoAnswerError):
    """This Controller is the leader and does not take the report."""


def _refusal(content: bytes) -> ControllerRefusal:
    try:
        return decode_message(content, ControllerRefusal)
    except msgspec.MsgspecError:
        return ControllerRefusal(error=content[:200].decode(errors="replace"))
