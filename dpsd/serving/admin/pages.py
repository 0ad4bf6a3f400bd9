"""The dashboard's pages and forms; every one of them works without script."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from dpsd.errors import UserError
from dpsd.guard.accounts import rotate_key
from dpsd.guard.actions import change_tier
from dpsd.guard.explain import explanation, sentence
from dpsd.guard.storage.store import Account
from dpsd.serving.admin import acts, views
from dpsd.serving.admin.api import forget_account, new_account
from dpsd.serving.admin.board import Board
from dpsd.serving.admin.forms import Form, Refused, read_form
from dpsd.serving.admin.sessions import LONGEST, Session, Sessions, same_token

HERE = Path(__file__).parent
COOKIE = "dpsd_session"
_BY = "dashboard"
Filled = Annotated[Form, Depends(read_form)]


class Pages:
    """Templates, and what all pages show."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined,
            autoescape=select_autoescape(["html.j2"], default=True), trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters |= {
            "day": _in_utc("%d %b %Y"), "clock": _in_utc("%H:%M:%S"),
            "iso": _in_utc("%Y-%m-%dT%H:%M:%SZ"), "sentence": sentence,
        }  # fmt: skip
        self._templates.globals |= {
            "acts": acts.ACTS, "missing": acts.missing(board), "tiers": board.tiers,
            "dry_run": board.policy.dry_run,
        }  # fmt: skip

    def page(self, name: str, session: Session | None, status: int = 200, **facts: Any) -> Response:
        """A page; what was said since the last one is shown once."""
        said = [] if session is None else session.said[:]
        if session is not None:
            session.said.clear()
        template = self._templates.get_template(f"{name}.html.j2")
        text = template.render(page=name, session=session, said=said, **facts)
        return HTMLResponse(text, status)

    def part(self, name: str, **facts: Any) -> Response:
        """A part of a page, which the script puts in place of what was there."""
        return HTMLResponse(self._templates.get_template(f"{name}.html.j2").render(**facts))

    def problem(self, status: int, message: str) -> Response:
        """A page that says why something was not done."""
        return self.page("problem", None, status, message=message)


