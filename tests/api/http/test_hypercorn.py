"""What `api.http.serve` and `api.http.http1` need of Hypercorn's inside. When its version is
raised and something moved, these tests say what."""

from __future__ import annotations

import inspect
from importlib.metadata import version

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("hypercorn").startswith("0.18.")


def test_the_server_takes_any_stream() -> None:
    assert list(inspect.signature(TCPServer).parameters) == [
        "app",
        "config",
        "context",
        "state",
        "stream",
    ]
    used = set(inspect.getsource(TCPServer).split("self.stream.")[1:])
    names = {text.partition("(")[0].partition("\n")[0] for text in used}
    # The first three only ever run for TLS, whose streams are not wrapped.
    assert {name.partition(".")[0] for name in names} == {
        "do_handshake",
        "selected_alpn_protocol",
        "transport_stream",
        "socket",
        "send_all",
        "receive_some",
        "send_eof",
        "aclose",
    }


def test_the_context_can_be_told_to_end() -> None:
    context = WorkerContext(None)
    assert inspect.iscoroutinefunction(context.terminated.set)


def test_applications_are_wrapped() -> None:
    assert list(inspect.signature(ASGIWrapper).parameters) == ["app"]


def test_the_settings_exist() -> None:
    for name in ("alpn_protocols", "h11_max_incomplete_size", "keep_alive_timeout"):
        assert hasattr(Config(), name)
