"""boto3 uploads bodies in given parts. Usage: s3_parts.py ENDPOINT ACCESS_KEY SECRET_KEY BUCKET KEY=BYTES+BYTES...

Prints a line for each key: the key, the ETag that it was given, the SHA-256 of the body. The ETag is also computed
here, as S3 defines it, and compared; part by part the body is read back.
"""

import hashlib
import os
import sys

import boto3
from botocore.client import Config


def upload(s3, bucket, key, lengths):
    bodies = [os.urandom(length) for length in lengths]
    made = s3.create_multipart_upload(Bucket=bucket, Key=key, ContentType="text/x", Metadata={"m": key})
    names = dict(Bucket=bucket, Key=key, UploadId=made["UploadId"])
    parts = []
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(PartNumber=number, Body=body, **names)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    etag = s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **names)["ETag"].strip('"')
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    assert etag == f"{hashlib.md5(digests).hexdigest()}-{len(bodies)}", etag
    for number, body in enumerate(bodies, 1):
        got = s3.get_object(Bucket=bucket, Key=key, PartNumber=number)
        assert got["Body"].read() == body and got["PartsCount"] == len(bodies), (key, number)
    return etag, hashlib.sha256(b"".join(bodies)).hexdigest()


def main():
    endpoint, access_key, secret_key, bucket = sys.argv[1:5]
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )
    for argument in sys.argv[5:]:
        key, lengths = argument.split("=")
        etag, digest = upload(s3, bucket, key, [int(length) for length in lengths.split("+")])
        print(key, etag, digest)


main()
