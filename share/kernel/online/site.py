"""The pages: how the service does, and the review queue. Rendered here, with no script but the keys of the queue.

Who visits signs in with an API key, which is then held in a cookie that scripts cannot read and other sites cannot
send. A form that changes something must also come from a page of this site.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from share.kernel.contracts.serving import Expert
from share.kernel.errors import KeyRefused, PixelisError, TooManyRequests
from share.kernel.online.access import LOOKERS, within
from share.kernel.online.alerts import Look
from share.kernel.online.door import door_of
from share.kernel.online.refusals import Refusal, status_of
from share.kernel.online.reviews import Verdict
from share.kernel.online.wire import TRACE_ID
from share.kernel.serving.keys import ApiKey, Role

COOKIE = "pixelis_key"
COOKIE_S = 12 * 3600
FORM_BYTES_MAX = 20_000
FIELDS_MAX = 20
QUEUE_ITEMS = 5
"""Items that the queue's page takes at once."""

REFRESH_S = 5
CHART_WIDTH, CHART_HEIGHT = 240, 48

REVIEWERS: tuple[Role, ...] = ("reviewer", "admin")
OPERATORS: tuple[Role, ...] = ("operator", "admin")

router = APIRouter(include_in_schema=False)

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=jinja2.StrictUndefined
)


@router.get("/login")
def login(request: Request) -> Response:
    return _page(request, "login.html.jinja", None, problem="")


@router.post("/login")
async def sign_in(request: Request) -> Response:
    if not _is_from_here(request):
        return _problem(request, None, 403, "the form does not come from a page of this service")
    door = door_of(request)
    form = await _form(request, None)
    if isinstance(form, Response):
        return form
    try:
        key = door.keys.check(form.get("key", "").strip())
        if key.role not in LOOKERS:
            raise KeyRefused("a key of role client has no page; it is for asking")
    except KeyRefused as error:
        return _page(request, "login.html.jinja", None, 401, problem=str(error))
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE,
        form["key"].strip(),
        max_age=COOKIE_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
async def sign_out(request: Request) -> Response:
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/")
def overview(request: Request) -> Response:
    door, key = door_of(request), _visitor(request, LOOKERS)
    if isinstance(key, Response):
        return key
    told = door.engine.get_statistics()
    return _page(
        request,
        "overview.html.jinja",
        key,
        told=told,
        ready=door.engine.is_ready() and not door.closing.is_set(),
        charts=charts(list(door.watch.history)),
        alerts=list(door.watch.firing.values()),
        uptime_s=time.time() - told.started_at,
        may_operate=key.role in OPERATORS,
        read_only=door.config.read_only,
    )


@router.post("/actions/{action}")
async def act(action: str, request: Request) -> Response:
    door, key = door_of(request), _visitor(request, OPERATORS)
    if isinstance(key, Response):
        return key
    actions: dict[str, Callable[[], object]] = {
        "rollback": lambda: door.engine.roll_back(actor=key.id, reason="by_hand"),
        "reset": lambda: door.engine.reset(actor=key.id, reason="by_hand"),
        "learning_on": lambda: door.engine.set_learning(True, actor=key.id),
        "learning_off": lambda: door.engine.set_learning(False, actor=key.id),
    }
    if action not in actions:
        return _problem(request, key, 404, "there is no such action")
    return await _done(request, key, actions[action], "/")


@router.get("/reviews")
def queue(request: Request) -> Response:
    door, key = door_of(request), _visitor(request, REVIEWERS)
    if isinstance(key, Response):
        return key
    items = door.engine.lease_reviews(key.id, QUEUE_ITEMS)
    return _page(
        request,
        "reviews.html.jinja",
        key,
        items=[(item, door.painter.paint(item)) for item in items],
        counts=door.engine.get_statistics().reviews,
        now=time.time(),
    )


