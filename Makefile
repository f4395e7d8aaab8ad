# Every target sets up what it needs in .venv first; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where this is set, each process would compile again all of numba's Python that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test check bench bugs check-oracles fuzz tables clean

help:
	@echo "make run     set up, then two first tables (a real trace; dirty logging, three split policies)"
	@echo "make test    set up, then format, lint, types and the whole test suite"
	@echo "make bench   speed against C, the hook's price, waiting with 96 processes"
	@echo "make bugs    every bug of workloads/bugs and tests/explore/bugs is found, replayed and told"
	@echo "make check-oracles  every oracle reports its mutations, explored and in stress; some 15 minutes"
	@echo "make fuzz    50,000 random programs: exploration against a naive enumerator"
	@echo "make tables  measure again every table in README.md and docs/"
	@echo "make clean   remove .venv and caches inside the checkout"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("tdprace needs Python 3.11 or newer, this is %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

run: $(READY)
	$(BIN)/tdprace stress access-trace --trace workloads/traces/sort.lackey.gz -v 2
	$(BIN)/tdprace stress dirty-log -g -v 4 -b 64M -s 2m -w 5 --compare huge-split

# A worker for each of CI's two cores; the tests of a file stay together, for what they share.
test: $(READY) check
	$(BIN)/pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m tests.bench

bugs: $(READY)
	$(BIN)/tdprace bugs check
	TDPRACE_ALL_BUGS=1 $(BIN)/pytest tests/bugs tests/cli tests/mutants tests/explore/test_bugs.py tests/explore/test_reproducer.py tests/explore/test_risk.py tests/workloads

check-oracles: $(READY)
	$(BIN)/python -m tests.oracles.check

fuzz: $(READY)
	$(BIN)/python -m tests.explore.fuzz --programs 50000

tables: $(READY)
	$(BIN)/python -m tests.tables

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
