# One word a task; the same at the desk and in CI.
# The newest Python from 3.11 on that runs and can make environments; `make venv PYTHON=…` takes another.
PYTHON ?= $(shell for one in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$one -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$one && break; done)
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt

.PHONY: venv constraints study test test-all test-page screenshots tables check format bench bench-gpu clean

venv: .venv/installed

# torch first, by pip and from constraints.txt: a range would bring its newest build. torchvision and timm are for
# tests, and neither may choose another torch.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python from 3.11 on that can make environments was found; install one, or name it: make venv PYTHON=…" >&2; exit 1; }
	@echo "Building .venv with $(PYTHON), once: some minutes, most of it torch."
	$(PYTHON) -m venv .venv
	$(PIP) torch numpy
	$(PIP) -e '.[lab,dev]'
	$(PIP) --no-deps torchvision timm
	touch $@

# What every package's version is, from what is installed; after a change of pyproject.toml or to take newer ones:
# `rm -r .venv && echo torch==X > constraints.txt && make constraints`.
constraints: venv
	{ echo "# Every package of the environment that make venv builds; made by make constraints."; \
	  $(BIN)/pip freeze --exclude-editable --disable-pip-version-check | sed 's/ @ .*//; s/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt
	touch .venv/installed

# Anew each time: after a change of the code, earlier trials are not its own. A study by hand goes on where it stopped.
study: venv
	rm -rf results/make-study
	$(BIN)/truenorm study --out results/make-study

# Everything but what is slow: the whole zoo of networks, kernels interpreted in every combination, long processes.
test: venv
	$(BIN)/pytest --ignore=tests/page -n auto --dist loadfile -m "not slow"

test-all: venv
	$(BIN)/pytest --ignore=tests/page -n auto --dist loadfile

# Reports in a browser; the chromium is that of the system.
test-page: venv
	$(BIN)/pytest tests/page

screenshots: venv
	$(BIN)/python tests/page/screenshots.py

# The tables of README.md and docs/, from the records.
tables: venv
	$(BIN)/python docs/tables.py

check: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright -p pyproject.toml

format: venv
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: venv
	$(BIN)/python benchmarks/watching.py --pairs 50 --out benchmarks/results/watching.json
	$(BIN)/python benchmarks/layers.py --pairs 40 --out benchmarks/results/layers.json
	$(BIN)/python benchmarks/dynamic.py --pairs 60 --out benchmarks/results/dynamic.json
	$(BIN)/python benchmarks/doctor.py --pairs 8 --out benchmarks/results/doctor.json
	$(BIN)/python benchmarks/diagnosis.py --pairs 4 --out benchmarks/results/diagnosis.json
	$(BIN)/python benchmarks/arms.py --pairs 4 --out benchmarks/results/arms.json
	$(BIN)/python benchmarks/study.py --pairs 4 --out benchmarks/results/study.json
	$(BIN)/python benchmarks/first_call.py --pairs 12 --out benchmarks/results/first_call.json
	$(BIN)/python benchmarks/reading.py --pairs 40 --out benchmarks/results/reading.json

# On a machine with an NVIDIA GPU, under eight minutes.
bench-gpu: venv
	$(BIN)/python benchmarks/gpu.py --e2e --out benchmarks/results/gpu

clean:
	rm -rf .venv results .pytest_cache .ruff_cache .hypothesis
