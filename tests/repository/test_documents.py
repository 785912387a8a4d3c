"""What the documents list is what there is: settings in docs/http.md, close codes in
docs/operations.md. docs/protocol.md has a test of its own."""

from __future__ import annotations

import re

from pydantic import BaseModel

from api.budgets import BudgetSettings
from api.settings import Settings
from relay.rfb.errors import CloseCode
from tests.labs.places import ROOT


def named(model: type[BaseModel], above: str = "") -> set[str]:
    """The settings of a model, those of its tables by `table.name`. Limits are `relay.Limits`'."""
    names = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= named(kind, f"{name}.")
        else:
            names.add(above + name)
    return names


def first_cells(document: str, head: str) -> list[str]:
    """The first column of the table under a head."""
    text = (ROOT / "docs" / document).read_text()
    table = text.partition(head)[2].partition("\n\n")[0]
    return [row.split("|")[1] for row in table.strip().splitlines()]


def test_settings() -> None:
    cells = first_cells("http.md", "| Name | Default | Environment |\n|---|---|---|")
    assert set(re.findall("`([^`]+)`", " ".join(cells))) == named(Settings)


def test_budgets() -> None:
    """Each with its default."""
    text = (ROOT / "docs/http.md").read_text()
    table = text.partition("| Budget | Default | Why |\n|---|---|---|")[2].partition("\n\n")[0]
    rows = [re.findall("`([^`]+)`", row)[:2] for row in table.strip().splitlines()]
    defaults = BudgetSettings().model_dump()
    assert rows == [
        [name, f"{value:g}" if value < 1e6 else str(value)] for name, value in defaults.items()
    ]


def test_close_codes() -> None:
    cells = first_cells("operations.md", "| close code | meaning | the page |\n|---|---|---|")
    listed = {int(code) for cell in cells for code in re.findall(r"\d+", cell)}
    # The page knows it, and nothing sends it.
    assert listed == set(CloseCode) - {CloseCode.TRY_LATER}