def page_routes(board: Board, sessions: Sessions, pages: Pages) -> APIRouter:
    """The routes of one service."""
    store, routes = board.store, APIRouter()

    def inside(request: Request) -> Session:
        """The session of a request; there is one for everybody who is logged in."""
        asleep = request.url.path == "/live"  # what the script asks for keeps no session open
        session = sessions.find(request.cookies.get(COOKIE, ""), touch=not asleep)
        if session is None:
            raise Refused(401, "no_session", "log in first")
        return session

    Inside = Annotated[Session, Depends(inside)]

    def sent(session: Inside, form: Filled) -> Form:
        """A form of this session."""
        if not same_token(session, form.one("csrf")):
            raise Refused(403, "bad_token", "this form is out of date; load the page again")
        return form

    Sent = Annotated[Form, Depends(sent)]

    @routes.get("/login")
    def ask_key(request: Request) -> Response:
        if sessions.find(request.cookies.get(COOKIE, "")) is not None:
            return RedirectResponse("/", 303)
        return pages.page("login", None, error="")

    @routes.post("/login")
    def log_in(form: Filled) -> Response:
        if not sessions.may_guess():
            text = "Too many wrong keys. Try again in a minute."
            return pages.page("login", None, 429, error=text)
        if not sessions.is_admin(form.one("key")):
            return pages.page("login", None, 403, error="This is not the admin key.")
        token = sessions.open()
        store.note("", "login", time.time(), by=_BY)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, token, max_age=LONGEST, httponly=True, samesite="strict",
                            secure=board.secure)  # fmt: skip
        return response

    @routes.post("/logout")
    def log_out(request: Request, form: Sent) -> Response:
        sessions.close(request.cookies.get(COOKIE, ""))
        store.note("", "logout", time.time(), by=_BY)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    @routes.get("/")
    def overview(session: Inside) -> Response:
        found = views.suspicious(board)
        return pages.page(
            "overview", session, now=views.traffic(board), log=views.log(board, 8),
            cards=views.cards(board, found[:4]), accounts=len(store.accounts()),
        )  # fmt: skip

    @routes.get("/live", dependencies=[Depends(inside)])
    def live() -> Response:
        return pages.part("live", now=views.traffic(board), accounts=len(store.accounts()))

    @routes.get("/suspicious")
    def suspicious(session: Inside) -> Response:
        found = views.suspicious(board)
        return pages.page("suspicious", session, cards=views.cards(board, found), count=len(found))

    @routes.get("/clusters")
    def clusters(session: Inside) -> Response:
        return pages.page("clusters", session, clusters=views.clusters(board))

    @routes.get("/log")
    def log(session: Inside) -> Response:
        return pages.page("log", session, log=views.log(board, 200))

    @routes.get("/accounts")
    def accounts(session: Inside, q: str = "", start: int = 0) -> Response:
        wanted = q.strip().lower()
        every = store.accounts()
        found = [a for a in every if wanted in a.name.lower() or wanted in (a.id, a.tier.lower())]
        first = max(0, start)
        rows = [views.seen(board, a, store.watched(a.id), drawn=False)
                for a in found[first : first + views.ROWS]]  # fmt: skip
        return pages.page("accounts", session, rows=rows, q=q, count=len(found), start=first,
                          step=views.ROWS)  # fmt: skip

    @routes.get("/accounts/{id}")
    def account(id: str, session: Inside) -> Response:
        known = _known(id)
        watched = store.watched(id)
        seen = views.seen(board, known, watched)
        text = explanation(known, watched, seen.images, board.policy.dry_run)
        return pages.page("account", session, seen=seen, past=views.past(board, known),
                          indicators=store.seen(id), explanation=text)  # fmt: skip

    @routes.post("/act")
    def act(session: Inside, form: Sent) -> Response:
        ids, name = form.all("account"), form.one("action")
        done = 0
        for id in ids:
            try:
                acts.do(board, id, name, _BY)
                done += 1
            except UserError as e:
                session.said.append(("problem", str(e)))
                break
        if done:
            known = store.by_id(ids[0])
            who = known.name if known and len(ids) == 1 else f"{done} accounts"
            session.said.append(("done", f"{who}: {name}."))
        return RedirectResponse(_back(form), 303)

    @routes.post("/accounts")
    def add(session: Inside, form: Sent) -> Response:
        try:
            account, key = new_account(board, form.one("name"), form.one("tier"), form.one("days"),
                                       form.one("reference"), _BY)  # fmt: skip
        except UserError as e:
            session.said.append(("problem", str(e)))
            return RedirectResponse("/accounts", 303)
        session.said.append(("key", key))
        return RedirectResponse(f"/accounts/{account.id}", 303)

    @routes.post("/accounts/{id}/tier")
    def tier(id: str, session: Inside, form: Sent) -> Response:
        change_tier(store, _known(id).id, form.one("tier"), board.tiers, _BY)
        session.said.append(("done", f"tier: {form.one('tier')}."))
        return RedirectResponse(f"/accounts/{id}", 303)

    @routes.post("/accounts/{id}/rotate")
    def rotate(id: str, session: Inside, form: Sent) -> Response:
        session.said.append(("key", rotate_key(store, board.pepper, _known(id).name)))
        return RedirectResponse(f"/accounts/{id}", 303)

    @routes.post("/accounts/{id}/forget")
    def forget(id: str, session: Inside, form: Sent) -> Response:
        known = _known(id)
        if form.one("name") != known.name:
            session.said.append(("problem", "The name does not match; nothing was deleted."))
            return RedirectResponse(f"/accounts/{id}", 303)
        forget_account(board, known, _BY)
        session.said.append(("done", f"Nothing is kept about {known.name} any more."))
        return RedirectResponse("/accounts", 303)

    def _known(id: str) -> Account:
        found = store.by_id(id)
        if found is None:
            raise Refused(404, "unknown_account", "There is no such account.")
        return found

    return routes


def _back(form: Form) -> str:
    """The page that a form came from: a path of this dashboard, never another site."""
    path = form.one("back")
    plain = path.startswith("/") and path.replace("/", "").isalnum() and not path.startswith("//")
    return path if plain else "/"


def _in_utc(form: str) -> Callable[[float], str]:
    return lambda at: time.strftime(form, time.gmtime(at))
