"""A workspace agent behind TLS: who gets as far as HTTP."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
import trio

from api.cli.agent import _tls
from relay import WorkspaceAgentCredentials, WorkspaceAgentError
from relay.dialling.addresses import dial
from relay.dialling.workspace_agent import WorkspaceAgentAddress, client_tls
from tests.labs.certificates import Authority
from tests.labs.desktop_server import read_all
from tests.labs.workspace_agent import FakeDesktop, workspace_agent


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_client_that_does_not_speak_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr("api.http.serve.HEAD_TIMEOUT_S", 0.2)
    authority = Authority(tmp_path, "authority")
    mine = authority.vouch("workspace")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(mine.cert, mine.key)
    async with workspace_agent(FakeDesktop(), tls=tls) as lab:
        async with await trio.open_tcp_stream("127.0.0.1", lab.port) as stream:
            if said:
                await stream.send_all(said)
            with trio.fail_after(5):
                assert await read_all(stream) == b""
        url = f"https://127.0.0.1:{lab.port}"
        known = client_tls(authority.cert)
        async with httpx.AsyncClient(base_url=url, verify=known, trust_env=False) as client:
            assert (await client.get("/healthz")).text == "OK"


@pytest.mark.parametrize("whose", ["nobody's", "another authority's", "expired", "good"])
async def test_a_certificate_is_asked_for(tmp_path: Path, whose: str) -> None:
    """Whoever has no good one gets no answer, not even of its health."""
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    mine = authority.vouch("workspace")
    theirs = {
        "another authority's": other.vouch("stranger"),
        "expired": authority.vouch("late", expired=True),
        "good": authority.vouch("relay"),
    }
    files = (theirs[whose].cert, theirs[whose].key) if whose in theirs else ()
    known = client_tls(authority.cert, *files)
    tls = _tls(mine.cert, mine.key, authority.cert)
    async with workspace_agent(FakeDesktop(), secret=None, tls=tls) as lab:
        url = f"https://127.0.0.1:{lab.port}"
        async with httpx.AsyncClient(base_url=url, verify=known, trust_env=False) as client:
            if whose == "good":
                assert (await client.get("/healthz")).text == "OK"
            else:
                with pytest.raises(httpx.TransportError):
                    await client.get("/healthz")
        credentials = WorkspaceAgentCredentials(tls=known)
        address = WorkspaceAgentAddress("wss", "127.0.0.1", lab.port, credentials=credentials)
        if whose == "good":
            await (await dial(address, timeout_s=5)).aclose()
        else:
            with pytest.raises(WorkspaceAgentError):
                await dial(address, timeout_s=5)
        assert lab.desktop.starts == (whose == "good")
