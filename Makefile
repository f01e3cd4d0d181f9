# make demo, make test, make lint, make docs, make bench: each sets up .venv first.
# make test leaves out what takes long: make test MARK=slow runs that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MARK ?= not slow

.PHONY: demo test bench lint docs venv clean

demo: venv
	$(BIN)/python launch/attack.py --config=configs/quickstart.py --workdir=runs/demo

test: venv
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m '$(MARK)' tests

# About an hour on two cores; PEERS=breaching,torch,torch_compile after
# `pip install -e '.[peers]'` sets them beside our rows.
bench: venv
	PYTHONPATH=. $(BIN)/python benchmarks/all.py $(if $(PEERS),--peers=$(PEERS))

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, in site/; any warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo site/index.html

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

venv: $(VENV)/.ready

$(VENV)/.ready: setup.py pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}. Say make PYTHON=python3.12, for example.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs site build dist *.egg-info .mypy_cache
