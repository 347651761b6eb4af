"""Multipart uploads, by boto3 and the AWS CLI: listings of uploads and parts, what Complete refuses and repeats, uploads that
nobody finishes."""

import base64
import concurrent.futures
import hashlib
import json
import os
import zlib

import boto3
import botocore.config
import botocore.exceptions
import pytest

import harness
from test_boto3 import code_of

BUCKET = harness.BUCKET
PART = 5 * harness.MIB


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=8 * harness.GIB)
    buckets = [{"name": BUCKET, "credentials": [{"access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET}]}]
    narrow = [{"access_key_id": "narrowkey", "secret_access_key": "narrowsecret"}]
    buckets.append({"name": "narrow", "max_multipart_uploads": 2, "credentials": narrow})
    return stack.enter_context(harness.Server(place / "server", [backend], {"buckets": buckets}))


@pytest.fixture
def s3(server, boto):
    return boto(server)


def outcome(call, *arguments, **named):
    """Status and error code of a call; no code if it went well."""
    try:
        return call(*arguments, **named)["ResponseMetadata"]["HTTPStatusCode"], None
    except botocore.exceptions.ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def begin(s3, key, **more):
    return s3.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]


def send(s3, key, upload, number, body, **more):
    return s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body, **more)


def complete(s3, key, upload, parts, **more):
    return s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **more)


def named(number, answer, *checksums):
    return {"PartNumber": number, "ETag": answer["ETag"], **{name: answer[name] for name in checksums}}


def crc32(body):
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


# ---- listings ----------------------------------------------------------------------------------------------------------


KEYS = ["l/a/1", "l/a/2", "l/b", "l/c d+%", "l/ü/x", "l/é"]


@pytest.fixture(scope="module")
def opened(server):
    """Uploads by key, some keys with several; one that was aborted and one that was completed are not among them."""
    s3 = boto3.client(
        "s3", endpoint_url=server.url, aws_access_key_id=harness.ACCESS_KEY, aws_secret_access_key=harness.SECRET,
        region_name="us-east-1", config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    found = []
    for i, key in enumerate(KEYS * 2 + ["l/b"]):
        found.append((key, begin(s3, key)))
    for key in ("l/b", "l/z"):
        s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=begin(s3, key))
        upload = begin(s3, key)
        complete(s3, key, upload, [named(1, send(s3, key, upload, 1, b"x"))])
    return sorted(found, key=lambda one: (one[0].encode(), one[1]))


def shown(page):
    return [(one["Key"], one["UploadId"]) for one in page.get("Uploads", [])]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_uploads_in_pages(s3, opened, size):
    found = []
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=BUCKET, Prefix="l/", PaginationConfig={"PageSize": size})
    for page in pages:
        assert len(shown(page)) <= size
        found += shown(page)
    assert found == opened


def test_uploads_of_one_key_are_in_the_order_of_their_beginning(s3, opened):
    uploads = s3.list_multipart_uploads(Bucket=BUCKET, Prefix="l/b")["Uploads"]
    begun = [one["Initiated"] for one in uploads]
    assert len(begun) == 3 and begun == sorted(begun)
    one = uploads[0]
    assert one["StorageClass"] == "STANDARD" and one["Owner"] == one["Initiator"] == s3.list_buckets()["Owner"]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_uploads_under_common_prefixes(s3, opened, size):
    keys, prefixes = [], []
    pages = s3.get_paginator("list_multipart_uploads").paginate(
        Bucket=BUCKET, Prefix="l/", Delimiter="/", PaginationConfig={"PageSize": size}
    )
    for page in pages:
        assert len(shown(page)) + len(page.get("CommonPrefixes", [])) <= size
        keys += shown(page)
        prefixes += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
    assert prefixes == ["l/a/", "l/ü/"]
    assert keys == [one for one in opened if "/" not in one[0][2:]]


def test_markers_of_uploads(s3, opened):
    listed = s3.list_multipart_uploads(Bucket=BUCKET, Prefix="l/", KeyMarker="l/b")
    assert shown(listed) == [one for one in opened if one[0].encode() > b"l/b"]
    of_b = [one for one in opened if one[0] == "l/b"]
    listed = s3.list_multipart_uploads(Bucket=BUCKET, Prefix="l/b", KeyMarker="l/b", UploadIdMarker=of_b[0][1])
    assert shown(listed) == of_b[1:]
    empty = s3.list_multipart_uploads(Bucket=BUCKET, MaxUploads=0)
    assert not empty["IsTruncated"] and "Uploads" not in empty
    assert code_of(s3.list_multipart_uploads, Bucket=BUCKET, MaxUploads=-1) == (400, "InvalidArgument")
    assert code_of(s3.list_multipart_uploads, Bucket=BUCKET, KeyMarker="l/b", UploadIdMarker="x") == (400, "InvalidArgument")


