# Everything a newcomer needs. Only Python 3.11+ and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# aiconfigurator-core has wheels for Linux on x86-64 alone; elsewhere the roofline serves.
ifeq ($(shell uname -sm),Linux x86_64)
DEMO := [silicon]
TEST := [silicon,test]
else
DEMO :=
TEST := [test]
endif

.PHONY: demo test bench lint clean

demo: $(VENV)/demo
	$(BIN)/zenith optimize --model llama-3.1-8b --device h100-sxm-80gb --gpus 4 \
		--trace traces/samples/chat.csv --slo "ttft_p95<=300ms"

test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/mypy planner simulator formulations profiles traces cli.py
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: $(VENV)/test
	$(BIN)/python -m tests.benchmarks.bench_simulator

lint: $(VENV)/test
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

$(VENV)/demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --quiet --editable ".$(DEMO)"
	touch $@

$(VENV)/test: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --quiet --editable ".$(TEST)"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
