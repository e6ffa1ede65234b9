"""`/sandbox/…`: watching and turning a sandbox from another process.

    GET    /sandbox                   what this is
    GET    /sandbox/ledger            totals per lane, purchases per body; `?entries=true` for all
    DELETE /sandbox/ledger            count from zero
    POST   /sandbox/ledger/bought     {"body": {...}} -> how often that body was executed
    GET    /sandbox/faults            faults in force, with their hits
    POST   /sandbox/faults            {"kind": "http" | "batch" | "line", ...} -> {"id"}
    DELETE /sandbox/faults[/{id}]     lift all, or one
    GET    /sandbox/clock             {"now"}
    POST   /sandbox/clock/advance     {"seconds"}: jump, and settle
    POST   /sandbox/keys              {"key", "do", ...}: see `_KeyChange`
    POST   /sandbox/flex              {"refusals": n | null}: null refuses every flex call

No credential is asked: the sandbox listens on loopback and holds nothing of value.
"""

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic
import pydantic_core
from aiohttp import web

from proxy.sandbox.answers import body_hash
from proxy.sandbox.engine import Engine
from proxy.sandbox.faults import BatchFault, Fault, HttpFault, LineFault
from proxy.sandbox.keys import QuotaSurface
from proxy.sandbox.ledger import key_id

_T = TypeVar("_T")

_KINDS: Final[dict[str, type[Fault]]] = {"http": HttpFault, "batch": BatchFault, "line": LineFault}
_KIND_OF: Final = {kind: name for name, kind in _KINDS.items()}


class _Advance(pydantic.BaseModel):
    seconds: Annotated[float, pydantic.Field(ge=0)]


class _Bought(pydantic.BaseModel):
    body: dict[str, Any]


class _Flex(pydantic.BaseModel):
    refusals: Annotated[int, pydantic.Field(ge=0)] | None


class _KeyChange(pydantic.BaseModel):
    key: str
    do: Literal["revoke", "exhaust", "deny_batch", "restore", "assign"]
    surface: QuotaSurface = "call"
    project: str = "proj_shared"


