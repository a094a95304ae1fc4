# SPDX-License-Identifier: Apache-2.0
"""Scatter for Django: plan large data migrations, watch them, write them in Python."""

from __future__ import annotations