@router.post("/reviews/{task_id}")
async def decide(task_id: str, request: Request) -> Response:
    door, key = door_of(request), _visitor(request, REVIEWERS)
    if isinstance(key, Response):
        return key
    if re.fullmatch(TRACE_ID, task_id) is None:
        return _problem(request, key, 404, "there is no such review")
    form = await _form(request, key)
    if isinstance(form, Response):
        return form
    if form.get("decision") not in ("approve", "reject"):
        return _problem(request, key, 422, "the form says neither approve nor reject")
    approved = form["decision"] == "approve"
    answer = None if approved else form.get("answer", "").strip() or None
    try:
        said = Verdict(approved=approved, notes=form.get("notes", ""), answer=answer)
    except ValidationError as error:
        return _problem(
            request, key, 422, "; ".join(": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors())
        )

    def say() -> object:
        return door.engine.process_human_review_decision(
            task_id, said.approved, said.notes, reviewer=key.id, answer=said.answer
        )

    return await _done(request, key, say, "/reviews")


def charts(history: list[Look]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(title, newest value, [(name, points of an SVG polyline)]) of what changes over time."""
    told = [look.statistics for look in history]
    experts: tuple[Expert, ...] = ("frozen", "adapted", "memory")
    latency = [each.requests.latency.get("total") for each in told]
    known = [each.evidence.experts for each in told]
    updates = [each.learning.last for each in told]
    lines: list[tuple[str, str, dict[str, list[float | None]]]] = [
        (
            "latency",
            "ms",
            {
                "p99": [each.p99_ms if each else None for each in latency],
                "p50": [each.p50_ms if each else None for each in latency],
            },
        ),
        (
            "weight of the experts",
            "",
            {name: [each[name].weight if name in each else None for each in known] for name in experts},
        ),
        (
            "accuracy on audited items",
            "",
            {name: [each[name].accuracy if name in each else None for each in known] for name in experts},
        ),
        ("divergence from frozen", "nats per token", {"kl": [each.kl_frozen if each else None for each in updates]}),
    ]
    drawn = []
    for title, unit, series in lines:
        values = [value for each in series.values() for value in each if value is not None]
        if values:
            now = [each[-1] for each in series.values()]
            newest = ", ".join(
                f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in now if value is not None
            )
            top = max(max(values), 1e-9)
            polylines = [(name, points(each, top)) for name, each in series.items()]
            drawn.append((title, f"{newest} {unit}".strip(), polylines))
    return drawn


def points(values: list[float | None], top: float) -> str:
    """The points of a polyline, the newest at the right edge; a value that is not known is left out."""
    step = CHART_WIDTH / max(len(values) - 1, 1)
    return " ".join(
        f"{number * step:.1f},{CHART_HEIGHT - 2 - (CHART_HEIGHT - 4) * value / top:.1f}"
        for number, value in enumerate(values)
        if value is not None
    )


def _visitor(request: Request, roles: tuple[Role, ...]) -> ApiKey | Response:
    """Who visits; the page to show instead when they may not, or a form comes from elsewhere."""
    door = door_of(request)
    try:
        key = door.keys.check(request.cookies.get(COOKIE, ""))
        door.buckets.take(key.id)
    except KeyRefused:
        return RedirectResponse("/login", 303)
    except TooManyRequests as error:
        return _problem(request, None, 429, str(error))
    if key.role not in roles:
        return _problem(request, key, 403, f"a key of role {key.role} may not do this; {' or '.join(roles)} may")
    if request.method == "POST" and not _is_from_here(request):
        return _problem(request, key, 403, "the form does not come from a page of this service")
    return key


def _is_from_here(request: Request) -> bool:
    """Beside the cookie's SameSite=Strict: what a browser says of where a form comes from."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    is_same = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    return site in ("same-origin", "none") and is_same


async def _done(request: Request, key: ApiKey, action: Callable[[], object], then: str) -> Response:
    try:
        await run_in_threadpool(action)
    except PixelisError as error:
        return _problem(request, key, status_of(error)[0], str(error))
    return RedirectResponse(then, 303)


async def _form(request: Request, key: ApiKey | None) -> dict[str, str] | Response:
    """The fields of an urlencoded form, the first of each name; the page to show instead of one that is too large."""
    try:
        body = await Request(request.scope, within(request, FORM_BYTES_MAX)).body()
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except Refusal as refusal:
        return _problem(request, key, refusal.status_code, str(refusal.detail))
    except ValueError:
        return _problem(request, key, 422, f"the form has more than {FIELDS_MAX} fields")
    return {name: values[0] for name, values in fields.items()}


def _problem(request: Request, key: ApiKey | None, status: int, problem: str) -> Response:
    return _page(request, "problem.html.jinja", key, status, problem=problem)


def _page(request: Request, template: str, key: ApiKey | None, status: int = 200, **values: Any) -> Response:
    nonce = secrets.token_urlsafe(16)
    page = _TEMPLATES.get_template(template).render(
        key=key,
        nonce=nonce,
        refresh_s=REFRESH_S,
        width=CHART_WIDTH,
        height=CHART_HEIGHT,
        path=request.url.path,
        **values,
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(page, status, headers)


__all__ = [
    "CHART_HEIGHT",
    "CHART_WIDTH",
    "COOKIE",
    "COOKIE_S",
    "FIELDS_MAX",
    "FORM_BYTES_MAX",
    "OPERATORS",
    "QUEUE_ITEMS",
    "REFRESH_S",
    "REVIEWERS",
    "act",
    "charts",
    "decide",
    "login",
    "overview",
    "points",
    "queue",
    "router",
    "sign_in",
    "sign_out",
]
