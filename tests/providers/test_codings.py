"""Answers that are compressed though nobody asked for it."""

import gzip
import zlib

import pytest
from aiohttp import web

from proxy.core.errors import ProviderUnavailableError
from proxy.ports.provider import LineKind
from proxy.providers.codings import PIECE_BYTES, Decoder
from tests.providers.kit import all_results, make_credential, openai_at, serving
from tests.providers.wires import anthropic_credential, opened_anthropic

DATA = b"".join(b"line %d\n" % n for n in range(200_000))
CODED = {
    None: DATA,
    "identity": DATA,
    "gzip": gzip.compress(DATA),
    "X-Gzip": gzip.compress(DATA[:1_000]) + gzip.compress(DATA[1_000:]),
    "deflate": zlib.compress(DATA),
}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("step", [997, 10_000_000])
def test_the_data_come_out_as_they_were_in_pieces_of_a_bounded_size(coding, step):
    decoder, coded = Decoder("a call", coding), CODED[coding]

    pieces = [
        piece
        for at in range(0, len(coded), step)
        for piece in decoder.pieces(coded[at : at + step])
    ]

    assert b"".join(pieces) == DATA
    assert coded is DATA or max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize("pieces", [1, 4, 40])
@pytest.mark.parametrize("step", [1, 100, 1_000_000])
def test_nothing_stays_behind_that_comes_of_the_last_byte(pieces, step):
    data = b"x" * (PIECE_BYTES * pieces)
    decoder, coded = Decoder("a call", "gzip"), gzip.compress(data)

    read = [p for at in range(0, len(coded), step) for p in decoder.pieces(coded[at : at + step])]

    assert b"".join(read) == data


def test_what_cannot_be_undone_promises_nothing():
    with pytest.raises(ProviderUnavailableError):
        Decoder("a call", "br")
    with pytest.raises(ProviderUnavailableError):
        list(Decoder("a call", "gzip").pieces(b"no such thing"))


async def test_a_batch_and_its_results_are_read_behind_a_gateway_that_compresses():
    line = b'{"custom_id":"job-0","result":{"type":"succeeded","message":{"id":"msg_1"}}}\n'

    def compressed(data: bytes) -> web.Response:
        return web.Response(body=gzip.compress(data), headers={"content-encoding": "gzip"})

    async def batch(request: web.Request) -> web.Response:
        return compressed(b'{"id":"msgbatch_1","processing_status":"ended"}')

    async def results(request: web.Request) -> web.Response:
        return compressed(line)

    app = web.Application()
    app.router.add_get("/v1/messages/batches/{id}", batch)
    app.router.add_get("/v1/messages/batches/{id}/results", results)
    async with serving(app) as base_url, opened_anthropic(base_url) as provider:
        read = await provider.retrieve(anthropic_credential(), "msgbatch_1")
        lines = await all_results(provider, anthropic_credential(), read.output_file_ids)

    assert [(one.kind, one.custom_id, one.body) for one in lines] == [
        (LineKind.ANSWERED, "job-0", b'{"id":"msg_1"}')
    ]


async def test_an_openai_gateway_that_compresses_is_read_as_well():
    line = b'{"custom_id":"job-0","response":{"status_code":200,"body":{"id":"c_1"}}}\n'
    batch = b'{"id":"batch_1","status":"completed","output_file_id":"file-1"}'

    def compressed(data: bytes) -> web.Response:
        return web.Response(body=gzip.compress(data), headers={"content-encoding": "x-gzip"})

    async def retrieve(request: web.Request) -> web.Response:
        return compressed(batch)

    async def content(request: web.Request) -> web.Response:
        return compressed(line)

    app = web.Application()
    app.router.add_get("/v1/batches/{id}", retrieve)
    app.router.add_get("/v1/files/{id}/content", content)
    async with serving(app) as base_url:
        provider = openai_at(base_url)
        read = await provider.retrieve(make_credential(), "batch_1")
        lines = await all_results(provider, make_credential(), read.output_file_ids)
        await provider.aclose()

    assert [(one.custom_id, one.body) for one in lines] == [("job-0", b'{"id":"c_1"}')]
