"""The connections that are open, and which of them go where there are too many.

One that has a session or a stream is set apart: those have budgets of their own. All others are
their address's, and an address has so many at the most that do nothing, neither asking nor being
answered: of these the oldest goes. It has so many in all, too, for what is being answered keeps the
others waiting: there an idle one goes as well, or the oldest. Where that happens too often, which
costs too much, the new one does, unread. And where all connections are taken, the address that has
the most gives one up for another address. So nobody keeps the others out with connections alone,
whether nothing is ever sent on them, half a request, or nothing of the answers is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from api.budgets import OverBudget
from api.budgets.rates import Rates

__all__ = ["Crowd", "Member"]

_Address = str | None
"""None is everybody behind a proxy, or on a unix socket: no bound is one's own there."""

_log = logging.getLogger(__name__)


class Member(Protocol):
    """A connection."""

    address: _Address

    def abort(self) -> None:
        """Closes it at once."""


_Member = TypeVar("_Member", bound=Member)


class Crowd(Generic[_Member]):
    """`limit` connections at once, of each address `per_address` that are not set apart, and of
    these `idle_per_address` that do nothing; `refused` is called where there are more."""

    def __init__(
        self,
        limit: int,
        idle_per_address: int,
        per_address: int,
        refused: Callable[[OverBudget], object],
    ) -> None:
        self._limit = limit
        self._idle_per_address = idle_per_address
        self._per_address = per_address
        self._refused = refused
        self._pushes = Rates("idle_connections", {"address": idle_per_address}, 1)
        self._open: set[_Member] = set()
        # Those that are not set apart, and of these the idle ones; oldest first.
        self._plain: dict[_Address, dict[_Member, None]] = {}
        self._idle: dict[_Address, dict[_Member, None]] = {}
        self._told_full = False

    @property
    def full(self) -> bool:
        """Whether there is room for one more only where another goes."""
        return len(self._open) >= self._limit

    def __len__(self) -> int:
        return len(self._open)

    def members(self) -> list[_Member]:
        """All of them."""
        return list(self._open)

    def make_room(self, address: _Address) -> bool:
        """For a new one of that address; False where there is no room for it."""
        over = None if address is None else self._over(address)
        if over is not None:
            self._refused(over)
            try:
                self._pushes.take(("address", address))
            except OverBudget:
                return False
            self._drop(self._oldest(address))
        if not self.full:
            self._told_full = False
            return True
        if not self._told_full:
            _log.warning("%d connections are open: more cost others theirs", self._limit)
        self._told_full = True
        most = max(self._plain, key=lambda key: len(self._plain[key]), default=address)
        if len(self._plain.get(most, ())) <= len(self._plain.get(address, ())) + 1:
            return False
        self._drop(self._oldest(most))
        return True

    def _over(self, address: str) -> OverBudget | None:
        """Which budget one more of that address would be over."""
        counts = (
            ("idle_connections", self._idle, self._idle_per_address),
            ("connections", self._plain, self._per_address),
        )
        for what, members, limit in counts:
            if len(members.get(address, ())) >= limit:
                return OverBudget(what, "address", address, limit)
        return None

    def _oldest(self, address: _Address) -> _Member:
        return next(iter(self._idle.get(address) or self._plain[address]))

    def enter(self, member: _Member) -> None:
        """A new one, which is idle."""
        self._open.add(member)
        self._plain.setdefault(member.address, {})[member] = None
        self._idle.setdefault(member.address, {})[member] = None

    def idle(self, member: _Member) -> None:
        """It has been answered; where that is one idle too many, the oldest goes."""
        if member not in self._plain.get(member.address, ()):
            return
        idle = self._idle.setdefault(member.address, {})
        idle[member] = None
        if member.address is not None and len(idle) > self._idle_per_address:
            limit = self._idle_per_address
            self._refused(OverBudget("idle_connections", "address", member.address, limit))
            self._drop(self._oldest(member.address))

    def busy(self, member: _Member) -> None:
        """It has asked for something."""
        _remove(self._idle, member)

    def set_apart(self, member: _Member) -> None:
        """It counts for its address no more."""
        _remove(self._idle, member)
        _remove(self._plain, member)

    def bring_back(self, member: _Member) -> None:
        """It counts again, as one that is being answered."""
        if member in self._open:
            self._plain.setdefault(member.address, {})[member] = None

    def leave(self, member: _Member) -> None:
        """It is closed."""
        self.set_apart(member)
        self._open.discard(member)

    def _drop(self, member: _Member) -> None:
        self.leave(member)
        member.abort()


def _remove(groups: dict[_Address, dict[_Member, None]], member: _Member) -> None:
    group = groups.get(member.address)
    if group is not None and member in group:
        del group[member]
        if not group:
            del groups[member.address]
