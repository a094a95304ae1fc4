# SPDX-License-Identifier: Apache-2.0
"""What phones.vn_renumber must do, written down a second time from the numbering plan of 2018."""

from __future__ import annotations

import re

PREFIXES = {f"016{n}": f"03{n}" for n in range(2, 10)} | {
    "0120": "070",
    "0121": "079",
    "0122": "077",
    "0126": "076",
    "0128": "078",
    "0123": "083",
    "0124": "084",
    "0125": "085",
    "0127": "081",
    "0129": "082",
    "0186": "056",
    "0188": "058",
    "0199": "059",
}


def renumbered(phone: str | None) -> str | None:
    """The new spelling of an old 11-digit mobile number, anything else as it is."""
    if phone is None:
        return None
    compact = re.sub(r"[ .]", "", phone)
    national = "0" + compact[3:] if compact.startswith("+84") else compact
    if not re.fullmatch(r"0\d{10}", national) or national[:4] not in PREFIXES:
        return phone
    # Of the operator's three digits the first goes and the others change; separators stay where they are.
    digits = [i for i, c in enumerate(phone) if c.isdigit()]
    first = 2 if compact.startswith("+84") else 1
    out = list(phone)
    for place, digit in zip(digits[first : first + 3], ("", *PREFIXES[national[:4]][1:])):
        out[place] = digit
    return "".join(out)


def sample(i: int) -> str | None:
    """The i-th phone of the test table: old, new, foreign, odd, missing."""
    tail = f"{i * 7919 % 10_000_000:07d}"
    old = sorted(PREFIXES)[i % len(PREFIXES)]
    forms = [
        f"{old}{tail}",
        f"+84{old[1:]}{tail}",
        f"{old} {tail[:3]} {tail[3:]}",
        f"+84 {old[1:]}.{tail[:3]}.{tail[3:]}",
        f"09{i % 10}{tail}",
        f"+44 20 {tail}",
        f"call {tail}",
        None,
    ]
    return forms[i % len(forms)]
