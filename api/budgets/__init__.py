"""How much one user, one desktop or one address may have at once, so that there is some left for
the others."""

from __future__ import annotations

from api.budgets.budgets import Budgets
from api.budgets.guesses import Guesses
from api.budgets.held import Held, Place
from api.budgets.over import EVERYBODY, OverBudget
from api.budgets.settings import BudgetSettings

__all__ = ["EVERYBODY", "BudgetSettings", "Budgets", "Guesses", "Held", "OverBudget", "Place"]
