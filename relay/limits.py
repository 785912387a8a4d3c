"""Every bound and deadline of a session, in one place.

A field's unit is in its name. The comment beside a value says what it bounds and why
it is that large.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and deadlines of one session. Immutable; `dataclasses.replace` makes variants."""

    dial_timeout_s: float = 5.0
    """All attempts to reach one desktop's address. Loopback and LAN answer in milliseconds."""

    handshake_timeout_s: float = 10.0
    """One RFB handshake from first to last byte, per side. In total: a peer that drips one
    byte a second does not extend it."""

    stall_timeout_s: float = 30.0
    """A peer that takes no byte of what waits for it. A laptop's lid closing on a train is
    shorter; a browser that is gone is for ever."""

    progress_timeout_s: float = 10.0
    """A message that has begun, and gets on by fewer than `progress_bytes` in this time, will not
    end: only a peer that means harm drips bytes. A silent peer between messages is legal."""

    progress_bytes: int = 10_240
    """1 KiB a second, slower than any link that carries a desktop."""

    ping_interval_s: float = 20.0
    """WebSocket pings to the viewer. Reverse proxies drop silent connections at 60 s."""

    ping_timeout_s: float = 20.0
    """From a ping to the viewer's pong."""

    idle_timeout_s: float = 0.0
    """No message from the viewer for this long ends the session; 0 means never. Watching
    without touching is legal use, so the default is off. (noVNC asks for updates all the time
    the desktop changes, which counts as a message.)"""

    update_timeout_s: float = 2.0
    """A new pixel format waits so long for the update under way, before it takes another way; a
    request for more than is under way does, before it goes up beside it."""

    close_timeout_s: float = 2.0
    """From our close frame to the viewer's answer, and for draining what was approved."""

    read_bytes: int = 65_536
    """One read from a socket; also the most that one direction holds for a slow peer."""

    low_water_bytes: int = 65_536
    """What the viewer's socket may hold unsent before the desktop is asked for no more: a quarter
    of a second at 2 Mbit/s. Twice as much where it is gone in 5 ms."""

    desktop_window_bytes: int = 786_432
    """What the kernel is asked to hold of a desktop's bytes that were not read yet; it doubles the
    number. Left to itself it takes 6 MiB: what a viewer sees would lag by as much, and the bytes
    fall out of the processor's cache, which costs 5 % of the throughput on one machine."""

    viewer_frame_bytes: int = 1_048_576
    """Payload of one WebSocket frame from the viewer. Its content streams; this only refuses
    absurd announcements. noVNC never sends more than 10 KiB at once."""

    framebuffer_side_px: int = 16_384
    """Width and height. TigerVNC refuses more; two 8K screens side by side fit."""

    framebuffer_px: int = 67_108_864
    """Width times height: 256 MiB at 32 bits per pixel."""

    name_bytes: int = 4_096
    """Desktop name as announced by the desktop. Longer ones end the session."""

    viewer_name_bytes: int = 1_024
    """Desktop name as passed on to the viewer; the rest is cut."""

    reason_bytes: int = 4_096
    """A failure reason of the desktop's handshake."""

    clipboard_bytes: int = 262_144
    """One clipboard message, either direction (TigerVNC's own limit). Longer ones are
    skipped, and the session goes on."""

    encodings_count: int = 1_024
    """Entries of one SetEncodings. Real viewers send 10 to 40."""

    cursor_side_px: int = 1_024
    """Width and height of a cursor shape."""
