"""Every error that we can answer, provoked through a socket: status, Code, Message, Resource, RequestId, and no body for HEAD.

The codes are read from the product's own table, so that a code without a row here is a failure.
"""

import concurrent.futures
import contextlib
import datetime
import pathlib
import re
import sqlite3
import time

import pytest

import harness
import lean
from test_s3_post import wire
from test_s3_users import user

BUCKET = harness.BUCKET
REGION = "eu-central-1"
APP = "https://app.example"
SOURCE = pathlib.Path(__file__).parents[2] / "src/proto/error_code.rs"
TABLE = {
    name: (int(status), re.sub(r"\\\n\s*", "", text))
    for name, status, text in re.findall(r'^    ([A-Z]\w+) (\d{3})\s+"((?:[^"\\]|\\\n)*)",$', SOURCE.read_text(), re.MULTILINE)
}
KIB, MIB = harness.KIB, harness.MIB


@pytest.fixture(scope="module")
def server(place, stack):
    """One directory with little room, buckets with limits, and a user who has as many buckets as one may have."""
    keys = [{"access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET}]
    others = [{"access_key_id": "otherskey", "secret_access_key": "otherssecret"}]
    settings = {
        "server": {"region": REGION, "max_object_size": "4MiB", "max_header_bytes": "16KiB"},
        "buckets": [
            {"name": BUCKET, "credentials": keys, "cors": [{"allowed_origins": [APP], "allowed_methods": ["GET"]}]},
            {"name": "others", "credentials": others},
            {"name": "few", "max_multipart_uploads": 1},
        ],
        "auth": {"users": [*(user(name, ["create-buckets"]) for name in ("ann", "bob", "rich")), user("few", few=["all"])]},
    }
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=3 * MIB)
    server = stack.enter_context(harness.Server(place / "server", [backend], settings))
    server.stop()
    with contextlib.closing(sqlite3.connect(server.database)) as database, database:
        rows = [(f"rich-{i}", "rich", "", 1) for i in range(10_000)]
        database.executemany("INSERT INTO buckets (name, owner, region, created) VALUES (?, ?, ?, ?)", rows)
    server.start()
    with server.client(region=REGION) as client:
        assert client.put(BUCKET, "there", b"0123456789").status == 200
    return server


class Row:
    """How a code is provoked. `message` is the text that AWS sends, None for the table's own; `told` the code, if another."""

    def __init__(self, status, ask, message=None, resource=None, head=False, told=None):
        self.status, self.ask, self.message, self.resource, self.head, self.told = status, ask, message, resource, head, told


def ask(method="GET", bucket=BUCKET, key="there", query=(), headers=(), body=b"", user=None, edit=None, **more):
    """One signed request; `edit` may change its fields afterwards."""

    def send(server, method=method):
        with server.client(region=REGION) as client:
            if user:
                client.access_key, client.secret = f"{user}key", f"{user}secret"
            signed = client.signed(method, bucket, key, query, headers, body, **more)
            if edit:
                edit(signed.fields)
            with client.connect() as connection:
                connection.send(signed.head() + body)
                return finish(connection, method), lean.encode_path(bucket, key)

    return send


def finish(connection, method):
    """The answer, and whether the connection is as it says: closed, or good for another request."""
    answer = connection.response(method)
    if answer.header("connection", "").lower() == "close":
        assert connection.ended(), "said that it closes"
    else:
        connection.send(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.response().status == 200, "what followed an answer without a body"
    return answer


def raw(text, resource):
    """Bytes that are no good request; the method can be HEAD as well."""

    def send(server, method="GET"):
        with lean.Connection(server.address) as connection:
            connection.send(text.replace("GET", method, 1).encode())
            return finish(connection, method), resource

    return send


def forge(fields):
    fields["authorization"] = fields["authorization"][:-64] + "0" * 64


def late(server, **more):
    """Signed twenty minutes ago."""
    return ask(now=datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=20))(server, **more)


def without_length(server):
    """A body that comes in chunks and does not say how long it is."""
    with server.client(region=REGION) as client, client.connect() as connection:
        head = lean.Signed(client, "PUT", f"/{BUCKET}/bad", [], [("transfer-encoding", "chunked")], lean.UNSIGNED).head()
        connection.send(head + b"1\r\nx\r\n0\r\n\r\n")
        return finish(connection, "PUT"), f"/{BUCKET}/bad"


def multipart(client, key, *parts, bucket=BUCKET):
    """An open upload with these parts, and their ETags."""
    upload = lean.xml_texts(client.request("POST", bucket, key, [("uploads", "")]).body, "UploadId")[0]
    etags = []
    for number, part in enumerate(parts, 1):
        answer = client.put(bucket, key, part, query=[("partNumber", str(number)), ("uploadId", upload)])
        assert answer.status == 200, answer
        etags.append(answer.header("etag"))
    return upload, etags


def complete(*numbers, parts=(b"a", b"b"), etag=None):
    """A Complete that names these parts of an upload of small ones."""

    def send(server):
        with server.client(region=REGION) as client:
            upload, etags = multipart(client, "parts", *parts)
            named = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag or etags[n - 1]}</ETag></Part>" for n in numbers)
            body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
            answer = client.request("POST", BUCKET, "parts", [("uploadId", upload)], body=body)
            assert client.delete(BUCKET, "parts", query=[("uploadId", upload)]).status == 204
            return answer, f"/{BUCKET}/parts"

    return send


