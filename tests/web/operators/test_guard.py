"""Browsers log in for looking; everything else takes the token."""

from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.web.operators.guard import COOKIE, SESSION, AdminAccess, guard
from tests.helpers.factories import T0

TOKEN = "an-admin-token"
ACCESS = AdminAccess(allowed_hosts=("127.0.0.1",), loopback=False, token=TOKEN)
PAGE = {"Accept": "text/html,*/*"}


@asynccontextmanager
async def listener(access=ACCESS, *, now=T0):
    async def answer(_request):
        return web.Response(text="ok")

    application = web.Application(middlewares=[guard(access, lambda: now)])
    application.router.add_route("*", "/{rest:.*}", answer)
    async with TestClient(TestServer(application)) as client:
        yield client


async def status_of(client, method, path, **options):
    async with client.request(method, path, allow_redirects=False, **options) as answer:
        return answer.status


def cookie(value):
    return {"Cookie": f"{COOKIE}={value}"}


async def test_a_browser_without_a_session_is_led_to_the_login_and_others_are_refused():
    async with listener() as client:
        async with client.get("/dashboard/jobs", headers=PAGE, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/login")
        assert await status_of(client, "GET", "/dashboard/jobs") == 401
        assert await status_of(client, "GET", "/batches", headers=PAGE) == 401
        assert await status_of(client, "GET", "/login") == 200


async def test_a_session_is_good_for_looking_alone():
    session = cookie(ACCESS.session(T0))
    async with listener() as client:
        assert await status_of(client, "GET", "/dashboard", headers=session) == 200
        assert await status_of(client, "GET", "/batches", headers=session) == 200
        assert await status_of(client, "POST", "/drain", headers=session) == 401


async def test_a_session_ends_when_its_time_is_over():
    session = cookie(ACCESS.session(T0))
    async with listener(now=T0 + SESSION - timedelta(seconds=1)) as client:
        assert await status_of(client, "GET", "/dashboard", headers=session) == 200
    async with listener(now=T0 + SESSION) as client:
        assert await status_of(client, "GET", "/dashboard", headers=session) == 401


async def test_a_new_token_ends_all_sessions():
    other = AdminAccess(allowed_hosts=("127.0.0.1",), loopback=False, token="another")
    async with listener(other) as client:
        headers = cookie(ACCESS.session(T0))
        assert await status_of(client, "GET", "/dashboard", headers=headers) == 401


@pytest.mark.parametrize(
    "value",
    ["", "x", "99999999999", "99999999999.", f"99999999999.{TOKEN}", "-1.x", "٣.x", "1e9.x", TOKEN],
)
async def test_no_made_up_session_is_let_in(value):
    async with listener() as client:
        headers = {"Cookie": f"{COOKIE}={value}".encode().decode("latin-1")}
        assert await status_of(client, "GET", "/dashboard", headers=headers) == 401


def test_a_session_with_another_end_is_none():
    until, _, code = ACCESS.session(T0).partition(".")

    assert ACCESS.is_session(f"{until}.{code}", T0)
    assert not ACCESS.is_session(f"{int(until) + 1}.{code}", T0)


def test_the_session_does_not_hold_the_token():
    assert TOKEN not in ACCESS.session(T0)
    assert TOKEN not in repr(ACCESS)


async def test_without_a_token_no_session_is_worth_anything():
    bare = AdminAccess(allowed_hosts=("127.0.0.1",), loopback=False)
    async with listener(bare) as client:
        headers = cookie("99999999999.x")
        assert await status_of(client, "GET", "/dashboard", headers=headers) == 403
    assert not bare.is_token("")
    assert not bare.is_session("99999999999.x", T0)


async def test_a_login_from_a_page_of_another_origin_is_refused():
    async with listener() as client:
        headers = {"Origin": "https://evil.example"}
        assert await status_of(client, "POST", "/login", headers=headers) == 403
