# The commands a developer needs; CI calls the same ones (.ci/run).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NOVNC := api/viewer/novnc
NOVNC_VERSION := 1.7.0
NOVNC_SHA256 := 32689f18d6abe96bc6530828a6bd0b9ae33bda07c083a6575ed255b5a8f2e903

.PHONY: setup novnc lock run test check format schemathesis autobahn hostile mutants bench guard fuzz clean

setup: $(VENV)/.done $(NOVNC)/.done

# Quiet on stdout, which belongs to what `make run ARGS=--json` prints. Everything is what the lock
# says, pip itself and what builds the project included.
$(VENV)/.done: pyproject.toml requirements/dev.txt
	@echo "Setting up $(VENV); this takes half a minute." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

novnc: $(NOVNC)/.done

# noVNC ships as ES modules, so its npm package is served as it is: no bundler.
$(NOVNC)/.done: Makefile
	@rm -rf $(NOVNC) && mkdir -p $(NOVNC)
	@cd $(NOVNC) && npm pack --silent @novnc/novnc@$(NOVNC_VERSION) >/dev/null \
	  && echo "$(NOVNC_SHA256) *novnc-novnc-$(NOVNC_VERSION).tgz" | sha256sum --check --quiet \
	  && tar -xzf *.tgz --strip-components=1 && rm -f *.tgz
	@touch $@

# After a change of the requirements in pyproject.toml: what is locked stays as far as they let it.
# ARGS=--upgrade takes the newest of everything.
LOCK = $(BIN)/uv --quiet --no-config pip compile --universal --generate-hashes --no-annotate \
  --fork-strategy fewest --python-version 3.11 --custom-compile-command "make lock" $(ARGS)
lock: $(VENV)/.done
	$(LOCK) pyproject.toml --extra server --group dev --group build -o requirements/dev.txt
	$(LOCK) pyproject.toml --all-extras --group build -c requirements/dev.txt -o requirements/server.txt

run: setup
	@.ci/desktop-packages || true
	@$(BIN)/deskrelay demo $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Whether the HTTP interface is what its schema says, with every check of schemathesis; half a
# minute. In an environment of its own: it would be a plugin of every run of pytest.
schemathesis: setup $(VENV)-schemathesis/.done
	$(BIN)/python -m tests.schemathesis.run $(ARGS)

$(VENV)-schemathesis/.done: pyproject.toml
	@$(PYTHON) -m venv $(VENV)-schemathesis
	@$(VENV)-schemathesis/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(VENV)-schemathesis/bin/python -m pip install --quiet --group schemathesis
	@touch $@

# WebSocket conformance; needs a Python 2.7, which the suite is written in.
autobahn: setup
	$(BIN)/python -m tests.autobahn.run

# Hostile desktops and viewers, which lie beside the checkout; about five minutes.
hostile: setup
	$(BIN)/python -m tests.hostile.run

# Takes each check out in turn; about an hour. WORDS=flow for those of one file or function.
mutants: setup
	$(BIN)/python tests/mutants/run.py $(WORDS)

# Ours and its peers in turn, some minutes; ARGS="--help" for less. Reports in bench/results.
bench: setup
	$(BIN)/python -m bench $(ARGS)
	$(BIN)/python -m bench.framing

# Whether ours holds its place among its peers: a job of its own, for it needs a quiet machine.
guard: setup
	$(BIN)/python -m bench.guard $(ARGS)

# All targets together; TARGETS=viewer for one.
fuzz: setup
	$(BIN)/python -m fuzz.driver --seconds $(or $(SECONDS),60) $(TARGETS)

clean:
	rm -rf $(VENV) $(VENV)-schemathesis $(NOVNC) build dist *.egg-info
