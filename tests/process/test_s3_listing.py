"""Listings in all of S3's forms, by boto3 and the AWS CLI."""

import json

import pytest

import harness
from test_boto3 import code_of

BUCKET = harness.BUCKET
KEYS = sorted(
    ["top", "a/1", "a/2", "a/b/3", "a b/+%", "c//d", "ü/é", "ab", "-", "\x07bell"] + [f"many/{i:04}" for i in range(30)],
    key=str.encode,
)


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    return stack.enter_context(harness.Server(place / "server", [backend]))


@pytest.fixture
def s3(server, boto):
    client = boto(server)
    if not client.list_objects_v2(Bucket=BUCKET)["KeyCount"]:
        for key in KEYS:
            client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    return client


def entries(keys, prefix="", delimiter="", after=""):
    """Keys and common prefixes by the definition."""
    found = []
    for key in keys:
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = key if at < 0 else key[: at + len(delimiter)]
        if entry.encode() > after.encode() and (not found or found[-1] != entry):
            found.append(entry)
    return found


def shown(page, contents):
    names = [one["Key"] for one in page.get(contents, [])] + [one["Prefix"] for one in page.get("CommonPrefixes", [])]
    return sorted(names, key=str.encode)


CASES = [("", ""), ("", "/"), ("a/", "/"), ("", "b"), ("", "//"), ("many/", "00"), ("nothing", "/"), ("c", "//"), ("", "é")]


@pytest.mark.parametrize("prefix, delimiter", CASES)
@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("operation, contents", [("list_objects", "Contents"), ("list_objects_v2", "Contents"), ("list_object_versions", "Versions")])
def test_pages(s3, operation, contents, prefix, delimiter, size):
    found = []
    pages = s3.get_paginator(operation).paginate(
        Bucket=BUCKET, Prefix=prefix, Delimiter=delimiter, PaginationConfig={"PageSize": size}
    )
    for page in pages:
        assert len(shown(page, contents)) <= size
        found += shown(page, contents)
    assert found == entries(KEYS, prefix, delimiter)


def test_the_first_version(s3):
    page = s3.list_objects(Bucket=BUCKET, Marker="many/0010", MaxKeys=3)
    assert [one["Key"] for one in page["Contents"]] == ["many/0011", "many/0012", "many/0013"]
    assert page["IsTruncated"] and "NextMarker" not in page and page["Marker"] == "many/0010"
    one = page["Contents"][0]
    assert (one["Size"], one["StorageClass"], one["Owner"]) == (9, "STANDARD", s3.list_buckets()["Owner"])
    page = s3.list_objects(Bucket=BUCKET, Delimiter="/", MaxKeys=4)
    assert page["IsTruncated"] and page["NextMarker"] == entries(KEYS, "", "/")[3]
    page = s3.list_objects(Bucket=BUCKET, MaxKeys=0)
    assert not page["IsTruncated"] and "Contents" not in page and page["MaxKeys"] == 0
    assert code_of(s3.list_objects, Bucket=BUCKET, MaxKeys=-1) == (400, "InvalidArgument")


def test_versions_of_an_unversioned_bucket(s3):
    page = s3.list_object_versions(Bucket=BUCKET, MaxKeys=2, Prefix="many/")
    assert [(one["Key"], one["VersionId"], one["IsLatest"]) for one in page["Versions"]] == [
        ("many/0000", "null", True),
        ("many/0001", "null", True),
    ]
    assert (page["NextKeyMarker"], page["NextVersionIdMarker"], page["IsTruncated"]) == ("many/0001", "null", True)
    assert "DeleteMarkers" not in page
    found = s3.get_bucket_versioning(Bucket=BUCKET)
    assert "Status" not in found and found["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_owners_on_demand(s3):
    assert "Owner" not in s3.list_objects_v2(Bucket=BUCKET, MaxKeys=1)["Contents"][0]
    owner = s3.list_objects_v2(Bucket=BUCKET, MaxKeys=1, FetchOwner=True)["Contents"][0]["Owner"]
    assert owner["ID"] == s3.list_buckets()["Owner"]["ID"]


def test_the_command_line(s3, server, aws):
    for operation in ("list-objects", "list-objects-v2"):
        listed = json.loads(aws(server, "s3api", operation, "--bucket", BUCKET, "--page-size", 7).stdout)
        assert [one["Key"] for one in listed["Contents"]] == KEYS
    lines = aws(server, "s3", "ls", f"s3://{BUCKET}/").stdout.splitlines()
    assert len(lines) == len(entries(KEYS, "", "/"))
