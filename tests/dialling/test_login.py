"""Logging in: passwords and where they come from, desktops that hang up, deadlines, a real Xvnc."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import socket
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay import (
    DesktopError,
    Limits,
    Password,
    PasswordFile,
    PasswordSource,
    Reason,
    UnixAddress,
    log_in,
    open_desktop,
)
from relay.desktops import provider_for
from relay.desktops.provider import RunningDesktop
from relay.dialling.login import vnc_auth_response
from tests.labs.desktop_processes import needs_xvnc, until
from tests.labs.peers import PIXEL_FORMAT, client_frame, memory_lab
from tests.labs.splits import chunkings
from tests.labs.talker import Talker

INIT = struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab"
CHALLENGE = bytes(range(16))

# RFC 6143, Sections 7.1 to 7.3: a desktop that wants a password, and is content with any.
WANTS_PASSWORD = b"RFB 003.008\n" + b"\x01\x02" + CHALLENGE + b"\0\0\0\0" + INIT
WANTS_NONE = b"RFB 003.008\n" + b"\x01\x01" + b"\0\0\0\0" + INIT


async def answer(password: PasswordSource) -> bytes:
    """What a desktop is told that asks for a password."""
    talker = Talker(WANTS_PASSWORD, [])
    assert (await log_in(talker, password=password)).security_type == 2
    return talker.told[2][1]


# VNC authentication


@pytest.mark.parametrize(
    ("password", "block"),
    [("\x01", "95a8d72813daa94d"), ("\x02", "0eec1487dd8c26d5"), ("\x04", "7ad16ffb79c45926")],
)
def test_vnc_authentication_by_published_vectors(password: str, block: str) -> None:
    """NIST SP 800-17, variable key known answer test: keys 80..., 40... and 20... (and parity
    bits, which DES ignores) over eight zero bytes. Reversed bits make them passwords of ASCII."""
    assert vnc_auth_response(bytes(16), Password(password)) == bytes.fromhex(block * 2)


@pytest.mark.parametrize(
    ("password", "challenge", "response"),
    [
        (".", "7fe2e13da4ae109c54c55f5274aadb31", "1d8692711f00243502d391efe9bcc5d5"),
        ("12345678", "138ea42e0e66f3ad2df308c304cdc42a", "5be156fa4949ef56d3f844977327959f"),
        ("abc123", "c63045d2579ee7f2f90c623e524086c6", "a36359e428c87fb3452cd7e0cad6703e"),
    ],
)
def test_vnc_authentication_as_recorded(password: str, challenge: str, response: str) -> None:
    """Recorded with Wireshark by mitchellh/go-vnc (client_auth_test.go)."""
    found = vnc_auth_response(bytes.fromhex(challenge), Password(password))
    assert found == bytes.fromhex(response)


def test_an_empty_password_is_a_key_of_zeros() -> None:
    """NIST SP 800-17, and the table of weak keys: 0101..., which is 0 but for parity."""
    assert vnc_auth_response(bytes(16), Password("")) == bytes.fromhex("8ca64de9c1b123a7" * 2)


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("123456789", "12345678"),
        ("1234567é", "1234567\udcc3"),  # cut within a character: its first byte counts
    ],
)
def test_eight_bytes_count(long: str, short: str) -> None:
    assert vnc_auth_response(CHALLENGE, Password(long)) == vnc_auth_response(
        CHALLENGE, Password(short)
    )
    assert Password(short).reveal() == Password(long).reveal()[:8]


# Where passwords come from


async def test_a_callback_is_asked_at_each_login_that_needs_it() -> None:
    words = ["first", "second"]

    async def later() -> str:
        await trio.lowlevel.checkpoint()
        return words.pop(0)

    sources: list[Callable[[], str | Awaitable[str]]] = [lambda: words.pop(0), later]
    for source in sources:
        words[:] = ["first", "second"]
        await log_in(Talker(WANTS_NONE, []), password=source)
        for word in ("first", "second"):
            assert await answer(source) == vnc_auth_response(CHALLENGE, Password(word))


async def test_what_a_callback_raises_ends_the_login() -> None:
    def fail() -> str:
        raise LookupError("the vault is sealed")

    talker = Talker(WANTS_PASSWORD, [])
    with pytest.raises(LookupError, match="the vault is sealed"):
        await log_in(talker, password=fail)
    assert talker.closed


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"sesame", b"sesame"),
        (b"sesame\n", b"sesame"),
        (b"sesame\r\nsecond line\n", b"sesame"),
        (b" ses ame \n", b" ses ame "),
        ("Grüße\n".encode(), "Grüße".encode()),
        ("Grüße\n".encode("latin-1"), "Grüße".encode("latin-1")),
        (b"x" * 5000, b"x" * 1024),
    ],
)
async def test_a_password_file(tmp_path: Path, content: bytes, password: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    source = PasswordFile(file)
    assert Password(await source()).reveal() == password
    file.write_bytes(b"rotated\n")
    assert await answer(source) == vnc_auth_response(CHALLENGE, Password("rotated"))
    assert "rotated" not in repr(source)


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsesame\n"])
async def test_an_empty_password_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    talker = Talker(WANTS_PASSWORD, [])
    with pytest.raises(DesktopError) as caught:
        await log_in(talker, password=PasswordFile(file))
    assert str(caught.value) == f"the first line of the password file {file} is empty"
    assert talker.closed


async def test_a_password_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "gone", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DesktopError) as caught:
            await log_in(Talker(WANTS_PASSWORD, []), password=PasswordFile(path))
        assert str(caught.value).startswith(f"cannot read the password file {path}: {why}")
    # Who is let in without one does not need it.
    await log_in(Talker(WANTS_NONE, []), password=PasswordFile(tmp_path / "gone"))


async def test_a_password_file_that_hangs(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    autojump_clock.autojump_threshold = 0.05  # real seconds, for the thread to begin
    with pytest.raises(DesktopError, match="not finished within 10 s"):
        await log_in(Talker(WANTS_PASSWORD, []), password=PasswordFile(pipe))
    # Lets the thread that was left behind end.
    os.close(os.open(pipe, os.O_WRONLY))


async def test_a_password_shows_itself_nowhere() -> None:
    secret = Password("sesame")
    desktop = RunningDesktop(UnixAddress("/x"), secret)
    texts = [repr(secret), str(secret), f"{secret}", repr([secret]), repr(desktop)]
    spoilers: list[Callable[[Any], object]] = [pickle.dumps, copy.deepcopy, vars]
    for spoil in spoilers:
        with pytest.raises(TypeError) as refused:
            spoil(secret)
        texts.append(repr(refused.value))
    with pytest.raises(ValueError, match="none in Unicode") as wrong:
        Password("sesame\ud800")
    texts += [repr(wrong.value), repr(wrong.value.__context__)]
    wire = WANTS_PASSWORD[:30] + b"\0\0\0\x01" + b"\0\0\0\x05wrong"
    with pytest.raises(DesktopError) as caught:
        await log_in(Talker(wire, []), password=secret)
    texts += [repr(caught.value), repr(caught.value.__context__), repr(caught.value.__cause__)]
    assert not [text for text in texts if "sesame" in text]


async def test_a_desktop_at_an_address_has_the_password_and_others_have_none(
    nursery: trio.Nursery,
) -> None:
    secret = Password("sesame")
    desktop: RunningDesktop = await nursery.start(
        provider_for("tcp://127.0.0.1:5901", password=secret).run
    )
    assert desktop.password is secret
    other: RunningDesktop = await nursery.start(provider_for("pattern", password=secret).run)
    assert other.password is None
    nursery.cancel_scope.cancel()


# Desktops that hang up


@pytest.mark.parametrize("reset", [False, True], ids=["ends", "resets"])
@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"RFB 003.003\n\0\0\0\0\0\0\0\x12Too many failures.", "Too many failures."),
        (b"RFB 003.008\n\0\0\0\0\x12Too many failures.", "Too many failures."),
        # More than one read: the rest is there after our answer could not be sent.
        (b"RFB 003.003\n\0\0\0\0\0\0\x10\x00" + b"no " * 1365 + b"!", "no no no"),
        (b"RFB 003.003\n\0\0\0\0", "no reason given"),
    ],
)
async def test_a_blacklist_answers_before_it_is_asked(
    wire: bytes, reason: str, reset: bool
) -> None:
    """TigerVNC's blacklist speaks 3.3, gives its reason and is gone."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stream = await trio.open_tcp_stream(*listener.getsockname())
        desktop, _ = listener.accept()
        desktop.sendall(wire)
        if reset:
            desktop.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        desktop.close()
        with pytest.raises(DesktopError) as caught:
            await log_in(stream)
    assert str(caught.value).startswith(f"the desktop refused the connection: {reason}")


