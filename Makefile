# make demo, make quick, make test: all need nothing but Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin

# Tests that train models, run whole pipelines, or run what the pages and benchmarks say.
LONG := pipeline methods training models recommenders test_docs.py test_benchmarks.py

.PHONY: install demo quick test notebooks lint benchmarks docs package wheel-check clean

# The stamp is younger than what it was installed from, or pip runs again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[cf,serve,notebooks,dev]' --constraint constraints.txt
	touch $@

install: .venv/installed

# One thread, so that sums round as they did for the figures in the README.
demo: install
	OMP_NUM_THREADS=1 $(BIN)/recinject run quickstart
	@echo "Open $(CURDIR)/runs/quickstart/report/report.html in a browser."

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile quick tests $(LONG:%=--ignore tests/%)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --doctest-modules recinject tests
	$(BIN)/python -m pytest -n 2 --nbmake notebooks/0[1-4]*.ipynb

# Those on impact and harm and on semantic identifiers, too.
notebooks: install
	$(BIN)/python -m pytest -n 2 --nbmake notebooks

# Every benchmark in its short form, one after another; figures in benchmarks/latest.json.
benchmarks: install
	$(BIN)/python benchmarks --quick

# Every warning is an error: a dead link, a heading that is not there, a page that is not in the menu.
docs: install
	$(BIN)/python -m pip install --quiet --editable '.[docs]' --constraint constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open $(CURDIR)/site/index.html in a browser."

package: install
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# The wheel alone, in an empty environment: make wheel-check EXTRA='[cf]'
wheel-check:
	rm -rf build/wheel && $(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --constraint constraints.txt "$$(ls $(CURDIR)/dist/*.whl)$(EXTRA)"
	cd build && wheel/bin/recinject doctor && wheel/bin/recinject run quickstart name=wheel training.max_steps=20 \
		training.warmup_steps=0 evaluation.limit=50 'evaluation.baselines=[popularity, ease, item_mean]'

clean:
	rm -rf .venv runs dist build site .pytest_cache .mypy_cache .ruff_cache
