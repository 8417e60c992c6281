"""S3: the archive's objects, and the one border at which boto3's errors are translated.

An object is never replaced by one that holds less. Whoever writes looks first, and S3 takes the object only if it is still as it was
then: so a process that was away for a while, and whose partition another has taken over, cannot undo the other's work.
"""

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from ops.dlq.archive_line import NameTaken, Written
from shared import errors
from shared.config import Settings

ANSWER_S, CONNECT_S, TRIES = 10, 3, 2
REGION = "us-east-1"  # where neither the environment nor the profile names one
WRITES_MAX = 5
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_CHANGED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_AWAY = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.IncompleteReadError,
)


class Store:
    """The bucket. Raises Unavailable when S3 is away or does not let us, ConfigError when no bucket is set."""

    def __init__(self, settings: Settings) -> None:
        if not settings.dlq_archive_bucket:
            raise errors.ConfigError(["DLQ_ARCHIVE_BUCKET: is needed; it names the bucket of the archive"])
        self.bucket = settings.dlq_archive_bucket
        try:
            self._client: Any = _client(settings)
        except (botocore.exceptions.BotoCoreError, ValueError, RuntimeError, ImportError) as exc:
            raise errors.ConfigError([f"DLQ_ARCHIVE_ENDPOINT and the AWS settings: {exc}"]) from exc
        self.endpoint: str = self._client.meta.endpoint_url

    def create(self) -> None:
        """Make the bucket, unless it is there."""
        region = self._client.meta.region_name
        where = {} if region == REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._call("create_bucket", **where)
        except _Refused as exc:
            if exc.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise self._unavailable(exc) from exc

    def put(self, key: str, body: bytes, facts: Mapping[str, str], *, end: int) -> Written:
        """Write the object, whose letters end before the offset `end`, unless an object with more of the same topic has its name.

        Raises NameTaken where an object of another topic has it.
        """
        for _ in range(WRITES_MAX):
            there = self._head(key)
            if there is None:
                condition = {"IfNoneMatch": "*"}
            elif there["Metadata"].get("topic-id", "") != facts.get("topic-id", ""):
                raise NameTaken(key)
            elif int(there["Metadata"].get("end-offset", 0)) > end:
                return "kept"
            else:
                condition = {"IfMatch": there["ETag"]}
            try:
                metadata = {**facts, "end-offset": str(end)}
                self._call("put_object", Key=key, Body=body, Metadata=metadata, ContentType="application/gzip", **condition)
            except _Refused as exc:
                if exc.code not in _CHANGED and exc.code not in _MISSING:
                    raise self._unavailable(exc) from exc
            else:
                return "repeated" if there else "written"
        raise errors.Unavailable(f"s3://{self.bucket}/{key} changes all the time: who else writes it?", code="archive_contended")

    def keys(self, prefix: str) -> Iterator[str]:
        """Every object's key that begins with `prefix`, in order."""
        more: dict[str, str] = {}
        while True:
            try:
                page = self._call("list_objects_v2", Prefix=prefix, **more)
            except _Refused as exc:
                raise self._unavailable(exc) from exc
            for found in page.get("Contents", ()):
                yield str(found["Key"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def lines(self, key: str) -> Iterator[bytes]:
        """The object's lines. Raises Refused when it is not what was written."""
        try:
            body = self._call("get_object", Key=key)["Body"]
            with gzip.GzipFile(fileobj=body) as unpacked:
                yield from unpacked
        except _Refused as exc:
            raise self._unavailable(exc) from exc
        except _AWAY as exc:
            raise errors.Unavailable(f"S3 at {self.endpoint} broke off s3://{self.bucket}/{key}: {exc}", code="archive_away") from exc
        except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
            raise errors.Refused(f"s3://{self.bucket}/{key} cannot be unpacked: {exc}", code="archive_broken") from exc

    def _head(self, key: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._call("head_object", Key=key)
        except _Refused as exc:
            if exc.code in _MISSING:  # of the object or of the bucket: HEAD does not say, and the put will
                return None
            raise self._unavailable(exc) from exc
        return found

    def _call(self, name: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client, name)(Bucket=self.bucket, **arguments)
        except botocore.exceptions.ClientError as exc:
            raise _Refused(exc) from exc
        except botocore.exceptions.BotoCoreError as exc:
            raise errors.Unavailable(f"S3 at {self.endpoint} cannot be used: {exc}", code="archive_away") from exc

    def _unavailable(self, refused: "_Refused") -> errors.Unavailable:
        if refused.code == "NoSuchBucket":
            return errors.Unavailable(
                f"there is no bucket {self.bucket} at {self.endpoint}; --create-bucket makes it", code="archive_bucket_missing"
            )
        return errors.Unavailable(f"S3 at {self.endpoint} refused: {refused}", code="archive_refused")


class _Refused(Exception):
    """S3 answered, and the answer is no."""

    def __init__(self, exc: botocore.exceptions.ClientError) -> None:
        self.code = str(exc.response.get("Error", {}).get("Code", ""))
        super().__init__(str(exc))


def _client(settings: Settings) -> Any:
    answers: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "read_timeout": ANSWER_S,
        "retries": {"mode": "standard", "total_max_attempts": TRIES},
    }
    own = settings.dlq_archive_endpoint
    if own == "aws" or (own is None and not _is_local(settings)):
        session = boto3.session.Session()
        return session.client("s3", region_name=session.region_name or REGION, config=botocore.config.Config(**answers))
    config = botocore.config.Config(**answers, s3={"addressing_style": "path"})  # a name before the host's would need a DNS of its own
    if own is None:
        from localstack_client import session as localstack  # a checkout has it, the image of this command does not

        return localstack.Session().client("s3", config=config)
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=own, region_name=session.region_name or REGION, config=config)


def _is_local(settings: Settings) -> bool:
    return settings.app_env == "local" and not (os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"))
