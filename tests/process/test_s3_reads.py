"""Reads and conditions as S3 has them, by boto3 and the AWS CLI: ranges, overrides, HEAD parity, conditional reads, writes and
deletes, and creates that race."""

import concurrent.futures
import datetime
import hashlib
import json
import os
import urllib.request

import botocore.exceptions
import pytest

import harness
from conftest import three_backends
from test_boto3 import code_of
from test_s3_multipart import begin, complete, named, outcome, send

BUCKET = harness.BUCKET
BODY = os.urandom(100_000)


@pytest.fixture(scope="module")
def server(place, stack):
    backends, _ = three_backends(place, stack)
    return stack.enter_context(harness.Server(place / "server", backends, {"routing_strategy": "spread"}))


@pytest.fixture
def s3(server, boto):
    return boto(server)


@pytest.fixture
def read(s3):
    s3.put_object(Bucket=BUCKET, Key="read", Body=BODY, ContentType="text/x-test", CacheControl="no-store", Metadata={"m": "1"})
    return {"Bucket": BUCKET, "Key": "read"}


def fields(answer):
    return answer["ResponseMetadata"]["HTTPHeaders"]


# ---- ranges ------------------------------------------------------------------------------------------------------------

SIZE = len(BODY)
RANGES = [
    # header, status, first, last
    ("bytes=0-0", 206, 0, 0),
    ("bytes=0-9", 206, 0, 9),
    ("bytes=99990-", 206, 99_990, SIZE - 1),
    ("bytes=0-", 206, 0, SIZE - 1),
    ("bytes=99999-200000", 206, SIZE - 1, SIZE - 1),
    ("bytes=-1", 206, SIZE - 1, SIZE - 1),
    ("bytes=-500", 206, SIZE - 500, SIZE - 1),
    ("bytes=-200000", 206, 0, SIZE - 1),
    ("BYTES=5-6", 206, 5, 6),
    # What is no single range of bytes is no range.
    ("bytes=0-1,5-6", 200, 0, SIZE - 1),
    ("bytes=6-5", 200, 0, SIZE - 1),
    ("bytes=", 200, 0, SIZE - 1),
    ("bytes=a-b", 200, 0, SIZE - 1),
    ("bytes=5", 200, 0, SIZE - 1),
    ("lines=0-1", 200, 0, SIZE - 1),
]


@pytest.mark.parametrize("header, status, first, last", RANGES)
def test_ranges(s3, read, header, status, first, last):
    for call in (s3.get_object, s3.head_object):
        found = call(**read, Range=header)
        assert found["ResponseMetadata"]["HTTPStatusCode"] == status
        assert found["ContentLength"] == last - first + 1 and found["AcceptRanges"] == "bytes"
        assert fields(found).get("content-range") == (f"bytes {first}-{last}/{SIZE}" if status == 206 else None)
        if call == s3.get_object:
            assert found["Body"].read() == BODY[first : last + 1]


@pytest.mark.parametrize("header", ["bytes=100000-", "bytes=100000-100001", "bytes=-0", "bytes=200000-"])
def test_ranges_behind_the_end(s3, read, header):
    for call in (s3.get_object, s3.head_object):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(**read, Range=header)
        found = caught.value.response
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 416 and fields(found)["content-range"] == f"bytes */{SIZE}"
        assert call == s3.head_object or found["Error"]["Code"] == "InvalidRange"


def test_ranges_of_nothing(s3):
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    empty = {"Bucket": BUCKET, "Key": "empty"}
    assert code_of(s3.get_object, **empty, Range="bytes=0-") == (416, "InvalidRange")
    assert code_of(s3.get_object, **empty, Range="bytes=0-5") == (416, "InvalidRange")
    assert s3.get_object(**empty, Range="bytes=-5")["Body"].read() == b""
    assert s3.get_object(**empty)["Body"].read() == b""


def test_if_range(s3, server, read):
    found = s3.head_object(**read)
    modified = fields(found)["last-modified"]
    with server.client() as client:
        for value, status in [
            (found["ETag"], 206),
            (modified, 206),
            ('"0"', 200),
            ("W/" + found["ETag"], 200),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 200),
        ]:
            answer = client.request("GET", BUCKET, "read", headers=[("range", "bytes=2-5"), ("if-range", value)])
            assert (answer.status, answer.body) == (status, BODY[2:6] if status == 206 else BODY), value


