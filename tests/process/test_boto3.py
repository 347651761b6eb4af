"""Every operation through boto3 in its default settings (which send a CRC32 with every upload: as a header over HTTP, as a
trailer of aws-chunked bodies over HTTPS), over two directories and two S3 dialects that we did not write: s3s-fs and moto."""

import hashlib
import io
import os

import botocore.exceptions
import pytest

import harness
from conftest import QUICK_CLEANUP

BUCKET = harness.BUCKET
EVERY_HEADER = {
    "ContentType": "text/plain; charset=utf-8",
    "CacheControl": "max-age=60, public",
    "ContentDisposition": 'attachment; filename="a b.txt"',
    "ContentEncoding": "gzip",
    "ContentLanguage": "de, en",
    "Metadata": {"colour": "blue", "with-blanks": "a  b", "empty": ""},
}


@pytest.fixture(scope="module", params=["http-directory", "https-s3s", "http-moto", "https-directory", "http-s3s"])
def server(request, place, stack, certificates):
    """One backend each, so that every operation meets every kind."""
    scheme, kind = request.param.split("-")
    folder = place / request.param
    folder.mkdir()
    if kind == "directory":
        backend = harness.directory_backend("disk", folder / "disk", quota_bytes=harness.GIB)
    elif kind == "s3s":
        s3s = harness.S3sFs(folder / "s3s")
        stack.callback(s3s.end)
        backend = s3s.backend("s3s", quota_bytes=harness.GIB)
    else:
        moto = harness.Moto(folder / "moto.log")
        stack.callback(moto.end)
        backend = moto.backend("moto", quota_bytes=harness.GIB)
    settings = {**QUICK_CLEANUP}
    return stack.enter_context(
        harness.Server(folder / "server", [backend], settings, tls=certificates if scheme == "https" else None)
    )


@pytest.fixture
def s3(server, boto):
    return boto(server)


