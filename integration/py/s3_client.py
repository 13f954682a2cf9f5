"""boto3 against one endpoint. Usage: s3_client.py ENDPOINT ACCESS_KEY SECRET_KEY"""

import base64
import hashlib
import sys
import urllib.error
import urllib.request

import boto3
import botocore.exceptions
from botocore.client import Config


def client(endpoint, access_key, secret_key, **config):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **config),
    )


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        found = error.response["Error"]["Code"]
        assert found == code, (found, code)
        return error.response
    raise AssertionError(f"{code} expected of {arguments}")


def objects(s3, bucket):
    body = b"four kibibytes".ljust(4096, b".")
    put = s3.put_object(
        Bucket=bucket,
        Key="dir/a b+ü%",
        Body=body,
        ContentType="text/x-test",
        CacheControl="max-age=5",
        ContentDisposition="attachment",
        ContentLanguage="de",
        Metadata={"colour": "green", "n": "1"},
    )
    etag = put["ETag"]
    assert etag == '"%s"' % hashlib.md5(body).hexdigest(), etag
    got = s3.get_object(Bucket=bucket, Key="dir/a b+ü%")
    assert got["Body"].read() == body
    head = s3.head_object(Bucket=bucket, Key="dir/a b+ü%")
    for answer in (got, head):
        assert answer["ContentType"] == "text/x-test" and answer["CacheControl"] == "max-age=5", answer
        assert answer["ContentDisposition"] == "attachment" and answer["ContentLanguage"] == "de"
        assert answer["Metadata"] == {"colour": "green", "n": "1"}
        assert answer["ContentLength"] == 4096 and answer["ETag"] == etag
        assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
    part = s3.get_object(Bucket=bucket, Key="dir/a b+ü%", Range="bytes=5-12")
    assert part["Body"].read() == body[5:13] and part["ContentRange"] == "bytes 5-12/4096"
    assert s3.get_object(Bucket=bucket, Key="dir/a b+ü%", Range="bytes=-3")["Body"].read() == body[-3:]
    refused("InvalidRange", s3.get_object, Bucket=bucket, Key="dir/a b+ü%", Range="bytes=4096-")
    refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="missing")
    refused("304", s3.get_object, Bucket=bucket, Key="dir/a b+ü%", IfNoneMatch=etag)
    refused("PreconditionFailed", s3.get_object, Bucket=bucket, Key="dir/a b+ü%", IfMatch='"0"')


def conditions(s3, bucket):
    first = s3.put_object(Bucket=bucket, Key="lock", Body=b"1", IfNoneMatch="*")["ETag"]
    refused("PreconditionFailed", s3.put_object, Bucket=bucket, Key="lock", Body=b"2", IfNoneMatch="*")
    second = s3.put_object(Bucket=bucket, Key="lock", Body=b"2", IfMatch=first)["ETag"]
    refused("PreconditionFailed", s3.put_object, Bucket=bucket, Key="lock", Body=b"3", IfMatch=first)
    refused("NoSuchKey", s3.put_object, Bucket=bucket, Key="nothing", Body=b"3", IfMatch=second)
    assert s3.get_object(Bucket=bucket, Key="lock")["Body"].read() == b"2"


def checksums(s3, bucket):
    body = b"checked"
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        put = s3.put_object(Bucket=bucket, Key="sum", Body=body, ChecksumAlgorithm=algorithm)
        head = s3.head_object(Bucket=bucket, Key="sum", ChecksumMode="ENABLED")
        assert head["Checksum" + algorithm] == put["Checksum" + algorithm], (algorithm, head)
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    s3.put_object(Bucket=bucket, Key="sum", Body=body, ContentMD5=md5)
    refused("BadDigest", s3.put_object, Bucket=bucket, Key="sum2", Body=b"other", ContentMD5=md5)
    wrong = base64.b64encode(b"\0\0\0\0").decode()
    refused("BadDigest", s3.put_object, Bucket=bucket, Key="sum2", Body=body, ChecksumCRC32=wrong)
    refused("404", s3.head_object, Bucket=bucket, Key="sum2")


def listing(s3, bucket):
    for key in ("list/a", "list/b/1", "list/b/2", "list/c\x01d", "list/ü"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    keys, prefixes = [], []
    for page in pages:
        keys += [entry["Key"] for entry in page.get("Contents", [])]
        prefixes += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
    assert keys == ["list/a", "list/c\x01d", "list/ü"], keys
    assert prefixes == ["list/b/"], prefixes


def presigned(endpoint, credentials, bucket):
    s3 = client(endpoint, *credentials)
    url = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(url, data=b"by url", method="PUT")) as answer:
        assert answer.status == 200
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"by url"
    try:
        urllib.request.urlopen(url[:-1] + ("0" if url[-1] != "0" else "1"))
    except urllib.error.HTTPError as error:
        assert error.code == 403, error
    else:
        raise AssertionError("a wrong signature was accepted")


def main():
    endpoint, access_key, secret_key = sys.argv[1:4]
    s3 = client(endpoint, access_key, secret_key)
    bucket = "boto3-bucket"
    s3.create_bucket(Bucket=bucket)
    assert bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket=bucket)
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    objects(s3, bucket)
    conditions(s3, bucket)
    checksums(s3, bucket)
    listing(s3, bucket)
    presigned(endpoint, (access_key, secret_key), bucket)
    refused("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)
    while True:
        page = s3.list_objects_v2(Bucket=bucket)
        for entry in page.get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=entry["Key"])
        if not page["IsTruncated"]:
            break
    s3.delete_bucket(Bucket=bucket)
    refused("NoSuchBucket", s3.list_objects_v2, Bucket=bucket)
    refused("NoSuchBucket", s3.put_object, Bucket="no-such-bucket", Key="k", Body=b"")
    stranger = client(endpoint, access_key, "wrong")
    refused("SignatureDoesNotMatch", stranger.list_buckets)
    refused("InvalidAccessKeyId", client(endpoint, "stranger", "wrong").list_buckets)
    print("boto3", boto3.__version__, "ok")


main()
