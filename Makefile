# Every command sets up all it needs in .venv, once, with the versions of constraints.txt.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PUBLIC := $(VENV)/.networks
LINKS  := build/typing/hwgate
INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check \
           --constraint constraints.txt

# Packages are compiled as they are loaded, and only once: hundreds of processes load them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all exact soak bench networks results lint docs clean

help:
	@echo "make demo   from a gated network to a verified accelerator (ARGS='--images 64', ...)"
	@echo "make test   the tests (ARGS='-k gate', ...); make test-all: the long sweeps as well"
	@echo "make exact  500 random layers and 20 networks, RTL against models (ARGS='--seed 1000', ...)"
	@echo "make soak   1,000 images in sequence in one simulator process"
	@echo "make bench  utilisation, gating efficiency, lost cycles, speed (ARGS='--full', '--help')"
	@echo "make networks  public networks on their way in: docs/networks.md (ARGS='--only NAME', ...)"
	@echo "make results  the zoo's networks on the accelerator: docs/results.md and its figures"
	@echo "make lint   style and types"
	@echo "make docs   the tables of docs/ that come from the code"
	@echo "make clean  removes build/ and .venv/"

demo: $(STAMP)
	@$(BIN)/hwgate demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(STAMP)
	@HWGATE_ALL=1 $(BIN)/python -m pytest $(ARGS)

exact: $(STAMP)
	@$(BIN)/python tests/exact.py $(ARGS)

soak: $(STAMP)
	@$(BIN)/python tests/soak.py $(ARGS)

results: $(STAMP)
	@$(BIN)/python -m hwgate.zoo --page docs/results.md $(ARGS)

networks: $(PUBLIC)
	@$(BIN)/python tests/networks.py --page docs/networks.md $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m hwgate.bench $(ARGS)

# mypy cannot follow setup.py's mapping of the top-level folders; links lay them out for it.
lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/python -m hwgate.show.docs --check
	@rm -rf build/typing && mkdir -p $(LINKS)
	@ln -s $(CURDIR)/hwgate/* $(CURDIR)/rtl $(CURDIR)/quant $(CURDIR)/sim $(LINKS)/
	@$(BIN)/mypy

docs: $(STAMP)
	@$(BIN)/python -m hwgate.show.docs

clean:
	rm -rf build $(VENV)

# The stamp comes last, so a set-up that fails is repeated.
$(STAMP): pyproject.toml setup.py constraints.txt
	@rm -f $@; \
	python=; \
	for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if command -v $$p >/dev/null 2>&1 && $$p -c 'import ensurepip, sys, venv; \
	sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "hwgate needs Python 3.11 or newer with venv (Debian, Ubuntu: apt install python3-venv)" >&2; \
	    exit 1; \
	fi; \
	found=; \
	for c in $${CXX:-c++ g++ clang++}; do \
	    if command -v $$c >/dev/null 2>&1; then found=$$c; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "hwgate needs a C++ compiler (Debian, Ubuntu: apt install g++)" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) (once; PyTorch is large)"; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $$python -m venv --clear $(VENV) || exit 1; \
	$(INSTALL) --editable '.[test]' && $(INSTALL) --no-deps pytorchcv pyosys || exit 1; \
	touch $@

# Definitions come without what their libraries ask for: they need torch alone, and it stays as it
# is. The tests have those of pytorchcv, which is small, and Yosys of the extra fpga.
$(PUBLIC): $(STAMP)
	@$(INSTALL) --no-deps timm torchvision
	@touch $@
