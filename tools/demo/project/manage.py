#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Django's command line of the demo project."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