async def test_a_broken_rule_has_its_place_and_its_bytes() -> None:
    # RFC 6143, Section 7.3.2: a name of 2^32 - 1 bytes stands at byte 38 of this 3.8 handshake.
    init = struct.pack(">HH", 64, 48) + PIXEL_FORMAT + b"\xff" * 4
    wire = b"RFB 003.008\n" + b"\x01\x01" + bytes(4) + init
    for cuts in chunkings(len(wire)):
        with pytest.raises(DesktopError) as caught:
            await log_in(Talker(wire, cuts))
        fault = caught.value.fault
        assert fault is not None
        assert (fault.rule, fault.offset, fault.evidence) == ("name-length", 18, init)


async def test_a_desktop_that_resets_says_nothing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stream = await trio.open_tcp_stream(*listener.getsockname())
        desktop, _ = listener.accept()
        desktop.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        desktop.close()
        with pytest.raises(DesktopError, match="closed the connection during the handshake"):
            await log_in(stream)


# Deadlines


async def test_a_silent_desktop(autojump_clock: trio.testing.MockClock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    with pytest.raises(DesktopError, match="not finished within 3 s"):
        await log_in(near, limits=Limits(handshake_timeout_s=3))
    assert trio.current_time() == pytest.approx(3)


async def drip(stream: trio.abc.SendStream, wire: bytes) -> None:
    """A byte a second, for as long as there is somebody."""
    try:
        for byte in wire:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)
    except trio.BrokenResourceError:
        return


