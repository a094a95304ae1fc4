# SPDX-License-Identifier: Apache-2.0
"""What Scatter takes from the Django settings.

    SCATTER = {
        "STORE": "s3://bucket/prefix",   # or file:///directory: where batch files go
        "BROKER": "redis://host/0",      # default: CELERY_BROKER_URL, the Celery app, the environment
        "QUEUE": "celery",               # the workers' queue
        "PLUGINS": ["/usr/lib/celeryc/migrations.so"],  # migrations written in C
        "BINARY": "/usr/bin/scatter-plan",              # default: looked for (see binary.py)
        "DATABASE_URLS": {"default": "postgresql://..."},  # default: made from DATABASES
        "LEASE": 60,                     # seconds that a Python worker's claim of a batch lasts
        "COPY": "auto",                  # how values of large chunks travel (auto, always, never; PostgreSQL)
        "SWEEP": ["default"],            # databases whose lost messages a Celery worker looks after
    }

Credentials travel in the environment of the planner, never in its argument list.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from django_scatter.errors import ScatterError

NAMES = ("STORE", "BROKER", "QUEUE", "PLUGINS", "BINARY", "DATABASE_URLS", "LEASE", "COPY", "SWEEP")

# OPTIONS of a PostgreSQL entry that libpq knows too; the others are for Django and psycopg only.
LIBPQ_OPTIONS = frozenset(
    """application_name channel_binding client_encoding connect_timeout fallback_application_name
    gssencmode gsslib hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts options passfile require_auth requirepeer service sslcert sslcompression sslcrl
    sslcrldir sslkey ssl_max_protocol_version ssl_min_protocol_version sslmode sslpassword sslrootcert sslsni
    target_session_attrs tcp_user_timeout""".split()
)


def scatter_settings() -> Mapping[str, Any]:
    """The SCATTER dict, with unknown names refused."""
    found: Mapping[str, Any] = getattr(settings, "SCATTER", {})
    unknown = sorted(set(found) - set(NAMES))
    if unknown:
        raise ScatterError(
            f"SCATTER has no setting {', '.join(unknown)}; there are {', '.join(NAMES)}"
        )
    return found


def store_url() -> str:
    url = scatter_settings().get("STORE") or os.environ.get("SCATTER_STORE")
    if not url:
        raise ScatterError(
            'no store for batch files: set SCATTER = {"STORE": "s3://bucket/prefix"} '
            "(or file:///directory) in the Django settings, or SCATTER_STORE in the environment"
        )
    return str(url)


def broker_url() -> str:
    """SCATTER["BROKER"], settings.CELERY_BROKER_URL, the environment, then the Celery app."""
    url = scatter_settings().get("BROKER") or getattr(settings, "CELERY_BROKER_URL", None)
    url = url or os.environ.get("CELERY_BROKER_URL")
    if not url:
        from celery import current_app

        url = current_app.conf.broker_read_url or current_app.conf.broker_url
    if isinstance(url, (list, tuple)):  # tried in turn, as Celery does
        url = ";".join(url) or None
    if not url:
        raise ScatterError(
            'no broker: set SCATTER = {"BROKER": "redis://host/0"} or CELERY_BROKER_URL'
        )
    return str(url)


# Of broker_use_ssl, broker_transport_options and sentinel_kwargs what the planner knows as well, by the same names.
TLS_OPTIONS = frozenset(
    """ssl ssl_cert_reqs ssl_check_hostname ssl_ca_certs ssl_ca_path ssl_ca_data ssl_certfile ssl_keyfile
    ssl_password""".split()
)
TRANSPORT_OPTIONS = frozenset("master_name socket_timeout socket_connect_timeout".split())
SENTINEL_OPTIONS = TLS_OPTIONS | {"username", "password"}


def celery_setting(name: str) -> Any:
    """CELERY_... of the Django settings, else of the Celery app."""
    found = getattr(settings, f"CELERY_{name.upper()}", None)
    if found is None:
        from celery import current_app

        found = current_app.conf.get(name)
    return found


def chosen(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if k in names and v is not None}


def broker_options() -> dict[str, Any]:
    """What Celery's settings say of the broker beside its URL. A broker of SCATTER's own has everything in its URL."""
    if scatter_settings().get("BROKER"):
        return {}
    tls = celery_setting("broker_use_ssl")
    options = chosen(tls, TLS_OPTIONS) if isinstance(tls, Mapping) else {"ssl": True} if tls else {}
    transport = celery_setting("broker_transport_options") or {}
    options.update(chosen(transport, TRANSPORT_OPTIONS))
    sentinels = chosen(transport.get("sentinel_kwargs") or {}, SENTINEL_OPTIONS)
    return {**options, "sentinel_kwargs": sentinels} if sentinels else options


def key_prefix() -> str:
    """Celery's global_keyprefix of the broker: without it the workers would look for messages elsewhere."""
    return str((celery_setting("broker_transport_options") or {}).get("global_keyprefix") or "")