def preflight(server):
    with lean.Connection(server.address) as connection:
        connection.send(f"OPTIONS /{BUCKET}/k HTTP/1.1\r\nhost: a\r\norigin: https://evil\r\naccess-control-request-method: GET\r\n\r\n".encode())
        return finish(connection, "OPTIONS"), f"/{BUCKET}/k"


def form(edit=lambda fields: None, cut=None, pad=0, policy=None):
    """A browser upload, signed with version 4."""

    def send(server):
        import base64
        import hashlib
        import hmac
        import json

        now = datetime.datetime.now(datetime.timezone.utc)
        day, stamp = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
        until = (now + datetime.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        document = policy or {"expiration": until, "conditions": [["starts-with", "$key", ""], {"bucket": BUCKET}]}
        text = base64.b64encode(json.dumps(document).encode()).decode()
        key = lean.signing_key(harness.SECRET, day, REGION)
        fields = {
            "key": "posted",
            "policy": text,
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": f"{harness.ACCESS_KEY}/{day}/{REGION}/s3/aws4_request",
            "x-amz-date": stamp,
            "x-amz-signature": hmac.new(key, text.encode(), hashlib.sha256).hexdigest(),
            **({"x-ignore-a": "a" * pad} if pad else {}),
        }
        data = wire({"fields": fields}, b"x")[:cut] if cut != 0 else b"junk"
        with lean.Connection(server.address) as connection:
            head = f"POST /{BUCKET} HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=xYz\r\ncontent-length: {len(data)}\r\n\r\n"
            connection.send(head.encode() + data)
            return finish(connection, "POST"), f"/{BUCKET}"

    return send


def half_a_put(server, client, key, query=(), headers=(), size=600_000):
    """It is under way: its bytes are reserved."""
    reserved = lambda: server.backend_status("disk")["bytes_reserved"]  # noqa: E731
    connection = client.connect()
    harness.wait_for("the end of others", lambda: reserved() < size)
    signed = client.signed("PUT", BUCKET, key, query, [*headers, ("content-length", str(size))], payload_hash=lean.UNSIGNED)
    connection.send(signed.head() + b"x" * (size // 2))
    harness.wait_for("its reservation", lambda: reserved() >= size)
    return connection


def overtaken(server):
    """Two conditional creates of one key: the one that ends second is told."""
    with server.client(region=REGION) as client:
        condition = [("if-none-match", "*")]
        with half_a_put(server, client, "contended", headers=condition) as connection:
            assert client.put(BUCKET, "contended", b"first", headers=condition).status == 200
            connection.send(b"x" * 300_000)
            answer = finish(connection, "PUT")
        assert client.delete(BUCKET, "contended").status == 204
        return answer, f"/{BUCKET}/contended"


def same_part_twice(server):
    """A part that is on its way already, and slow: it is waited for, but not for ever."""
    with server.client(region=REGION) as client:
        upload, _ = multipart(client, "busy")
        query = [("partNumber", "1"), ("uploadId", upload)]
        with half_a_put(server, client, "busy", query) as connection, concurrent.futures.ThreadPoolExecutor() as pool:
            second = pool.submit(client.put, BUCKET, "busy", b"x", query=query)
            while not second.done():
                connection.send(b"x")
                time.sleep(0.2)
            answer = second.result()
        assert client.delete(BUCKET, "busy", query=query[1:]).status == 204
        return answer, f"/{BUCKET}/busy"


def body_that_stands_still(server):
    """On a server of its own: where clients have so little time, others' bodies may stand still with the machine."""
    folder = server.folder.parent / "impatient"
    disk = harness.directory_backend("disk", folder / "disk", quota_bytes=harness.GIB)
    with harness.Server(folder / "server", [disk], {"server": {"body_progress_timeout": "1s"}}) as other, other.client() as client:
        with half_a_put(other, client, "slow") as connection:
            return finish(connection, "PUT"), f"/{BUCKET}/slow"


def body_that_ends_early(server):
    with server.client(region=REGION) as client, half_a_put(server, client, "short") as connection:
        connection.sock.shutdown(1)
        return finish(connection, "PUT"), f"/{BUCKET}/short"


def lost_bytes(server):
    """An object whose only copy somebody has taken from the disk."""
    disk = pathlib.Path(server.config["backends"][0]["directory"])
    with server.client(region=REGION) as client:
        assert client.put(BUCKET, "lost", b"x" * 100_000).status == 200
        lost = [path for path in disk.rglob("*") if path.is_file() and path.stat().st_size == 100_000]
        assert len(lost) == 1
        lost[0].unlink()
        answer = client.get(BUCKET, "lost")
        assert client.delete(BUCKET, "lost").status == 204
        return answer, f"/{BUCKET}/lost"


def backend_that_is_gone(server):
    """An object whose only copy is on a server that does not answer any more."""
    folder = server.folder.parent / "gone"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        s3s = harness.S3sFs(folder / "s3s")
        stack.callback(s3s.end)
        other = stack.enter_context(harness.Server(folder / "server", [s3s.backend("cloud", quota_bytes=harness.GIB)]))
        client = stack.enter_context(other.client())
        assert client.put(BUCKET, "far", b"x").status == 200
        s3s.end()
        answer = client.get(BUCKET, "far")
        assert answer.header("retry-after") == "1", answer.headers
        return answer, f"/{BUCKET}/far"


def spent_budget(server):
    """An object whose only copy is on a backend that may not be asked any more this month."""
    folder = server.folder.parent / "spent"
    disk = harness.directory_backend("disk", folder / "disk", request_limits=[{"name": "reads", "operations": ["GetObject"], "limit": 9}])
    with harness.Server(folder / "server", [disk]) as other, other.client() as client:
        assert client.put(BUCKET, "far", b"x").status == 200
        answers = [client.get(BUCKET, "far") for _ in range(10)]
        assert answers[0].status == 200 and answers[-1].header("retry-after"), answers[-1].headers
        return answers[-1], f"/{BUCKET}/far"


def too_many_uploads(server):
    with server.client(region=REGION) as client:
        client.access_key, client.secret = "fewkey", "fewsecret"
        upload, _ = multipart(client, "one", bucket="few")
        answer = client.request("POST", "few", "another", [("uploads", "")])
        assert client.delete("few", "one", query=[("uploadId", upload)]).status == 204
        return answer, "/few/another"


def bucket_of_ann(then):
    """What is answered to the second request when a bucket of ann's is there."""

    def send(server):
        with server.client(region=REGION) as client:
            client.access_key, client.secret = "annkey", "annsecret"
            assert client.request("PUT", "anns", None).status == 200
            try:
                return then(server, client)
            finally:
                assert client.delete("anns", None).status == 204

    return send


def not_empty(server, client):
    assert client.put("anns", "k", b"x").status == 200
    answer = client.delete("anns", None)
    assert client.delete("anns", "k").status == 204
    return answer, "/anns"


CREATE = "<CreateBucketConfiguration><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>"
INTEGER = "Argument {} must be an integer between 0 and 2147483647"
MD5_MISMATCH = "The Content-MD5 you specified did not match what we received."
TAGGING = b"<Tagging><TagSet><Tag><Key>aws:a</Key><Value>b</Value></Tag></TagSet></Tagging>"


def bucket_configuration(name):
    return ask(key=None, query=[(name, "")])


ROWS = {
    "AccessControlListNotSupported": Row(400, ask("PUT", headers=[("x-amz-acl", "public-read")], body=b"x")),
    "AccessDenied": Row(403, ask(bucket="others"), head=True),
    "AccessForbidden": Row(403, preflight),
    "AuthorizationHeaderMalformed": Row(
        400,
        ask(region="us-east-1"),
        "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'",
        head=True,
    ),
    "AuthorizationQueryParametersError": Row(
        400,
        raw(f"GET /{BUCKET}/there?X-Amz-Algorithm=AWS4-HMAC-SHA256 HTTP/1.1\r\nhost: a\r\n\r\n", f"/{BUCKET}/there"),
        "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, "
        "X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        head=True,
    ),
    "BadDigest": Row(400, ask("PUT", key="bad", body=b"x", headers=[("content-md5", "A" * 22 + "==")]), MD5_MISMATCH),
    "BadRequest": Row(400, raw(f"GET /{BUCKET}/there HTTP/1.1\r\n\r\n", f"/{BUCKET}/there"), "Exactly one valid Host header is required.", head=True),
    "BucketAlreadyExists": Row(409, bucket_of_ann(lambda server, _: ask("PUT", "anns", None, user="bob")(server))),
    "BucketAlreadyOwnedByYou": Row(409, bucket_of_ann(lambda server, _: ask("PUT", "anns", None, user="ann")(server))),
    "BucketNotEmpty": Row(409, bucket_of_ann(not_empty)),
    "ConditionalRequestConflict": Row(409, overtaken),
    "EntityTooLarge": Row(400, ask("PUT", key="large", headers=[("content-length", str(5 * MIB)), ("expect", "100-continue")])),
    "EntityTooSmall": Row(400, complete(1, 2)),
    "HttpVersionNotSupported": Row(505, raw(f"GET /{BUCKET}/there HTTP/2.0\r\n\r\n", f"/{BUCKET}/there"), head=True),
    "IllegalLocationConstraintException": Row(
        400,
        ask("PUT", "elsewhere", None, user="ann", body=CREATE.format("us-west-2").encode()),
        "The us-west-2 location constraint is incompatible for the region specific endpoint this request was sent to.",
    ),
    "IncompleteBody": Row(400, body_that_ends_early, "The request body terminated unexpectedly"),
    "InsufficientStorage": Row(507, ask("PUT", key="much", body=bytes(3 * MIB + 1))),
    "InternalError": Row(500, lost_bytes),
    "InvalidAccessKeyId": Row(403, ask(user="nobody"), head=True),
    "InvalidArgument": Row(400, ask(key=None, query=[("max-keys", "x")]), INTEGER.format("max-keys")),
    "InvalidBucketName": Row(400, ask(bucket="Upper"), head=True),
    "InvalidDigest": Row(400, ask("PUT", key="bad", body=b"x", headers=[("content-md5", "abc")]), "The Content-MD5 you specified was invalid."),
    "InvalidLocationConstraint": Row(400, ask("PUT", "elsewhere", None, user="ann", body=CREATE.format("No Where").encode())),
    "InvalidPart": Row(400, complete(1, etag="0" * 32)),
    "InvalidPartNumber": Row(416, ask(query=[("partNumber", "2")]), head=True),
    "InvalidPartOrder": Row(400, complete(2, 1)),
    "InvalidPolicyDocument": Row(400, form(policy={"expiration": "never", "conditions": []}), "Invalid Policy: Invalid 'expiration' value."),
    "InvalidRange": Row(416, ask(headers=[("range", "bytes=10-")]), head=True),
    "InvalidRequest": Row(
        400,
        ask(query=[("partNumber", "1")], headers=[("range", "bytes=0-1")]),
        "Cannot specify both Range header and partNumber query parameter",
        head=True,
    ),
    "InvalidStorageClass": Row(400, ask("PUT", key="cold", body=b"x", headers=[("x-amz-storage-class", "COLD")])),
    "InvalidTag": Row(400, ask("PUT", query=[("tagging", "")], body=TAGGING), "System tags cannot be added/updated by requester"),
    "InvalidToken": Row(400, ask(headers=[("x-amz-security-token", "t")]), head=True),
    "InvalidURI": Row(400, raw(f"GET /{BUCKET}/%zz HTTP/1.1\r\nhost: a\r\n\r\n", f"/{BUCKET}/%zz"), head=True),
    "KeyTooLongError": Row(400, ask("PUT", key="k" * 1025, body=b"x")),
    "MalformedPOSTRequest": Row(400, form(cut=0)),
    "MalformedTrailerError": Row(
        400,
        ask(
            "PUT",
            key="bad",
            body=b"1\r\nx\r\n0\r\n\r\n",
            payload_hash="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            headers=[("x-amz-decoded-content-length", "1"), ("x-amz-trailer", "x-amz-checksum-crc32")],
        ),
    ),
    "MalformedXML": Row(400, ask("PUT", query=[("tagging", "")], body=b"<Tagging>")),
    "MaxPostPreDataLengthExceeded": Row(400, form(pad=21_000)),
    "MetadataTooLarge": Row(400, ask("PUT", key="bad", body=b"x", headers=[("x-amz-meta-a", "a" * 2100)])),
    "MethodNotAllowed": Row(405, ask("PATCH")),
    "MissingContentLength": Row(411, without_length),
    "MissingRequestBodyError": Row(400, ask("PUT", query=[("tagging", "")])),
    "MissingSecurityHeader": Row(400, ask("PUT", query=[("acl", "")])),
    "NoSuchBucket": Row(404, ask(bucket="nobodys"), head=True),
    "NoSuchBucketPolicy": Row(404, bucket_configuration("policy")),
    "NoSuchCORSConfiguration": Row(404, ask(bucket="few", key=None, query=[("cors", "")], user="few")),
    "NoSuchKey": Row(404, ask(key="nothing"), head=True),
    "NoSuchLifecycleConfiguration": Row(404, bucket_configuration("lifecycle")),
    "NoSuchPublicAccessBlockConfiguration": Row(404, bucket_configuration("publicAccessBlock")),
    "NoSuchTagSet": Row(404, bucket_configuration("tagging")),
    "NoSuchUpload": Row(404, ask(query=[("uploadId", "none")])),
    "NoSuchVersion": Row(404, ask(query=[("versionId", "v" * 32)]), head=True),
    "NoSuchWebsiteConfiguration": Row(404, bucket_configuration("website")),
    "NotImplemented": Row(501, ask(query=[("torrent", "")]), "The query parameter torrent is not supported here.", head=True),
    "NotModified": Row(304, ask(headers=[("if-none-match", "*")]), head=True),
    "ObjectLockConfigurationNotFoundError": Row(404, bucket_configuration("object-lock")),
    "OperationAborted": Row(409, same_part_twice),
    "PreconditionFailed": Row(412, ask(headers=[("if-match", '"0"')]), head=True),
    "ReplicationConfigurationNotFoundError": Row(404, bucket_configuration("replication")),
    "RequestHeaderSectionTooLarge": Row(
        400,
        raw(f"GET /{BUCKET}/there HTTP/1.1\r\nx-a: " + "a" * 17_000 + "\r\n\r\n", f"/{BUCKET}/there"),
        "The request head is too long.",
        head=True,
    ),
    "RequestTimeTooSkewed": Row(403, late, head=True),
    "RequestTimeout": Row(400, body_that_stands_still),
    "ServerSideEncryptionConfigurationNotFoundError": Row(404, bucket_configuration("encryption")),
    "ServiceUnavailable": Row(503, backend_that_is_gone),
    "SignatureDoesNotMatch": Row(403, ask(edit=forge), head=True),
    "SlowDown": Row(503, too_many_uploads),
    "TooManyBuckets": Row(400, ask("PUT", "one-too-many", None, user="rich")),
    # Clients know how to go about this code, and not that one.
    "UsageLimitExceeded": Row(429, spent_budget, told="SlowDown"),
    "XAmzContentSHA256Mismatch": Row(400, ask("PUT", key="bad", body=b"x", payload_hash="0" * 64)),
}


def test_every_code_has_its_row():
    assert len(TABLE) > 50, "the product's table is read"
    assert sorted(ROWS) == sorted(TABLE)
    assert {name: row.status for name, row in ROWS.items()} == {name: status for name, (status, _) in TABLE.items()}


@pytest.mark.parametrize("code", ROWS)
def test_errors(server, code):
    row = ROWS[code]
    answer, resource = row.ask(server)
    assert answer.status == row.status, answer
    request_id = answer.header("x-amz-request-id")
    assert request_id and answer.header("date")
    if code == "NotModified":
        assert answer.body == b""
    else:
        assert answer.header("content-type") == "application/xml"
        texts = {name: lean.xml_texts(answer.body, name) for name in ("Code", "Message", "Resource", "RequestId")}
        wanted = {"Code": row.told or code, "Message": row.message or TABLE[code][1], "Resource": resource, "RequestId": request_id}
        assert texts == {name: [text] for name, text in wanted.items()}
        assert answer.body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>'), answer.body
    if row.head:
        answer, _ = row.ask(server, method="HEAD")
        assert (answer.status, answer.body) == (row.status, b""), answer
        assert answer.header("x-amz-request-id") != request_id
