"""What backends are sent: copies within one backend, the quirk profile (`unsigned_payload`, `disable_checksum`), nothing that nobody
asked for; and clients that are kept waiting while a backend works."""

import base64
import hashlib
import os
import time
import xml.etree.ElementTree
import zlib

import pytest

import harness
from stub import Stub, Times
from test_s3_multipart import begin, complete, named, send

BUCKET = harness.BUCKET
BODY = os.urandom(3 * harness.MIB + 7)


def crc32(body):
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


@pytest.fixture(scope="module")
def s3s(place, stack):
    one = harness.S3sFs(place / "s3s")
    stack.callback(one.end)
    return one


@pytest.fixture
def stub():
    one = Stub(harness.free_port())
    yield one
    one.close()


def moved(server):
    """Bytes that went to and came from the backends."""
    return server.metric("s3o_backend_ingress_bytes_total"), server.metric("s3o_backend_egress_bytes_total")


@pytest.mark.parametrize("kind", ["directory", "s3s"])
def test_copies_within_one_backend(place, boto, s3s, kind):
    """The bytes never leave it; ETag, checksum and what is read are as if they had."""
    folder = place / f"within-{kind}"
    here = harness.directory_backend("here", folder / "here", quota_bytes=harness.GIB)
    if kind == "s3s":
        here = s3s.backend("here", quota_bytes=harness.GIB)
    other = harness.directory_backend("other", folder / "other", quota_bytes=harness.GIB)
    # Spread would choose the other one, which is empty.
    with harness.Server(folder / "server", [here, other], {"routing_strategy": "pack"}) as server:
        s3 = boto(server)
        s3.put_object(Bucket=BUCKET, Key="a/ü+", Body=BODY, Metadata={"m": "1"}, ChecksumAlgorithm="CRC32")
        before = moved(server)
        done = s3.copy_object(Bucket=BUCKET, Key="b", CopySource={"Bucket": BUCKET, "Key": "a/ü+"})["CopyObjectResult"]
        assert (done["ETag"], done["ChecksumCRC32"]) == (f'"{hashlib.md5(BODY).hexdigest()}"', crc32(BODY))
        whole = {"Bucket": BUCKET, "Key": "parts"}
        upload = s3.create_multipart_upload(**whole)["UploadId"]
        part = s3.upload_part_copy(**whole, UploadId=upload, PartNumber=1, CopySource=f"{BUCKET}/b")["CopyPartResult"]
        assert part["ETag"] == done["ETag"]
        if kind == "s3s":
            span = s3.upload_part_copy(
                **whole, UploadId=upload, PartNumber=1, CopySource=f"{BUCKET}/b", CopySourceRange="bytes=5-1000004"
            )["CopyPartResult"]
            assert span["ETag"] == f'"{hashlib.md5(BODY[5:1000005]).hexdigest()}"'
            part = span
        assert moved(server) == before, "no byte of a body was moved"
        s3.complete_multipart_upload(
            **whole, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        )
        assert s3.get_object(Bucket=BUCKET, Key="b", ChecksumMode="ENABLED")["Body"].read() == BODY
        assert s3.get_object(**whole)["Body"].read() == (BODY[5:1000005] if kind == "s3s" else BODY)
        assert s3.head_object(Bucket=BUCKET, Key="b")["Metadata"] == {"m": "1"}
        # What somebody has to look at is streamed: another checksum.
        made = s3.copy_object(Bucket=BUCKET, Key="c", CopySource=f"{BUCKET}/b", ChecksumAlgorithm="SHA256")["CopyObjectResult"]
        assert made["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(BODY).digest()).decode()
        assert moved(server) > before
        # Deleting the source leaves the copies alone.
        s3.delete_object(Bucket=BUCKET, Key="a/ü+")
        assert s3.get_object(Bucket=BUCKET, Key="c")["Body"].read() == BODY


def test_a_copy_stays_where_its_source_is(place, boto):
    folder = place / "stays"
    backends = [harness.directory_backend(name, folder / name, quota_bytes=harness.GIB) for name in ("one", "two", "three")]
    with harness.Server(folder / "server", backends, {"routing_strategy": "spread"}) as server:
        s3 = boto(server)
        s3.put_object(Bucket=BUCKET, Key="0", Body=BODY)
        for i in range(6):
            s3.copy_object(Bucket=BUCKET, Key=str(i + 1), CopySource=f"{BUCKET}/{i}")
        assert s3.get_object(Bucket=BUCKET, Key="6")["Body"].read() == BODY
        held = sorted(one["object_count"] for one in server.status()["backends"])
        assert held == [0, 0, 7], "spread places writes, not copies that need not move"


def test_a_backend_that_does_not_copy_is_streamed_to(place, boto, stub):
    """The stub stores an empty object for a CopyObject, which measuring finds out."""
    with harness.Server(place / "streamed", [stub.backend("stub", quota_bytes=harness.GIB)]) as server:
        s3 = boto(server)
        s3.put_object(Bucket=BUCKET, Key="a", Body=b"some bytes")
        s3.copy_object(Bucket=BUCKET, Key="b", CopySource=f"{BUCKET}/a")
        assert s3.get_object(Bucket=BUCKET, Key="b")["Body"].read() == b"some bytes"


def test_every_body_is_signed_where_that_is_wanted(place, stack, boto):
    """s3s-fs verifies the signature of every chunk. Small, streamed, copied and replicated bodies, and parts."""
    folder = place / "signed"
    s3s = harness.S3sFs(place / "signed-s3s")
    stack.callback(s3s.end)
    near = harness.directory_backend("near", folder / "near", quota_bytes=harness.GIB)
    signed = s3s.backend("signed", quota_bytes=harness.GIB, unsigned_payload=False)
    more = {"routing_strategy": "spread", "replication": {"factor": 2, "worker_interval": "1s"}}
    with harness.Server(folder / "server", [near, signed], more) as server:
        s3 = boto(server)
        bodies = {f"k{size}": os.urandom(size) for size in (0, 1, 70_000, 262_145, 1_000_000, 5_000_001)}
        for key, body in bodies.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=body)
            s3.copy_object(Bucket=BUCKET, Key=f"copy/{key}", CopySource=f"{BUCKET}/{key}", ChecksumAlgorithm="SHA1")
        for turn in range(2):
            upload = begin(s3, f"parts/{turn}")
            data = [os.urandom(5 * harness.MIB), b"end"]
            parts = [named(number, send(s3, f"parts/{turn}", upload, number, part)) for number, part in enumerate(data, 1)]
            complete(s3, f"parts/{turn}", upload, parts)
            bodies[f"parts/{turn}"] = b"".join(data)
        harness.wait_for("copies", lambda: server.metric("s3o_replication_pending") == 0 and all(
            one["object_count"] == 14 for one in server.status()["backends"]), 60)  # fmt: skip
        for key, body in bodies.items():
            assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
        stored = sorted(size for name, size in s3s.stored().items() if name.startswith(BUCKET))
        assert stored == sorted([len(body) for body in bodies.values()] + [len(body) for key, body in bodies.items() if key[0] == "k"])


