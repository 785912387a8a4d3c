"""What is under way at the desktop: update requests, pixel formats, lists, continuous updates.

A desktop answers when it likes, and nothing in an update says which request it answers or which
pixel format it has. So the relay lets few requests through at a time, and changes the format
only where both sides agree on the byte from which it holds:

- while nothing is under way, at once;
- in continuous updates while no request may still be answered, at the EndOfContinuousUpdates
  between two EnableContinuousUpdates, as TigerVNC's viewer does by itself;
- otherwise after what is under way has come. Where it does not, at the answer to a fence; and
  without fences after a request that a desktop answers at once.

A viewer that has had its answer when it sends a format believes in it from then on. What comes in
the old one all the same, because an update without pixels was the answer (QEMU) or the relay has
asked, is not for its eyes: its rectangles are emptied, and asked for again in the new format.

What is held back meanwhile is at most one request of each kind and one format. A request
that reaches beyond the one under way goes up when that has not been answered for a while: nothing
may change in the part that was asked for.
"""

from __future__ import annotations

import struct

from relay.rfb import encodings
from relay.rfb.area import Area, contains, has_pixels, union
from relay.rfb.continuous_updates import ContinuousUpdates, enable_message
from relay.rfb.errors import Violation
from relay.rfb.fences import BLOCK_BEFORE, FOR_FORMAT, FOR_LIST, SYNC_NEXT, our_fence, read_ours
from relay.rfb.offers import Offers
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.state import State

_request = struct.Struct(">BBHHHH").pack

UNREQUESTED_LIMIT = 64
"""Updates with pixels that nobody asked for. Some desktops send a few around a resize."""

_NOT_ASKED, _ASKED, _ANSWERED, _SILENT = range(4)


