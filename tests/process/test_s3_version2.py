"""Requests that are signed in version 2 in their Authorization header, as old programs do: by boto3, and what of them is refused."""

import hashlib
import os
import subprocess

import pytest

import harness
from test_boto3 import code_of

BUCKET = harness.BUCKET


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    return stack.enter_context(harness.Server(place / "server", [backend]))


@pytest.fixture
def s3(server, boto):
    return boto(server, signature_version="s3")


def sends(s3, operation, before="before-call", remove=(), **fields):
    """The client, whose requests of this operation get these fields, before or after they are signed."""

    def change(params=None, request=None, **_):
        headers = (params or {}).get("headers") if request is None else request.headers
        for name in [*remove, *fields]:
            if name.replace("_", "-") in headers:
                del headers[name.replace("_", "-")]
        for name, value in fields.items():
            headers[name.replace("_", "-")] = value

    s3.meta.events.register(f"{before}.s3.{operation}", change)
    return s3


def test_everything_works(s3):
    body = os.urandom(300_000)
    key = "sp ace/+%&=?ü"
    for data in (body, b""):
        s3.put_object(Bucket=BUCKET, Key=key, Body=data, ContentType="text/x", Metadata={"a": "b  c", "d": ""})
        got = s3.get_object(Bucket=BUCKET, Key=key)
        assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (data, "text/x", {"a": "b  c", "d": ""})
    assert s3.get_object(Bucket=BUCKET, Key=key, ResponseContentType="a/b")["ContentType"] == "a/b"
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 0
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": key})
    upload = {"Bucket": BUCKET, "Key": "parts"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part(**upload, PartNumber=1, Body=body)
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert hashlib.sha256(s3.get_object(Bucket=BUCKET, Key="parts")["Body"].read()).digest() == hashlib.sha256(body).digest()
    s3.put_object_tagging(Bucket=BUCKET, Key="copy", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    assert s3.get_object_tagging(Bucket=BUCKET, Key="copy")["TagSet"] == [{"Key": "k", "Value": "v"}]
    for call in (s3.list_objects, s3.list_objects_v2):
        pages = [call(Bucket=BUCKET, MaxKeys=2), call(Bucket=BUCKET, Prefix="sp ace/", Delimiter="+")]
        assert [one["Key"] for one in pages[0]["Contents"]] == ["copy", "parts"] and pages[0]["IsTruncated"]
        assert [one["Prefix"] for one in pages[1]["CommonPrefixes"]] == ["sp ace/+"]
    assert BUCKET in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": one} for one in (key, "copy", "parts")]})
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_rclone_and_s3cmd(server, place):
    """Which write dates each in a way of its own."""
    file = place / "a b.bin"
    file.write_bytes(os.urandom(6 * harness.MIB))
    rclone = {
        "RCLONE_CONFIG": "/dev/null", "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": server.url, "RCLONE_S3_V2_AUTH": "true",
        "RCLONE_S3_ACCESS_KEY_ID": harness.ACCESS_KEY, "RCLONE_S3_SECRET_ACCESS_KEY": harness.SECRET,
    }  # fmt: skip
    s3cmd = [
        "s3cmd", "-c", "/dev/null", "--no-ssl", f"--host={server.url.partition('//')[2]}", f"--host-bucket={server.url.partition('//')[2]}",
        f"--access_key={harness.ACCESS_KEY}", f"--secret_key={harness.SECRET}", "--signature-v2",
    ]  # fmt: skip
    back = place / "back.bin"
    for command in (
        ["rclone", "copyto", file, f":s3:{BUCKET}/r/a b.bin", "--s3-upload-cutoff", "5M"],
        ["rclone", "check", "--one-way", file, f":s3:{BUCKET}/r"],
        [*s3cmd, "put", "--multipart-chunk-size-mb=5", file, f"s3://{BUCKET}/s/a b.bin"],
        [*s3cmd, "get", f"s3://{BUCKET}/s/a b.bin", back],
        [*s3cmd, "del", "-r", "-f", f"s3://{BUCKET}"],
    ):
        done = subprocess.run(
            list(map(str, command)), env=harness.clean_environment(HOME=str(place), **rclone), capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-1000:]} {done.stderr[-2000:]}"
    assert back.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "fields, code",
    [
        ({"x_amz_date": "Bad Date"}, "AccessDenied"),
        ({"x_amz_date": ""}, "AccessDenied"),
        ({"x_amz_date": "Fri, 07 Jul 1950 21:53:04 GMT"}, "AccessDenied"),
        ({"x_amz_date": "Wed, 07 Jul 2010 21:53:04 GMT"}, "RequestTimeTooSkewed"),
        ({"x_amz_date": "Wed, 07 Jul 9999 21:53:04 GMT"}, "RequestTimeTooSkewed"),
    ],
)
def test_dates(s3, fields, code):
    assert code_of(sends(s3, "PutObject", **fields).put_object, Bucket=BUCKET, Key="dated", Body=b"x") == (403, code)


@pytest.mark.parametrize(
    "fields, remove, status, code",
    [
        ({"Authorization": "AWS HAHAHA"}, (), 400, "InvalidArgument"),
        ({"Authorization": "AWS nobodyskey:FWeDfwojDSdS2Ztmpfeubhd9isU="}, (), 403, "InvalidAccessKeyId"),
        ({"Authorization": "AWS photoskey:FWeDfwojDSdS2Ztmpfeubhd9isU="}, (), 403, "SignatureDoesNotMatch"),
        ({"x-amz-meta-more": "1"}, (), 403, "SignatureDoesNotMatch"),
        ({"Content-Type": "text/other"}, (), 403, "SignatureDoesNotMatch"),
        ({}, ("Date",), 403, "AccessDenied"),
    ],
)
def test_what_was_changed(s3, fields, remove, status, code):
    client = sends(s3, "PutObject", "before-send", remove, **fields)
    assert code_of(client.put_object, Bucket=BUCKET, Key="changed", Body=b"x") == (status, code)


def test_the_body_is_checked_where_it_is_declared(s3):
    client = sends(s3, "PutObject", **{"Content-MD5": "rL0Y20xC+Fzt72VPzMSk2A=="})
    assert code_of(client.put_object, Bucket=BUCKET, Key="digest", Body=b"x") == (400, "BadDigest")


def test_another_region_takes_none(place, stack, boto):
    backend = harness.directory_backend("disk", place / "disk-2", quota_bytes=harness.GIB)
    server = stack.enter_context(harness.Server(place / "in-europe", [backend], {"server": {"region": "eu-central-1"}}))
    assert code_of(boto(server, signature_version="s3").list_objects_v2, Bucket=BUCKET) == (400, "InvalidRequest")
