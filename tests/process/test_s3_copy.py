"""CopyObject and UploadPartCopy, by boto3 and the AWS CLI, between two backends of different kinds."""

import datetime
import hashlib
import os

import pytest

import harness
from test_boto3 import code_of

BUCKET = harness.BUCKET
BODY = os.urandom(700_000)
SHOWN = {"ContentType": "text/x-test", "CacheControl": "no-store", "Metadata": {"colour": "blue"}}


@pytest.fixture(scope="module")
def server(place, stack):
    s3s = harness.S3sFs(place / "s3s")
    stack.callback(s3s.end)
    backends = [
        harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB),
        s3s.backend("s3s", quota_bytes=harness.GIB),
    ]
    return stack.enter_context(harness.Server(place / "server", backends, {"routing_strategy": "spread"}))


@pytest.fixture
def s3(server, boto):
    return boto(server)


@pytest.fixture
def source(s3):
    s3.put_object(Bucket=BUCKET, Key="source/ü +%", Body=BODY, Tagging="of=source", ChecksumAlgorithm="SHA256", **SHOWN)
    return {"Bucket": BUCKET, "Key": "source/ü +%"}


def check(s3, key, body, shown=SHOWN):
    found = s3.get_object(Bucket=BUCKET, Key=key)
    assert found["Body"].read() == body and found["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert {name: found[name] for name in shown} == shown
    return found


def tags_of(s3, key):
    return {one["Key"]: one["Value"] for one in s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]}


def test_a_copy_keeps_everything(s3, source):
    # Often enough that both backends are source and target.
    for i in range(10):
        done = s3.copy_object(Bucket=BUCKET, Key=f"copy/{i}", CopySource=source)["CopyObjectResult"]
        found = check(s3, f"copy/{i}", BODY)
        assert (done["ETag"], done["ChecksumType"]) == (found["ETag"], "FULL_OBJECT")
        assert abs(done["LastModified"] - found["LastModified"]) < datetime.timedelta(seconds=1)
        head = s3.head_object(Bucket=BUCKET, Key=f"copy/{i}", ChecksumMode="ENABLED")
        assert head["ChecksumSHA256"] == done["ChecksumSHA256"]
        assert tags_of(s3, f"copy/{i}") == {"of": "source"}
        source = {"Bucket": BUCKET, "Key": f"copy/{i}"}


def test_directives(s3, source):
    s3.copy_object(Bucket=BUCKET, Key="d", CopySource=source, Metadata={"not": "taken"}, ContentType="a/b")
    check(s3, "d", BODY)
    replaced = {"ContentType": "a/b", "Metadata": {"taken": "yes"}}
    s3.copy_object(Bucket=BUCKET, Key="d", CopySource=source, MetadataDirective="REPLACE", **replaced)
    assert "CacheControl" not in check(s3, "d", BODY, replaced)
    assert tags_of(s3, "d") == {"of": "source"}
    s3.copy_object(Bucket=BUCKET, Key="d", CopySource=source, TaggingDirective="REPLACE", Tagging="a=b")
    check(s3, "d", BODY)
    assert tags_of(s3, "d") == {"a": "b"}
    made = s3.copy_object(Bucket=BUCKET, Key="d", CopySource=source, ChecksumAlgorithm="CRC32C")["CopyObjectResult"]
    assert made["ChecksumCRC32C"] and "ChecksumSHA256" not in made
    head = s3.get_object(Bucket=BUCKET, Key="d", ChecksumMode="ENABLED")
    assert head["Body"].read() == BODY  # botocore verifies the checksum
    assert code_of(s3.copy_object, Bucket=BUCKET, Key="d", CopySource=source, MetadataDirective="X") == (400, "InvalidArgument")


def test_onto_itself(s3):
    s3.put_object(Bucket=BUCKET, Key="self", Body=b"self", Metadata={"a": "1"})
    itself = {"Bucket": BUCKET, "Key": "self"}
    assert code_of(s3.copy_object, **itself, CopySource=itself) == (400, "InvalidRequest")
    s3.copy_object(**itself, CopySource=itself, MetadataDirective="REPLACE", Metadata={"b": "2"})
    check(s3, "self", b"self", {"Metadata": {"b": "2"}})
    s3.copy_object(**itself, CopySource=itself, StorageClass="STANDARD")
    check(s3, "self", b"self", {"Metadata": {"b": "2"}})


def test_small_and_empty(s3):
    for body in (b"", b"x"):
        s3.put_object(Bucket=BUCKET, Key="small", Body=body)
        for i in range(4):
            s3.copy_object(Bucket=BUCKET, Key=f"small/{i}", CopySource=f"{BUCKET}/small?versionId=null")
            check(s3, f"small/{i}", body, {})


def test_conditions(s3, source):
    found = s3.head_object(**source)
    etag, modified = found["ETag"], found["LastModified"]
    before = modified - datetime.timedelta(hours=1)

    def copy(**conditions):
        return s3.copy_object(Bucket=BUCKET, Key="conditional", CopySource=source, **conditions)

    for holds in (
        {"CopySourceIfMatch": etag},
        {"CopySourceIfNoneMatch": '"0"'},
        {"CopySourceIfModifiedSince": before},
        {"CopySourceIfUnmodifiedSince": modified},
        {"CopySourceIfMatch": etag, "CopySourceIfUnmodifiedSince": before},
    ):
        copy(**holds)
    for fails in (
        {"CopySourceIfMatch": '"0"'},
        {"CopySourceIfNoneMatch": etag},
        {"CopySourceIfModifiedSince": modified},
        {"CopySourceIfUnmodifiedSince": before},
        {"CopySourceIfNoneMatch": etag, "CopySourceIfModifiedSince": before},
        {"IfNoneMatch": "*"},
        {"IfMatch": '"0"'},
    ):
        assert code_of(copy, **fails) == (412, "PreconditionFailed"), fails


