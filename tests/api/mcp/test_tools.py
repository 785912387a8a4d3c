"""What MCP clients are told of the tools, and how the command is used wrongly."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.cli.commands import run
from api.mcp.tools import TOOLS, tool_result
from relay.computer import LOOKS, TOOLSET, VERSIONS
from relay.computer.input import PARAMETERS, Refused, arguments
from tests.labs.mcp_clients import COMMAND

jsonschema: Any = pytest.importorskip("jsonschema")

SCHEMAS = {tool.name: tool.input_schema for tool in TOOLS}

RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("screenshot", {}),
    ("cursor_position", {}),
    ("zoom", {"region": [0, 0, 10, 10]}),
    ("left_click", {}),
    ("left_click", {"coordinate": [1, 2], "text": "ctrl+shift"}),
    ("left_click_drag", {"coordinate": [1, 2], "start_coordinate": [3, 4]}),
    ("scroll", {"scroll_direction": "down", "scroll_amount": 100}),
    ("type", {"text": "x" * 10_000}),
    ("type", {"text": ""}),
    ("key", {"text": "ctrl+s Return", "repeat": 100}),
    ("hold_key", {"text": "Down", "duration": 0.5}),
    ("wait", {"duration": 300}),
    # What a schema calls an integer.
    ("left_click", {"coordinate": [10.0, 20]}),
]

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("screenshot", {"coordinate": [1, 2]}),
    ("zoom", {}),
    ("zoom", {"region": [0, 0, 10]}),
    ("left_click", {"coordinate": [1.5, 2]}),
    ("left_click", {"coordinate": "1, 2"}),
    ("left_click", {"coordinate": [1, 2, 3]}),
    ("left_click_drag", {"start_coordinate": [3, 4]}),
    ("scroll", {"scroll_direction": "down"}),
    ("scroll", {"scroll_direction": "Down", "scroll_amount": 1}),
    ("scroll", {"scroll_direction": "down", "scroll_amount": 101}),
    ("type", {"text": "x" * 10_001}),
    ("key", {"text": ""}),
    ("key", {"text": "a", "repeat": 0}),
    ("hold_key", {"text": "a"}),
    ("wait", {"duration": 301}),
    ("wait", {"duration": -1}),
    ("wait", {"duration": "1"}),
]


def test_every_action_is_a_tool() -> None:
    assert tuple(SCHEMAS) == VERSIONS[TOOLSET].actions
    for tool in TOOLS:
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert list(tool.input_schema["properties"]) == PARAMETERS[tool.name].names()
        assert tool.input_schema["required"] == list(PARAMETERS[tool.name].needs)
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name in LOOKS)


@pytest.mark.parametrize(("name", "given"), RIGHT)
def test_what_a_schema_allows_is_taken(name: str, given: dict[str, Any]) -> None:
    jsonschema.validate(given, SCHEMAS[name])
    arguments(name, given)


@pytest.mark.parametrize(("name", "given"), WRONG)
def test_what_is_refused_no_schema_allows(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(given, SCHEMAS[name])
    with pytest.raises(Refused):
        arguments(name, given)


def test_a_result_has_its_texts_and_pictures_in_order() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    blocks = [{"type": "text", "text": "OK"}, {"type": "image", "source": source}]
    result = tool_result({"is_error": False, "content": blocks})
    assert result.model_dump(by_alias=True, exclude_none=True)["content"] == [
        {"type": "text", "text": "OK"},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
    ]
    assert tool_result({"is_error": True, "content": []}).is_error


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("mcp", "Missing option '--desktop'"),
        ("mcp --desktop windows", "'windows' is no desktop; use pattern, "),
        ("mcp --desktop pattern --http 8000", "'8000' is not HOST:PORT"),
        ("mcp --desktop pattern --password-file /etc/hostname", "pattern has no password"),
        ("mcp --desktop pattern --token-file /etc/hostname", "a token is for --http only"),
        ("mcp --desktop pattern --no-token", "a token is for --http only"),
        (
            "mcp --desktop pattern --http [::1]:0 --no-token --token-file /etc/hostname",
            "--token-file says that there is one",
        ),
        ("mcp --desktop pattern --http [::1]:0 --token-file no", "file 'no' does not exist"),
        ("mcp --desktop pattern --http 127.0.0.1:0 --token-file empty", "line of empty is empty"),
        (
            "mcp --desktop pattern --http 0.0.0.0:0 --no-token",
            "whoever reaches 0.0.0.0:0 would have the",
        ),
        (
            "mcp --desktop pattern --http [::]:0 --no-token",
            "whoever reaches [::]:0 would have the desktop",
        ),
        (
            "mcp --desktop pattern --http desk:0 --no-token",
            "whoever reaches desk:0 would have the desktop",
        ),
    ],
)
def test_wrong_use_is_one_line(
    line: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\nsecret\n")
    status = run(line.split())
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("deskrelay: ")
    assert text in err
    assert err.count("\n") == 1


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [*COMMAND, "--desktop", "pattern", "--http", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"deskrelay: cannot listen on {address}: Address already in use\n"


def test_without_its_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("api.mcp.http", "api.mcp.server", "api.mcp.tools", "api.mcp.session"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    assert run(["mcp", "--desktop", "pattern"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(' is not installed; pip install "deskrelay[server,agent]" brings it\n')
    assert err.count("\n") == 1


def test_other_commands_load_none_of_its_packages() -> None:
    names = ("mcp", "mcp_types", "numpy", "PIL")
    code = f"import sys, api.cli.commands; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
