"""Certificates are exchanged under open listeners, and a bad one changes nothing."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest

from proxy.core.errors import ConfigError
from proxy.web.certificates import Certificate, Certificates
from tests.helpers.certificates import write_certificate


@asynccontextmanager
async def listening(certificate):
    async def close(_reader, writer):
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=certificate.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def shown(port):
    """Return the certificate that the listener shows, and the protocol."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    tls = writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True)
    writer.close()
    return certificate, tls.selected_alpn_protocol()


async def test_a_new_certificate_is_shown_to_the_next_connection(tmp_path):
    file = write_certificate(tmp_path / "pem")
    certificate = Certificate(file, file)
    certificates = Certificates([certificate])

    async with listening(certificate) as port:
        old, protocol = await shown(port)
        assert await certificates.run_once() == 0
        write_certificate(file)
        assert await certificates.run_once() == 1
        new, _ = await shown(port)

    assert protocol == "http/1.1"
    assert new != old


@pytest.mark.parametrize("harm", ["gone", "junk", "another's key"])
async def test_what_cannot_be_used_leaves_the_old_one_in_force(tmp_path, harm):
    cert, key = write_certificate(tmp_path / "cert"), tmp_path / "key"
    key.write_bytes(cert.read_bytes())
    certificate = Certificate(cert, key)

    async with listening(certificate) as port:
        before, _ = await shown(port)
        if harm == "gone":
            key.unlink()
        elif harm == "junk":
            key.write_text("no key at all")
        else:
            write_certificate(key)
        assert not certificate.renew()
        after, _ = await shown(port)

    assert after == before


def test_a_pair_that_does_not_match_is_refused_at_the_start(tmp_path):
    cert, other = write_certificate(tmp_path / "cert"), write_certificate(tmp_path / "other")

    with pytest.raises(ConfigError, match="cannot be used together"):
        Certificate(cert, other)
    with pytest.raises(ConfigError, match="No such file"):
        Certificate(cert, tmp_path / "nowhere")
