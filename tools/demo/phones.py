# SPDX-License-Identifier: Apache-2.0
"""Parcels with Vietnamese telephone numbers, written as people write them, and what each must become.

A number is made together with its answer, from the operators' own table and never by looking at the written text, so the
answers owe nothing to the migrations that are being checked. The same seed gives the same parcels again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import phonenumbers

# Old prefix -> new prefix, without the trunk zero (Ministry of Information and Communications, 2018).
RENUMBERED = {
    "162": "32", "163": "33", "164": "34", "165": "35", "166": "36", "167": "37", "168": "38",
    "169": "39",  # Viettel
    "120": "70", "121": "79", "122": "77", "126": "76", "128": "78",  # MobiFone
    "123": "83", "124": "84", "125": "85", "127": "81", "129": "82",  # VinaPhone
    "186": "56", "188": "58",  # Vietnamobile
    "199": "59",  # Gmobile
}  # fmt: skip

# How a mobile number of prefix p and seven more digits is written.
STYLES = (
    "0{p}{a}{b}{c}", "0{p} {a} {b}{c}", "0{p}.{a}.{b}{c}", "0{p} {a}{b}{c}", "0{p} {a} {b} {c}",
    "0{p}.{a}.{b}.{c}", "+84{p}{a}{b}{c}", "+84 {p} {a} {b}{c}", "+84 {p}{a}{b}{c}",
    "+84.{p}.{a}.{b}.{c}", "+84 {p}.{a}.{b}{c}",
)  # fmt: skip

MODERN_MOBILE = ("90", "91", "93", "94", "96", "97", "98", "86", "88", "89", "32", "70", "83", "56")
LANDLINE = ("24 3{a}", "28 3{a}", "236 3{a}", "258 3{a}")
OTHER = ("", "n/a", "không có", "1900 1234", "+1 202 555 0123", "+84", "0163 12", "gọi sau 18h")


@dataclass(frozen=True)
class Parcel:
    id: int
    phone: str | None
    expected: str | None

    @property
    def changes(self) -> bool:
        return self.phone != self.expected


def make_parcels(count: int, seed: int = 2018) -> Iterator[Parcel]:
    """About three quarters carry an old number."""
    rng = random.Random(seed)
    prefixes = list(RENUMBERED)
    for number in range(1, count + 1):
        digits = f"{rng.randrange(10_000_000):07}"
        parts = {"a": digits[:3], "b": digits[3:5], "c": digits[5:]}
        kind = rng.random()
        if kind < 0.75:
            style, prefix = rng.choice(STYLES), rng.choice(prefixes)
            yield Parcel(
                number,
                style.format(p=prefix, **parts),
                style.format(p=RENUMBERED[prefix], **parts),
            )
            continue
        phone: str | None
        if kind < 0.90:
            phone = rng.choice(STYLES).format(p=rng.choice(MODERN_MOBILE), **parts)
        elif kind < 0.97:
            phone = "0" + rng.choice(LANDLINE).format(a=digits)
        elif kind < 0.99:
            phone = rng.choice(OTHER)
        else:
            phone = None
        yield Parcel(number, phone, phone)


def is_mobile(text: str) -> bool:
    """Does the phonenumbers package know it as a Vietnamese mobile number of today?"""
    try:
        number = phonenumbers.parse(text, "VN")
    except phonenumbers.NumberParseException:
        return False
    return (
        number.country_code == 84
        and phonenumbers.is_valid_number(number)
        and phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
    )
