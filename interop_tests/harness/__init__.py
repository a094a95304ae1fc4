# SPDX-License-Identifier: Apache-2.0
"""Processes, servers, workers and clients that the interop tests own."""
