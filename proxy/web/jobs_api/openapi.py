"""The jobs API as an OpenAPI description, for generators of clients and for tests.

Only `/v1/jobs` is described. What stock SDKs do with a job's ID below a provider's own paths
is that provider's API, and described by it.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from proxy.core.batch import BatchState
from proxy.core.ids import JOB_ID_PATTERN
from proxy.core.lanes import Lane
from proxy.core.statuses import STATUSES
from proxy.web.jobs_api.queries import DEFAULT_LIMIT, MAX_IDS, MAX_LIMIT, MAX_WAIT_S

Schema = Mapping[str, Any]

_TIME: Final = {"type": "integer", "description": "Seconds since 1970."}
_ID: Final = f"^{JOB_ID_PATTERN.pattern.partition('(?!')[0]}$"


@cache
def openapi() -> bytes:
    """Return the description as JSON."""
    return json.dumps(_DOCUMENT).encode()


def _or_null(schema: Schema) -> dict[str, Any]:
    """Return a schema that also takes null, which always means: unknown, or not yet."""
    kind = schema.get("type")
    if kind is None:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [kind, "null"]}


def _record(properties: Mapping[str, Schema], **more: Any) -> dict[str, Any]:
    """Return an object that has these members, all of them, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def _named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final = {"type": "string"}
_USD: Final = _or_null({"type": "number"})
_STATUS: Final = {"type": "string", "enum": list(STATUSES)}

_JOB: Final = _record(
    {
        "id": _TEXT,
        "object": {"const": "deferrable.job"},
        "status": _STATUS,
        "created_at": _TIME,
        "deadline": _TIME,
        "deadline_missed": {"type": "boolean"},
        "estimated_completion_at": _or_null(_TIME),
        "finalized_at": _or_null(_TIME),
        "upstream": _TEXT,
        "endpoint": {**_TEXT, "description": "The path at the provider, e.g. `/v1/messages`."},
        "model": _or_null(_TEXT),
        "lane": _record(
            {"name": {"type": "string", "enum": [lane.value for lane in Lane]}, "reason": _TEXT},
            description="The way in which the job gets its answer.",
        ),
        "trouble": {
            **_or_null(_TEXT),
            "description": "What keeps a pending job from being sent, if this instance knows.",
        },
        "decided_by": {**_TEXT, "description": "`header:…` or `rule:NAME`."},
        "tags": {"type": "object", "additionalProperties": _TEXT},
        "batch": _or_null(
            _record(
                {
                    "id": _TEXT,
                    "provider_batch_id": _or_null(_TEXT),
                    "status": _or_null(
                        {"type": "string", "enum": [*(state.value for state in BatchState), None]}
                    ),
                },
                description="In a list its ID alone is told.",
            )
        ),
        "result": _or_null(_record({"status_code": {"type": "integer"}, "url": _TEXT})),
        "usage": _or_null({"type": "object", "additionalProperties": {"type": "integer"}}),
        "cost": _record(
            {"list_usd": _USD, "paid_usd": _USD, "saved_usd": _USD},
            description="Dollars; null where a price is not known.",
        ),
        "error": _or_null(_record({"code": _TEXT, "message": _TEXT})),
    }
)

_UNREAD: Final = _record(
    {
        "id": _TEXT,
        "object": {"const": "deferrable.job"},
        "status": {"type": "null"},
        "error": _record({"code": _TEXT, "message": _TEXT}),
    },
    description="A job whose record is damaged: its store cannot read it, and no more is known.",
)

_LIST: Final = _record(
    {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"anyOf": [_named("Job"), _named("UnreadJob")]}},
        "first_id": _or_null(_TEXT),
        "last_id": _or_null(_TEXT),
        "has_more": {"type": "boolean"},
    }
)

_OPENAI_ERROR: Final = _record(
    {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)}
)

_PROBLEM: Final = _record(
    {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "error": _named("Error"),
    },
    description="RFC 9457, with the member that OpenAI's SDKs show.",
)

_LINE: Final = _record(
    {
        "id": _TEXT,
        "status": _or_null({"type": "string", "enum": [*STATUSES, None]}),
        "tags": {"type": "object", "additionalProperties": _TEXT},
        "response": _or_null(
            _record({"status_code": {"type": "integer"}, "request_id": _or_null(_TEXT), "body": {}})
        ),
        "error": _or_null(_named("Error")),
    },
    description="One line for one job.",
)

_WANTED: Final = {
    "oneOf": [
        {
            "type": "object",
            "properties": {
                "ids": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 64},
                    "minItems": 1,
                    "maxItems": MAX_IDS,
                }
            },
            "required": ["ids"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "status": {
                    "anyOf": [_STATUS, {"type": "array", "items": _STATUS, "minItems": 1}],
                },
                "tag": {"type": "string", "pattern": "^[^=]+=[^=]"},
            },
            "minProperties": 1,
            "additionalProperties": False,
        },
    ]
}


def _parameter(name: str, schema: Schema, said: str, *, within: str = "query") -> dict[str, Any]:
    return {
        "name": name,
        "in": within,
        "required": within == "path",
        "description": said,
        "schema": schema,
    }