# ---- answers -----------------------------------------------------------------------------------------------------------


def test_head_says_what_get_says(s3, read):
    variable = {"date", "x-amz-request-id", "connection"}
    for more in ({}, {"Range": "bytes=3-10"}, {"PartNumber": 1}, {"ResponseContentType": "a/b"}):
        # boto3 asks for checksums with every GET.
        got, told = (call(**read, **more, ChecksumMode="ENABLED") for call in (s3.get_object, s3.head_object))
        got["Body"].read()
        assert {k: v for k, v in fields(got).items() if k not in variable} == {
            k: v for k, v in fields(told).items() if k not in variable
        }, more
    assert code_of(s3.head_object, Bucket=BUCKET, Key="nobody")[0] == 404


def test_headers_that_the_request_asks_for(s3, server, boto, read):
    asked = {
        "ResponseContentType": "image/x-e",
        "ResponseContentLanguage": "de, en",
        "ResponseExpires": datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "ResponseCacheControl": "max-age=5",
        "ResponseContentDisposition": 'attachment; filename="a b.txt"',
        "ResponseContentEncoding": "identity",
    }
    for call in (s3.get_object, s3.head_object):
        found = call(**read, **asked)
        assert found["ContentType"] == "image/x-e" and found["ContentLanguage"] == "de, en"
        assert found["CacheControl"] == "max-age=5" and found["ContentEncoding"] == "identity"
        assert found["ContentDisposition"] == 'attachment; filename="a b.txt"' and found["Metadata"] == {"m": "1"}
        assert "2030" in fields(found)["expires"]
    assert s3.get_object(**read)["ContentType"] == "text/x-test", "the object itself has not changed"
    url = boto(server, signature_version="s3v4").generate_presigned_url("get_object", Params={**read, "ResponseContentType": "a/b"}, ExpiresIn=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["content-type"] == "a/b" and answer.read() == BODY
    with server.client() as client:
        line_ends = client.request("GET", BUCKET, "read", query=[("response-content-type", "a\r\nx-evil: 1")])
        assert line_ends.status == 200 and "x-evil" not in dict(line_ends.headers)


def test_attributes(s3, server, aws, read):
    etag = hashlib.md5(BODY).hexdigest()
    command = ["s3api", "get-object-attributes", "--bucket", BUCKET, "--key", "read", "--object-attributes"]
    found = json.loads(aws(server, *command, "ETag", "ObjectSize", "StorageClass", "ObjectParts", "Checksum").stdout)
    assert (found["ETag"], found["ObjectSize"], found["StorageClass"]) == (etag, SIZE, "STANDARD")
    assert "ObjectParts" not in found and found["Checksum"]["ChecksumType"] == "FULL_OBJECT"
    few = s3.get_object_attributes(**read, ObjectAttributes=["ObjectSize"])
    assert few["ObjectSize"] == SIZE and "ETag" not in few and few["LastModified"]
    assert code_of(s3.get_object_attributes, Bucket=BUCKET, Key="nobody", ObjectAttributes=["ETag"]) == (404, "NoSuchKey")
    with server.client() as client:
        for names in (None, "Etag"):
            headers = [("x-amz-object-attributes", names)] if names else []
            assert client.request("GET", BUCKET, "read", query=[("attributes", "")], headers=headers).status == 400


# ---- conditions --------------------------------------------------------------------------------------------------------


def test_conditional_reads(s3, read):
    found = s3.head_object(**read)
    etag, modified = found["ETag"], found["LastModified"]
    before, after = modified - datetime.timedelta(seconds=1), modified + datetime.timedelta(seconds=1)
    for status, conditions in [
        (200, {"IfMatch": etag}),
        (200, {"IfMatch": etag.strip('"')}),
        (200, {"IfMatch": "*"}),
        (200, {"IfMatch": f'"0", {etag}'}),
        (412, {"IfMatch": '"0"'}),
        (412, {"IfMatch": "W/" + etag}),
        (304, {"IfNoneMatch": etag}),
        (304, {"IfNoneMatch": "W/" + etag}),
        (304, {"IfNoneMatch": "*"}),
        (304, {"IfNoneMatch": f'"0",{etag}'}),
        (200, {"IfNoneMatch": '"0"'}),
        (200, {"IfModifiedSince": before}),
        (304, {"IfModifiedSince": modified}),
        (200, {"IfUnmodifiedSince": modified}),
        (200, {"IfUnmodifiedSince": after}),
        (412, {"IfUnmodifiedSince": before}),
        (200, {"IfMatch": etag, "IfUnmodifiedSince": before}),
        (304, {"IfNoneMatch": etag, "IfModifiedSince": before}),
        (200, {"IfNoneMatch": '"0"', "IfModifiedSince": modified}),
        (412, {"IfMatch": '"0"', "IfNoneMatch": etag}),
    ]:
        for call in (s3.get_object, s3.head_object):
            assert outcome(call, **read, **conditions)[0] == status, conditions
        assert outcome(s3.get_object, **read, Range="bytes=0-1", **conditions)[0] == (206 if status == 200 else status)


def test_errors_name_the_condition_and_the_range(s3, read):
    def error(call, **asked):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(**asked)
        return caught.value.response["Error"]

    stale = datetime.datetime(2000, 1, 1)
    for call, conditions, shown in (
        (s3.get_object, {"IfMatch": '"0"'}, "If-Match"),
        (s3.get_object, {"IfUnmodifiedSince": stale}, "If-Unmodified-Since"),
        (s3.get_object, {"IfMatch": '"0"', "IfUnmodifiedSince": stale}, None),
        (s3.put_object, {"IfNoneMatch": "*"}, "If-None-Match"),
        (s3.copy_object, {"CopySource": read, "CopySourceIfMatch": '"0"'}, "x-amz-copy-source-If-Match"),
    ):
        found = error(call, **read, **conditions)
        assert (found["Code"], found.get("Condition")) == ("PreconditionFailed", shown), conditions
    beyond = error(s3.get_object, **read, Range="bytes=200000-")
    assert (beyond["Code"], beyond["RangeRequested"], beyond["ActualObjectSize"]) == ("InvalidRange", "bytes=200000-", str(SIZE))


def test_dates_of_the_future_are_no_condition(s3, read):
    tomorrow = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    for call in (s3.get_object, s3.head_object):
        assert outcome(call, **read, IfModifiedSince=tomorrow) == (200, None)
    assert outcome(s3.copy_object, Bucket=BUCKET, Key="copied", CopySource=read, CopySourceIfModifiedSince=tomorrow) == (200, None)


def test_listings_tell_the_time_as_reads_do(s3, read):
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="read")["Contents"][0]["LastModified"]
    assert listed == s3.head_object(**read)["LastModified"] and listed.microsecond == 0


