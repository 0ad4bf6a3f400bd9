"""The operator's pages and routes as one application; it never shares a port with the service."""

import re
import secrets
import sqlite3
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dpsd.errors import UserError
from dpsd.guard.storage.store import StoreError
from dpsd.serving.admin.api import api_routes
from dpsd.serving.admin.board import LOOPBACK, Board
from dpsd.serving.admin.forms import Refused
from dpsd.serving.admin.pages import HERE, Pages, page_routes
from dpsd.serving.admin.sessions import Sessions

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:[0-9]*)?")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_admin(board: Board) -> FastAPI:
    """The dashboard and the admin routes of one service."""
    app = FastAPI(title="dpsd admin", docs_url=None, redoc_url=None, openapi_url=None)
    sessions, pages = Sessions(board.guard, board.pepper), Pages(board)
    hosts = {host.lower() for host in LOOPBACK + board.hosts}

    @app.middleware("http")
    async def frame(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Only names that are allowed (DNS rebinding brings others), and strict headers."""
        request.state.id = secrets.token_hex(8)
        if _name(request.headers.get("host", "")) not in hosts:
            response = _problem(request, 421, "other_host", "this name is not one of the dashboard")
        else:
            response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        response.headers["X-Request-ID"] = request.state.id
        return response

    def _problem(request: Request, status: int, code: str, message: str) -> Response:
        if request.url.path.startswith("/admin/") or code == "other_host":
            tree = {"code": code, "message": message, "request_id": request.state.id}
            heads = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            return JSONResponse({"error": tree}, status, heads)
        if status == 401:
            return RedirectResponse("/login", 303)
        return pages.problem(status, message)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _problem(request, error.status, error.code, str(error))

    @app.exception_handler(UserError)
    async def unfit(request: Request, error: UserError) -> Response:
        return _problem(request, 400, "not_accepted", str(error))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return _problem(request, error.status_code, "not_found", f"{error.detail}: no such page")

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, _: RequestValidationError) -> Response:
        return _problem(request, 422, "not_accepted", "a value in the address is not accepted")

    @app.exception_handler(sqlite3.Error)
    @app.exception_handler(StoreError)
    async def unwritable(request: Request, _: Exception) -> Response:
        text = "the guard's store cannot be used now; nothing was changed"
        return _problem(request, 503, "store_unavailable", text)

    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.include_router(api_routes(board, sessions))
    app.include_router(page_routes(board, sessions, pages))
    return app


def _name(host: str) -> str:
    """The name in a Host header, without the port; empty: the header is no host."""
    found = _HOST.fullmatch(host)
    return found.group(1).lower() if found else ""
