# SPDX-License-Identifier: Apache-2.0
"""Celery's own integration suite against external workers: `make conformance`.

run.py starts the servers, the workers and pytest; suite.py and tap.py are loaded into that pytest, which belongs to another
virtual environment (environment.py); table.py compares what came out; plugin/ has the suite's tasks in C."""
