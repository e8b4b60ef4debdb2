"""A client of the Controller's operations, for the verbs."""

from __future__ import annotations

from typing import Any

import httpx

from pymotor.control_plane.asking import verb_client
from pymotor.control_plane.certificate_trouble import why_not
from pymotor.operate.target import URL_VARIABLE, Target

_TIMEOUT_SECONDS = 10.0
_HINTS_FOLLOWED = 3


class ControllerCallError(Exception):
    """The Controller refused or could not be asked; the message says what to do."""


class ControllerAwayError(ControllerCallError):
    """Nobody answers, or nobody leads; that may pass."""


class ControllerClient:
    """Asks a Controller, and the leader that it names; use it as a context."""

    def __init__(self, target: Target) -> None:
        self._url = target.url
        headers = target.token.header if target.token is not None else {}
        self._http = verb_client(target.url, target.certificates, timeout=_TIMEOUT_SECONDS, headers=headers)

    def __enter__(self) -> ControllerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: int) -> Any:
        """The answer to GET. Raises `ControllerCallError`."""
        return self._call("GET", path, params=query)

    def post(self, path: str, **body: object) -> Any:
        """The answer to POST. Raises `ControllerCallError`."""
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **what: Any) -> Any:
        for _ in range(_HINTS_FOLLOWED):
            try:
                response = self._http.request(method, self._url + path, **what)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ControllerAwayError(
                    f"no Controller answers at {self._url} ({why_not(error)}); try again if it is starting, or say "
                    f"where one is with --controller or {URL_VARIABLE}"
                ) from error
            answer = _json(response)
            if response.is_success:
                return answer
            leader = answer.get("leader") if isinstance(answer, dict) else None
            if response.status_code != 503 or not leader or leader == self._url:
                break
            self._url = leader
        said = answer.get("error") if isinstance(answer, dict) else None
        words = said if isinstance(said, str) and said else f"{self._url} answers HTTP {response.status_code}"
        if response.status_code == 503:
            raise ControllerAwayError(f"{words}; try again in some seconds, or ask another Controller")
        if response.status_code == 401:
            words += ": set PYMOTOR_CLUSTER_TOKEN, or PYMOTOR_CLUSTER_TOKEN_FILE, to that of the fleet"
        raise ControllerCallError(words)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
