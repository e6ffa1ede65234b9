"""What the tests of commands share: the command line, and a proxy that it may ask."""

import threading

import pytest

from proxy.cli import main
from tests.cli.listener import KEY, Proxy


@pytest.fixture
def proxy():
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(capfdbinary, monkeypatch):
    """Run the command line; return exit code, standard output and standard error."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def ran(*words):
        code = main([str(word) for word in words])
        output, errors = capfdbinary.readouterr()
        return code, output, errors.decode()

    return ran