def test_the_command_line_lists_uploads(s3, server, aws, opened):
    listed = json.loads(aws(server, "s3api", "list-multipart-uploads", "--bucket", BUCKET, "--prefix", "l/", "--page-size", 2).stdout)
    assert shown(listed) == opened


def test_parts_in_pages(s3):
    upload = begin(s3, "parts")
    sent = {number: send(s3, "parts", upload, number, b"p" * number)["ETag"] for number in (10_000, 7, 1, 300, 2)}
    for size in (1, 2, 1000):
        found, marker = [], 0
        while True:
            page = s3.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload, MaxParts=size, PartNumberMarker=marker)
            found += [(one["PartNumber"], one["ETag"], one["Size"]) for one in page.get("Parts", [])]
            if not page["IsTruncated"]:
                break
            marker = page["NextPartNumberMarker"]
        assert found == [(number, sent[number], number) for number in sorted(sent)]
        # As in S3, the end of the last page is told as well.
        assert page["NextPartNumberMarker"] == 10_000
    nothing = s3.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload, MaxParts=0)
    assert not nothing["IsTruncated"] and "Parts" not in nothing, "or a client would ask for the next page for ever"
    for other in ({"Key": "other"}, {"UploadId": "0" * 32}):
        asked = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload, **other}
        assert code_of(s3.list_parts, **asked) == (404, "NoSuchUpload")


def test_an_upload_is_of_one_bucket_and_key(s3):
    upload = begin(s3, "mine")
    part = named(1, send(s3, "mine", upload, 1, b"x"))
    assert code_of(send, s3, "other", upload, 1, b"x") == (404, "NoSuchUpload")
    assert code_of(complete, s3, "other", upload, [part]) == (404, "NoSuchUpload")
    assert code_of(s3.abort_multipart_upload, Bucket=BUCKET, Key="other", UploadId=upload) == (404, "NoSuchUpload")
    complete(s3, "mine", upload, [part])