def test_conditional_writes(s3):
    etag = s3.put_object(Bucket=BUCKET, Key="guarded", Body=b"1")["ETag"]

    def put(**conditions):
        return outcome(s3.put_object, Bucket=BUCKET, Key="guarded", Body=b"2", **conditions)

    assert put(IfNoneMatch="*") == (412, "PreconditionFailed")
    assert put(IfMatch='"0"') == (412, "PreconditionFailed")
    assert outcome(s3.put_object, Bucket=BUCKET, Key="nobody", Body=b"", IfMatch=etag) == (404, "NoSuchKey")
    assert outcome(s3.put_object, Bucket=BUCKET, Key="nobody", Body=b"", IfMatch="*") == (404, "NoSuchKey")
    assert s3.get_object(Bucket=BUCKET, Key="guarded")["Body"].read() == b"1"
    assert put(IfMatch=etag) == (200, None)
    assert put(IfMatch=etag) == (412, "PreconditionFailed")
    assert put(IfMatch="*") == (200, None)


def test_conditional_deletes(s3):
    def put(key):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"12345")
        return s3.head_object(Bucket=BUCKET, Key=key)

    def delete(key, **conditions):
        return outcome(s3.delete_object, Bucket=BUCKET, Key=key, **conditions)

    found = put("gone")
    earlier = found["LastModified"] - datetime.timedelta(seconds=1)
    for conditions in (
        {"IfMatch": '"0"'},
        {"IfMatchSize": 4},
        {"IfMatchLastModifiedTime": earlier},
        {"IfMatch": found["ETag"], "IfMatchSize": 4},
    ):
        assert delete("gone", **conditions) == (412, "PreconditionFailed"), conditions
    holds = {"IfMatch": found["ETag"], "IfMatchSize": 5, "IfMatchLastModifiedTime": found["LastModified"]}
    assert delete("gone", **holds) == (204, None)
    assert delete("gone", **holds) == (404, "NoSuchKey")
    assert delete("gone", IfMatch="*") == (404, "NoSuchKey")
    assert delete("gone") == (204, None)
    put("gone")
    assert delete("gone", IfMatch="*") == (204, None)


