# SPDX-License-Identifier: Apache-2.0
"""Fetches a batch object: file:///dir/name or s3://bucket/name (boto3, configured by the AWS_* variables)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from django_scatter.errors import ScatterError

MAX_OBJECT_BYTES = 1 << 30


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
    parts = urlsplit(url)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    try:
        body = client().get_object(Bucket=bucket, Key=key)["Body"]
        data: bytes = body.read(MAX_OBJECT_BYTES + 1)
    except botocore.exceptions.ClientError as e:
        status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = e.response.get("Error", {}).get("Code", "?")
        if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
            raise StoreUnavailable(f"{url}: {code}") from e
        raise ScatterError(
            f"{url} cannot be fetched: {code}; check the key and AWS_* settings"
        ) from e
    except (
        botocore.exceptions.NoCredentialsError,
        botocore.exceptions.PartialCredentialsError,
    ) as e:
        raise ScatterError(
            f"{url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from e
    except (botocore.exceptions.BotoCoreError, OSError) as e:
        raise StoreUnavailable(f"{url}: {e}") from e
    return bounded(data, url)


def client() -> Any:
    """An S3 client with the settings that celeryc reads too; path style when an endpoint is given."""
    import boto3
    from botocore.config import Config

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    style = os.environ.get("SCATTER_S3_ADDRESSING", "auto")
    if style == "auto":
        style = "path" if endpoint else "auto"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config = Config(
        s3=cast("Any", {"addressing_style": style}),
        retries={"max_attempts": 6, "mode": "standard"},
        connect_timeout=10,
        read_timeout=60,
    )
    # A session of its own: boto3's default one is shared and not safe among threads.
    return boto3.session.Session().client(
        "s3", endpoint_url=endpoint or None, region_name=region, config=config
    )


def bounded(data: bytes, url: str) -> bytes:
    if len(data) > MAX_OBJECT_BYTES:
        raise ScatterError(f"{url} is larger than {MAX_OBJECT_BYTES:,} bytes")
    return data
