# kd-offline: make help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_STAMP := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed
RUN := $(BIN)/kd-offline
# Without --no-compile, pip compiles every module on one core, tests of libraries as well.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib
LOCKED := $(PIP) --require-hashes --no-deps
DEMO := demo
# Where results are made: also ray or ray://HOST:PORT.
ON ?= processes:2

# Programs that run one after the other should not each compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install lock format check quick test test-processors demo results results-combat results-ddn results-methods anchors schemas help-texts docs build test-wheel clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything pinned; instant when it is there

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kd-offline needs Python 3.11 or newer: make install PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Every file that is installed has one of the hashes in requirements/. Nothing is resolved, so nothing
# can bring another build of torch. A build for CUDA gets the libraries that it names.
# The demo needs few packages; everything else comes on top of them.
$(DEMO_STAMP): pyproject.toml $(filter-out %/development.txt,$(wildcard requirements/*.txt)) | $(BIN)/python
	@echo "the CPU build of torch, or else the one for CUDA"
	@$(LOCKED) -r requirements/torch-cpu.txt 2>/dev/null || $(LOCKED) -r requirements/torch.txt
	@! grep -q '^Requires-Dist: nvidia' $(VENV)/lib/python*/site-packages/torch-*.dist-info/METADATA \
		|| $(LOCKED) -r requirements/cuda.txt
	$(LOCKED) -r requirements/build.txt
	$(LOCKED) -r requirements/demo.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(STAMP): $(DEMO_STAMP) requirements/development.txt
	$(LOCKED) --no-build-isolation -r requirements/development.txt
	@$(COMPILE) || true # some libraries hold files of other versions of Python
	@touch $@

lock: install ## write requirements/*.txt from pyproject.toml and constraints.txt
	$(BIN)/python .ci/lock.py

format: install ## format the code and repair what can be repaired
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format -q .

check: install ## lint, types, import direction, schemas and help texts in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m kd_offline.schemas.publish --check schemas
	$(BIN)/python -m kd_offline.cli.reference --check cli/reference
	$(BIN)/pytest tests/contracts/test_imports.py

# What most changes break first: costs, losses, networks, rollouts, the format and its checks.
QUICK := $(addprefix tests/unit/,distributions evaluation hardware networks rollout schemas students) \
	$(addprefix tests/unit/,distillation/terms datasets/format datasets/validation datasets/loading) \
	tests/golden/test_for_ever.py

# Files are handed out in the order of their names, which has the dearest folders first: with those of
# the fewest tests last, one process would often be busy with a long file when the others have ended.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

quick: install ## run a useful part of the tests in under a minute
	$(PYTEST) -q $(QUICK)

test: install ## run all tests, on every core
	$(PYTEST) --junit-xml=build/tests.xml

# Libraries choose their code by the processor; these settings hold them to what an older one has.
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 \
	OPENBLAS_CORETYPE=Haswell XLA_FLAGS=--xla_cpu_max_isa=AVX2 \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"
SSE := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 \
	OPENBLAS_CORETYPE=Nehalem XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"

test-processors: install ## run all tests as on processors without AVX-512, and without AVX2
	$(AVX2) $(MAKE) test
	$(SSE) $(MAKE) test

demo: $(DEMO_STAMP) ## record, distil two teams, evaluate, report: a minute and a half, into demo/
	@rm -rf $(DEMO)
	$(RUN) record mpe/simple_spread_v3 -o $(DEMO)/dataset.zarr --episodes 20000
	@echo "two teams side by side: one that sees all, and a masked one of unequal widths"
	$(RUN) distill $(DEMO)/dataset.zarr -o $(DEMO)/masked --mask limited --hidden 32,16,16 --epochs 10 -q & \
	$(RUN) distill $(DEMO)/dataset.zarr -o $(DEMO)/run --hidden 32 --set student.depth=0 --epochs 10; \
	whole=$$?; wait $$! && exit $$whole
	$(RUN) evaluate $(DEMO)/run --episodes 1000
	$(RUN) evaluate $(DEMO)/masked --episodes 1000
	$(RUN) report $(DEMO)/run -o $(DEMO)/report.html
	@printf '\ndataset  %s\nteams    %s %s\nreport   %s\n' $(DEMO)/dataset.zarr $(DEMO)/run/ $(DEMO)/masked/ $(DEMO)/report.html

results: install ## make docs/results.md again: hours, resumable
	$(BIN)/python -m benchmarks.results.run --on $(ON)
	$(BIN)/python -m benchmarks.results.render
	$(BIN)/python -m benchmarks.results.figure

anchors: install ## make docs/anchors.md again: hours, resumable
	$(BIN)/python -m benchmarks.anchors

results-combat: install ## make docs/results-combat.md again: many hours, resumable
	$(BIN)/python -m benchmarks.results.run --study combat --on $(ON)
	$(BIN)/python -m benchmarks.results.render_combat

results-ddn: install ## make docs/results-ddn.md again: core-hours, resumable
	$(BIN)/python -m benchmarks.results.run --study ddn --on $(ON)
	$(BIN)/python -m benchmarks.results.render_ddn

results-methods: install ## make docs/results-methods.md again: many hours, resumable
	$(BIN)/python -m benchmarks.results.run --study methods --on $(ON)
	$(BIN)/python -m benchmarks.results.render_methods

schemas: install ## write schemas/*.schema.json
	$(BIN)/python -m kd_offline.schemas.publish --write schemas

help-texts: install ## write cli/reference/*.txt
	$(BIN)/python -m kd_offline.cli.reference --write cli/reference

docs: install ## build the site: open build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

build: install ## build the wheel and the source archive into dist/
	@rm -rf dist
	$(BIN)/python -m build -q --no-isolation

test-wheel: build ## install the wheel elsewhere and run it
	$(BIN)/python -m pytest tests/end_to_end/test_wheel.py

clean: ## remove what can be made again, not .venv
	rm -rf build dist $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
