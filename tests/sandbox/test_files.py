"""The files API: uploads, listings, lifetimes and whose files they are."""

from typing import Any

import aiohttp
import pytest

from tests.sandbox.rigs import KEY, Rig, line, started


def form(
    filename: str | None = "a.jsonl", content: bytes = b"{}\n", **fields: Any
) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in {"purpose": "batch", **fields}.items():
        if value is not None:
            data.add_field(name, value)
    if filename is not None:
        data.add_field("file", content, filename=filename)
    return data


async def upload(rig: Rig, data: aiohttp.FormData, key: str = KEY) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with rig.http.post(
        f"{rig.running.base_url}/v1/files", data=data, headers=headers
    ) as response:
        return response.status, await response.json()


async def test_contents_come_back_byte_for_byte(rig):
    content = bytes(range(256)) * 3_000

    _, file = await upload(rig, form(content=content, purpose="user_data"))
    got = await rig.sdk.files.content(file["id"])

    assert got.content == content
    assert file["bytes"] == len(content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: form("a.txt"), "Must be .jsonl"),
        (lambda: form(None), "'file'"),
        (lambda: form(purpose=None), "'purpose'"),
        (lambda: form(purpose="nonsense"), "purposes"),
        (lambda: form(content=b"x" * 1_001), "too large"),
        (
            lambda: form(
                **dict[str, Any](
                    {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}
                )
            ),
            "3600",
        ),
    ],
)
async def test_a_bad_upload_is_refused_and_leaves_nothing(data, message):
    async with started(bytes_max=1_000) as rig:
        status, answer = await upload(rig, data())
        _, listing = await rig.call("GET", "/v1/files")

        assert status == 400
        assert message in answer["error"]["message"]
        assert listing["data"] == []
        assert not list(rig.running.engine.directory.iterdir())


async def test_a_file_of_the_greatest_size_is_accepted():
    async with started(bytes_max=1_000) as rig:
        assert (await upload(rig, form(content=b"x" * 1_000)))[0] == 200


async def test_a_batch_file_lives_thirty_days_unless_told_otherwise(rig):
    lived: dict[str, Any] = {
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }

    _, default = await upload(rig, form())
    _, short = await upload(rig, form(**lived))
    _, forever = await upload(rig, form(purpose="user_data"))

    assert default["expires_at"] - default["created_at"] == 30 * 86_400
    assert short["expires_at"] - short["created_at"] == 3_600
    assert forever["expires_at"] is None


async def test_files_are_listed_by_purpose_order_and_page(rig):
    made = [(await upload(rig, form(f"{n}.jsonl")))[1]["id"] for n in range(4)]
    await upload(rig, form(purpose="user_data"))

    _, newest = await rig.call("GET", "/v1/files?purpose=batch&limit=2")
    _, oldest = await rig.call("GET", f"/v1/files?purpose=batch&order=asc&after={made[0]}")

    assert [file["id"] for file in newest["data"]] == [made[3], made[2]]
    assert newest["has_more"] is True
    assert [file["id"] for file in oldest["data"]] == made[1:]
    assert oldest["has_more"] is False


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "after=file-none"])
async def test_a_listing_with_a_bad_page_is_refused(rig, query):
    assert (await rig.call("GET", f"/v1/files?{query}"))[0] == 400


async def test_a_deleted_file_is_gone_from_the_disk_too(rig):
    file_id = await rig.upload([line()])

    status, _ = await rig.call("DELETE", f"/v1/files/{file_id}")

    assert status == 200
    assert (await rig.call("GET", f"/v1/files/{file_id}"))[0] == 404
    assert (await rig.call("DELETE", f"/v1/files/{file_id}"))[0] == 404
    assert not list(rig.running.engine.directory.iterdir())


async def test_a_new_file_becomes_visible_after_the_lag_but_can_be_used_before():
    async with started(file_lag_s=10) as rig:
        batch = await rig.submit([line()])
        path = f"/v1/files/{batch['input_file_id']}"

        assert (await rig.call("GET", path))[0] == 404
        assert (await rig.call("GET", "/v1/files?purpose=batch"))[1]["data"] == []
        assert (await rig.batch(batch["id"]))["status"] == "completed"
        await rig.running.advance(10)
        assert (await rig.call("GET", path))[0] == 200