def test_what_streams_is_signed_in_chunks_or_not_at_all(place, stub):
    for number, (settings, want) in enumerate([
        ({}, "UNSIGNED-PAYLOAD"),
        ({"unsigned_payload": True}, "UNSIGNED-PAYLOAD"),
        ({"unsigned_payload": False}, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
    ]):  # fmt: skip
        stub.fields.clear()
        backend = stub.backend("stub", quota_bytes=harness.GIB, **settings)
        with harness.Server(place / f"streams-{number}", [backend]) as server, server.client() as client:
            assert client.put(BUCKET, "k", BODY, payload_hash="UNSIGNED-PAYLOAD").status == 200
        sent = [fields for fields in stub.fields if fields.get("x-amz-content-sha256") == want]
        assert len(sent) == 1, want
        if want.startswith("STREAMING"):
            assert sent[0]["x-amz-decoded-content-length"] == str(len(BODY))
            assert int(sent[0]["content-length"]) > len(BODY)
        else:
            assert sent[0]["content-length"] == str(len(BODY))
        stub.objects.clear()


def test_backends_are_sent_nothing_that_nobody_asked_for(place, boto, stub):
    """R2, B2, GCS refuse checksums and headers that they do not know. Measuring sends some, unless it is told not to."""
    for number, disabled in enumerate((True, False)):
        stub.fields.clear()
        backend = stub.backend("stub", quota_bytes=harness.GIB, disable_checksum=disabled)
        with harness.Server(place / f"quiet-{number}", [backend]) as server:
            s3 = boto(server)
            for body in (b"small", BODY[:500_000]):
                s3.put_object(Bucket=BUCKET, Key="k", Body=body, ChecksumAlgorithm="CRC32")
                s3.get_object(Bucket=BUCKET, Key="k", ChecksumMode="ENABLED")["Body"].read()
            s3.delete_object(Bucket=BUCKET, Key="k")
        names = {name for fields in stub.fields for name in fields}
        assert any(name.startswith("x-amz-checksum-") for name in names) != disabled, names
        unknown = [name for name in names if name.startswith(("amz-sdk-", "x-amz-sdk-")) or name in ("accept-encoding", "expect")]
        assert not unknown and not any("x-id" in name for _, name in stub.requests)
        stub.objects.clear()


def test_a_client_is_kept_waiting_while_a_copy_is_streamed(place, stub, boto, monkeypatch):
    """As AWS does: 200 and white space, the result or the error at the end of the document."""
    monkeypatch.setattr(stub, "copies", False)
    server = harness.Server(place / "waiting", [stub.backend("stub", quota_bytes=harness.GIB)])
    with server, server.client() as client:
        assert client.put(BUCKET, "a", b"x").status == 200
        source = [("x-amz-copy-source", f"{BUCKET}/a")]
        quick = client.request("PUT", BUCKET, "b", headers=source)
        assert quick.status == 200 and quick.header("content-length")
        stub.put_delay = 12
        begun = time.monotonic()
        slow = client.request("PUT", BUCKET, "b", headers=source)
        assert slow.status == 200 and slow.header("transfer-encoding") == "chunked" and time.monotonic() - begun > 11
        assert xml.etree.ElementTree.fromstring(slow.body).tag.endswith("CopyObjectResult")
        assert boto(server).get_object(Bucket=BUCKET, Key="b")["Body"].read() == b"x"
    stub.mend()
    server.config["server"]["backend_timeout"] = "14s"
    with server.start(), server.client() as client:
        # An error that comes late stands in the document, and the connection goes on.
        stub.silences = Times(1_000)
        late = client.request("PUT", BUCKET, "b", headers=source)
        root = xml.etree.ElementTree.fromstring(late.body)
        assert (late.status, root.tag, root.findtext("Code")) == (200, "Error", "ServiceUnavailable")
        stub.mend()
        assert client.get(BUCKET, "b").body == b"x"