def default_queue() -> str:
    name = scatter_settings().get("QUEUE") or getattr(settings, "CELERY_TASK_DEFAULT_QUEUE", None)
    return str(name or "celery")


def plugins() -> list[str]:
    given = scatter_settings().get("PLUGINS", [])
    if isinstance(given, (str, os.PathLike)):
        raise ScatterError(f'SCATTER["PLUGINS"] must be a list of .so files, it is {given!r}')
    return [os.fspath(p) for p in given]


LEASE_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float | None:
    """Seconds, as celeryc reads them: "3", "90s", "2m"."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)(ms|s|m|h|)", text)
    return float(found[1]) * LEASE_UNITS[found[2]] if found else None


def sweep_seconds() -> int:
    """How often a worker sweeps; 0: never."""
    text = os.environ.get("SCATTER_SWEEP") or "30s"
    seconds = duration(text)
    if seconds is None or seconds > 86400 or seconds != int(seconds):
        raise ScatterError(f"SCATTER_SWEEP={text} is no number of seconds, write 30s (0: never)")
    return int(seconds)


def sweep_databases() -> list[str]:
    return [str(alias) for alias in scatter_settings().get("SWEEP", ["default"])]


def lease_seconds() -> float:
    """SCATTER_LEASE in the environment ("3", "90s", "2m", as celeryc reads it), else SCATTER["LEASE"]."""
    text = os.environ.get("SCATTER_LEASE")
    if not text:
        return float(scatter_settings().get("LEASE", 60))
    seconds = duration(text) or 0.0
    if not 1 <= seconds <= 86400:
        raise ScatterError(f"SCATTER_LEASE={text} is no time between 1 s and 24 h, write 60s")
    return seconds


def copy_setting() -> str:
    """SCATTER_COPY in the environment, as celeryc reads it, else SCATTER["COPY"]."""
    text = os.environ.get("SCATTER_COPY") or scatter_settings().get("COPY", "auto")
    if text not in ("auto", "always", "never"):
        raise ScatterError(f"SCATTER_COPY={text} is none of auto, always, never")
    return str(text)


def database_url(alias: str) -> str:
    """The URL that celeryc and scatter-plan understand for a Django database."""
    given = scatter_settings().get("DATABASE_URLS", {}).get(alias)
    if given:
        return str(given)
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist:
        names = ", ".join(sorted(connections.settings))
        raise ScatterError(f"DATABASES has no {alias!r}; there are {names}") from None
    entry = connection.settings_dict
    if connection.vendor == "sqlite":
        return sqlite_url(str(entry["NAME"]))
    if connection.vendor == "postgresql":
        return postgresql_url(entry)
    raise ScatterError(
        f"database {alias!r} is {connection.display_name}; the control tables and the rows to change "
        "must be in PostgreSQL or SQLite (rows may come from any database with --queryset)"
    )


def sqlite_url(name: str) -> str:
    if name == ":memory:" or "mode=memory" in name or not name:
        raise ScatterError(
            "the SQLite database is in memory, where no worker can see it: give DATABASES a file NAME"
        )
    path = name.removeprefix("file:").partition("?")[0] if name.startswith("file:") else name
    return "sqlite://" + quote(os.path.abspath(path))  # noqa: PTH100  keeps symbolic links


def postgresql_url(entry: Mapping[str, Any]) -> str:
    """A libpq URI; a socket directory and whatever else libpq knows go into the query."""
    options = {k: str(v) for k, v in (entry.get("OPTIONS") or {}).items() if k in LIBPQ_OPTIONS}
    user, password = str(entry.get("USER") or ""), str(entry.get("PASSWORD") or "")
    host, port = str(entry.get("HOST") or ""), str(entry.get("PORT") or "")
    authority = quote(user, safe="")
    if password:
        authority += ":" + quote(password, safe="")
    if authority:
        authority += "@"
    if host and not host.startswith(("/", "@")) and "," not in host:
        authority += f"[{host}]" if ":" in host else quote(host, safe="")
        if port:
            authority += f":{port}"
    else:
        options |= {k: v for k, v in (("host", host), ("port", port)) if v}
    name = quote(str(entry.get("NAME") or ""), safe="")
    query = urlencode(options, quote_via=quote)
    return f"postgresql://{authority}/{name}" + (f"?{query}" if query else "")


def database_variable(alias: str) -> str:
    """The environment variable in which planner and workers look for an alias's URL."""
    return "SCATTER_DATABASE_" + "".join(c if c.isalnum() else "_" for c in alias).upper()


def planner_environment(alias: str) -> dict[str, str]:
    """The environment of a scatter-plan process: ours, and what must not stand in its arguments."""
    found = {
        **os.environ,
        database_variable(alias): database_url(alias),
        "CELERY_BROKER_URL": broker_url(),
    }
    options = broker_options()
    if options:
        found["SCATTER_BROKER_OPTIONS"] = json.dumps(options, default=str)
    return found
