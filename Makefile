# The targets; each sets up what it needs.
#
#   make run            boot Debian's arm64 kernel in a realm, to a shell   (ARGS="-c 2" adds options)
#   make test           lint, type check, import table, tests
#   make bench          benchmarks, a table and build/bench.json            (ONLY=alu selects one)
#   make soak           the slow tests: full fuzz counts, long boots        (SEED=1 repeats a run)
#   make coverage       lines of rmm and monitor that their tests reach: all
#   make mutation       whether the tests detect small changes to the RMM's tables and granules
#   make mutation-core  whether the tests detect small changes to the translator    (SAMPLE=60 tries some)
#   make sanitize       the core's tests under ASan and UBSan, tests with threads under TSan
#   make test-aarch64   the core's tests as on an arm64 machine, in qemu-aarch64; TESTS=... selects
#   make conformance    Arm's test suites, built by you: ACS=PATH TFTF=PATH (docs/conformance.md)
#   make man            man pages of all commands, in build/man
#   make dist           sdist, wheel and SBOM for PyPI, in build/dist
#   make setup | lint | format | gen | clean

PYTHON ?= python3
CC ?= cc
VENV := .venv
PY := $(VENV)/bin/python
PYVMM := $(VENV)/bin/pyvmm
PIP := $(PY) -m pip --disable-pip-version-check
PROGRESS := $(PY) tools/progress.py
GUEST := build/debian

CORE_SOURCES := $(wildcard pyvmm/core/*.c pyvmm/core/*.h pyvmm/core/*.inc pyvmm/core/*.decode \
    pyvmm/core/build.py pyvmm/core/generate.py pyvmm/core/gen/*)

# What people write of the core's C.
C_FILES := $(filter-out pyvmm/core/_core.c,$(wildcard pyvmm/core/*.c pyvmm/core/*.h pyvmm/core/*.inc))

# The tests start more than a thousand processes; each would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := setup
.DELETE_ON_ERROR:
.PHONY: setup run test bench lint format gen soak coverage mutation mutation-core sanitize test-aarch64 conformance \
    man dist clean

setup: $(VENV)/.core

# Stamps: a second `make setup` only compares a few dates.
$(VENV)/.python: tools/prerequisites.sh
	@tools/prerequisites.sh "$(PYTHON)" "$(CC)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The requirements in pyproject.toml, without the project itself: its C core is built once, below.
$(VENV)/.packages: $(VENV)/.python pyproject.toml
	@mkdir -p build
	@$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	    print(*p["build-system"]["requires"], *p["project"]["dependencies"], \
	          *p["project"]["optional-dependencies"]["explore"], \
	          *p["project"]["optional-dependencies"]["test"], sep="\n")' >build/requirements.txt
	@$(PROGRESS) "setup: installing packages into $(VENV)" "^Collecting ([A-Za-z0-9._-]+)" 0 \
	    $(PIP) install -r build/requirements.txt
	@touch $@

# Remove the old extension first: setuptools compares dates only, and would keep a stale digest.
$(VENV)/.core: $(VENV)/.packages $(CORE_SOURCES) setup.py
	@rm -f pyvmm/core/_core.*.so
	@CC="$(CC)" CFLAGS="$(CFLAGS) -Werror" $(PROGRESS) "setup: building the C core" \
	    " -c \S*?(\w+\.c) " $(words $(filter pyvmm/core/%.c,$(CORE_SOURCES))) \
	    $(PIP) install -v --no-build-isolation --no-deps --editable .
	@touch $@

# What only tests need: programs of the system, and a cross compiler of 411 MB.
$(VENV)/.test-tools: $(VENV)/.core tools/prerequisites.sh
	@tools/prerequisites.sh "$(PYTHON)" "$(CC)" tests
	@$(PROGRESS) "test: installing the cross compiler into $(VENV)" "^Collecting (\S+)" 0 \
	    $(PIP) install "$$($(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	        print(*p["project"]["optional-dependencies"]["cross"])')"
	@touch $@

run: setup
	@$(PYVMM) image build debian --output $(GUEST)
	@$(PYVMM) run --realm --kernel $(GUEST)/Image --initrd $(GUEST)/initrd.img \
	    --disk $(GUEST)/rootfs.img $(ARGS) \
	    || { code=$$?; [ $$code -eq 5 ] || exit $$code; } # 5: quit, e.g. with Ctrl-A x

# The guest first, so that no two workers build it. The files keep their order: those that boot guests take
# longest and start early, and many short ones are left to share at the end. There are half as many workers
# again as CPUs, because guests, clocks and programs let a worker wait.
test: lint $(VENV)/.test-tools
	@$(PYVMM) image build debian --output $(GUEST)
	@$(PY) -m pytest --numprocesses $$(($$(nproc) * 3 / 2)) --dist loadfile --no-loadscope-reorder

lint: setup $(VENV)/.tidy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_FILES)
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(VENV)/bin/clang-format -i $(C_FILES)

# One process per C file, which includes its .c.inc files; again only when some C has changed.
$(VENV)/.tidy: $(VENV)/.packages $(CORE_SOURCES) .clang-tidy
	@echo "lint: checking the C core"
	@printf '%s\n' $(filter %.c,$(C_FILES)) | xargs -P "$$(nproc)" -I FILE \
	    $(VENV)/bin/clang-tidy --quiet FILE -- -std=gnu11 -mcx16 -Ipyvmm/core -DCORE_DIGEST='""'
	@touch $@

gen: $(VENV)/.test-tools
	@$(PY) -m pyvmm.core.generate
	@$(PY) -m pyvmm.vm.control.schema
	@$(PY) -m tests.vm.agent_program
	@$(PY) -m tests.boot.course
	@PYTHONPATH=. $(PY) tools/rmm_abi.py
	@PYTHONPATH=. $(PY) tools/page.py

man: setup
	@$(PY) -m pyvmm.cli.common.manual build/man

dist: setup
	@tools/dist.sh $(PY)

bench: setup
	@$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY))

soak: setup $(VENV)/.test-tools
	@$(PY) -m pytest -m slow $(if $(SEED),--seed $(SEED))
	@$(PY) -m pytest tests/core --engine jit $(if $(SEED),--seed $(SEED))
	@$(PY) -m pytest tests/core --engine check $(if $(SEED),--seed $(SEED))

coverage: setup
	@$(PY) -m coverage run -m pytest tests/rmm tests/monitor
	@$(PY) -m coverage report

conformance: setup
	@$(PY) tools/conformance.py $(if $(ACS),--acs "$(ACS)") $(if $(TFTF),--tftf "$(TFTF)") $(if $(UPDATE),--update)

mutation: setup
	@PYTHONPATH=. $(PY) tools/mutation.py $(ONLY)

mutation-core: setup
	@PYTHONPATH=. $(PY) tools/mutate_translator.py $(if $(SAMPLE),--sample $(SAMPLE)) $(ONLY)

sanitize: setup
	@CC="$(CC)" tools/sanitize.sh address $(PY)
	@CC="$(CC)" tools/sanitize.sh thread $(PY)

# Random tests take hours there.
TESTS ?= tests/core --deselect tests/core/test_fuzz.py
test-aarch64: setup
	@PYTHONPATH=. $(PY) tools/aarch64/run.py test $(if $(SEED),--seed $(SEED)) $(TESTS)

clean:
	@rm -rf $(VENV) build share .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache \
	    ./*.egg-info pyvmm/core/_core.c pyvmm/core/_core.*.so
