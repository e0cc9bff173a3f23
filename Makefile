# make demo    sets everything up, runs the chain on the demo clip and checks what it saw
# make test    sets everything up, then style, types and tests
# make sweep   every network on every backend that runs here, in every precision: up to an hour
# make int8    renders faces if need be, and writes int8.json anew into the bundles named by INT8_ENGINES
# make setup   .venv with the pinned dependencies; does nothing when that is current

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo "$$p" && break; \
  done)
BIN := .venv/bin
DEMO := build/demo

INT8_FACES ?= build/synth/int8
INT8_ENGINES ?= delta cednn satnet

.PHONY: setup test test-streams test-networks sweep check demo int8 clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "austream needs Python 3.11 or 3.12: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "no virtual environment could be made: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@echo "installing the pinned dependencies into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import cv2' || { echo "OpenCV lacks a system library: on Debian, apt-get install libgl1 libglib2.0-0" >&2; exit 1; }
	@touch $@

# Two sessions side by side, each with about half of the time; only one of them starts streams, whose processes
# and shared memory it counts.
test: setup check
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-streams test-networks

test-streams: setup
	$(BIN)/python -m pytest --ignore=tests/engines --ignore=tests/train

test-networks: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engines tests/train

sweep: setup
	AUSTREAM_SWEEP=all $(BIN)/python -m pytest -rs tests/engines/test_engine_backends.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	@mkdir -p $(DEMO)
	$(BIN)/python run_stream.py --source demo --out $(DEMO)/results.jsonl --out $(DEMO)/overlay.mp4
	@$(BIN)/python -m bench demo $(DEMO)/results.jsonl --plot $(DEMO)/check.png
	@echo "overlay video: $(CURDIR)/$(DEMO)/overlay.mp4"
	@echo "result rows:   $(CURDIR)/$(DEMO)/results.jsonl"

# Run it whenever their weights or their code change: int8.json is for exactly one of either.
int8: setup
	@test -e $(INT8_FACES)/samples.json || $(BIN)/python -m train synth --people 80 --stills 8 --clips 1 --clip-frames 24 \
	  --crops five_point_224,box_224 --seed 2000001 --out $(INT8_FACES)
	@for engine in $(INT8_ENGINES); do \
	  $(BIN)/python -m engines build $$engine --precision int8 --calibrate $(INT8_FACES) --ship || exit 1; done

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
