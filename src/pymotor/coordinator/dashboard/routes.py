"""The dashboard's paths at the management port."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request, Response

from pymotor.coordinator.dashboard.board import Board
from pymotor.coordinator.dashboard.page_files import HEADERS, PageFile

_DATA_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def dashboard_routes(board: Board, files: Mapping[str, PageFile]) -> APIRouter:
    """`files` by the path that they are asked for; nothing else is ever read from a disk."""
    router = APIRouter()
    for path, file in files.items():
        router.add_api_route(path, _sending(file), methods=["GET", "HEAD"], include_in_schema=False)

    @router.get("/dashboard/fleet")
    async def fleet() -> Response:
        """Instances with state, load, requests and KV use; totals."""
        return _json(board.fleet())

    @router.get("/dashboard/series")
    async def series(after: float = 0.0) -> Response:
        """The points of the last quarter of an hour, those after `after` only."""
        return _json(board.series(after))

    @router.get("/dashboard/requests")
    async def requests(after: float = 0.0) -> Response:
        """Requests that are over, those that ended after `after` only."""
        return _json(await board.requests(after))

    @router.get("/dashboard/requests/{finished_id}")
    async def request(finished_id: str) -> Response:
        """One of them, step by step."""
        status, body = await board.request(finished_id)
        return _json(body, status)

    return router


def _sending(file: PageFile) -> Callable[[Request], Response]:
    def send(request: Request) -> Response:  # noqa: ARG001  FastAPI would take another name for a query
        return Response(file.body, media_type=file.kind, headers=HEADERS)

    return send


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, headers=_DATA_HEADERS, media_type="application/json")
