"""Object tagging, by boto3 and the AWS CLI."""

import json

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
    return boto(server)


def tag_set(count):
    return [{"Key": f"key {i}", "Value": f"v+{i}/ü"} for i in range(count)]


def tags_of(s3, key):
    return s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]


def test_tags_come_with_a_write(s3):
    body = b"x" * 300_000
    for size in (5, len(body)):
        s3.put_object(Bucket=BUCKET, Key="put", Body=body[:size], Tagging="a=1&b%20c=%C3%BC&d")
        want = [{"Key": "a", "Value": "1"}, {"Key": "b c", "Value": "ü"}, {"Key": "d", "Value": ""}]
        assert tags_of(s3, "put") == want
        assert s3.get_object(Bucket=BUCKET, Key="put")["TagCount"] == 3
        head = s3.head_object(Bucket=BUCKET, Key="put")["ResponseMetadata"]["HTTPHeaders"]
        assert head["x-amz-tagging-count"] == "3"
        s3.put_object(Bucket=BUCKET, Key="put", Body=b"y")
        assert tags_of(s3, "put") == [] and "TagCount" not in s3.get_object(Bucket=BUCKET, Key="put")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", Tagging="of=upload")["UploadId"]
    part = s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=1, Body=b"z")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload=parts)
    assert tags_of(s3, "parts") == [{"Key": "of", "Value": "upload"}]


def test_tags_are_changed(s3):
    s3.put_object(Bucket=BUCKET, Key="changed", Body=b"x", Metadata={"a": "b"})
    before = s3.head_object(Bucket=BUCKET, Key="changed")
    for tags in (tag_set(3), tag_set(10), tag_set(0), tag_set(1)):
        s3.put_object_tagging(Bucket=BUCKET, Key="changed", Tagging={"TagSet": tags})
        assert tags_of(s3, "changed") == tags
    s3.delete_object_tagging(Bucket=BUCKET, Key="changed")
    s3.delete_object_tagging(Bucket=BUCKET, Key="changed")
    assert tags_of(s3, "changed") == []
    after = s3.get_object(Bucket=BUCKET, Key="changed")
    assert after["Body"].read() == b"x"
    for name in ("ETag", "LastModified", "Metadata"):
        assert after[name] == before[name]


def test_what_is_refused(s3):
    s3.put_object(Bucket=BUCKET, Key="refused", Body=b"x", Tagging="kept=yes")
    for tags in (
        tag_set(11),
        [{"Key": "k" * 129, "Value": ""}],
        [{"Key": "k", "Value": "v" * 257}],
        [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}],
        [{"Key": "aws:k", "Value": "1"}],
        [{"Key": "k?", "Value": "1"}],
    ):
        refused = code_of(s3.put_object_tagging, Bucket=BUCKET, Key="refused", Tagging={"TagSet": tags})
        assert refused == (400, "InvalidTag"), tags
    assert code_of(s3.put_object, Bucket=BUCKET, Key="refused", Body=b"y", Tagging="a=1&a=2") == (400, "InvalidArgument")
    assert tags_of(s3, "refused") == [{"Key": "kept", "Value": "yes"}]
    for call in (s3.get_object_tagging, s3.delete_object_tagging):
        assert code_of(call, Bucket=BUCKET, Key="nobody") == (404, "NoSuchKey")
    assert code_of(s3.put_object_tagging, Bucket=BUCKET, Key="nobody", Tagging={"TagSet": []}) == (404, "NoSuchKey")


def test_the_command_line(s3, server, aws):
    s3.put_object(Bucket=BUCKET, Key="cli", Body=b"x")
    where = ("--bucket", BUCKET, "--key", "cli")
    aws(server, "s3api", "put-object-tagging", *where, "--tagging", "TagSet=[{Key=a,Value=b}]")
    found = json.loads(aws(server, "s3api", "get-object-tagging", *where).stdout)
    assert found["TagSet"] == [{"Key": "a", "Value": "b"}]
    aws(server, "s3api", "delete-object-tagging", *where)
    assert json.loads(aws(server, "s3api", "get-object-tagging", *where).stdout)["TagSet"] == []
