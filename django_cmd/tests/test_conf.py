# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connections

from django_scatter import conf, keeper
from django_scatter.errors import ScatterError


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ({"NAME": "app", "USER": "u", "PASSWORD": "p", "HOST": "db", "PORT": 6432},
         "postgresql://u:p@db:6432/app"),
        ({"NAME": "app"}, "postgresql:///app"),
        ({"NAME": "a b/c", "USER": "m@x", "PASSWORD": "p:/?#[]@ %"},
         "postgresql://m%40x:p%3A%2F%3F%23%5B%5D%40%20%25@/a%20b%2Fc"),
        ({"NAME": "app", "HOST": "/run/pg sql", "PORT": "5433", "USER": "u"},
         "postgresql://u@/app?host=%2Frun%2Fpg%20sql&port=5433"),
        ({"NAME": "app", "HOST": "::1", "PORT": "5432"}, "postgresql://[::1]:5432/app"),
        ({"NAME": "app", "HOST": "a,b", "PORT": "1,2"}, "postgresql:///app?host=a%2Cb&port=1%2C2"),
        ({"NAME": "", "OPTIONS": {"service": "live", "passfile": "/etc/pg pass", "pool": True}},
         "postgresql:///?service=live&passfile=%2Fetc%2Fpg%20pass"),
        ({"NAME": "app", "HOST": "db", "OPTIONS": {"sslmode": "require", "isolation_level": 1}},
         "postgresql://db/app?sslmode=require"),
    ],
)  # fmt: skip
def test_postgresql_url(entry: dict[str, Any], url: str) -> None:
    assert conf.postgresql_url(entry) == url
    parsed = psycopg.conninfo.conninfo_to_dict(url)
    assert parsed.get("dbname", "") == entry["NAME"]
    assert parsed.get("password") == entry.get("PASSWORD")
    assert parsed.get("host") == entry.get("HOST")


def test_sqlite_url_names_the_file(tmp_path: Path) -> None:
    assert conf.sqlite_url(f"{tmp_path}/a b?.db").endswith("/a%20b%3F.db")
    assert conf.sqlite_url(f"file:{tmp_path}/x.db?mode=rwc") == f"sqlite://{tmp_path}/x.db"


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared", ""])
def test_sqlite_in_memory_is_refused(name: str) -> None:
    with pytest.raises(ScatterError, match="in memory"):
        conf.sqlite_url(name)


def test_unknown_alias_names_the_known_ones() -> None:
    with pytest.raises(ScatterError, match="no 'replica'; there are default"):
        conf.database_url("replica")


def test_other_databases_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(connections["default"]), "vendor", "mysql")
    monkeypatch.setattr(type(connections["default"]), "display_name", "MySQL")
    with pytest.raises(ScatterError, match=r"is MySQL; .* PostgreSQL or SQLite"):
        conf.database_url("default")


def test_given_url_wins(settings_of: dict[str, Any]) -> None:
    settings_of["DATABASE_URLS"] = {"default": "postgresql://elsewhere/x"}
    assert conf.database_url("default") == "postgresql://elsewhere/x"


def test_unknown_setting_is_named(settings_of: dict[str, Any]) -> None:
    settings_of["STROE"] = "file:///x"
    with pytest.raises(ScatterError, match="no setting STROE; there are STORE"):
        conf.store_url()


def test_store_is_asked_for(settings_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    del settings_of["STORE"]
    monkeypatch.delenv("SCATTER_STORE", raising=False)
    with pytest.raises(ScatterError, match="no store"):
        conf.store_url()
    monkeypatch.setenv("SCATTER_STORE", "s3://bucket")
    assert conf.store_url() == "s3://bucket"


def test_broker_order(settings_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://environment/0")
    assert conf.broker_url() == "redis://broker:6379/0"
    del settings_of["BROKER"]
    monkeypatch.setattr(
        settings, "CELERY_BROKER_URL", ["redis://a/0", "redis://b/0"], raising=False
    )
    assert conf.broker_url() == "redis://a/0;redis://b/0"
    monkeypatch.delattr(settings, "CELERY_BROKER_URL")
    assert conf.broker_url() == "redis://environment/0"


def test_plugins_must_be_a_list(settings_of: dict[str, Any]) -> None:
    settings_of["PLUGINS"] = "/x.so"
    with pytest.raises(ScatterError, match=r"PLUGINS.* must be a list"):
        conf.plugins()


def test_lease_from_the_environment_is_read_as_celeryc_does(
    settings_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of["LEASE"] = 45
    assert conf.lease_seconds() == 45
    for text, seconds in (("3", 3.0), ("90s", 90.0), ("2m", 120.0), ("1500ms", 1.5)):
        monkeypatch.setenv("SCATTER_LEASE", text)
        assert conf.lease_seconds() == seconds
    for text in ("0.1", "soon", "-3", "3 s", "25h"):
        monkeypatch.setenv("SCATTER_LEASE", text)
        with pytest.raises(ScatterError, match="SCATTER_LEASE"):
            conf.lease_seconds()


def test_copy_from_the_environment_is_read_as_celeryc_does(
    settings_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conf.copy_setting() == "auto"
    settings_of["COPY"] = "never"
    assert conf.copy_setting() == "never"
    monkeypatch.setenv("SCATTER_COPY", "always")
    assert conf.copy_setting() == "always"
    monkeypatch.setenv("SCATTER_COPY", "maybe")
    with pytest.raises(ScatterError, match="SCATTER_COPY=maybe is none of auto, always, never"):
        conf.copy_setting()


def test_planner_gets_what_celery_is_told_of_the_broker(
    monkeypatch: pytest.MonkeyPatch, settings_of: dict[str, Any]
) -> None:
    """As in Celery's own settings; what the planner does not know stays with Celery."""
    use_ssl = {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": "/etc/ca.pem",
        "ssl_ciphers": "X",
    }
    transport = {
        "master_name": "main",
        "global_keyprefix": "shop.",
        "visibility_timeout": 60,
        "sentinel_kwargs": {"password": "secret", "db": 3},
    }
    monkeypatch.setattr(settings, "CELERY_BROKER_USE_SSL", use_ssl, raising=False)
    monkeypatch.setattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", transport, raising=False)
    settings_of |= {"DATABASE_URLS": {"default": "postgresql:///x"}, "BINARY": sys.executable}
    assert "SCATTER_BROKER_OPTIONS" not in conf.planner_environment("default")
    del settings_of["BROKER"]
    monkeypatch.setattr(settings, "CELERY_BROKER_URL", "rediss://broker", raising=False)
    found = conf.planner_environment("default")
    assert json.loads(found["SCATTER_BROKER_OPTIONS"]) == {
        "ssl_cert_reqs": 2,
        "ssl_ca_certs": "/etc/ca.pem",
        "master_name": "main",
        "sentinel_kwargs": {"password": "secret"},
    }
    assert "secret" not in " ".join(keeper.keeper_arguments("default", 30))
    monkeypatch.setattr(settings, "CELERY_BROKER_USE_SSL", True)
    monkeypatch.setattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {})
    assert conf.broker_options() == {"ssl": True}
