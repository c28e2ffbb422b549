# make demo   make the environment, train the digits Flamingo, evaluate it, write its report
# make test   make the environment with the test tools, run all tests
# PYTHON=python3.12 chooses the interpreter; `make clean` removes the environment.

PYTHON ?= python3
VENV := .venv
DEMO ?= runs/demo
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
STAMP = $(VENV)/.made-with-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo test test-slow golden lint lock clean env test-env

env: $(STAMP)
test-env: $(STAMP).test

# Another interpreter or other locked versions make the environment anew.
$(STAMP): requirements/run.txt setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit("mmjax needs Python 3.11 or newer; try PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --requirement requirements/run.txt
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(STAMP).test: $(STAMP) requirements/test.txt requirements/oracles.txt
	$(PIP) install --quiet --requirement requirements/test.txt --requirement requirements/oracles.txt
	@touch $@

demo: env
	$(VENV)/bin/mmjax train --config configs/flamingo_digits.py --workdir $(DEMO)
	$(VENV)/bin/mmjax eval --checkpoint $(DEMO)
	$(VENV)/bin/mmjax report --workdir $(DEMO)

test: test-env
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -q

test-slow: test-env
	$(VENV)/bin/python -m pytest -q -m slow

# Writes the golden texts of tests/golden anew; read the difference before committing it.
golden: test-env
	GOLDEN=write $(VENV)/bin/python -m pytest -q tests/golden

lint: test-env
	$(VENV)/bin/ruff check .

# Locks the versions of requirements/ anew for all supported interpreters; needs `uv`.
lock:
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate setup.cfg -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate --extra test setup.cfg -o requirements/test.txt

clean:
	rm -rf $(VENV)