_JOB_ID: Final = _parameter("id", {"type": "string", "pattern": _ID}, "The job.", within="path")
_WAIT: Final = _parameter(
    "wait",
    {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    f"Seconds to wait for the job's end, cut to {MAX_WAIT_S:.0f}.",
)
_FILTERS: Final = [
    _parameter(
        "status",
        {"type": "string", "pattern": f"^({'|'.join(STATUSES)})(,({'|'.join(STATUSES)}))*$"},
        "One or several, with commas between.",
    ),
    _parameter("tag", {"type": "string", "pattern": "^[^=]+=[^=]"}, "`name=value`."),
]


def _answer(said: str, schema: Schema, media: str = "application/json") -> dict[str, Any]:
    return {"description": said, "content": {media: {"schema": schema}}}


def _refusal(said: str) -> dict[str, Any]:
    return _answer(said, _named("Problem"), "application/problem+json")


_BAD: Final = _refusal("A parameter that is not known, or not in this form.")
_ANONYMOUS: Final = _refusal("No credential, without which there is nothing to list.")
_UNKNOWN: Final = _refusal("No such job of this caller.")
_BUSY: Final = _refusal("Too many wait, or change this job; `Retry-After` says when to come back.")
_AWAY: Final = _refusal("The store does not answer; nothing is lost. See `Retry-After`.")


def _operation(name: str, said: str, answers: Schema, **more: Any) -> dict[str, Any]:
    return {"operationId": name, "summary": said, "responses": {**answers, "503": _AWAY}, **more}


_SHOWN: Final = _answer("The job.", _named("Job"))
_PENDING: Final = _answer("It is pending: `Retry-After` says when to ask again.", _named("Job"))

_PAGE: Final = _answer("A page.", _named("JobList")) | {
    "links": {
        operation: {"operationId": operation, "parameters": {"id": "$response.body#/last_id"}}
        for operation in ("showJob", "readResult", "cancelJob", "deleteJob")
    }
}

_PATHS: Final = {
    "/v1/jobs": {
        "get": _operation(
            "listJobs",
            "List the caller's jobs, newest first.",
            {"200": _PAGE, "400": _BAD, "401": _ANONYMOUS}
            | {"404": _refusal("`after` is none of the caller's jobs.")},
            parameters=[
                *_FILTERS,
                _parameter("after", {"type": "string", "pattern": _ID}, "The last one seen."),
                _parameter(
                    "limit",
                    {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MAX_LIMIT,
                        "default": DEFAULT_LIMIT,
                    },
                    "Jobs in a page.",
                ),
            ],
        )
    },
    "/v1/jobs/{id}": {
        "get": _operation(
            "showJob",
            "Show a job.",
            {"200": _SHOWN, "400": _BAD, "404": _UNKNOWN, "429": _BUSY},
            parameters=[_JOB_ID, _WAIT],
        ),
        "delete": _operation(
            "deleteJob",
            "Cancel a job, and erase its prompt and its result at once.",
            {
                "200": _answer(
                    "It is gone.",
                    _record(
                        {
                            "id": _TEXT,
                            "object": {"const": "deferrable.job"},
                            "deleted": {"const": True},
                        }
                    ),
                ),
                "404": _UNKNOWN,
                "429": _BUSY,
            },
            parameters=[_JOB_ID],
        ),
    },
    "/v1/jobs/{id}/cancel": {
        "post": _operation(
            "cancelJob",
            "Cancel a job; one that has ended stays as it ended.",
            {"200": _SHOWN, "404": _UNKNOWN, "429": _BUSY},
            parameters=[_JOB_ID],
        )
    },
    "/v1/jobs/{id}/result": {
        "get": _operation(
            "readResult",
            "Read the provider's answer: its status and its exact body.",
            {
                "200": _answer("The provider's body.", {}, "*/*"),
                "202": _PENDING,
                "400": _refusal("A bad parameter; or the job was cancelled, or has expired."),
                "404": _UNKNOWN,
                "410": _refusal("The result is no longer kept."),
                "429": _BUSY,
                "default": {"description": "The provider's own status and body."},
            },
            parameters=[_JOB_ID, _WAIT],
        )
    },
    "/v1/jobs/results": {
        "post": _operation(
            "readResults",
            "Read the results of many jobs, as JSON lines.",
            {
                "200": _answer("Lines.", _named("ResultLine"), "application/jsonl"),
                "400": _BAD,
                "401": _ANONYMOUS,
            },
            requestBody={
                "required": True,
                "content": {"application/json": {"schema": _named("Wanted")}},
            },
        )
    },
    "/v1/jobs/openapi.json": {
        "get": {
            "operationId": "describe",
            "summary": "This description.",
            "security": [],
            "responses": {"200": _answer("OpenAPI 3.1.", {"type": "object"})},
        }
    },
}

_DOCUMENT: Final = {
    "openapi": "3.1.0",
    "info": {
        "title": "Offramp jobs API",
        "version": "1",
        "summary": "Deferred calls, by job ID.",
        "description": "A job belongs to the credential that made it; to others it does not exist.",
    },
    "servers": [{"url": "/"}],
    "security": [{"bearer": []}, {"anthropic": []}, {"gemini": []}],
    "paths": _PATHS,
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            "gemini": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
        },
        "schemas": {
            "Job": _JOB,
            "UnreadJob": _UNREAD,
            "JobList": _LIST,
            "Error": _OPENAI_ERROR,
            "Problem": _PROBLEM,
            "ResultLine": _LINE,
            "Wanted": _WANTED,
        },
    },
}
