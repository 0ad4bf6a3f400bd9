"""The admin routes: `/admin/v1/...`, JSON, with the admin key as bearer token.

No cookie opens them, so that no page of another site can use them.
"""

import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account, rotate_key
from dpsd.guard.actions import change_tier, check_tier
from dpsd.guard.storage.store import Account
from dpsd.serving.admin import acts
from dpsd.serving.admin.board import Board
from dpsd.serving.admin.forms import Refused, read_object
from dpsd.serving.admin.sessions import Sessions

_BY = "admin API"
_DAY = 86_400
_LONGEST = 36_500  # days until an account expires
Body = Annotated[dict[str, Any], Depends(read_object)]


def api_routes(board: Board, sessions: Sessions) -> APIRouter:
    """The routes of one service."""
    store = board.store

    def operator(request: Request) -> None:
        """Let the operator in, and nobody else."""
        if not sessions.may_guess():
            raise Refused(429, "too_many_keys", "too many wrong keys; try again in a minute")
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sessions.is_admin(key):
            raise Refused(401, "bad_key", "send Authorization: Bearer with the admin key")

    routes = APIRouter(prefix="/admin/v1", dependencies=[Depends(operator)])

    @routes.get("/accounts")
    def accounts() -> list[dict[str, Any]]:
        return [_about(board, account) for account in store.accounts()]

    @routes.post("/accounts")
    def add(body: Body) -> JSONResponse:
        account, key = new_account(board, _text(body, "name"), _text(body, "tier"),
                                   body.get("days"), _text(body, "reference"), _BY)  # fmt: skip
        return JSONResponse(_about(board, account) | {"key": key}, 201)

    @routes.get("/accounts/{id}")
    def one(id: str) -> dict[str, Any]:
        account = _known(board, id)
        return _about(board, account) | {"events": store.events(id)}

    @routes.delete("/accounts/{id}")
    def forget(id: str) -> dict[str, str]:
        forget_account(board, _known(board, id), _BY)
        return {"forgotten": id}

    @routes.post("/accounts/{id}/tier")
    def tier(id: str, body: Body) -> dict[str, Any]:
        _known(board, id)
        change_tier(store, id, _text(body, "tier"), board.tiers, _BY)
        return _about(board, _known(board, id))

    @routes.post("/accounts/{id}/rotate")
    def rotate(id: str) -> dict[str, Any]:
        account = _known(board, id)
        return {"id": id, "key": rotate_key(store, board.pepper, account.name)}

    @routes.post("/accounts/{id}/{action}")
    def act(id: str, action: str) -> dict[str, Any]:
        _known(board, id)
        acts.do(board, id, action, _BY)
        return _about(board, _known(board, id))

    @routes.get("/events")
    def events(most: int = 100) -> list[dict[str, Any]]:
        return store.recent_events(min(max(most, 1), 10_000))

    @routes.get("/traffic")
    def traffic() -> list[dict[str, int]]:
        return [asdict(minute) for minute in board.traffic.minutes()]

    return routes


def new_account(
    board: Board, name: str, tier: str, days: object, reference: str, by: str
) -> tuple[Account, str]:
    """A new account and its key.

    Raises:
        UserError: a name, tier or number of days that is not accepted.
    """
    check_tier(tier, board.tiers)
    if days in (None, ""):
        expires = None
    else:
        count = int(str(days)) if str(days).isdecimal() else 0
        if not 1 <= count <= _LONGEST:
            raise UserError(f"days: {days!s:.20}; accepted: 1 to {_LONGEST:,}, or none")
        expires = time.time() + count * _DAY
    if len(reference) > 200:
        raise UserError(f"reference: {len(reference)} characters; accepted: at most 200")
    account, key = add_account(board.store, board.pepper, name, tier, expires=expires,
                               reference=reference)  # fmt: skip
    board.store.note(account.id, "added", time.time(), by=by)
    return account, key


def forget_account(board: Board, account: Account, by: str) -> None:
    """Delete all that is kept about an account; that it was done is logged without its name."""
    board.store.forget(account.id)
    board.store.note("", "forgotten", time.time(), by=by, says="an account and all about it")


def _known(board: Board, id: str) -> Account:
    account = board.store.by_id(id)
    if account is None:
        raise Refused(404, "unknown_account", f"account: {id:.40} is unknown")
    return account


def _about(board: Board, account: Account) -> dict[str, Any]:
    watched = board.store.watched(account.id)
    return {
        "id": account.id, "name": account.name, "tier": account.tier, "state": account.state,
        "made": account.made, "expires": account.expires, "reference": account.reference,
        "images": board.store.spent(account.id), "level": watched.level if watched else "",
        "held": bool(watched and watched.held), "reason": watched.reason if watched else "",
        "suspicion": max(watched.suspicion, watched.prior) if watched else 0.0,
    }  # fmt: skip


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{name}: {value!s:.40}; accepted: text")
    return value
