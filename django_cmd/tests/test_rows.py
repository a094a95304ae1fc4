# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import pytest
from django.db import connection
from scatter_test_app.models import Parcel

from django_scatter import rows
from django_scatter.errors import ScatterError

UTC = datetime.timezone.utc
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def lines(*columns: str, key: str | None = None) -> list[Any]:
    data = b"".join(rows.stream(Parcel.objects.order_by("-phone"), key, columns))
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def test_header_rows_in_key_order_trailer(database: str) -> None:
    Parcel.objects.create(id=2, phone='số "2"\n')
    Parcel.objects.create(id=1, phone=None)
    assert lines("phone", "fragile") == [
        {"columns": ["id", "phone", "fragile"], "types": None, "trailer": True},
        [1, None, False],
        [2, 'số "2"\n', False],
        {"rows": 2},
    ]


def test_all_columns_when_none_are_named(database: str) -> None:
    assert lines()[0]["columns"] == ["id", "phone", "weight", "sent_at", "fragile", "pieces"]


def test_many_rows_all_come(database: str) -> None:
    Parcel.objects.bulk_create(Parcel(id=i, phone=str(i)) for i in range(1, 2503))
    found = lines("phone")
    assert [r[0] for r in found[1:-1]] == list(range(1, 2503))
    assert found[-1] == {"rows": 2502}


def test_text_is_the_databases_own(database: str) -> None:
    """What the guard compares with: the cast of the column itself."""
    Parcel.objects.create(id=1, phone="x", weight="7.10", sent_at=WHEN)
    with connection.cursor() as cursor:
        cursor.execute("SELECT CAST(weight AS text), CAST(sent_at AS text) FROM parcel")
        weight, sent_at = cursor.fetchone()
    assert lines("weight", "sent_at")[1] == [1, weight, sent_at]


def test_unknown_column_names_the_known_ones(database: str) -> None:
    with pytest.raises(ScatterError, match="no column 'colour'; it has fragile, id"):
        lines("colour")


@pytest.mark.parametrize(
    "value",
    [
        WHEN,
        WHEN.replace(microsecond=0),
        WHEN.astimezone(datetime.timezone(datetime.timedelta(hours=7))),
        WHEN.replace(tzinfo=None),
        datetime.date(2026, 1, 2),
        datetime.time(3, 4, 5, 600),
        decimal.Decimal("1.50"),
        decimal.Decimal("1E+3"),
        1.5,
        100000.0,
        uuid.uuid4(),
        b"\x00\xff",
        "text",
        5,
    ],
)
def test_python_values_as_postgresql_writes_them(postgresql: str, value: Any) -> None:
    """For rows of databases that do not make the text themselves."""
    with connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        kind = "::timestamptz" if isinstance(value, datetime.datetime) and value.tzinfo else ""
        kind = "::float8" if isinstance(value, float) else kind
        cursor.execute(f"SELECT (%s{kind})::text", (value,))
        wanted = cursor.fetchone()[0]
    assert str(rows.as_text(value)) == wanted


def test_value_without_a_text_form_is_refused() -> None:
    with pytest.raises(ScatterError, match="type complex"):
        rows.as_text(1j)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("queries", "not of the form"),
        ("queries:", "not of the form"),
        ("nowhere:x", "nowhere"),
        ("queries:missing", "missing"),
        ("queries:a_list", "gave list, it must give a queryset"),
    ],
)
def test_queryset_that_cannot_be_loaded(path: str, words: str) -> None:
    with pytest.raises(ScatterError, match=words):
        rows.load_queryset(path)


def test_queryset_by_function_or_name() -> None:
    assert rows.load_queryset("queries:all_parcels").model is Parcel
    assert rows.load_queryset("queries:not_callable").model is Parcel
