# Only relative paths here: the repository may lie in a directory with spaces in its name.

# To be set on the command line, as in: make test PYTEST_FLAGS="-k names"
VENV = .venv
PYTEST_FLAGS = -n 2 --dist worksteal
BENCH_FLAGS =
# With bench, the contestants of the benchmarks are tested too.
TEST_EXTRAS = test

# What is about texts, servers, poolers and drivers is the same with each version of SQLAlchemy.
NOT_OF_SQLALCHEMY = \
	$(addprefix integration/test_,embedded wire read_only pooler pooler_restrictions test_servers \
		async_plans processes replicas replicas_failing) \
	$(addprefix fleet/test_,doctor drift fingerprints cloning cloning_random dumps lifecycle_purging) \
	$(addprefix toolbox/test_,cache_mistakes cache_redis cache_requests cache_storm debug selectable unaccent)

export VENV

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-sqlalchemy20 bench bench-fleet bench-toolbox lint typing docs coverage clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

demo: ## Run the example: three towns on a server of its own, from an empty machine
	@tools/venv demo
	@$(VENV)/bin/python -m examples.towns

test: ## Run all tests, on real servers
	@tools/venv $(TEST_EXTRAS)
	@$(VENV)/bin/python -m pytest --one-driver older $(PYTEST_FLAGS)

test-quick: ## Run the tests that take no more than a moment each
	@tools/venv test
	@$(VENV)/bin/python -m pytest -m 'not slow' $(PYTEST_FLAGS)

test-sqlalchemy20: ## Run what depends on SQLAlchemy on the oldest that is supported
	@VENV=$(VENV)-sqlalchemy20 tools/venv test 'SQLAlchemy==2.0.40'
	@$(VENV)-sqlalchemy20/bin/python -m pytest -m 'not slow' -k 'not older' --one-driver everywhere \
		$(addprefix --ignore tests/,$(addsuffix .py,$(NOT_OF_SQLALCHEMY))) \
		$(PYTEST_FLAGS) tests/integration tests/fleet tests/toolbox

bench: ## Measure against bare SQLAlchemy and others; see benchmarks/
	@tools/venv bench
	@$(VENV)/bin/python -m benchmarks $(BENCH_FLAGS)

bench-fleet: ## Measure migrations, checks and thousands of schemas against others
	@tools/venv bench
	@$(VENV)/bin/python -m benchmarks.fleet $(BENCH_FLAGS)

bench-toolbox: ## Measure cached properties, and types beside SQLAlchemy's own
	@tools/venv bench
	@$(VENV)/bin/python -m benchmarks.toolbox $(BENCH_FLAGS)

lint: ## Check style and format
	@tools/venv lint
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check --diff --quiet .

typing: ## Check the types
	@tools/venv dev
	@$(VENV)/bin/python -m mypy

docs: ## Build the documentation into docs/_build/html
	@tools/venv docs
	@$(VENV)/bin/python -m sphinx -n -W --keep-going -q -b html docs docs/_build/html
	@echo "The documentation is in docs/_build/html/index.html"

coverage: ## Tell which lines no test runs
	@tools/venv test coverage
	@$(VENV)/bin/python -m coverage run -m pytest -m 'not slow' $(PYTEST_FLAGS)
	@$(VENV)/bin/python -m coverage report

clean: ## Remove everything that was made here
	rm -rf $(VENV) $(VENV)-sqlalchemy20 .tox build dist docs/_build .coverage .coverage.*
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis onegov_orm.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
