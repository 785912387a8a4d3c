"""HTTP/1.1 of which no two readers can think differently, for h11, which is lenient.

A proxy in front may take a bare LF or CR, a folded header or the second of two lengths for
something else than we do, and then a request hides in another one's head or body (request
smuggling). So a line ends with CRLF alone, and one header alone says how long a body is.
"""

from __future__ import annotations

import re
from typing import Final

import h11
from h11._receivebuffer import ReceiveBuffer

__all__ = ["be_strict"]

# RFC 9112, Section 7.1.1, less the line ends and other control characters that h11 takes in an
# extension, and the spaces that it takes behind a size.
_CHUNK_HEAD: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class _StrictBuffer(ReceiveBuffer):
    """What h11 takes lines from: heads, a chunked body's trailers, and chunks' heads."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head or of trailers, once all are there. Raises h11.LocalProtocolError,
        which h11 makes a RemoteProtocolError of."""
        data = self._data
        if data[:2] == b"\r\n":
            self._extract(2)
            return []
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if data.count(b"\n") != data.count(b"\r\n"):
                raise h11.LocalProtocolError("a line ends without CR")
            return None
        head = self._extract(end + 4)
        lines = head.split(b"\r\n")
        if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
            raise h11.LocalProtocolError("a line has a CR or LF of its own")
        if b"\n " in head or b"\n\t" in head:
            raise h11.LocalProtocolError("a header goes on in the next line")
        _check_request(head, lines[0])
        return lines[:-2]

    def maybe_extract_next_line(self) -> bytearray | None:
        """A chunk's head. Raises as `maybe_extract_lines`."""
        line = super().maybe_extract_next_line()
        if line is None:
            if b"\n" in self._data:
                raise h11.LocalProtocolError("a chunk's head ends without CR")
        elif not _CHUNK_HEAD.fullmatch(line):
            raise h11.LocalProtocolError("illegal chunk head")
        return line


def _check_request(head: bytearray, line: bytearray) -> None:
    """What h11 passes over: of two lengths that are equal it hands on one."""
    names = head.lower()
    lengths = names.count(b"\ncontent-length:")
    codings = names.count(b"\ntransfer-encoding:")
    if lengths + codings > 1:
        raise h11.LocalProtocolError("several headers say how long the body is")
    if lengths and b"," in names.partition(b"\ncontent-length:")[2].partition(b"\r")[0]:
        raise h11.LocalProtocolError("Content-Length is a list")
    if codings and line.endswith(b"HTTP/1.0"):
        raise h11.LocalProtocolError("HTTP/1.0 has no Transfer-Encoding")
    # Only a proxy is asked for another server's address, or for a tunnel to one. Trailers come here
    # too; what is neither they nor a request, h11 refuses.
    _, _, rest = line.partition(b" ")
    if b" HTTP/" in rest and not rest.startswith((b"/", b"*")):
        raise h11.LocalProtocolError("the target is no path")


def be_strict(connection: h11.Connection) -> None:
    """Makes a server's connection, which has read nothing yet, refuse what is ambiguous."""
    connection._receive_buffer = _StrictBuffer()
