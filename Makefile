# One word a task; the same at the desk and in CI.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: venv study test test-page screenshots tables check format bench bench-gpu clean

venv: .venv/installed

# torch first, by pip and from constraints.txt: a range would bring its newest build. torchvision is for
# timm, which is for tests; neither may choose another torch.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch numpy
	$(BIN)/pip install --quiet -c constraints.txt -e '.[lab,dev]'
	$(BIN)/pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31
	touch $@

# A study goes on where it stopped; after a change of the code the trials of before are not its own.
study: venv
	rm -rf results/study
	$(BIN)/truenorm study

test: venv
	$(BIN)/pytest --ignore=tests/page

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
	$(BIN)/python benchmarks/doctor.py --pairs 8 --out benchmarks/results/doctor.json
	$(BIN)/python benchmarks/arms.py --pairs 4 --out benchmarks/results/arms.json
	$(BIN)/python benchmarks/study.py --pairs 4 --out benchmarks/results/study.json

# On a machine with an NVIDIA GPU, under eight minutes.
bench-gpu: venv
	$(BIN)/python benchmarks/gpu.py --e2e --out benchmarks/results/gpu

clean:
	rm -rf .venv results .pytest_cache .ruff_cache .hypothesis
