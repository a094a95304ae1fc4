# SPDX-License-Identifier: Apache-2.0
"""Fetches a batch object: file:///dir/name or s3://bucket/name (boto3, configured as the AWS tools are)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from django_scatter.errors import ScatterError

MAX_OBJECT_BYTES = 1 << 30
PASSING = (
    "IDPCommunicationError", "RequestLimitExceeded", "RequestTimeout", "SlowDown", "Throttling",
    "ThrottlingException",
)  # fmt: skip
EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")

_lock = threading.Lock()
_made: dict[str, Any] = {}


class StoreUnavailable(ScatterError):
    """Trying later may help."""


def fetch(url: str) -> bytes:
    """The object's bytes. StoreUnavailable when a retry may help, ScatterError when not."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return fetch_file(url)
    if scheme == "s3":
        return fetch_s3(url)
    raise ScatterError(f"batch source {url!r} is neither file:// nor s3://")


def fetch_file(url: str) -> bytes:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ScatterError(f"batch source {url!r} names a host; write file:///directory/name")
    path = Path(unquote(parts.path))
    try:
        with path.open("rb") as f:
            data = f.read(MAX_OBJECT_BYTES + 1)
    except FileNotFoundError:
        raise ScatterError(f"batch file {path} does not exist on this machine") from None
    except OSError as e:
        raise ScatterError(f"batch file {path} cannot be read: {e.strerror}") from e
    return bounded(data, url)


def fetch_s3(url: str) -> bytes:
    try:
        import botocore.exceptions
    except ImportError:
        raise ScatterError("batch source is in S3: install boto3 beside this worker") from None
    try:
        return bounded(get_object(url), url)
    except botocore.exceptions.ClientError as e:
        raise refused(url, e) from e
    except (
        botocore.exceptions.ConfigNotFound,
        botocore.exceptions.ConfigParseError,
        botocore.exceptions.InvalidConfigError,
        botocore.exceptions.NoCredentialsError,
        botocore.exceptions.PartialCredentialsError,
        botocore.exceptions.ProfileNotFound,
        botocore.exceptions.UnknownCredentialError,
    ) as e:
        raise ScatterError(
            f"{url}: {e}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, or give "
            "this pod or machine a role"
        ) from e
    except (botocore.exceptions.BotoCoreError, OSError) as e:
        raise StoreUnavailable(f"{url}: {e}") from e


def get_object(url: str) -> bytes:
    """The bytes. Credentials that have expired before their time are found anew, once."""
    import botocore.exceptions

    parts = urlsplit(url)
    for attempt in (1, 2):
        try:
            body = client().get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]
            data: bytes = body.read(MAX_OBJECT_BYTES + 1)
            return data
        except botocore.exceptions.ClientError as e:
            if attempt == 2 or error_code(e) not in EXPIRED:
                raise
            forget_client()
    raise AssertionError


def error_code(e: Any) -> str:
    return str(e.response.get("Error", {}).get("Code", "?"))


def refused(url: str, e: Any) -> ScatterError:
    status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error_code(e)
    if status >= 500 or status == 429 or code in PASSING:
        return StoreUnavailable(f"{url}: {code}")
    return ScatterError(f"{url} cannot be fetched: {code}; check the credentials and their rights")


def client() -> Any:
    """This process's S3 client: what gives credentials is not asked for every batch. One that was made before a fork, or
    under other settings, is not used."""
    settings = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "SCATTER_S3_"))}
    made_for = (os.getpid(), settings)
    with _lock:
        if _made.get("for") != made_for:
            _made["client"] = new_client()
            _made["for"] = made_for
        return _made["client"]


def forget_client() -> None:
    with _lock:
        _made.clear()


def new_client() -> Any:
    """An S3 client with the settings that celeryc reads too."""
    import boto3
    import botocore.session
    from botocore.config import Config

    # A session of its own: boto3's default one is shared and not safe among threads.
    core = botocore.session.get_session()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or core.get_config_variable("region") or "us-east-1"
    try:
        profile: dict[str, Any] = core.get_scoped_config()
    except botocore.exceptions.ProfileNotFound:
        profile = {}  # matters only when credentials are looked for in it
    config = Config(
        s3=cast("Any", {"addressing_style": addressing_style(endpoint, profile)}),
        retries={"max_attempts": 6, "mode": "standard"},
        connect_timeout=10,
        read_timeout=60,
    )
    return boto3.session.Session(botocore_session=core).client(
        "s3", endpoint_url=endpoint or None, region_name=region, config=config
    )


def addressing_style(endpoint: str | None, profile: dict[str, Any]) -> str:
    """As celeryc chooses: path style when an endpoint is given."""
    style = os.environ.get("SCATTER_S3_ADDRESSING")
    if style is None and isinstance(profile.get("s3"), dict):
        style = profile["s3"].get("addressing_style")
    if style in (None, "auto"):
        style = "path" if endpoint or "endpoint_url" in profile or "services" in profile else "auto"
    return str(style)


def bounded(data: bytes, url: str) -> bytes:
    if len(data) > MAX_OBJECT_BYTES:
        raise ScatterError(f"{url} is larger than {MAX_OBJECT_BYTES:,} bytes")
    return data