class Control:
    """Handlers of the control API."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_to(self, app: web.Application) -> None:
        """Add the control endpoints to an application."""
        for method, path, handler in (
            ("GET", "", self._about),
            ("GET", "/ledger", self._ledger),
            ("DELETE", "/ledger", self._clear_ledger),
            ("POST", "/ledger/bought", self._bought),
            ("GET", "/faults", self._faults),
            ("POST", "/faults", self._add_fault),
            ("DELETE", "/faults", self._clear_faults),
            ("DELETE", "/faults/{id}", self._remove_fault),
            ("GET", "/clock", self._clock),
            ("POST", "/clock/advance", self._advance),
            ("POST", "/keys", self._change_key),
            ("POST", "/flex", self._set_flex),
        ):
            app.router.add_route(method, f"/sandbox{path}", _answered(handler))

    async def _about(self, _: web.Request) -> Any:
        models = [model.id for model in self._engine.settings.models]
        return {"object": "sandbox", "dialects": ["anthropic", "openai"], "models": models}

    async def _ledger(self, request: web.Request) -> Any:
        ledger = self._engine.ledger
        shown: dict[str, Any] = {
            "total": asdict(ledger.totals()),
            "lanes": {lane: asdict(total) for lane, total in ledger.by_lane().items()},
            "purchases": ledger.purchases(),
            "requests": dict(ledger.requests),
            "abandoned": ledger.abandoned,
        }
        if request.query.get("entries") == "true":
            query = {
                name: request.query[name]
                for name in ("lane", "key", "batch_id", "custom_id")
                if name in request.query
            }
            shown["entries"] = [asdict(entry) for entry in ledger.entries(**query)]
        return shown

    async def _clear_ledger(self, _: web.Request) -> Any:
        self._engine.ledger.clear()
        return {}

    async def _bought(self, request: web.Request) -> Any:
        asked = _checked(_Bought, await _json(request))
        return {"executions": self._engine.ledger.bought(body_hash(asked.body))}

    async def _faults(self, _: web.Request) -> Any:
        return {
            "data": [
                {"id": a.id, "kind": _KIND_OF[type(a.fault)], "seen": a.seen, "hits": a.hits}
                | asdict(a.fault)
                for a in self._engine.faults.armed()
            ]
        }

    async def _add_fault(self, request: web.Request) -> Any:
        given = await _json(request)
        kind = given.pop("kind", None) if isinstance(given, dict) else None
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError("kind: must be 'http', 'batch' or 'line'")
        # A key comes in clear over loopback and is kept as a fingerprint.
        if "key" in given:
            given["key_id"] = key_id(str(given.pop("key")))
        fault = _checked(_KINDS[kind], given)
        return {"id": self._engine.faults.add(fault)}

    async def _clear_faults(self, _: web.Request) -> Any:
        self._engine.faults.clear()
        return {}

    async def _remove_fault(self, request: web.Request) -> Any:
        return {"removed": self._engine.faults.remove(request.match_info["id"])}

    async def _clock(self, _: web.Request) -> Any:
        return {"now": self._engine.clock.now()}

    async def _advance(self, request: web.Request) -> Any:
        asked = _checked(_Advance, await _json(request))
        await self._engine.advance(asked.seconds)
        return {"now": self._engine.clock.now()}

    async def _change_key(self, request: web.Request) -> Any:
        asked = _checked(_KeyChange, await _json(request))
        keys = self._engine.keys
        match asked.do:
            case "revoke":
                keys.revoke(asked.key)
            case "exhaust":
                keys.exhaust(asked.key, surface=asked.surface)
            case "deny_batch":
                keys.deny_batch(asked.key)
            case "restore":
                keys.restore(asked.key)
            case "assign":
                keys.assign(asked.key, asked.project)
        return asdict(keys.state(asked.key))

    async def _set_flex(self, request: web.Request) -> Any:
        asked = _checked(_Flex, await _json(request))
        self._engine.flex.refusals = asked.refusals
        return {"refusals": asked.refusals}


async def _json(request: web.Request) -> Any:
    try:
        return pydantic_core.from_json(await request.read())
    except ValueError as exc:
        raise ValueError(f"the body is no JSON: {exc}") from exc


def _checked(record: type[_T], given: object) -> _T:
    """Return what was given as a record.

    Raises:
        ValueError: with all that is wrong with it: where, and what is allowed instead.
    """
    try:
        return pydantic.TypeAdapter(record).validate_python(given, extra="forbid")
    except pydantic.ValidationError as exc:
        raise ValueError("; ".join(_problems(exc, record))) from exc


def _problems(exc: pydantic.ValidationError, record: type) -> Iterator[str]:
    for error in exc.errors(include_url=False):
        where = ".".join(str(step) for step in error["loc"]) or "the body"
        match error["type"]:
            case "missing":
                yield f"{where}: is required"
            case "extra_forbidden" | "unexpected_keyword_argument":
                yield f"{where}: is unknown; known are {', '.join(_members(record))}"
            case "model_type" | "dataclass_type":
                yield f"{where}: must be an object with {', '.join(_members(record))}"
            case _:
                yield f"{where}: {error['msg'].replace('Input should be', 'must be')}"


def _members(record: type) -> list[str]:
    if is_dataclass(record):
        # Of a fault; the key itself may stand for its fingerprint.
        return ["kind", "key", *(one.name for one in fields(record))]
    assert issubclass(record, pydantic.BaseModel)
    return list(record.model_fields)


def _answered(handler: Any) -> Any:
    """Answer what the handler returns as JSON; what it cannot accept is a 400."""

    async def handle(request: web.Request) -> web.Response:
        try:
            value, status = await handler(request), 200
        except ValueError as exc:
            value, status = {"error": str(exc)}, 400
        return web.Response(
            body=pydantic_core.to_json(value), status=status, content_type="application/json"
        )

    return handle
