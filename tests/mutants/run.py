"""Takes each check out of the parsers in turn and demands that a test fails for it.

    python tests/mutants/run.py [word ...]     # only those whose line in the table has all words

A mutant is one change of one place, found in the syntax tree: a fault that is not raised, a
condition that never holds, has an operand less or its boundary moved, a message let through that
is to be dropped, an edit, a clamp or a note in the shared state left out, a limit one off. Each
is made in a copy of the packages, and the tests that enter the changed function run against it,
the quickest first, until one fails. What runs for too long counts as caught.

mutants.toml names those that may survive, and why. The tests on captures are left out: not every
checkout has captures beside it.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis  # noqa: F401  (loaded once here, not in each child)
import pytest
import trio  # noqa: F401

# Not by tests.labs: a child imports `tests` from its own copy of the tree.
ROOT = Path(__file__).resolve().parents[2]
ACCEPTED: dict[str, str] = tomllib.loads((ROOT / "tests/mutants/mutants.toml").read_text())
MUTATED = ("relay/rfb/**/*.py", "relay/net/websocket.py", "relay/limits.py")
# These look at recordings; nothing passes through them.
NOT_MUTATED = {ROOT / "relay/rfb/describe.py", ROOT / "relay/rfb/observed_handshake.py"}
KILLERS = (
    "tests/rfb/test_*.py",
    "tests/net/test_websocket.py",
    "tests/pumps/test_leg.py",
    "tests/dialling/test_login.py",
)
NOT_KILLERS = {
    *ROOT.glob("tests/rfb/test_*captures.py"),
    ROOT / "tests/rfb/test_pixel_format_toggling.py",
}

PROCESSES = 2
MEMORY_LIMIT_BYTES = 2 << 30
"""A mutant may also grow for ever."""

_BOUNDARY: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
}


_UNITS = ("_BYTES", "_PX", "_FRAMES")


@dataclass(frozen=True)
class Mutant:
    """`rule` is the word of the check's fault, where it has one; `source` the whole file."""

    path: str
    line: int
    function: str
    rule: str
    change: str
    source: str

    @property
    def key(self) -> str:
        """What it is whatever the lines around it: as in ACCEPTED."""
        return f"{self.path} {self.function}: {self.change}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.rule or '-'}  {self.function}: {self.change}"


