"""boto3 on a bucket that lies over data which was there before.

Usage: existing_data.py ENDPOINT ACCESS_KEY SECRET_KEY BUCKET EXPECTED.json

EXPECTED holds for each key its size, its ETag without quotes, its metadata and when it was last changed (Unix time).
"""

import hashlib
import json
import sys

import boto3
from botocore.client import Config


def client(endpoint, access_key, secret_key):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def listed(s3, operation, **arguments):
    found, prefixes = {}, []
    for page in s3.get_paginator(operation).paginate(**arguments):
        for entry in page.get("Contents", []):
            assert entry["Key"] not in found, f"{entry['Key']} is listed twice"
            found[entry["Key"]] = (entry["Size"], entry["ETag"].strip('"'), int(entry["LastModified"].timestamp()))
        prefixes += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
    return found, prefixes


def main(endpoint, access_key, secret_key, bucket, file):
    s3 = client(endpoint, access_key, secret_key)
    with open(file, encoding="utf-8") as lines:
        expected = json.load(lines)
    wanted = {key: (facts["size"], facts["etag"], facts["modified"]) for key, facts in expected.items()}
    for operation in ("list_objects", "list_objects_v2"):
        for size in (97, 1000):
            found, _ = listed(s3, operation, Bucket=bucket, PaginationConfig={"PageSize": size})
            assert list(found) == sorted(wanted), f"{operation} by {size}"
            differing = {key: (found[key], wanted[key]) for key in wanted if found[key] != wanted[key]}
            assert not differing, f"{operation} by {size}: {differing}"
        found, prefixes = listed(s3, operation, Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2})
        assert sorted(found) == sorted(key for key in wanted if "/" not in key), f"{operation} with a delimiter"
        assert prefixes == sorted({key.split("/")[0] + "/" for key in wanted if "/" in key}), prefixes
    for key in sorted(expected)[:: max(1, len(expected) // 40)]:
        facts = expected[key]
        head = s3.head_object(Bucket=bucket, Key=key)
        got = s3.get_object(Bucket=bucket, Key=key)
        body = got["Body"].read()
        assert hashlib.md5(body).hexdigest() == facts["etag"], key
        for answer in (head, got):
            assert answer["ContentLength"] == facts["size"] and answer["ETag"].strip('"') == facts["etag"], key
            assert answer["Metadata"] == facts["metadata"], (key, answer["Metadata"])
            assert int(answer["LastModified"].timestamp()) == facts["modified"], key
    print("ok", len(expected))


if __name__ == "__main__":
    main(*sys.argv[1:])