@pytest.mark.parametrize("early", [b"", WANTS_NONE[:12], WANTS_NONE[:18], WANTS_NONE[:38]], ids=len)
async def test_a_desktop_that_drips(early: bytes, autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(early)
    wire = (WANTS_NONE[:-7] + struct.pack(">I", 300) + bytes(300))[len(early) :]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip, far, wire)
        with pytest.raises(DesktopError, match="not finished within 10 s"):
            await log_in(near)
        assert trio.current_time() == pytest.approx(10)


@pytest.mark.parametrize("early", [b"", client_frame(b"RFB 003.008\n")], ids=len)
async def test_a_viewer_that_drips(early: bytes, autojump_clock: trio.testing.MockClock) -> None:
    # Empty messages (RFC 6455, Section 5.4) carry no byte of a handshake.
    lab = memory_lab()
    await lab.viewer.send_all(early)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip, lab.viewer, client_frame(b"") * 100)
        await lab.run()
        nursery.cancel_scope.cancel()
    assert lab.ended.reason is Reason.VIEWER_SLOW_HANDSHAKE
    assert 10 <= trio.current_time() <= 12  # a goodbye has 2 s


# A real desktop

VNCPASSWD = shutil.which("vncpasswd") or shutil.which("tigervncpasswd")


@needs_xvnc
@pytest.mark.skipif(VNCPASSWD is None, reason="vncpasswd is not installed (tigervnc-tools)")
async def test_a_real_desktop_with_a_password(tmp_path: Path, nursery: trio.Nursery) -> None:
    assert VNCPASSWD is not None
    made = subprocess.run(  # noqa: ASYNC221
        [VNCPASSWD, "-f"], input=b"secret12\n", capture_output=True, check=True
    )
    (tmp_path / "passwd").write_bytes(made.stdout)
    address = UnixAddress(str(tmp_path / "rfb"))
    reading, writing = os.pipe()
    command = ["Xvnc", "-displayfd", str(writing), "-nolisten", "tcp", "-rfbport", "-1"]
    command += ["-rfbunixpath", address.path, "-geometry", "640x480"]
    command += ["-SecurityTypes", "VncAuth", "-PasswordFile", str(tmp_path / "passwd")]

    async def run() -> None:
        await trio.run_process(command, pass_fds=[writing], capture_stderr=True, check=False)

    nursery.start_soon(run)
    await until(Path(address.path).is_socket)

    good = tmp_path / "password"
    good.write_text("secret12\n")
    sources: list[PasswordSource] = [
        Password("secret12"),
        Password("secret12 and more, which VNC authentication does not look at"),
        PasswordFile(good),
        lambda: "secret12",
    ]
    for source in sources:
        end = await open_desktop(address, password=source)
        assert (end.security_type, end.version, end.width) == (2, "3.8", 640)
        await end.aclose()
    with pytest.raises(DesktopError) as caught:
        await open_desktop(address, password=Password("secret13"))
    # As the capture tiger-vncviewer-wrongpw has it; later versions of TigerVNC say more.
    assert "the desktop refused the authentication: Authentication fail" in str(caught.value)
    with pytest.raises(DesktopError, match="VNC authentication, and no password is configured"):
        await open_desktop(address)
    nursery.cancel_scope.cancel()
    os.close(reading)
    os.close(writing)