def code_of(call, *arguments, **named):
    """The error that a call ends with: (status, code)."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(*arguments, **named)
    found = caught.value.response
    return found["ResponseMetadata"]["HTTPStatusCode"], found["Error"]["Code"]


def test_buckets(s3):
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [BUCKET]
    assert s3.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_location(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert code_of(s3.head_bucket, Bucket="somebody-elses")[0] in (403, 404)


@pytest.mark.parametrize("size", [0, 1, 5_000, 1_000_000])
def test_put_get_head_delete(s3, size):
    body, key = os.urandom(size), f"objects/{size}"
    put = s3.put_object(Bucket=BUCKET, Key=key, Body=body, **EVERY_HEADER)
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    assert put["ETag"] == etag and put["ChecksumCRC32"]
    for found in (s3.get_object(Bucket=BUCKET, Key=key), s3.head_object(Bucket=BUCKET, Key=key)):
        assert {name: found[name] for name in EVERY_HEADER} == EVERY_HEADER
        assert (found["ETag"], found["ContentLength"], found["AcceptRanges"]) == (etag, size, "bytes")
        if "Body" in found:
            # botocore verifies the CRC32 that comes back.
            assert found["Body"].read() == body
    with_checksum = s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
    assert with_checksum["ChecksumCRC32"] == put["ChecksumCRC32"]
    s3.delete_object(Bucket=BUCKET, Key=key)
    assert code_of(s3.get_object, Bucket=BUCKET, Key=key) == (404, "NoSuchKey")
    assert code_of(s3.head_object, Bucket=BUCKET, Key=key)[0] == 404
    s3.delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums(s3, algorithm):
    body = os.urandom(70_000)
    put = s3.put_object(Bucket=BUCKET, Key=f"sums/{algorithm}", Body=body, ChecksumAlgorithm=algorithm)
    got = s3.get_object(Bucket=BUCKET, Key=f"sums/{algorithm}", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]


def test_streams_of_unknown_seekability(s3):
    body = os.urandom(300_000)
    s3.put_object(Bucket=BUCKET, Key="stream", Body=io.BytesIO(body))
    assert s3.get_object(Bucket=BUCKET, Key="stream")["Body"].read() == body


def test_ranges(s3):
    body = os.urandom(100_000)
    s3.put_object(Bucket=BUCKET, Key="ranges", Body=body)
    got = s3.get_object(Bucket=BUCKET, Key="ranges", Range="bytes=10-99")
    assert got["Body"].read() == body[10:100] and got["ContentRange"] == "bytes 10-99/100000"
    assert code_of(s3.get_object, Bucket=BUCKET, Key="ranges", Range="bytes=100000-") == (416, "InvalidRange")


def test_conditions(s3):
    first = s3.put_object(Bucket=BUCKET, Key="conditions", Body=b"first")["ETag"]
    assert code_of(s3.put_object, Bucket=BUCKET, Key="conditions", Body=b"x", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert code_of(s3.put_object, Bucket=BUCKET, Key="conditions", Body=b"x", IfMatch='"0"') == (412, "PreconditionFailed")
    assert code_of(s3.put_object, Bucket=BUCKET, Key="nothing-there", Body=b"x", IfMatch=first) == (404, "NoSuchKey")
    second = s3.put_object(Bucket=BUCKET, Key="conditions", Body=b"second", IfMatch=first)["ETag"]
    s3.put_object(Bucket=BUCKET, Key="conditions-new", Body=b"new", IfNoneMatch="*")
    assert s3.get_object(Bucket=BUCKET, Key="conditions", IfMatch=second)["Body"].read() == b"second"
    assert code_of(s3.get_object, Bucket=BUCKET, Key="conditions", IfMatch=first) == (412, "PreconditionFailed")
    assert code_of(s3.get_object, Bucket=BUCKET, Key="conditions", IfNoneMatch=second)[0] == 304
    modified = s3.head_object(Bucket=BUCKET, Key="conditions")["LastModified"]
    assert code_of(s3.get_object, Bucket=BUCKET, Key="conditions", IfModifiedSince=modified)[0] == 304


def test_listing(s3):
    names = [f"list/{folder}/{i:03}" for folder in ("a", "b", "b b", "ü") for i in range(25)] + ["list/top", "list!", "list0"]
    for name in names:
        s3.put_object(Bucket=BUCKET, Key=name, Body=name.encode())
    everything = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="list", PaginationConfig={"PageSize": 7}):
        assert page["KeyCount"] == len(page.get("Contents", [])) <= 7
        everything += page.get("Contents", [])
    assert [one["Key"] for one in everything] == sorted(names, key=str.encode)
    assert all(one["ETag"] == f'"{hashlib.md5(one["Key"].encode()).hexdigest()}"' for one in everything)
    assert all(one["Size"] == len(one["Key"].encode()) for one in everything)

    prefixes, keys = [], []
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2}
    ):
        prefixes += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
        keys += [one["Key"] for one in page.get("Contents", [])]
    assert (prefixes, keys) == (["list/a/", "list/b b/", "list/b/", "list/ü/"], ["list/top"])

    for count in (0, 1, 102, 103, 104):
        page = s3.list_objects_v2(Bucket=BUCKET, Prefix="list", MaxKeys=count)
        assert (page["KeyCount"], page["IsTruncated"]) == (min(count, 103), 0 < count < 103), count
    page = s3.list_objects_v2(Bucket=BUCKET, Prefix="list/", StartAfter="list/b/023")
    assert [one["Key"] for one in page["Contents"]][:2] == ["list/b/024", "list/top"]


def test_delete_objects(s3):
    for i in range(20):
        s3.put_object(Bucket=BUCKET, Key=f"many/{i}", Body=b"x")
    names = [{"Key": f"many/{i}"} for i in range(25)]
    done = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": names})
    assert len(done["Deleted"]) == 25 and "Errors" not in done, "what is not there counts as deleted"
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["KeyCount"] == 0
    s3.put_object(Bucket=BUCKET, Key="many/<&>", Body=b"x")
    done = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "many/<&>"}], "Quiet": True})
    assert "Deleted" not in done and "Errors" not in done
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["KeyCount"] == 0


def test_multipart_by_hand(s3):
    key, parts = "multipart", [os.urandom(5 * harness.MIB), os.urandom(5 * harness.MIB + 1), os.urandom(10)]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **EVERY_HEADER)["UploadId"]
    named = []
    for number, part in enumerate(parts, 1):
        # Each part twice: the second replaces the first.
        for data in (part[::-1], part):
            answer = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=data)
            assert answer["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
        named.append({"PartNumber": number, "ETag": answer["ETag"]})
    listed = s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload, MaxParts=2)
    assert [(one["PartNumber"], one["Size"]) for one in listed["Parts"]] == [(1, len(parts[0])), (2, len(parts[1]))]
    assert listed["IsTruncated"] and listed["NextPartNumberMarker"] == 2
    assert code_of(s3.get_object, Bucket=BUCKET, Key=key) == (404, "NoSuchKey")
    done = s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": named})
    etag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + "-3"
    assert done["ETag"] == f'"{etag}"'
    found = s3.get_object(Bucket=BUCKET, Key=key)
    assert found["Body"].read() == b"".join(parts) and found["ETag"] == f'"{etag}"'
    assert {name: found[name] for name in EVERY_HEADER} == EVERY_HEADER
    assert code_of(s3.upload_part, Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")


def test_aborted_uploads_leave_nothing(s3, server):
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="aborted")["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key="aborted", UploadId=upload, PartNumber=1, Body=os.urandom(100_000))
    assert server.status()["backends"][0]["bytes_reserved"] >= 100_000
    s3.abort_multipart_upload(Bucket=BUCKET, Key="aborted", UploadId=upload)
    assert code_of(s3.list_parts, Bucket=BUCKET, Key="aborted", UploadId=upload) == (404, "NoSuchUpload")
    assert code_of(s3.get_object, Bucket=BUCKET, Key="aborted") == (404, "NoSuchKey")
    server.wait_cleaned()


def test_managed_transfers(s3, tmp_path):
    """upload_file and download_file: what programs use; threads, parts and ranges of their own choosing."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(30 * harness.MIB + 17))
    s3.upload_file(str(source), BUCKET, "managed", ExtraArgs={"Metadata": {"a": "b"}})
    s3.download_file(BUCKET, "managed", str(target))
    assert target.read_bytes() == source.read_bytes()
    found = s3.head_object(Bucket=BUCKET, Key="managed")
    assert found["Metadata"] == {"a": "b"} and found["ETag"].endswith('-4"')


def test_z_charges_are_the_bytes(s3, server):
    """Last: after everything was deleted nothing is charged."""
    keys = [
        one["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET) for one in page.get("Contents", [])
    ]
    for at in range(0, len(keys), 1000):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys[at : at + 1000]]})
    server.wait_cleaned()
    row = server.status()["backends"][0]
    assert (row["bytes_used"], row["object_count"]) == (0, 0), row
