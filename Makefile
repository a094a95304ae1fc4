# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Meson and ninja do the building; everything made lies under build/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory
PYTHON := build/venv/bin/python
NINJA := ninja
PROGRAMS := celeryc scatter-plan scatter-scale examples.so migrations.so
LIBRARY := libceleryc.so

.PHONY: help setup build test conformance chaos test-kube images fuzz properties bench bench-chunk lint format demo clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

setup: ## install Debian packages and build/venv (quick when nothing is missing)
	@tools/setup

build: setup ## build/celeryc, build/scatter-plan, build/libceleryc.so and the example plug-ins
	@[ -e build/obj/build.ninja ] || meson setup build/obj
	@$(NINJA) -C build/obj $(addprefix packaging/,$(PROGRAMS) $(LIBRARY).1.0.0)
	@ln -sf $(addprefix obj/packaging/,$(PROGRAMS) $(LIBRARY)) build/

test: setup ## unit tests (ASan, UBSan), include directions, Django package, interop
	@$(PYTHON) tools/run_tests.py $(TESTS)

conformance: build ## Celery's own integration suite; CELERY=latest ARGS='--kinds celeryc -k chord'
	@PYTHONPATH=interop_tests $(PYTHON) -m conformance.run $(if $(CELERY),--celery $(CELERY)) $(ARGS)

chaos: build ## the long forms of the tests that kill, cut and flood (about an hour)
	@$(PYTHON) -m pytest -q -m chaos $(if $(TESTS),$(TESTS),interop_tests django_cmd/tests)

images: setup ## file systems of the container images under build/images, run and measured
	@tools/images

test-kube: build images ## the scaler on a real Kubernetes API server (needs Go >= 1.24; the first build takes minutes)
	@tools/kube_server
	@$(NINJA) -C build/obj --quiet tests/scaler/kube_probe
	@$(PYTHON) -m pytest -q -m kube $(if $(TESTS),$(TESTS),interop_tests/kube) $(ARGS)

fuzz: setup ## every parser under libFuzzer, ten minutes each; SECONDS_EACH=60 TARGETS='json message'
	@SECONDS_EACH=$(if $(SECONDS_EACH),$(SECONDS_EACH),600) $(PYTHON) tools/fuzz.py $(TARGETS)

properties: build ## the property tests in full: 100,000 canvases and as many messages of Celery's, read and sent again
	@$(NINJA) -C build/obj --quiet tests/canvas/canvas_oracle tests/message/message_codec
	@CANVASES=$(if $(CANVASES),$(CANVASES),100000) $(PYTHON) -m pytest -q -s interop_tests/test_canvas_oracle.py -k applied
	@WIRE_MESSAGES=$(if $(MESSAGES),$(MESSAGES),100000) $(PYTHON) -m pytest -q interop_tests/test_wire_oracle.py

bench: build ## celeryc beside Celery prefork, in alternating rounds
	@$(PYTHON) tests/bench/bench.py $(ARGS)

bench-chunk: build ## chunks as arrays beside COPY, by size (ten minutes); ARGS='--kinds C --shapes wide --rounds 5'
	@$(NINJA) -C build/obj --quiet tests/bench/chunk_driver
	@$(PYTHON) tests/bench/bench_chunk.py $(ARGS)

lint: setup ## formats, clang-tidy, include directions, ruff, mypy
	@tools/lint

format: setup ## rewrite the sources in the house format
	@tools/lint --fix

demo: build ## the whole pipeline; DB=postgres S3=1 ROWS=1500000 DATA=flights
	@$(PYTHON) tools/demo/run.py $(if $(DB),--db $(DB)) $(if $(filter-out 0,$(S3)),--s3) \
		$(if $(ROWS),--rows $(ROWS)) $(if $(DATA),--data $(DATA)) $(ARGS)

clean: ## remove what was built (the virtual environment stays)
	@rm -rf build/obj build/asan build/fuzz build/demo build/celeryc build/scatter-plan build/scatter-scale build/*.so
