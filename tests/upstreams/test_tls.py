import ssl

from proxy.upstreams.lean import LeanClient
from proxy.upstreams.tls import ResumingObject, keep_session, resume_sessions, verifying_context
from tests.upstreams.clients import opened, read_all, request, tls_upstream


def test_by_default_certificates_and_names_are_verified():
    context = verifying_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_context_is_prepared_once():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    resume_sessions(context)
    kept = vars(context).copy()
    resume_sessions(context)

    assert vars(context) == kept
    assert context.sslobject_class is ResumingObject


def test_what_is_no_tls_connection_has_no_session():
    keep_session(None)


async def test_the_second_connection_resumes_the_session_of_the_first(certificate):
    context = ssl.create_default_context(cafile=str(certificate))
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        for resumed in (False, True, True):
            async with opened(LeanClient, ssl_context=context) as client:
                answer = await client.send(request(port, scheme="https"))
                (connection,) = client._pool._all
                secured = connection.transport.get_extra_info("ssl_object")
                assert await read_all(answer) == b"ok"
                assert secured.session_reused is resumed
                assert secured.getpeercert()["subject"]


async def test_a_server_that_lost_its_keys_costs_a_handshake_and_no_call(certificate):
    context = ssl.create_default_context(cafile=str(certificate))
    for _ in range(2):
        # Each has ticket keys of its own.
        async with (
            tls_upstream(certificate) as server,
            opened(LeanClient, ssl_context=context) as client,
        ):
            port = server.sockets[0].getsockname()[1]
            assert await read_all(await client.send(request(port, scheme="https"))) == b"ok"