class Flow:
    """Shared by both readers of a conversation.

    `continuous` are its continuous updates, `offers` what the desktop may use.

    `passive` is for a conversation that only looks at a recorded one: nothing is held, and a
    format holds from the end of the update under way, or from EndOfContinuousUpdates.

    Whoever moves the bytes sets `viewer_behind` while the viewer has more to take than it should,
    and `desktop_behind` while the desktop has. `wake` says that `due` has something to send up;
    `waiting` that a format waits for what is under way, and that `expire` is to be called
    when it has for too long.
    """

    __slots__ = (
        "_asked",
        "_bare",
        "_bare_answers",
        "_fenced",
        "_fences",
        "_flush",
        "_held",
        "_hides",
        "_late",
        "_list_fence",
        "_next",
        "_state",
        "_unrequested",
        "_wanted",
        "continuous",
        "desktop_behind",
        "in_update",
        "injected",
        "offers",
        "passive",
        "releases",
        "requests",
        "viewer_behind",
        "waits",
        "wake",
    )

    def __init__(self, state: State, *, passive: bool) -> None:
        self._state = state
        self.passive = passive
        self.viewer_behind = False
        self.desktop_behind = False
        self.wake = False
        self.waits = 0
        # Other messages to send up, as soon as none of the viewer's is under way; and releases of
        # keys and buttons, for which one that is under way is ended.
        self.injected = b""
        self.releases = b""
        # Requests that may still be answered: never fewer than in truth, for one update may
        # answer several (RFC 6143, Section 7.5.3).
        self.requests = 0
        # By incremental flag: the area asked for since the last update, and the one held back.
        self._asked: list[Area | None] = [None, None]
        self._held: list[Area | None] = [None, None]
        # Updates without pixels that may have answered one of `requests` (None: one with pixels
        # may have answered several of those, so nothing can be told from them), and whether this
        # desktop's do; None: not known yet.
        self._bare: int | None = 0
        self._bare_answers: bool | None = None
        self.in_update = False
        self._unrequested = 0
        self.continuous = ContinuousUpdates()
        # A format held back, one behind a fence of ours, and one that holds from the end of this
        # update on (passive).
        self._wanted: PixelFormat | None = None
        self._fenced: PixelFormat | None = None
        self._next: PixelFormat | None = None
        # Whether the one that is held back has waited for too long, and what is known of the pixel
        # that was asked for because of it.
        self._late = False
        self._flush = _NOT_ASKED
        # Whether the viewer believes in it already.
        self._hides = False
        self.offers = Offers(state)
        self._list_fence = 0
        self._fences = 0

    @property
    def waiting(self) -> bool:
        return self._wanted is not None or self._beyond(0) or self._beyond(1)

    @property
    def holding(self) -> bool:
        """Whether update requests are held back, or continuous updates are."""
        return self.continuous.paused or self._held[0] is not None or self._held[1] is not None

    def _quiet(self) -> bool:
        """Whether no pixel can come before something is asked for."""
        continuous = self.continuous
        return not (self.requests or self.in_update or continuous.on or continuous.ends)

    def _owed(self) -> bool:
        """Whether the viewer waits for an update: it has asked since the last one."""
        return self._asked[0] is not None or self._asked[1] is not None

    # Update requests.

    def request(self, incremental: int, area: Area) -> bool:
        """An update request of the viewer's; whether it is to go up now."""
        if not self.passive:
            if incremental and self.continuous.on:
                # The desktop ignores it (community specification, EnableContinuousUpdates).
                return False
            if self.viewer_behind or self._wanted is not None or self._waits(incremental, area):
                waited = self.waiting
                self._held[incremental] = union(self._held[incremental], area)
                self.waits += self.waiting > waited
                return False
            self._ask(incremental, area)
        self.requests += 1
        self._unrequested = 0
        return True

    def _waits(self, incremental: int, area: Area) -> bool:
        """Whether a request has to wait for the answer to another."""
        asked, full = self._asked[incremental], self._asked[0]
        # Behind a full one it would be answered together with it, or not: nobody could tell.
        if incremental and full is not None and has_pixels(full):
            return True
        # One for nothing (viewers send them, for cursors and sizes) may never be answered, so
        # only another for nothing waits for it.
        return asked is not None and (has_pixels(asked) or not has_pixels(area))

    def _beyond(self, incremental: int) -> bool:
        """Whether a request is held back that what is under way need not answer."""
        held = self._held[incremental]
        if held is None:
            return False
        asked = [area for area in self._asked[: incremental + 1] if area is not None]
        return bool(asked) and not any(contains(area, held) for area in asked)

    def _ask(self, incremental: int, area: Area) -> None:
        self._asked[incremental] = union(self._asked[incremental], area)

    def update_ends(self, painted: bool) -> None:
        """An update has been read to its end. Raises Violation."""
        self.in_update = False
        if painted and self._flush != _NOT_ASKED:
            self._flush = _ANSWERED
        elif self._flush == _ASKED:
            # TigerVNC answers with a cursor that is due, and forgets what was asked for.
            self._flush = _NOT_ASKED
        asked = self._asked
        asked[0] = asked[1] = None
        # QEMU sends cursors and sizes on its own schedule, in updates of their own; TigerVNC and
        # libvncserver answer a request with them. Until `expire` has told which, nobody knows.
        continuous = self.continuous
        if continuous.on or continuous.ends:
            # Nobody can tell whether it answers a request as well.
            self._bare = None if self.requests else 0
        elif not painted and not self._bare_answers:
            if self._bare is not None:
                self._bare = min(self._bare + 1, self.requests)
        elif self.requests:
            self.requests -= 1
            self._bare = None if self.requests else 0
        elif not self.passive:
            self._bare_answers = False
            self._unrequested += painted
            if self._unrequested > UNREQUESTED_LIMIT:
                raise Violation(
                    "unrequested-updates", f"{self._unrequested} updates without a request"
                )
        if self._next is not None:
            self._state.set_pixel_format(self._next)
            self._next = None
        held = self._held  # not by `holding`: a call less for every update
        if held[0] or held[1] or continuous.paused or self._wanted is not None:
            self.wake = True
        if self.offers.dropping and self._quiet():
            self.offers.quiet()

    # Pixel formats.

    def pixel_format(self, wanted: PixelFormat) -> bytes | None:
        """A SetPixelFormat of the viewer's: None to send it as it is, or what to send instead.
        Raises Violation."""
        state = self._state
        if self.passive:
            if self.continuous.ends:
                self.continuous.ends[-1].pixel_format = wanted
            elif self.in_update:
                self._next = wanted
            else:
                state.set_pixel_format(wanted)
            return None
        if self._wanted is not None:
            self._wanted = wanted
            return b""
        coming = self.continuous.coming_format
        # A fence of ours goes behind an end that brings a format, never before it.
        last = self._fenced or coming or state.pixel_format
        if wanted.sizes == last.sizes:
            # Nothing about the framing changes.
            if self._fenced is not None:
                self._fenced = wanted
            elif coming is not None:
                self.continuous.ends[-1].pixel_format = wanted
            else:
                state.set_pixel_format(wanted)
            return None
        instead = self._change(wanted)
        if instead:
            return None if instead == _set_pixel_format(wanted) else instead
        self._wanted = wanted
        self.waits += 1
        self._late = False
        self._flush = _NOT_ASKED
        # TigerVNC's viewer sends it as soon as an update begins.
        self._hides = self._hides or self.in_update or not self._owed()
        self.wake = True
        return b""

    def update_begins(self) -> bool:
        """Whether the viewer is not to see the pixels of an update, which are in a format that
        it does not believe in any more."""
        self.in_update = True
        self._hides = self._hides and (self._wanted is not None or self._fenced is not None)
        return self._hides

    def hidden(self, area: Area) -> None:
        """What the viewer has not seen of an update; it is asked for again."""
        self._held[0] = union(self._held[0], area)

    def _change(self, wanted: PixelFormat) -> bytes:
        """What changes the format at a byte that both sides know; nothing where there is no
        such byte yet."""
        if self._fenced is not None or self.requests:
            return b""
        message = _set_pixel_format(wanted)
        continuous = self.continuous
        if continuous.on:
            return b"" if continuous.ends else continuous.toggle(wanted, message)
        if continuous.ends:
            continuous.ends[-1].pixel_format = wanted
            return message
        if self.in_update:
            return b""
        self._state.set_pixel_format(wanted)
        return message

    def expire(self) -> None:
        """What is under way has not come for long enough; `due` has what to do about it."""
        if self._wanted is None:
            for incremental in (0, 1):
                if self._beyond(incremental) and not self.viewer_behind:
                    self.injected += self._ask_held(incremental)
                    self.wake = True
            return
        if self.in_update or self._fenced is not None:
            return
        if self._can_fence():
            self._late = True
        elif not self.requests:
            # An end is due, nothing else.
            return
        elif self._bare == self.requests:
            # The viewer may have had its answers, in updates without pixels, and believe in the
            # new format by now: it must get nothing in the old one that the relay has asked for.
            if self._bare_answers is None:
                self._bare_answers = True
            self._settle()
        elif self._flush == _NOT_ASKED:
            # A desktop answers a request for everything as soon as it can.
            self._flush = _ASKED
            self.requests += 1
            self.injected += _request(3, 0, 0, 0, 1, 1)
        elif self._flush == _ANSWERED and not self.continuous.on:
            self._flush = _SILENT
        elif self._flush != _ASKED:
            # It has answered and has nothing more to say: one update was for several requests.
            self._settle()
        self.wake = True

    def _settle(self) -> None:
        """No request will be answered any more."""
        self._bare = 0
        self.requests = 0

    def _fence_format(self, wanted: PixelFormat) -> bytes:
        """The format behind a fence, at whose answer it begins to hold."""
        self._wanted = None
        self._fenced = wanted
        return self._our_fence(SYNC_NEXT, FOR_FORMAT) + _set_pixel_format(wanted)

    def _our_fence(self, flags: int, purpose: bytes) -> bytes:
        self._fences = (self._fences + 1) & 0xFFFFFFFF
        return our_fence(flags, purpose, self._fences)

    def fence_answered(self, payload: bytes) -> None:
        """The desktop has answered a fence of ours."""
        purpose, number = read_ours(payload)
        if purpose == FOR_FORMAT and self._fenced is not None:
            self._state.set_pixel_format(self._fenced)
            self._fenced = None
            self.wake = self.wake or self._wanted is not None
        elif purpose == FOR_LIST and number == self._list_fence:
            self.offers.read()

    # Continuous updates.

    def enable(self, on: bool, area: Area) -> bool:
        """An EnableContinuousUpdates of the viewer's; whether it is to go up now. Raises
        Violation."""
        if self._wanted is not None:
            self.continuous.hold(on, area)
            return False
        self._enable(on, area)
        return True

    def _enable(self, on: bool, area: Area) -> None:
        self.continuous.enable(on, area)
        if on:
            # A desktop forgets them (TigerVNC), and ignores those that follow.
            self._asked[1] = self._held[1] = None

    def updates_end(self) -> bool:
        """An EndOfContinuousUpdates; whether it is the viewer's to see. Raises Violation."""
        end = self.continuous.end()
        if end is None:
            self._state.continuous_updates = True
            return True
        if end.pixel_format is not None:
            self._state.set_pixel_format(end.pixel_format)
        if self._wanted is not None:
            self.wake = True
        if self.offers.dropping and self._quiet():
            self.offers.quiet()
        return not end.ours

    # Lists of encodings.

    def encodings(self, listed: frozenset[int]) -> bytes:
        """A new list of the viewer's: what to send behind it."""
        if self.passive:
            self._state.listed = listed
            return b""
        # A fence behind an earlier list tells nothing of this one.
        self._list_fence = 0
        if not self.offers.replace(listed):
            return b""
        if self._quiet():
            self.offers.quiet()
        if not self._can_fence():
            return b""
        fence = self._our_fence(BLOCK_BEFORE, FOR_LIST)
        self._list_fence = self._fences
        return fence

    def _can_fence(self) -> bool:
        return self._state.fences and encodings.FENCE in self._state.listed

    # What goes up by itself.

    def due(self) -> bytes:
        """Messages for the desktop that were held back and may go now, or are the relay's own."""
        self.wake = False
        continuous = self.continuous
        messages = [self.releases, self.injected]
        self.releases = self.injected = b""
        if self._wanted is not None and self._fenced is None:
            change = self._change(self._wanted)
            if change:
                messages.append(change)
                self._wanted = None
            elif self._can_fence() and (
                self._late or not (self._owed() or self.in_update or continuous.ends)
            ):
                # It has waited for long enough; or what was asked for has come, perhaps all of
                # it: nothing to wait for.
                messages.append(self._fence_format(self._wanted))
        if self._wanted is None:
            for on, area in continuous.release():
                self._enable(on, area)
                messages.append(enable_message(on, self._state.crop(*area)))
            if continuous.on and continuous.paused != self.viewer_behind:
                messages.append(continuous.pause(self.viewer_behind, self._state))
            if not self.viewer_behind:
                messages += self._held_requests()
        return b"".join(messages)

    def _held_requests(self) -> list[bytes]:
        return [
            self._ask_held(incremental)
            for incremental, area in enumerate(self._held)
            if area is not None and not self._waits(incremental, area)
        ]

    def _ask_held(self, incremental: int) -> bytes:
        area = self._held[incremental]
        assert area is not None
        self._held[incremental] = None
        self._ask(incremental, area)
        self.requests += 1
        self._unrequested = 0
        return _request(3, incremental, *self._state.crop(*area))


def _set_pixel_format(wanted: PixelFormat) -> bytes:
    """The message (RFC 6143, Section 7.5.1)."""
    return b"\0\0\0\0" + wanted.pack()