class _Finder(ast.NodeVisitor):
    """Collects the mutants of one file."""

    def __init__(self, path: str, source: str) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._bytes = source.encode()
        self._lines = [0]
        for line in self._bytes.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        # Names of the scopes around, as in __qualname__; and rules of the conditions around.
        self._scopes: list[str] = []
        self._in_function = False
        self._rules = [""]
        tree = ast.parse(source)
        self._bounds = path.endswith("limits.py")
        self.visit(tree)

    def _span(self, first: ast.AST, last: ast.AST | None = None) -> tuple[int, int]:
        last = last or first
        assert isinstance(first, ast.expr | ast.stmt)
        assert isinstance(last, ast.expr | ast.stmt)
        assert last.end_lineno is not None
        assert last.end_col_offset is not None
        return (
            self._lines[first.lineno - 1] + first.col_offset,
            self._lines[last.end_lineno - 1] + last.end_col_offset,
        )

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._bytes[start:end].decode()

    def _add(self, start: int, end: int, after: str, shown: tuple[str, str] | None = None) -> None:
        before = self._bytes[start:end].decode()
        was, now = shown or (before, after)
        self.found.append(
            Mutant(
                self._path,
                self._bytes.count(b"\n", 0, start) + 1,
                ".".join(self._scopes) or "module",
                self._rules[-1],
                f"{' '.join(was.split())} -> {' '.join(now.split())}",
                (self._bytes[:start] + after.encode() + self._bytes[end:]).decode(),
            )
        )

    def _replace(self, node: ast.AST, after: str) -> None:
        self._add(*self._span(node), after)

    # Scopes.

    def _scope(self, node: Any, names: list[str], in_function: bool) -> None:
        before = self._in_function
        self._scopes += names
        self._in_function = in_function
        self.generic_visit(node)
        self._in_function = before
        del self._scopes[-len(names) :]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope(node, [node.name], False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scope(node, [node.name], True)

    # Checks.

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None and _word(node.exc) != "NotImplementedError":
            self._rules.append(_rule(node.exc) or self._rules[-1])
            self._replace(node, "pass")
            self._rules.pop()

    def _conditional(self, node: ast.If | ast.While | ast.IfExp) -> None:
        body, orelse = _nodes(node.body), _nodes(node.orelse)
        raised = [_rule(n.exc) for n in body if isinstance(n, ast.Raise) and n.exc]
        self._rules.append(next((rule for rule in raised if rule), self._rules[-1]))
        # A condition whose only consequence is a fault: the fault that is not raised says it.
        if orelse or not isinstance(body[0], ast.Raise):
            self._replace(node.test, "False")
        self._literals(node.test)
        self.visit(node.test)
        self._rules.pop()
        for child in [*body, *orelse]:
            self.visit(child)

    def visit_If(self, node: ast.If) -> None:
        if _word(node.test) != "TYPE_CHECKING":
            self._conditional(node)

    def visit_While(self, node: ast.While) -> None:
        self._conditional(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._conditional(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        values = node.values
        for i, value in enumerate(values):
            start, end = self._span(value)
            # Up to the next operand, or back to the one before; parentheses stay balanced
            # because the operand alone is replaced by what changes nothing.
            neutral = "True" if isinstance(node.op, ast.And) else "False"
            self._add(start, end, neutral, (self._text(node), f"without {self._text(values[i])}"))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for i, operator in enumerate(node.ops):
            if type(operator) in _BOUNDARY:
                was, now = _BOUNDARY[type(operator)]
                start, end = self._span(operands[i])[1], self._span(operands[i + 1])[0]
                between = self._bytes[start:end].decode()
                shown = self._text(operands[i]) + f" {now} " + self._text(operands[i + 1])
                before = self._text(operands[i]) + f" {was} " + self._text(operands[i + 1])
                self._add(start, end, between.replace(was, now), (before, shown))
        self.generic_visit(node)

    # Edits, and what is noted for later.

    def _statement(self, node: ast.Assign | ast.AugAssign | ast.Expr) -> None:
        if self._in_function and self._scopes[-1] != "__init__" and _has_effect(node):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._statement(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        self._statement(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if _is_limit(node):
            self._literals(node.value)
        self._statement(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if self._bounds and node.value is not None:
            assert isinstance(node.target, ast.Name)
            if f".{node.target.id}" in _RFB_SOURCE:
                self._literals(node.value)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if self._scopes[-1] in ("limit", "size", "_update_limit_bytes") and node.value:
            self._literals(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        word = _word(node)
        if word == "_drop":
            assert isinstance(node.func, ast.Attribute)
            self._replace(node.func, "self._body")
        elif word in ("min", "max") and len(node.args) == 2:
            for argument in node.args:
                self._replace(node, f"({self._text(argument)})")
        self.generic_visit(node)

    def _literals(self, node: ast.expr) -> None:
        """Each number in a limit one more and one less."""
        for child in ast.walk(node):
            if isinstance(child, ast.Constant) and type(child.value) is int and child.value > 1:
                start, end = self._span(child)
                for value in (child.value + 1, child.value - 1):
                    start_of_all, _ = self._span(node)
                    was = self._text(node)
                    at = start - start_of_all
                    raw = was.encode()
                    now = raw[:at] + str(value).encode() + raw[at + end - start :]
                    self._add(start, end, str(value), (was, now.decode()))


def _nodes(branch: ast.expr | list[ast.stmt]) -> Sequence[ast.AST]:
    return branch if isinstance(branch, list) else [branch]


def _word(node: ast.AST) -> str:
    """The last name of what is called or raised."""
    if isinstance(node, ast.Call):
        return _word(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _rule(raised: ast.expr) -> str:
    if isinstance(raised, ast.Call) and raised.args:
        first = raised.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value if " " not in first.value else ""
    return ""


def _has_effect(node: ast.Assign | ast.AugAssign | ast.Expr) -> bool:
    """Whether a statement changes more than a local variable."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)


def _is_limit(node: ast.Assign) -> bool:
    names = [_word(target).strip("_").upper() for target in node.targets]
    return any(
        name == "LEFT" or name.startswith("MAX") or "LIMIT" in name or name.endswith(_UNITS)
        for name in names
    )


_RFB_SOURCE = "".join(path.read_text() for path in sorted(ROOT.glob("relay/rfb/**/*.py")))


def mutants() -> Iterator[Mutant]:
    """Every mutant, by file and line. A change that another one makes too is left out."""
    for pattern in MUTATED:
        for path in sorted({*ROOT.glob(pattern)} - NOT_MUTATED):
            found = _Finder(str(path.relative_to(ROOT)), path.read_text()).found
            yield from {mutant.source: mutant for mutant in reversed(found)}.values()


# The runner.

Tests = dict[str, tuple[float, list[str]]]
"""By test: its duration in seconds, and the functions it enters as "path function"."""


class _Watch:
    """A plugin: notes what each test enters, and how long it takes."""

    def __init__(self, copy: Path) -> None:
        self._prefix = f"{copy}/"
        self._entered: set[str] = set()
        self.result: Tests = {}

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self._prefix):
            path = code.co_filename.removeprefix(self._prefix)
            self._entered.add(f"{path} {code.co_qualname}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._entered = set()
        before = time.perf_counter()
        sys.setprofile(self._event)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            took_s = time.perf_counter() - before
            self.result[item.nodeid] = took_s, sorted(self._entered)


class _Hunt:
    """A plugin: runs the given tests in the given order; `result` is the one that failed."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: i for i, test in enumerate(tests)}
        self.result = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._place]
        items.sort(key=lambda item: self._place[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.result = "(cannot be imported)"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.result = report.nodeid


def _run(copy: Path, files: list[str], plugin: _Watch | _Hunt, limit_s: int) -> tuple[int, Any]:
    """pytest over `files` of `copy` in a child: its exit code, or minus the signal that ended it,
    and what the plugin found."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 70
        try:
            os.close(reading)
            signal.alarm(limit_s)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
            os.chdir(copy)
            sys.path[0] = str(copy)
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            # Of a library that is loaded already; here warnings are errors.
            ignore = "ignore::pytest.PytestAssertRewriteWarning"
            options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-W", ignore]
            status = int(pytest.main([*options, *files], plugins=[plugin]))
            with os.fdopen(writing, "w") as pipe:
                json.dump(plugin.result, pipe)
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), json.loads(found) if found else None


class _Worker:
    """One process and its own copy of the packages."""

    def __init__(self, whole: Path, tests: Tests) -> None:
        self._tests = sorted(tests, key=lambda test: tests[test][0])
        self._entered = {test: set(entered) for test, (_, entered) in tests.items()}
        self._took_s = {test: took_s for test, (took_s, _) in tests.items()}
        self._whole = whole
        self._copy = Path(tempfile.mkdtemp(dir=whole.parent))
        shutil.copytree(whole, self._copy, dirs_exist_ok=True)
        sys.dont_write_bytecode = True

    def catcher(self, mutant: Mutant) -> str:
        """The test that fails for the mutant, or nothing."""
        place = f"{mutant.path} {mutant.function}"
        tests = [test for test in self._tests if place in self._entered[test]] or self._tests
        files = sorted({test.partition("::")[0] for test in tests})
        path = self._copy / mutant.path
        # The compiled file is dated in whole seconds, so it could pass for the mutant's.
        compiled = Path(importlib.util.cache_from_source(str(path)))
        kept = compiled.read_bytes()
        compiled.unlink()
        path.write_text(mutant.source)
        limit_s = 10 + int(3 * sum(self._took_s[test] for test in tests))
        code, found = _run(self._copy, files, _Hunt(tests), limit_s)
        # Not from ROOT, where somebody may be at work meanwhile.
        shutil.copy2(self._whole / mutant.path, path)
        compiled.write_bytes(kept)
        if code == -signal.SIGALRM:
            return "(time limit)"
        if code not in (0, 1, 2):
            raise RuntimeError(f"{mutant}: pytest ended with {code}")
        return str(found)


_worker: Callable[[Mutant], str]


def _begin(whole: Path, tests: Tests) -> None:
    global _worker
    _worker = _Worker(whole, tests).catcher


def _catch(mutant: Mutant) -> str:
    return _worker(mutant)


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in mutants() if all(word in str(mutant) for word in words)]
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory) / "whole"
        for package in ("relay", "tests"):
            shutil.copytree(
                ROOT / package, whole / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy2(ROOT / "pyproject.toml", whole)
        killers = sorted({p for pattern in KILLERS for p in ROOT.glob(pattern)} - NOT_KILLERS)
        files = [str(path.relative_to(ROOT)) for path in killers]
        sys.dont_write_bytecode = False
        code, tests = _run(whole, files, _Watch(whole), 600)
        if code:
            print("the tests fail without any change")
            return 2
        outcomes = Counter[str]()
        with ProcessPoolExecutor(PROCESSES, initializer=_begin, initargs=(whole, tests)) as pool:
            for mutant, catcher in zip(chosen, pool.map(_catch, chosen), strict=True):
                accepted = ACCEPTED.get(mutant.key)
                if catcher:
                    outcome = "caught, though accepted" if accepted else "caught"
                else:
                    outcome = "accepted" if accepted else "SURVIVED"
                outcomes[outcome] += 1
                print(f"{mutant}\n    {outcome}: {catcher or accepted or ''}", flush=True)
    unknown = ACCEPTED.keys() - {mutant.key for mutant in mutants()}
    for key in sorted(unknown):
        print(f"accepted, and there is no such mutant: {key}")
    print(f"{len(chosen)} mutants, {len(tests)} tests:", dict(outcomes))
    return int(bool(outcomes.keys() - {"caught", "accepted"} or unknown))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
