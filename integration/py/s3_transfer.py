"""boto3's transfer manager against one endpoint, whose domain is s3.test. Usage: s3_transfer.py ENDPOINT ACCESS_KEY SECRET_KEY short|long"""

import hashlib
import io
import os
import socket
import sys
import tempfile
import urllib.request

import boto3
import botocore.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.client import Config

MIB = 1 << 20


def client(endpoint, access_key, secret_key, style="path"):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": style}, retries={"max_attempts": 1}),
    )


def write_file(path, size):
    digest = hashlib.sha256()
    block = os.urandom(MIB)
    with open(path, "wb") as file:
        while size:
            piece = block[: min(size, MIB)]
            file.write(piece)
            digest.update(piece)
            size -= len(piece)
            block = block[1:] + block[:1]
    return digest.hexdigest()


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def transfers(s3, bucket, sizes, directory):
    for size in sizes:
        there, back = os.path.join(directory, "there"), os.path.join(directory, "back")
        digest = write_file(there, size)
        key = f"files/{size}"
        s3.upload_file(there, bucket, key, ExtraArgs={"Metadata": {"size": str(size)}, "ContentType": "text/x"})
        head = s3.head_object(Bucket=bucket, Key=key)
        assert head["ContentLength"] == size and head["Metadata"] == {"size": str(size)}, head
        assert head["ContentType"] == "text/x", head
        s3.download_file(bucket, key, back)
        assert sha256_of(back) == digest, size
        s3.copy({"Bucket": bucket, "Key": key}, bucket, key + "-copy")
        s3.download_file(bucket, key + "-copy", back)
        assert sha256_of(back) == digest, f"the copy of {size}"
        # Few parts of another size, in several threads, from a stream of unknown length.
        config = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB, max_concurrency=4)
        with open(there, "rb") as file:
            s3.upload_fileobj(file, bucket, key, Config=config)
        s3.download_file(bucket, key, back, Config=config)
        assert sha256_of(back) == digest, f"{size} from a stream"
        os.remove(back)


def checksums(s3, bucket):
    body = os.urandom(12 * MIB)
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        s3.upload_fileobj(io.BytesIO(body), bucket, "sum", ExtraArgs={"ChecksumAlgorithm": algorithm})
        head = s3.head_object(Bucket=bucket, Key="sum", ChecksumMode="ENABLED")
        assert head["Checksum" + algorithm], head
        # The SDK verifies what it can of it.
        got = s3.get_object(Bucket=bucket, Key="sum", ChecksumMode="ENABLED")
        assert got["Body"].read() == body
        part = s3.get_object(Bucket=bucket, Key="sum", PartNumber=2)
        assert part["Body"].read() == body[8 * MIB :] and part["PartsCount"] == 2


def conditions(s3, bucket):
    def upload():
        made = s3.create_multipart_upload(Bucket=bucket, Key="once")
        part = s3.upload_part(Bucket=bucket, Key="once", UploadId=made["UploadId"], PartNumber=1, Body=b"x")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        return dict(Bucket=bucket, Key="once", UploadId=made["UploadId"], MultipartUpload=parts)

    first, second = upload(), upload()
    done = s3.complete_multipart_upload(IfNoneMatch="*", **first)
    try:
        s3.complete_multipart_upload(IfNoneMatch="*", **second)
        raise AssertionError("two winners")
    except botocore.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == "PreconditionFailed", error
    s3.complete_multipart_upload(IfMatch=done["ETag"], **second)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "once"}, CopySourceIfMatch=done["ETag"])


def batches(s3, bucket):
    for i in range(30):
        s3.put_object(Bucket=bucket, Key=f"batch/{i} <&>\"ü", Body=b"x")
    keys = [entry["Key"] for entry in s3.list_objects(Bucket=bucket, Prefix="batch/")["Contents"]]
    assert len(keys) == 30
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert sorted(entry["Key"] for entry in answer["Deleted"]) == sorted(keys), answer
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix="batch/")
    pages = s3.get_paginator("list_objects").paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1})
    seen = [prefix["Prefix"] for page in pages for prefix in page.get("CommonPrefixes", [])]
    assert seen == ["files/"], seen


def presigned(s3, bucket):
    """A part by a presigned URL, as browsers send them."""
    made = s3.create_multipart_upload(Bucket=bucket, Key="signed")
    names = dict(Bucket=bucket, Key="signed", UploadId=made["UploadId"])
    url = s3.generate_presigned_url("upload_part", dict(PartNumber=1, **names), ExpiresIn=60)
    body = os.urandom(MIB)
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="PUT")) as answer:
        etag = answer.headers["ETag"]
    s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **names)
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == body


def resolve_here(domain):
    """Lets every name under the domain be this machine, as a wildcard record would."""
    resolve = socket.getaddrinfo

    def here(host, *args, **kwargs):
        return resolve("127.0.0.1" if str(host).endswith("." + domain) else host, *args, **kwargs)

    socket.getaddrinfo = here


def virtual_hosts(endpoint, access_key, secret_key, directory):
    """The bucket in the host name, and in the signature."""
    resolve_here("s3.test")
    port = endpoint.rsplit(":", 1)[1]
    s3 = client(f"http://s3.test:{port}", access_key, secret_key, style="virtual")
    bucket, hosts = "host-bucket", set()
    s3.meta.events.register("before-send.s3", lambda request, **_: hosts.add(request.url.split("/")[2]))
    s3.create_bucket(Bucket=bucket)
    transfers(s3, bucket, [1, 20 * MIB + 1], directory)
    presigned(s3, bucket)
    assert hosts == {f"{bucket}.s3.test:{port}"}, hosts
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="files/")["Contents"]
    assert len(listed) == 4, listed
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": entry["Key"]} for entry in listed] + [{"Key": "signed"}]})
    s3.delete_bucket(Bucket=bucket)


def main():
    endpoint, access_key, secret_key, form = sys.argv[1:5]
    s3 = client(endpoint, access_key, secret_key)
    bucket = "transfer-bucket"
    s3.create_bucket(Bucket=bucket)
    sizes = [1, 65_537, 20 * MIB + 1, 64 * MIB]
    if form == "long":
        sizes.append(2048 * MIB)
    with tempfile.TemporaryDirectory() as directory:
        transfers(s3, bucket, sizes, directory)
        virtual_hosts(endpoint, access_key, secret_key, directory)
    batches(s3, bucket)
    checksums(s3, bucket)
    conditions(s3, bucket)
    presigned(s3, bucket)
    resource = boto3.resource(
        "s3", endpoint_url=endpoint, aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name="us-east-1"
    )
    # Batches of deletes, and with versions as tools that empty buckets do it.
    resource.Bucket(bucket).object_versions.delete()
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    s3.delete_bucket(Bucket=bucket)
    print("boto3", boto3.__version__, "ok")


main()