def test_conditional_deletes_of_many(s3):
    found = {}
    for key in "abcde":
        s3.put_object(Bucket=BUCKET, Key=f"many/{key}", Body=key.encode())
        found[key] = s3.head_object(Bucket=BUCKET, Key=f"many/{key}")
    asked = [
        {"Key": "many/a", "ETag": found["a"]["ETag"]},
        {"Key": "many/b", "ETag": '"0"'},
        {"Key": "many/c", "Size": 1, "LastModifiedTime": found["c"]["LastModified"]},
        {"Key": "many/d", "Size": 2},
        {"Key": "many/e"},
        {"Key": "many/nobody"},
        {"Key": "many/nobody-either", "ETag": "*"},
    ]
    done = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": asked})
    assert sorted(one["Key"] for one in done["Deleted"]) == ["many/a", "many/c", "many/e", "many/nobody"]
    assert {one["Key"]: one["Code"] for one in done["Errors"]} == {
        "many/b": "PreconditionFailed",
        "many/d": "PreconditionFailed",
        "many/nobody-either": "NoSuchKey",
    }
    assert [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["Contents"]] == ["many/b", "many/d"]


# ---- races -------------------------------------------------------------------------------------------------------------

RACERS = 8


def race(work):
    with concurrent.futures.ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(work, range(RACERS)))


def test_of_racing_creates_exactly_one_wins(server, boto, s3):
    """PutObject, CompleteMultipartUpload and CopyObject, small and streamed bodies, on whatever backend has room."""
    clients = [boto(server, retries={"total_max_attempts": 1}) for _ in range(RACERS)]
    s3.put_object(Bucket=BUCKET, Key="copied", Body=b"copied")
    lost = {(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")}
    for turn in range(6):
        key = f"create/{turn}"
        bodies = [f"{turn} {racer} ".encode() * (60_000 if racer % 3 == 1 else 1) for racer in range(RACERS)]
        uploads = {racer: begin(s3, key) for racer in (2, 5)}
        parts = {racer: [named(1, send(s3, key, upload, 1, bodies[racer]))] for racer, upload in uploads.items()}

        def create(racer):
            client = clients[racer]
            if racer in uploads:
                return outcome(complete, client, key, uploads[racer], parts[racer], IfNoneMatch="*")
            if racer == 7:
                return outcome(client.copy_object, Bucket=BUCKET, Key=key, CopySource=f"{BUCKET}/copied", IfNoneMatch="*")
            return outcome(client.put_object, Bucket=BUCKET, Key=key, Body=bodies[racer], IfNoneMatch="*")

        ended = race(create)
        assert ended.count((200, None)) == 1 and set(ended) <= {(200, None)} | lost, ended
        winner = ended.index((200, None))
        want = b"copied" if winner == 7 else bodies[winner]
        assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == want


def test_of_racing_swaps_exactly_one_wins(server, boto, s3):
    clients = [boto(server, retries={"total_max_attempts": 1}) for _ in range(RACERS)]
    etag = s3.put_object(Bucket=BUCKET, Key="swap", Body=b"first")["ETag"]
    for turn in range(6):

        def swap(racer):
            if racer == 0:
                return outcome(clients[0].delete_object, Bucket=BUCKET, Key="swap", IfMatch=etag)
            return outcome(clients[racer].put_object, Bucket=BUCKET, Key="swap", Body=f"{turn} {racer}".encode(), IfMatch=etag)

        ended = race(swap)
        won = [racer for racer, (status, _) in enumerate(ended) if status in (200, 204)]
        assert len(won) == 1, ended
        assert {status for status, _ in ended} <= {200, 204, 404, 409, 412}, ended
        there = outcome(s3.get_object, Bucket=BUCKET, Key="swap")
        assert there[0] == (404 if won == [0] else 200)
        etag = s3.put_object(Bucket=BUCKET, Key="swap", Body=f"turn {turn}".encode())["ETag"]