def test_open_uploads_are_counted_per_bucket(server, boto):
    s3 = boto3.client(
        "s3", endpoint_url=server.url, aws_access_key_id="narrowkey", aws_secret_access_key="narrowsecret",
        region_name="us-east-1", config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    first, _ = (s3.create_multipart_upload(Bucket="narrow", Key=key)["UploadId"] for key in "ab")
    assert code_of(s3.create_multipart_upload, Bucket="narrow", Key="c") == (503, "SlowDown")
    s3.abort_multipart_upload(Bucket="narrow", Key="a", UploadId=first)
    s3.create_multipart_upload(Bucket="narrow", Key="c")


# ---- complete ----------------------------------------------------------------------------------------------------------


def test_manifests_that_are_refused(s3):
    upload = begin(s3, "refused")
    one, two = send(s3, "refused", upload, 1, b"small"), send(s3, "refused", upload, 2, b"last")
    small, last = named(1, one), named(2, two)
    for parts, want in [
        ([small, last], (400, "EntityTooSmall")),
        ([last, small], (400, "InvalidPartOrder")),
        ([small, {**last, "ETag": '"0"'}], (400, "InvalidPart")),
        ([small, {**last, "PartNumber": 3}], (400, "InvalidPart")),
        ([], (400, "MalformedXML")),
    ]:
        assert code_of(complete, s3, "refused", upload, parts) == want, parts
    # None of it has ended the upload.
    complete(s3, "refused", upload, [last])
    assert s3.get_object(Bucket=BUCKET, Key="refused")["Body"].read() == b"last"


def test_complete_asked_again_answers_the_same(s3, server):
    upload = begin(s3, "again", Metadata={"m": "1"})
    body = [os.urandom(PART), b"end"]
    parts = [named(number, send(s3, "again", upload, number, data)) for number, data in enumerate(body, 1)]
    want = '"' + hashlib.md5(b"".join(hashlib.md5(data).digest() for data in body)).hexdigest() + '-2"'
    for _ in range(3):
        done = complete(s3, "again", upload, parts)
        assert (done["ETag"], done["Bucket"], done["Key"]) == (want, BUCKET, "again")
        assert done["Location"] == f"{server.url}/{BUCKET}/again"
    assert code_of(complete, s3, "again", upload, parts[:1]) == (400, "InvalidPart")
    assert code_of(s3.abort_multipart_upload, Bucket=BUCKET, Key="again", UploadId=upload) == (404, "NoSuchUpload")
    # Also when the object has been overwritten since: the upload was completed.
    s3.put_object(Bucket=BUCKET, Key="again", Body=b"newer")
    assert complete(s3, "again", upload, parts)["ETag"] == want
    assert s3.get_object(Bucket=BUCKET, Key="again")["Body"].read() == b"newer"


def test_racing_completes_and_aborts_agree(s3, boto, server):
    for turn in range(4):
        key = f"race/{turn}"
        upload = begin(s3, key)
        parts = [named(1, send(s3, key, upload, 1, b"raced"))]

        def end(place):
            client = boto(server, retries={"total_max_attempts": 1})
            if place % 2:
                return outcome(client.abort_multipart_upload, Bucket=BUCKET, Key=key, UploadId=upload)
            return outcome(complete, client, key, upload, parts)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            ended = list(pool.map(end, range(8)))
        completes, aborts = set(ended[::2]), set(ended[1::2])
        is_there = outcome(s3.head_object, Bucket=BUCKET, Key=key)[0] == 200
        assert completes <= {(200, None), (404, "NoSuchUpload"), (409, "OperationAborted")}, completes
        assert aborts <= {(204, None), (404, "NoSuchUpload"), (409, "OperationAborted")}, aborts
        assert is_there == ((200, None) in completes) and is_there != ((204, None) in aborts), ended


def test_object_sizes_that_are_declared(s3):
    upload = begin(s3, "sized")
    part = named(1, send(s3, "sized", upload, 1, b"12345"))
    assert code_of(complete, s3, "sized", upload, [part], MpuObjectSize=6) == (400, "InvalidRequest")
    complete(s3, "sized", upload, [part], MpuObjectSize=5)


def test_conditions_of_complete(s3):
    s3.put_object(Bucket=BUCKET, Key="there", Body=b"there")
    etag = s3.head_object(Bucket=BUCKET, Key="there")["ETag"]

    def attempt(key, **condition):
        upload = begin(s3, key)
        part = named(1, send(s3, key, upload, 1, b"new"))
        return outcome(complete, s3, key, upload, [part], **condition)

    assert attempt("there", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert attempt("there", IfMatch='"0"') == (412, "PreconditionFailed")
    assert attempt("absent", IfMatch=etag) == (404, "NoSuchKey")
    assert attempt("absent", IfNoneMatch="*") == (200, None)
    assert attempt("there", IfMatch=etag) == (200, None)


def test_a_refused_part_does_not_keep_its_upload_from_being_completed(server, s3):
    """It is given up behind its answer, and the client goes on at once."""
    for i in range(5):
        upload = begin(s3, "refused-part")
        part = named(1, send(s3, "refused-part", upload, 1, b"good"))
        with server.client() as client:
            query = [("partNumber", "1"), ("uploadId", upload)]
            wrong = client.put(BUCKET, "refused-part", b"bad", query=query, headers=[("content-md5", "A" * 22 + "==")])
            assert (wrong.status, wrong.code) == (400, "BadDigest")
            manifest = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part['ETag']}</ETag></Part></CompleteMultipartUpload>"
            done = client.request("POST", BUCKET, "refused-part", query[1:], body=manifest.encode())
            assert done.status == 200, (i, done)
    assert s3.get_object(Bucket=BUCKET, Key="refused-part")["Body"].read() == b"good"


# ---- checksums ---------------------------------------------------------------------------------------------------------


def two_parts(s3, key, algorithm, kind=None):
    more = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    upload = begin(s3, key, **more, **({"ChecksumType": kind} if kind else {}))
    body = [os.urandom(PART), b"the end"]
    sent = [send(s3, key, upload, number, data, **more) for number, data in enumerate(body, 1)]
    return upload, body, sent


@pytest.mark.parametrize("algorithm, kind", [
    ("CRC32", "FULL_OBJECT"), ("CRC32C", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT"),
    ("CRC32", "COMPOSITE"), ("CRC32C", "COMPOSITE"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE"),
])  # fmt: skip
def test_checksums_of_objects_in_parts(s3, algorithm, kind):
    name = f"Checksum{algorithm}"
    upload, body, sent = two_parts(s3, "sum", algorithm, kind)
    parts = [named(number, answer, name) for number, answer in enumerate(sent, 1)]
    wrong = [{**parts[0], name: sent[1][name]}, parts[1]]
    assert code_of(complete, s3, "sum", upload, wrong) == (400, "InvalidPart")
    if kind == "COMPOSITE":
        bare = [named(number, answer) for number, answer in enumerate(sent, 1)]
        assert code_of(complete, s3, "sum", upload, bare) == (400, "InvalidRequest")
    digest = {"SHA1": hashlib.sha1, "SHA256": hashlib.sha256}.get(algorithm)
    expected = {}
    if digest:
        # It is told with its number of parts, and may be sent so.
        joined = b"".join(digest(data).digest() for data in body)
        expected[name] = base64.b64encode(digest(joined).digest()).decode() + "-2"
        for other in (expected[name][:-1] + "3", base64.b64encode(digest(b"").digest()).decode() + "-2"):
            assert code_of(complete, s3, "sum", upload, parts, **{name: other}) == (400, "BadDigest")
    done = complete(s3, "sum", upload, parts, ChecksumType=kind, **expected)
    assert done["ChecksumType"] == kind
    assert all(done[one] == value for one, value in expected.items())
    if algorithm == "CRC32" and kind == "FULL_OBJECT":
        assert done[name] == crc32(b"".join(body))
    head = s3.head_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert (head[name], head["ChecksumType"]) == (done[name], kind)
    assert name not in s3.head_object(Bucket=BUCKET, Key="sum")
    assert s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")["Body"].read() == b"".join(body)
    part = s3.get_object(Bucket=BUCKET, Key="sum", PartNumber=2, ChecksumMode="ENABLED")
    assert part["Body"].read() == body[1]
    assert part.get(name) == (sent[1][name] if kind == "COMPOSITE" else None)
    attributes = s3.get_object_attributes(
        Bucket=BUCKET, Key="sum", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    )
    assert attributes["ETag"] == head["ETag"].strip('"') and attributes["ObjectSize"] == head["ContentLength"]
    assert attributes["Checksum"] == {name: done[name].partition("-")[0], "ChecksumType": kind}
    assert attributes["ObjectParts"]["TotalPartsCount"] == 2 and attributes["StorageClass"] == "STANDARD"
    listed = [(one["PartNumber"], one["Size"], one[name]) for one in attributes["ObjectParts"].get("Parts", [])]
    assert attributes["ObjectParts"].get("NextPartNumberMarker") == (2 if listed else None)
    whole = [(number, len(data), answer[name]) for number, (data, answer) in enumerate(zip(body, sent), 1)]
    assert listed == (whole if kind == "COMPOSITE" else [])


def test_the_whole_checksum_is_verified(s3):
    upload, body, sent = two_parts(s3, "whole", "CRC32", "FULL_OBJECT")
    parts = [named(number, answer) for number, answer in enumerate(sent, 1)]
    assert code_of(complete, s3, "whole", upload, parts, ChecksumCRC32=crc32(b"other")) == (400, "BadDigest")
    assert code_of(complete, s3, "whole", upload, parts, ChecksumCRC32C="AAAAAA==") == (400, "InvalidRequest")
    assert code_of(complete, s3, "whole", upload, parts, ChecksumType="COMPOSITE") == (400, "InvalidRequest")
    complete(s3, "whole", upload, parts, ChecksumCRC32=crc32(b"".join(body)), ChecksumType="FULL_OBJECT")


def test_a_checksum_of_an_upload_that_declared_none(s3, boto, server):
    """What cannot be verified is refused; what the parts' own checksums tell is verified and kept."""
    plain = boto(server, request_checksum_calculation="when_required")
    for key, with_sums in (("known", True), ("unknown", False)):
        upload = begin(plain, key)
        body = [os.urandom(PART), b"the end"]
        sums = [{"ChecksumCRC32": crc32(data)} if with_sums else {} for data in body]
        sent = [send(plain, key, upload, number, data, **more) for number, (data, more) in enumerate(zip(body, sums), 1)]
        parts = [named(number, answer) for number, answer in enumerate(sent, 1)]
        right = crc32(b"".join(body))
        if not with_sums:
            assert code_of(complete, plain, key, upload, parts, ChecksumCRC32=right) == (400, "InvalidRequest")
            complete(plain, key, upload, parts)
            continue
        assert code_of(complete, plain, key, upload, parts, ChecksumCRC32=crc32(b"other")) == (400, "BadDigest")
        assert complete(plain, key, upload, parts, ChecksumCRC32=right)["ChecksumCRC32"] == right


# ---- reads by part -----------------------------------------------------------------------------------------------------


def test_reads_by_part_number(s3):
    upload = begin(s3, "by-part")
    body = {1: os.urandom(PART), 3: os.urandom(PART + 1), 9: b"end"}
    parts = [named(number, send(s3, "by-part", upload, number, data)) for number, data in body.items()]
    complete(s3, "by-part", upload, parts)
    size, before = sum(map(len, body.values())), 0
    for number, data in body.items():
        for read in (s3.get_object, s3.head_object):
            found = read(Bucket=BUCKET, Key="by-part", PartNumber=number)
            assert found["ResponseMetadata"]["HTTPStatusCode"] == 206 and found["PartsCount"] == 3
            assert found["ContentLength"] == len(data)
            assert found["ResponseMetadata"]["HTTPHeaders"]["content-range"] == f"bytes {before}-{before + len(data) - 1}/{size}"
            if read == s3.get_object:
                assert found["Body"].read() == data
        before += len(data)
    assert "PartsCount" not in s3.head_object(Bucket=BUCKET, Key="by-part")
    assert code_of(s3.get_object, Bucket=BUCKET, Key="by-part", PartNumber=2) == (416, "InvalidPartNumber")
    assert code_of(s3.get_object, Bucket=BUCKET, Key="by-part", PartNumber=10) == (416, "InvalidPartNumber")
    assert code_of(s3.head_object, Bucket=BUCKET, Key="by-part", PartNumber=10)[0] == 416
    assert code_of(s3.get_object, Bucket=BUCKET, Key="by-part", PartNumber=10_001) == (400, "InvalidArgument")
    assert code_of(s3.get_object, Bucket=BUCKET, Key="by-part", PartNumber=1, Range="bytes=0-1") == (400, "InvalidRequest")


def test_one_piece_is_its_own_first_part(s3):
    for body in (b"piece", b""):
        s3.put_object(Bucket=BUCKET, Key="piece", Body=body)
        found = s3.get_object(Bucket=BUCKET, Key="piece", PartNumber=1)
        assert found["Body"].read() == body and "PartsCount" not in found
        assert code_of(s3.get_object, Bucket=BUCKET, Key="piece", PartNumber=2) == (416, "InvalidPartNumber")


# ---- stale uploads -----------------------------------------------------------------------------------------------------


def test_uploads_that_nobody_finishes_are_aborted(place, stack, boto):
    """On both kinds of backend: the rows, the charges and the bytes go."""
    s3s = harness.S3sFs(place / "stale-s3s")
    stack.callback(s3s.end)
    backends = [
        harness.directory_backend("disk", place / "stale-disk", quota_bytes=harness.GIB),
        s3s.backend("s3s", quota_bytes=harness.GIB),
    ]
    quick = {"interval": "200ms", "grace": "1s", "retry_first": "500ms"}
    more = {"routing_strategy": "spread", "cleanup_queue": quick, "write_path": {"settle": "1s"}}
    server = harness.Server(place / "stale", backends, more)
    with server:
        s3 = boto(server)
        uploads = {f"stale/{i}": begin(s3, f"stale/{i}") for i in range(4)}
        for key, upload in uploads.items():
            send(s3, key, upload, 1, os.urandom(100_000))
        assert len(s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 4
        assert sum(one["bytes_reserved"] for one in server.status()["backends"]) == 400_000
    server.config["cleanup_queue"]["multipart_stale_timeout"] = "1s"
    with server.start():
        harness.wait_for("stale uploads are aborted", lambda: "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET))
        server.wait_cleaned()
        for key, upload in uploads.items():
            assert code_of(send, s3, key, upload, 2, b"late") == (404, "NoSuchUpload")
        left = [name for name in harness.stored_in(place / "stale-disk") if "stale" in name]
        assert not left and not list(s3s.root.glob(".upload-*.json"))
