"""Questions to the Controllers of a list, of which one leads: the connection, what is no answer, and what the log says.

What a question says and what an answer means is who asks's own. docs/fleet.md has the protocol.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

import httpx

from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.bounded_reading import UnboundedError, read_bounded
from pymotor.control_plane.certificate_trouble import certificate_trouble
from pymotor.control_plane.controllers import Candidates, Pause
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, ClusterToken

logger = logging.getLogger(__name__)

LONGEST_BODY = 64 * 1024 * 1024
"""Bytes of an answer; 8192 endpoints are about 3 MB."""
SPARE_SECONDS = 5.0
"""What an answer may take beyond the time that it was allowed to wait."""
_CONNECT_SECONDS = 2.0
_LONGEST_REASON = 200


class NotToldError(Exception):
    """A Controller did not answer as it should; the message says how, in the same words each time."""

    def __init__(self, reason: str, leader: str = "") -> None:
        super().__init__(reason)
        self.leader = leader
        """Whom it names as the leader."""


class Refusal(Protocol):
    """What the body of an answer says that is not 2xx."""

    @property
    def error(self) -> str:
        """Why; may be empty."""

    @property
    def leader(self) -> str:
        """Where the leader is, a URL; may be empty."""


class ControllerInquiry:
    """Asks one Controller after the other until one answers, and says in the log once how it stands with them."""

    def __init__(
        self,
        urls: Sequence[str],
        token: ClusterToken | None,
        asker: str,
        read_refusal: Callable[[bytes], Refusal],
        tls: ClientTLS | None = None,
    ) -> None:
        """`urls` as of `controller_urls`; `asker`: what part asks, as in "this Coordinator"; `tls`: certificates of the
        plane, where it speaks TLS."""
        self._candidates = Candidates(urls)
        self._token = token
        self._tls = tls
        self._asker = asker
        self._read_refusal = read_refusal
        self._pause = Pause(random.Random())
        self._heard_at: float | None = None
        self._leader = ""
        self._reasons: dict[str, str] = {}
        self._complaint = ""
        self.connected = False
        """Whether the last question was answered."""

    @property
    def url(self) -> str:
        """Who is asked."""
        return self._candidates.current

    @property
    def last_heard_seconds(self) -> float | None:
        """Seconds since the last answer; None: there was none yet."""
        return None if self._heard_at is None else monotonic() - self._heard_at

    def client(self, wait_seconds: float) -> httpx.AsyncClient:
        """A client for questions that may wait so long for their answer; the caller closes it."""
        # Connections are not kept: behind one name may be several Controllers, of which another is the leader by now,
        # and one that was kept breaks without meaning anything.
        limits = httpx.Limits(max_keepalive_connections=0)
        timeout = httpx.Timeout(wait_seconds + SPARE_SECONDS, connect=_CONNECT_SECONDS)
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self._token is not None:
            headers |= self._token.header
        return asking_client(self._tls, timeout=timeout, headers=headers, limits=limits, urls=self._candidates.urls)

    async def ask(self, client: httpx.AsyncClient, path: str, content: bytes, wait_seconds: float) -> bytes | None:
        """The body of the answer; None: 204, there is nothing new. Raises `NotToldError`."""
        ends = monotonic() + wait_seconds + SPARE_SECONDS
        try:
            async with client.stream("POST", f"{self.url}{path}", content=content) as reply:
                body = await read_bounded(reply.aiter_raw(), LONGEST_BODY, ends)
        except UnboundedError as error:
            raise NotToldError(f"answers with {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise NotToldError(f"does not answer ({certificate_trouble(error) or type(error).__name__})") from error
        if reply.status_code == 204:
            return None
        if reply.status_code != 200:
            raise self._refusal(reply.status_code, body)
        return body

    def _refusal(self, status: int, body: bytes) -> NotToldError:
        told = self._read_refusal(body)
        if status == 401:
            ours = f"refuses this {self._asker}'s cluster token" if self._token is not None else "wants a cluster token"
            return NotToldError(
                f"{ours}: set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE} to the same token here and there, then start "
                f"this {self._asker} again"
            )
        if status == 503 and told.leader:
            return NotToldError(f"is not the leader and names {_shown(told.leader)}", told.leader)
        return NotToldError(f"answers with status {status}" + (f": {_shown(told.error)}" if told.error else ""))

    # -- how it stands with them, said once for each state

    def refused(self, error: NotToldError) -> float:
        """The current one has not answered as it should: on to the next. Returns the seconds to wait before that; 0
        where not all were asked by now."""
        self._reasons[self._candidates.current] = str(error)
        if not self._candidates.go_on(error.leader):
            return 0.0
        self.connected = False
        reasons = "; ".join(f"{url} {reason}" for url, reason in sorted(self._reasons.items()))
        self._reasons.clear()
        if reasons != self._complaint:
            self._complaint = reasons
            logger.warning("no Controller tells of the fleet, the last known one stands: %s", reasons)
        return self._pause.take()

    def heard(self) -> None:
        """The current one has answered as it should."""
        self._heard_at = monotonic()
        self._pause.reset()
        self._candidates.answered()
        url = self._candidates.current
        if not self.connected or url != self._leader:
            logger.info("the Controller %s tells of the fleet", url)
        for other, reason in self._reasons.items():
            # Where one of them leads and another does not there is nothing to mend; what was heard is said once.
            logger.info("the Controller %s %s", other, reason)
        self._reasons.clear()
        self.connected, self._leader, self._complaint = True, url, ""


def _shown(text: str) -> str:
    """Words of another program for a log: on one line, and not too many."""
    return " ".join(text.split())[:_LONGEST_REASON]