def test_what_is_refused(s3, source):
    def copy_of(text):
        return code_of(s3.copy_object, Bucket=BUCKET, Key="refused", CopySource=text)

    assert copy_of(f"{BUCKET}/nobody") == (404, "NoSuchKey")
    assert copy_of("no-such-bucket/k") in ((404, "NoSuchBucket"), (403, "AccessDenied"))
    assert copy_of(f"{BUCKET}/{'k' * 20}?versionId=abc") == (400, "InvalidArgument")
    for malformed in ("nothing", "/", f"{BUCKET}/"):
        assert copy_of(malformed) == (400, "InvalidArgument"), malformed
    assert code_of(s3.get_object, Bucket=BUCKET, Key="refused") == (404, "NoSuchKey")


@pytest.fixture
def in_parts(s3):
    """An object of two parts, whose ETag is no MD5 of it."""
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", ChecksumAlgorithm="CRC32")["UploadId"]
    data, named = [os.urandom(5 * harness.MIB), b"end"], []
    for number, part in enumerate(data, 1):
        answer = s3.upload_part(
            Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32"
        )
        named.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload={"Parts": named})
    return b"".join(data)


def test_a_copy_of_an_object_in_parts_is_whole(s3, in_parts):
    for i in range(4):
        done = s3.copy_object(Bucket=BUCKET, Key=f"whole/{i}", CopySource=f"{BUCKET}/parts")["CopyObjectResult"]
        check(s3, f"whole/{i}", in_parts, {})
        assert done["ChecksumType"] == "FULL_OBJECT" and "-" not in done["ChecksumCRC32"]


def test_parts_that_are_copied(s3, in_parts):
    s3.put_object(Bucket=BUCKET, Key="first", Body=in_parts)
    target = {"Bucket": BUCKET, "Key": "assembled"}
    upload = s3.create_multipart_upload(**target)["UploadId"]
    spans, named = [(0, len(in_parts) - 1), (2, 5 * harness.MIB + 1), (3, 3)], []
    for number, (first, last) in enumerate(spans, 1):
        copied = s3.upload_part_copy(
            **target,
            UploadId=upload,
            PartNumber=number,
            CopySource=f"{BUCKET}/first",
            **({} if number == 1 else {"CopySourceRange": f"bytes={first}-{last}"}),
        )["CopyPartResult"]
        assert copied["ETag"] == f'"{hashlib.md5(in_parts[first:last + 1]).hexdigest()}"'
        named.append({"PartNumber": number, "ETag": copied["ETag"]})
    s3.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": named})
    want = b"".join(in_parts[first : last + 1] for first, last in spans)
    assert s3.get_object(**target)["Body"].read() == want


def test_ranges_of_parts_that_are_refused(s3):
    s3.put_object(Bucket=BUCKET, Key="ten", Body=b"0123456789")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="r")["UploadId"]

    def copy(span, **more):
        return code_of(
            s3.upload_part_copy,
            **{"Bucket": BUCKET, "Key": "r", "UploadId": upload, "PartNumber": 1, "CopySource": f"{BUCKET}/ten", **more},
            CopySourceRange=span,
        )

    assert copy("bytes=0-10") == (416, "InvalidRange")
    for improper in ("0-2", "bytes=0", "bytes=hello-world", "bytes=0-bar", "bytes=hello-", "bytes=0-2,3-5"):
        assert copy(improper) == (400, "InvalidArgument"), improper
    assert copy("bytes=0-1", CopySource=f"{BUCKET}/nobody") == (404, "NoSuchKey")
    assert copy("bytes=0-1", UploadId="0" * 32) == (404, "NoSuchUpload")
    assert copy("bytes=0-1", CopySourceIfMatch='"0"') == (412, "PreconditionFailed")
    assert "Parts" not in s3.list_parts(Bucket=BUCKET, Key="r", UploadId=upload)


def test_managed_copies(s3, server, aws, tmp_path):
    """What programs use: boto3's copy and the AWS CLI's cp and mv, in parts where they choose to. Version 1 of the CLI
    leaves the metadata behind when it copies in parts."""
    body = os.urandom(20 * harness.MIB + 3)
    s3.put_object(Bucket=BUCKET, Key="managed", Body=body, **SHOWN)
    s3.copy({"Bucket": BUCKET, "Key": "managed"}, BUCKET, "copied")
    assert s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == body
    aws(server, "s3", "cp", f"s3://{BUCKET}/managed", f"s3://{BUCKET}/by-cli")
    aws(server, "s3", "mv", f"s3://{BUCKET}/by-cli", f"s3://{BUCKET}/moved/by-cli")
    assert s3.get_object(Bucket=BUCKET, Key="moved/by-cli")["Body"].read() == body
    assert code_of(s3.head_object, Bucket=BUCKET, Key="by-cli")[0] == 404
    s3.put_object(Bucket=BUCKET, Key="small", Body=b"small", **SHOWN)
    aws(server, "s3", "cp", f"s3://{BUCKET}/small", f"s3://{BUCKET}/small-by-cli")
    check(s3, "small-by-cli", b"small")
