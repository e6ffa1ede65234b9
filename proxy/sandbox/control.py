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
    POST   /sandbox/keys              {"key", "do", ...}: see `_KEY_ACTIONS`
    POST   /sandbox/flex              {"refusals": n | null}: null refuses every flex call

No credential is asked: the sandbox listens on loopback and holds nothing of value.
"""

from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

import pydantic
import pydantic_core
from aiohttp import web

from proxy.sandbox.answers import body_hash
from proxy.sandbox.engine import Engine
from proxy.sandbox.faults import BatchFault, Fault, HttpFault, LineFault
from proxy.sandbox.keys import QuotaSurface
from proxy.sandbox.ledger import key_id

_KINDS: Final[dict[str, pydantic.TypeAdapter[Any]]] = {
    kind: pydantic.TypeAdapter(record)
    for kind, record in (("http", HttpFault), ("batch", BatchFault), ("line", LineFault))
}


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class _Advance(_Strict):
    seconds: Annotated[float, pydantic.Field(ge=0)]


class _Bought(_Strict):
    body: dict[str, Any]


class _Flex(_Strict):
    refusals: Annotated[int, pydantic.Field(ge=0)] | None


class _KeyChange(_Strict):
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
            app.router.add_route(method, f"/sandbox{path}", _checked(handler))

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
        asked = _Bought.model_validate_json(await request.read())
        return {"executions": self._engine.ledger.bought(body_hash(asked.body))}

    async def _faults(self, _: web.Request) -> Any:
        return {
            "data": [
                {"id": a.id, "kind": _kind(a.fault), "seen": a.seen, "hits": a.hits}
                | asdict(a.fault)
                for a in self._engine.faults.armed()
            ]
        }

    async def _add_fault(self, request: web.Request) -> Any:
        given = pydantic_core.from_json(await request.read())
        kind = given.pop("kind", None) if isinstance(given, dict) else None
        if kind not in _KINDS:
            raise ValueError("kind must be http, batch or line")
        # A key comes in clear over loopback and is kept as a fingerprint.
        if "key" in given:
            given["key_id"] = key_id(str(given.pop("key")))
        fault = _KINDS[kind].validate_python(given, extra="forbid")
        return {"id": self._engine.faults.add(fault)}

    async def _clear_faults(self, _: web.Request) -> Any:
        self._engine.faults.clear()
        return {}

    async def _remove_fault(self, request: web.Request) -> Any:
        return {"removed": self._engine.faults.remove(request.match_info["id"])}

    async def _clock(self, _: web.Request) -> Any:
        return {"now": self._engine.clock.now()}

    async def _advance(self, request: web.Request) -> Any:
        asked = _Advance.model_validate_json(await request.read())
        await self._engine.advance(asked.seconds)
        return {"now": self._engine.clock.now()}

    async def _change_key(self, request: web.Request) -> Any:
        asked = _KeyChange.model_validate_json(await request.read())
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
        asked = _Flex.model_validate_json(await request.read())
        self._engine.flex.refusals = asked.refusals
        return {"refusals": asked.refusals}


def _kind(fault: Fault) -> str:
    return {HttpFault: "http", BatchFault: "batch", LineFault: "line"}[type(fault)]


def _checked(handler: Any) -> Any:
    """Answer what the handler returns as JSON; what it cannot accept is a 400."""

    async def handle(request: web.Request) -> web.Response:
        try:
            value, status = await handler(request), 200
        except (ValueError, pydantic.ValidationError) as exc:
            value, status = {"error": str(exc)}, 400
        return web.Response(
            body=pydantic_core.to_json(value), status=status, content_type="application/json"
        )

    return handle
