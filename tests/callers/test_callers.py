"""Stock clients through a real proxy: those that are installed here do what the README says.

The project's own test environment has three; `deploy/setup.sh callers` gets the others.
"""

import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.callers.clients import CLIENTS, EVERY_SCENE, NODE, REQUIREMENTS, Client
from tests.callers.record import last_record
from tests.callers.run import Stage, played, stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("callers")) as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
async def test_a_client_does_what_the_readme_says_of_it(on: Stage, client: Client) -> None:
    if not client.is_installed:
        pytest.skip("it is not installed: deploy/setup.sh callers")

    told = await played(on, client)

    assert told.failures == last_record().clients[client.name].failures


def test_the_record_is_of_the_clients_and_scenes_as_they_are() -> None:
    recorded = {name: [*told.posts] for name, told in last_record().clients.items()}

    assert recorded == {client.name: [*client.scenes] for client in CLIENTS}


def test_the_record_is_of_the_versions_that_are_installed_by_our_files() -> None:
    pinned = dict(json.loads((NODE / "package.json").read_text())["dependencies"])
    wanted = {}
    for client in CLIENTS:
        versions = pinned if client.home == "node" else _pins(client.home)
        wanted[client.name] = {name: versions[name] for name in client.packages}

    assert {name: told.versions for name, told in last_record().clients.items()} == wanted


def _pins(home: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{home}.txt").read_text()
    return dict(re.findall(r"^([\w-]+)(?:\[.*\])?==(.+)$", text, re.MULTILINE))


def test_every_scene_of_a_client_is_described_and_every_description_played() -> None:
    played_by_any = {scene for client in CLIENTS for scene in client.scenes}

    assert played_by_any == set(EVERY_SCENE)
