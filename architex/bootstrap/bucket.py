"""Files in a bucket; loaded only where there is one: its library takes 6 MB of each process."""

from __future__ import annotations

from minio import Minio

from architex.gateways.media_files import LocalMediaFiles, MediaFiles
from architex.gateways.s3_media_files import S3MediaFiles
from architex.settings import S3Settings


def build_bucket_files(bucket: S3Settings, local: LocalMediaFiles) -> MediaFiles:
    """The files of media in a bucket.

    Args:
        local: where files are gathered before they are sent.
    """
    client = Minio(
        bucket.endpoint,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
        region=bucket.region,
        secure=bucket.tls,
    )
    return S3MediaFiles(client, bucket.bucket, bucket.prefix, local)
