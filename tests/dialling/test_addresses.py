"""How desktops are addressed, where they are behind a workspace agent."""

from __future__ import annotations

import pytest

from relay import Password, WorkspaceAgentAddress, WorkspaceAgentCredentials
from relay.desktops import provider_for
from relay.dialling.addresses import parse_address

ADDRESS = WorkspaceAgentAddress("ws", "desk.example", 6081)
SECRET = "correct horse battery"


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("ws://desk.example:6081", ADDRESS, "ws://desk.example:6081"),
        ("ws://desk.example:6081/", ADDRESS, "ws://desk.example:6081"),
        ("wss://[::1]:443/x", WorkspaceAgentAddress("wss", "::1", 443, "/x"), "wss://[::1]:443"),
    ],
)
def test_addresses(text: str, address: WorkspaceAgentAddress, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown
    assert provider_for(text).name == "address"


@pytest.mark.parametrize(
    "text",
    [
        "ws://desk.example",
        "ws://:6081",
        "ws://desk.example:0",
        "ws://me:secret@desk.example:6081",
        "ws://desk.example:6081/?token=x",
        "ws://desk.example:6081/ü",
        "ws://desk.example:6081/a b",
        "http://desk.example:6081",
    ],
)
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|has more than|printable ASCII"):
        parse_address(text)


def test_credentials_show_in_no_text() -> None:
    address = parse_address("ws://desk.example:1", WorkspaceAgentCredentials(Password(SECRET)))
    assert SECRET not in repr(address) + str(address)
