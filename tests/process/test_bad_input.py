"""Bad input, as tables: every row is sent on a socket of its own, byte for byte, and says its exact answer and whether the
connection lives on.

`stays` is checked by a second, good request on the same connection; `closes` by reading to its end. After every row the
object that it aimed at must be untouched.
"""

import base64
import datetime
import hashlib
import os
import zlib

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP

BUCKET = harness.BUCKET
BODY = os.urandom(200_000)
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()


@pytest.fixture(scope="module")
def server(place, stack):
    backends = [harness.directory_backend("near", place / "near", quota_bytes=harness.GIB)]
    settings = {
        **QUICK_CLEANUP,
        "server": {
            "region": "eu-central-1",
            "max_object_size": "64MiB",
            "read_header_timeout": "3s",
            "max_header_bytes": "16KiB",
        },
        "buckets": [
            {"name": BUCKET, "credentials": [{"access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET}]},
            {"name": "others", "credentials": [{"access_key_id": "otherskey", "secret_access_key": "otherssecret"}]},
        ],
    }
    server = stack.enter_context(harness.Server(place / "server", backends, settings))
    with our_client(server) as client:
        assert client.put(BUCKET, "there", BODY).status == 200
    return server


@pytest.fixture(autouse=True)
def there(server):
    """A row that does harm fails by itself, and does not make the next ones fail."""
    yield
    with our_client(server) as client:
        if client.get(BUCKET, "there").body != BODY:
            assert client.put(BUCKET, "there", BODY).status == 200


def our_client(server, **more):
    return server.client(region="eu-central-1", **more)


def check_connection(client, connection, method, status, code, stays):
    """Reads the answer, compares it, and tries the connection again."""
    answer = connection.response(method)
    wanted = (status, code if method != "HEAD" and status != 304 else None)
    assert (answer.status, answer.code) == wanted, answer
    said_close = answer.header("connection", "").lower() == "close"
    if stays:
        assert not said_close, "said that it closes"
        connection.send(client.signed("GET", BUCKET, "there").head())
        again = connection.response()
        assert again.status == 200 and again.body == BODY, f"the next request on it: {again}"
    else:
        assert said_close, f"must say that it closes: {answer.headers}"
        assert connection.ended(), "must close"


def check_untouched(client):
    assert client.get(BUCKET, "there").body == BODY


# Heads that are no HTTP, or an ambiguous one. `{auth}` lines are a valid signature, so that nothing else can be at fault.
HEADS = [
    ("no version", "GET /photos/there\r\n{auth}\r\n", 400, "BadRequest"),
    ("two blanks", "GET  /photos/there HTTP/1.1\r\n{auth}\r\n", 400, "BadRequest"),
    ("a blank in the target", "GET /photos/the re HTTP/1.1\r\n{auth}\r\n", 400, "BadRequest"),
    ("garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "BadRequest"),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HttpVersionNotSupported"),
    ("HTTP/3.1", "GET /photos/there HTTP/3.1\r\n{auth}\r\n", 505, "HttpVersionNotSupported"),
    ("absolute form", "GET http://{host}/photos/there HTTP/1.1\r\n{auth}\r\n", 400, "InvalidURI"),
    ("authority form", "CONNECT {host} HTTP/1.1\r\n{auth}\r\n", 405, "MethodNotAllowed"),
    ("asterisk form", "OPTIONS * HTTP/1.1\r\n{auth}\r\n", 400, "InvalidURI"),
    ("bare line feeds", "GET /photos/there HTTP/1.1\n{auth_lf}\n", 400, "BadRequest"),
    ("one bare line feed", "GET /photos/there HTTP/1.1\r\nx-a: b\n{auth}\r\n", 400, "BadRequest"),
    ("a carriage return inside", "GET /photos/there HTTP/1.1\r\nx-a: b\rc\r\n{auth}\r\n", 400, "BadRequest"),
    ("a folded line", "GET /photos/there HTTP/1.1\r\nx-a: b\r\n c\r\n{auth}\r\n", 400, "BadRequest"),
    ("a folded first line", "GET /photos/there HTTP/1.1\r\n x-a: b\r\n{auth}\r\n", 400, "BadRequest"),
    ("a blank before the colon", "GET /photos/there HTTP/1.1\r\nx-a : b\r\n{auth}\r\n", 400, "BadRequest"),
    ("a field without a name", "GET /photos/there HTTP/1.1\r\n: b\r\n{auth}\r\n", 400, "BadRequest"),
    ("a field without a colon", "GET /photos/there HTTP/1.1\r\nx-a\r\n{auth}\r\n", 400, "BadRequest"),
    ("a NUL in a value", "GET /photos/there HTTP/1.1\r\nx-a: b\0c\r\n{auth}\r\n", 400, "BadRequest"),
    ("no host", "GET /photos/there HTTP/1.1\r\nx-a: b\r\n\r\n", 400, "BadRequest"),
    ("two hosts", "GET /photos/there HTTP/1.1\r\nhost: other\r\n{auth}\r\n", 400, "BadRequest"),
    ("two lengths", "PUT /photos/there HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 5\r\n{auth}\r\nabcde", 400, "BadRequest"),
    (
        "the same length twice",
        "PUT /photos/there HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n{auth}\r\nabc",
        400,
        "BadRequest",
    ),
    ("a list of lengths", "PUT /photos/there HTTP/1.1\r\ncontent-length: 3, 3\r\n{auth}\r\nabc", 400, "BadRequest"),
    ("a signed length", "PUT /photos/there HTTP/1.1\r\ncontent-length: +3\r\n{auth}\r\nabc", 400, "BadRequest"),
    ("a negative length", "PUT /photos/there HTTP/1.1\r\ncontent-length: -3\r\n{auth}\r\nabc", 400, "BadRequest"),
    ("a hexadecimal length", "PUT /photos/there HTTP/1.1\r\ncontent-length: 0x3\r\n{auth}\r\nabc", 400, "BadRequest"),
    ("an empty length", "PUT /photos/there HTTP/1.1\r\ncontent-length:\r\n{auth}\r\n", 400, "BadRequest"),
    (
        "a length beyond 64 bits",
        "PUT /photos/there HTTP/1.1\r\ncontent-length: 18446744073709551617\r\n{auth}\r\n",
        400,
        "BadRequest",
    ),
    (
        "length and transfer",
        "PUT /photos/there HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n{auth}\r\n0\r\n\r\n",
        400,
        "BadRequest",
    ),
    (
        "transfer twice",
        "PUT /photos/there HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n{auth}\r\n0\r\n\r\n",
        400,
        "BadRequest",
    ),
    (
        "transfer in HTTP/1.0",
        "PUT /photos/there HTTP/1.0\r\ntransfer-encoding: chunked\r\n{auth}\r\n0\r\n\r\n",
        400,
        "BadRequest",
    ),
    (
        "another coding",
        "PUT /photos/there HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n{auth}\r\n0\r\n\r\n",
        501,
        "NotImplemented",
    ),
    (
        "a hidden coding",
        "PUT /photos/there HTTP/1.1\r\ntransfer-encoding: xchunked\r\n{auth}\r\n0\r\n\r\n",
        501,
        "NotImplemented",
    ),
    (
        "a huge field",
        "GET /photos/there HTTP/1.1\r\nx-a: " + "a" * 20_000 + "\r\n{auth}\r\n",
        400,
        "RequestHeaderSectionTooLarge",
    ),
    ("an endless target", "GET /photos/" + "a" * 20_000, 400, "RequestHeaderSectionTooLarge"),
    (
        "too many fields",
        "GET /photos/there HTTP/1.1\r\n" + "".join(f"x-{i}: a\r\n" for i in range(100)) + "{auth}\r\n",
        400,
        "RequestHeaderSectionTooLarge",
    ),
]


@pytest.mark.parametrize("name, text, status, code", HEADS, ids=[row[0] for row in HEADS])
def test_malformed_heads(server, name, text, status, code):
    with our_client(server) as client, client.connect() as connection:
        fields = client.signed("GET", BUCKET, "there").fields
        auth = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
        text = text.replace("{host}", client.host_header).replace("{auth_lf}", auth.replace("\r\n", "\n")).replace("{auth}", auth)
        # What follows must never be taken for a request.
        smuggled = client.signed("DELETE", BUCKET, "there").head()
        connection.send(text.encode("latin-1"))
        try:
            connection.send(smuggled if "endless" not in name else b"")
        except lean.Cut:
            pass
        check_connection(client, connection, "GET", status, code, stays=False)
        check_untouched(client)
        assert server.process.alive()


def test_targets_that_name_nothing(server):
    """The head is whole, so the connection lives on."""
    with our_client(server) as client:
        for target in ("/photos/there#part", "/photos/%", "/photos/%zz", "/photos/%ff"):
            with client.connect() as connection:
                fields = client.signed("GET", BUCKET, "there").fields
                auth = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
                connection.send(f"GET {target} HTTP/1.1\r\n{auth}\r\n".encode())
                check_connection(client, connection, "GET", 400, "InvalidURI", stays=True)


def signed_with(client, method="GET", key="there", body=b"", headers=(), edit=None, **more):
    signed = client.signed(method, BUCKET, key, body=body, headers=headers, **more)
    if edit:
        edit(signed.fields)
    return signed.head() + body


def replaced(name, old, new):
    def edit(fields):
        assert old in fields[name], (old, fields[name])
        fields[name] = fields[name].replace(old, new)

    return edit


def ago(minutes):
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=minutes)


def broken_signature(fields):
    last = fields["authorization"][-1]
    fields["authorization"] = fields["authorization"][:-1] + ("0" if last != "0" else "1")


def set_field(name, value):
    return lambda fields: fields.__setitem__(name, value)


SIGNATURES = [
    ("none", {"edit": lambda fields: fields.pop("authorization")}, 403, "AccessDenied"),
    ("a bit is wrong", {"edit": broken_signature}, 403, "SignatureDoesNotMatch"),
    (
        "empty",
        {"edit": lambda f: f.__setitem__("authorization", f["authorization"].rsplit("=", 1)[0] + "=")},
        403,
        "SignatureDoesNotMatch",
    ),
    (
        "upper case",
        {"edit": lambda f: f.__setitem__("authorization", f["authorization"][:-64] + f["authorization"][-64:].upper())},
        403,
        "SignatureDoesNotMatch",
    ),
    ("another key's secret", {"client": {"secret": "guessed"}}, 403, "SignatureDoesNotMatch"),
    ("an unknown key", {"client": {"access_key": "nobody"}}, 403, "InvalidAccessKeyId"),
    ("another bucket's key", {"client": {"access_key": "otherskey", "secret": "otherssecret"}}, 403, "AccessDenied"),
    ("too old", {"now": lambda: ago(16)}, 403, "RequestTimeTooSkewed"),
    ("from the future", {"now": lambda: ago(-16)}, 403, "RequestTimeTooSkewed"),
    ("another region", {"region": "us-east-1"}, 400, "AuthorizationHeaderMalformed"),
    ("another service", {"edit": replaced("authorization", "/s3/", "/ec2/")}, 400, "AuthorizationHeaderMalformed"),
    (
        "another terminal",
        {"edit": replaced("authorization", "aws4_request", "aws5_request")},
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "no signed headers",
        {"edit": replaced("authorization", "SignedHeaders=", "SomeHeaders=")},
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "names out of order",
        {"edit": replaced("authorization", "host;x-amz-content-sha256;x-amz-date", "x-amz-date;host;x-amz-content-sha256")},
        400,
        "AuthorizationHeaderMalformed",
    ),
    ("an empty signed name", {"edit": replaced("authorization", "host;", "host;;")}, 400, "AuthorizationHeaderMalformed"),
    ("host is not signed", {"edit": replaced("authorization", "host;", "")}, 403, "AccessDenied"),
    ("an unsigned x-amz header", {"edit": set_field("x-amz-meta-evil", "1")}, 403, "AccessDenied"),
    (
        "a signed header was changed",
        {"headers": [("x-amz-meta-a", "1")], "edit": set_field("x-amz-meta-a", "2")},
        403,
        "SignatureDoesNotMatch",
    ),
    (
        "a signed header is gone",
        {"headers": [("x-amz-meta-a", "1")], "edit": lambda f: f.pop("x-amz-meta-a")},
        403,
        "SignatureDoesNotMatch",
    ),
    ("another scheme", {"edit": set_field("authorization", "Basic cGhvdG9za2V5OnBob3Rvc3NlY3JldA==")}, 400, "InvalidArgument"),
    (
        "signature version 2, in a region that never took it",
        {"edit": set_field("authorization", "AWS photoskey:frJIUN8DYpKDtOLCwo//yllqDzg=")},
        400,
        "InvalidRequest",
    ),
    ("half a signature of version 2", {"edit": set_field("authorization", "AWS frJIUN8DYpKDtOLCwo")}, 400, "InvalidArgument"),
    ("an empty authorization", {"edit": set_field("authorization", "")}, 403, "AccessDenied"),
    ("a time before 1970", {"edit": set_field("x-amz-date", "19500707T215304Z")}, 403, "AccessDenied"),
    (
        "nobody's key, of another day",
        {"edit": lambda f: f.update(authorization=f["authorization"].replace("photoskey/20", "nobodyskey/19"))},
        403,
        "InvalidAccessKeyId",
    ),
    ("no date", {"edit": lambda f: f.pop("x-amz-date")}, 403, "AccessDenied"),
    ("no content hash", {"edit": lambda f: f.pop("x-amz-content-sha256")}, 400, "InvalidRequest"),
    ("a content hash that is none", {"payload_hash": "abc"}, 400, "InvalidArgument"),
]


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("name, how, status, code", SIGNATURES, ids=[row[0] for row in SIGNATURES])
def test_signatures(server, method, name, how, status, code):
    how = dict(how)
    with our_client(server) as good:
        signer = our_client(server)
        for field, value in how.pop("client", {}).items():
            setattr(signer, field, value)
        if "now" in how:
            how["now"] = how["now"]()
        body = BODY[:1000] if method == "PUT" else b""
        with good.connect() as connection:
            connection.send(signed_with(signer, method, body=body, **how))
            # A small body that came along is read to its end, so the connection may be used again.
            check_connection(good, connection, method, status, code, stays=True)
        check_untouched(good)


def test_a_refused_upload_is_drained_or_closed(server):
    """Refused before 8 MiB of body: either the body is read to its end or the connection closes; the answer arrives."""
    body = os.urandom(8 * harness.MIB)
    with our_client(server) as client, client.connect() as connection:
        try:
            connection.send(signed_with(client, "PUT", body=body, edit=broken_signature))
        except lean.Cut:
            pass
        answer = connection.response("PUT")
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
        if answer.header("connection", "").lower() != "close":
            connection.send(client.signed("GET", BUCKET, "there").head())
            assert connection.response().body == BODY
        check_untouched(client)


def test_other_expectations_are_ignored(server):
    """As S3 does; nobody waits for what will not come."""
    with our_client(server) as client:
        for value in ("200", "", "100-continued"):
            with client.connect() as connection:
                connection.send(client.signed("PUT", BUCKET, "expected", headers=[("expect", value)], body=BODY).head() + BODY)
                assert connection.response("PUT").status == 200, value


def test_continue_is_sent_only_when_the_body_is_wanted(server):
    with our_client(server) as client:
        expect = [("expect", "100-continue")]
        with client.connect() as connection:
            connection.send(client.signed("PUT", BUCKET, "expected", headers=expect, body=BODY).head())
            assert connection.head()[0] == 100
            connection.send(BODY)
            assert connection.response("PUT").status == 200
            # An empty body is waited for as well.
            connection.send(client.signed("PUT", BUCKET, "expected", headers=[*expect, ("content-length", "0")]).head())
            assert [connection.head()[0], connection.response("PUT").status] == [100, 200]
        # Bad signature; too large; nothing fits; a condition that fails: the body never flows, and nothing comes after it.
        too_large = [*expect, ("content-length", str(65 * harness.MIB))]
        for headers, how, status, code in [
            (expect, {"edit": broken_signature}, 403, "SignatureDoesNotMatch"),
            (too_large, {}, 400, "EntityTooLarge"),
            ([*expect, ("if-none-match", "*")], {}, 412, "PreconditionFailed"),
            ([*expect, ("if-none-match", "*"), ("content-length", "0")], {}, 412, "PreconditionFailed"),
        ]:
            with client.connect() as connection:
                head = client.signed("PUT", BUCKET, "there", headers=headers, body=b"" if headers is too_large else BODY)
                how.get("edit", lambda _: None)(head.fields)
                connection.send(head.head())
                first = connection.head()
                assert (first[0], dict(first[2])["connection"]) == (status, "close"), first
        check_untouched(client)


def streamed(client, key, body, mode, trailer=None, chunk=65_536, tamper=None, length=None, more=(), framing_length=None):
    """A streaming upload whose framing `tamper` may change: it gets and gives the list of the framing's pieces."""
    headers = [
        ("x-amz-decoded-content-length", str(len(body) if length is None else length)),
        ("content-encoding", "aws-chunked"),
    ]
    headers += [("x-amz-trailer", trailer[0])] if trailer else []
    headers += more

    def frame(signed):
        unsigned = mode.startswith("STREAMING-UNSIGNED")
        pieces = []
        for at in range(0, len(body), chunk):
            data = body[at : at + chunk]
            pieces.append(f"{len(data):x}\r\n".encode() + data + b"\r\n" if unsigned else signed.chunk(data))
        pieces.append(b"0\r\n" if unsigned else signed.chunk(b""))
        if mode.endswith("TRAILER"):
            lines = [f"{trailer[0]}:{trailer[1]}"] if trailer else []
            pieces += [f"{line}\r\n".encode() for line in lines]
            if not unsigned:
                pieces.append(f"x-amz-trailer-signature:{signed.trailer_signature(lines)}\r\n".encode())
        pieces.append(b"\r\n")
        return tamper(pieces) if tamper else pieces

    dry = lean.Signed(client, "PUT", lean.encode_path(BUCKET, key), [], headers, mode)
    size = sum(map(len, frame(dry)))
    if framing_length != "chunked":
        headers.append(("content-length", str(size)))
    else:
        headers.append(("transfer-encoding", "chunked"))
    signed = lean.Signed(client, "PUT", lean.encode_path(BUCKET, key), [], headers, mode)
    wire = b"".join(frame(signed))
    if framing_length == "chunked":
        wire = f"{len(wire):x}\r\n".encode() + wire + b"\r\n0\r\n\r\n"
    return signed.head() + wire


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "big")


def crc64nvme(data):
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x9A6C9329AC4BC9B5 & -(crc & 1))
    return (crc ^ 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")


CHECKSUMS = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": crc32c,
    "crc64nvme": crc64nvme,
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}
SMALL = BODY[:3000]
SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER = (
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
)


def checksum(algorithm, data=SMALL):
    return base64.b64encode(CHECKSUMS[algorithm](data)).decode()


def test_our_checksums_are_right():
    assert crc32c(b"123456789").hex() == "e3069283"
    assert crc64nvme(b"123456789").hex() == "ae8b14860a799888"


@pytest.mark.parametrize("mode", [SIGNED_TRAILER, UNSIGNED_TRAILER])
@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_trailing_checksums(server, mode, algorithm):
    """Three streaming modes, five algorithms: the right value is kept and returned, every wrong form refused."""
    name, value = f"x-amz-checksum-{algorithm}", checksum(algorithm)
    wrong = base64.b64encode(b"\0" * len(base64.b64decode(value))).decode()

    def drop_trailer(pieces):
        return [piece for piece in pieces if not piece.startswith(b"x-amz-")]

    def double_trailer(pieces):
        return [piece for piece in pieces for _ in range(2 if piece.startswith(name.encode()) else 1)]

    def rename_trailer(pieces):
        return [piece.replace(name.encode(), b"x-amz-checksum-other") for piece in pieces]

    signed = mode == SIGNED_TRAILER
    rows = [
        ("good", (name, value), None, 200, None),
        ("wrong", (name, wrong), None, 400, "BadDigest"),
        ("no checksum at all", (name, "!!!!"), None, 400, "InvalidRequest"),
        ("missing", (name, value), drop_trailer, 400, "MalformedTrailerError"),
        ("twice", (name, value), double_trailer, 400, "MalformedTrailerError"),
        ("another name", (name, value), rename_trailer, 400, "MalformedTrailerError"),
    ]
    with our_client(server) as client:
        for row, trailer, tamper, status, code in rows:
            key = f"trailer-{row}" if status == 200 else "there"
            with client.connect() as connection:
                connection.send(streamed(client, key, SMALL, mode, trailer, tamper=tamper))
                answer = connection.response("PUT")
                # Changed trailers of a signed body may as well fail their signature.
                fits = answer.code == code or signed and tamper and answer.code == "SignatureDoesNotMatch"
                assert answer.status == status or fits and answer.status == 403, f"{row}: {answer}"
                assert fits, f"{row}: {answer}"
            check_untouched(client)
        answer = client.get(BUCKET, "trailer-good", headers=[("x-amz-checksum-mode", "ENABLED")])
        assert answer.body == SMALL and answer.header(name) == value, answer.headers


def flip(pieces, number, at=-10):
    changed = bytearray(pieces[number])
    changed[at] ^= 1
    return [*pieces[:number], bytes(changed), *pieces[number + 1 :]]


STREAMS = [
    ("a byte of the first chunk", SIGNED, {"tamper": lambda p: flip(p, 0)}, 403, "SignatureDoesNotMatch"),
    ("a byte of a later chunk", SIGNED, {"tamper": lambda p: flip(p, 2)}, 403, "SignatureDoesNotMatch"),
    ("two chunks change places", SIGNED, {"tamper": lambda p: [p[1], p[0], *p[2:]]}, 403, "SignatureDoesNotMatch"),
    ("a chunk is left out", SIGNED, {"tamper": lambda p: p[1:], "length": 134_464}, 403, "SignatureDoesNotMatch"),
    (
        "the last chunk's signature",
        SIGNED,
        {"tamper": lambda p: [*p[:-2], flip(p, -2, -3)[-2], p[-1]]},
        403,
        "SignatureDoesNotMatch",
    ),
    ("no last chunk", SIGNED, {"tamper": lambda p: p[:-2]}, 400, "IncompleteBody"),
    ("ends within a chunk", SIGNED, {"tamper": lambda p: [p[0][:1000]]}, 400, "IncompleteBody"),
    ("a chunk length that is none", UNSIGNED_TRAILER, {"tamper": lambda p: [b"zz\r\n", *p[1:]]}, 400, "IncompleteBody"),
    ("more than was declared", SIGNED, {"length": 100_000}, 400, "IncompleteBody"),
    ("less than was declared", SIGNED, {"length": 300_000}, 400, "IncompleteBody"),
    ("unsigned and short", UNSIGNED_TRAILER, {"length": 300_000}, 400, "IncompleteBody"),
]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("name, mode, how, status, code", STREAMS, ids=[row[0] for row in STREAMS])
def test_tampered_streams(server, framing, name, mode, how, status, code):
    with our_client(server) as client:
        trailer = ("x-amz-checksum-crc32", lean.crc32_base64(BODY)) if mode.endswith("TRAILER") else None
        with client.connect() as connection:
            connection.send(streamed(client, "there", BODY, mode, trailer, framing_length=framing, **how))
            answer = connection.response("PUT")
            assert (answer.status, answer.code) == (status, code), answer
        check_untouched(client)


def test_streams_in_transfer_chunks_are_taken(server):
    """Both framings at once, as some SDKs send them, and the framing is not part of the object."""
    with our_client(server) as client, client.connect() as connection:
        for mode, trailer in [(SIGNED, None), (UNSIGNED_TRAILER, ("x-amz-checksum-crc32", lean.crc32_base64(BODY)))]:
            connection.send(streamed(client, "both-framings", BODY, mode, trailer, framing_length="chunked"))
            assert connection.response("PUT").status == 200
            answer = client.get(BUCKET, "both-framings")
            assert answer.body == BODY and answer.header("content-encoding") is None, answer.headers


DECLARED = [
    ("another SHA-256", [], {"payload_hash": hashlib.sha256(b"x").hexdigest()}, 400, "XAmzContentSHA256Mismatch"),
    ("another MD5", [("content-md5", base64.b64encode(b"0" * 16).decode())], {}, 400, "BadDigest"),
    ("an MD5 that is none", [("content-md5", "abc")], {}, 400, "InvalidDigest"),
    ("another CRC32", [("x-amz-checksum-crc32", "AAAAAA==")], {}, 400, "BadDigest"),
    ("a CRC32 that is none", [("x-amz-checksum-crc32", "AAAA")], {}, 400, "InvalidRequest"),
    ("an algorithm that nobody knows", [("x-amz-checksum-crc99", "AAAAAA==")], {}, 400, "InvalidRequest"),
    ("two checksums", [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")], {}, 400, "InvalidRequest"),
    ("metadata over 2 KiB", [("x-amz-meta-a", "a" * 2100)], {}, 400, "MetadataTooLarge"),
    ("a copy of nothing", [("x-amz-copy-source", "/photos/other")], {}, 404, "NoSuchKey"),
    ("an ACL", [("x-amz-acl", "public-read")], {}, 400, "AccessControlListNotSupported"),
    ("encryption", [("x-amz-server-side-encryption", "AES256")], {}, 501, "NotImplemented"),
    ("a tag twice", [("x-amz-tagging", "a=b&a=c")], {}, 400, "InvalidArgument"),
    ("tags that S3 does not take", [("x-amz-tagging", "a=%3C")], {}, 400, "InvalidTag"),
    ("a storage class", [("x-amz-storage-class", "COLD")], {}, 400, "InvalidStorageClass"),
]


@pytest.mark.parametrize("name, headers, how, status, code", DECLARED, ids=[row[0] for row in DECLARED])
def test_declarations_that_do_not_fit(server, name, headers, how, status, code):
    with our_client(server) as client:
        for size in (1000, len(BODY)):
            answer = client.put(BUCKET, "there", bytes(size), headers=headers, **how)
            assert (answer.status, answer.code) == (status, code), answer
            check_untouched(client)


def test_bodies_without_a_length(server):
    with our_client(server) as client:
        with client.connect() as connection:
            signed = lean.Signed(client, "PUT", "/photos/there", [], [("transfer-encoding", "chunked")], lean.UNSIGNED)
            connection.send(signed.head() + b"3\r\nabc\r\n0\r\n\r\n")
            check_connection(client, connection, "PUT", 411, "MissingContentLength", stays=False)
        with client.connect() as connection:
            connection.send(lean.Signed(client, "PUT", "/photos/there", [], [], lean.UNSIGNED).head())
            check_connection(client, connection, "PUT", 411, "MissingContentLength", stays=True)
        check_untouched(client)


def test_a_body_that_ends_early_is_no_object(server):
    with our_client(server) as client:
        connection = client.connect()
        connection.send(client.signed("PUT", BUCKET, "there", body=BODY).head() + BODY[:-1])
        connection.sock.shutdown(1)
        try:
            answer = connection.response("PUT")
            assert (answer.status, answer.code) == (400, "IncompleteBody"), answer
        except lean.Cut:
            pass
        check_untouched(client)


def parts_xml(*parts):
    inner = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()


XML = [
    ("empty", b"", "MalformedXML"),
    ("no XML", b"hello", "MalformedXML"),
    ("cut off", b"<Delete><Object><Key>there</Key></Object>", "MalformedXML"),
    ("another root", b"<Remove><Object><Key>there</Key></Object></Remove>", "MalformedXML"),
    ("no object", b"<Delete></Delete>", "MalformedXML"),
    ("an object without a key", b"<Delete><Object></Object></Delete>", "MalformedXML"),
    ("a document type", b"<!DOCTYPE d [<!ENTITY a 'b'>]><Delete><Object><Key>&a;</Key></Object></Delete>", "MalformedXML"),
    ("an unknown entity", b"<Delete><Object><Key>&nbsp;</Key></Object></Delete>", "MalformedXML"),
    ("nothing but depth", b"<Delete>" * 500, "MalformedXML"),
    ("1001 keys", b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>", "MalformedXML"),
    ("bytes that are not UTF-8", b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>", "MalformedXML"),
]


@pytest.mark.parametrize("name, body, code", XML, ids=[row[0] for row in XML])
def test_malformed_xml(server, name, body, code):
    with our_client(server) as client, client.connect() as connection:
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        connection.send(client.signed("POST", BUCKET, None, [("delete", "")], [("content-md5", md5)], body).head() + body)
        answer = connection.response("POST")
        assert answer.status == 400 and answer.code in (code, "MissingRequestBodyError" if not body else code), answer
        check_untouched(client)


def test_completing_what_does_not_fit(server):
    with our_client(server) as client:
        created = client.request("POST", BUCKET, "parts", [("uploads", "")])
        upload = lean.xml_texts(created.body, "UploadId")[0]
        part, small = os.urandom(5 * harness.MIB), b"small"
        etags = {}
        for number, data in ((1, part), (2, small), (3, small)):
            answer = client.put(BUCKET, "parts", data, query=[("partNumber", str(number)), ("uploadId", upload)])
            etags[number] = answer.header("etag")
        other = '"' + "0" * 32 + '"'
        for name, body, status, code in [
            ("no part", parts_xml(), 400, "MalformedXML"),
            ("an unknown part", parts_xml((1, etags[1]), (4, etags[3])), 400, "InvalidPart"),
            ("another ETag", parts_xml((1, other)), 400, "InvalidPart"),
            ("out of order", parts_xml((3, etags[3]), (1, etags[1])), 400, "InvalidPartOrder"),
            ("the same part twice", parts_xml((1, etags[1]), (1, etags[1])), 400, "InvalidPartOrder"),
            ("a small part in the middle", parts_xml((1, etags[1]), (2, etags[2]), (3, etags[3])), 400, "EntityTooSmall"),
            ("part number 0", parts_xml((0, etags[1])), 400, None),
            ("no XML", b"hello", 400, "MalformedXML"),
        ]:
            answer = client.request("POST", BUCKET, "parts", [("uploadId", upload)], body=body)
            assert answer.status == status and code in (None, answer.code), f"{name}: {answer}"
        for key, query in [("others", upload), ("parts", "f" * 32), ("parts", "x")]:
            answer = client.request("POST", BUCKET, key, [("uploadId", query)], body=parts_xml((1, etags[1])))
            assert (answer.status, answer.code) == (404, "NoSuchUpload"), answer
            answer = client.put(BUCKET, key, b"x", query=[("partNumber", "1"), ("uploadId", query)])
            assert (answer.status, answer.code) == (404, "NoSuchUpload"), answer
        for number in ("0", "10001", "-1", "abc", ""):
            answer = client.put(BUCKET, "parts", b"x", query=[("partNumber", number), ("uploadId", upload)])
            assert (answer.status, answer.code) == (400, "InvalidArgument"), f"{number}: {answer}"
        answer = client.request("POST", BUCKET, "parts", [("uploadId", upload)], body=parts_xml((1, etags[1]), (3, etags[3])))
        assert answer.status == 200, answer
        assert client.get(BUCKET, "parts").body == part + small
        # A part that was left out is gone with the upload.
        assert client.delete(BUCKET, "parts", query=[("uploadId", upload)]).status == 404


RANGES = [
    ("bytes=0-", 206),
    ("bytes=200000-", 416),
    ("bytes=200000-200001", 416),
    ("bytes=-0", 416),
    ("bytes=5-4", 200),
    ("bytes=", 200),
    ("bytes=-", 200),
    ("bytes=a-b", 200),
    ("bytes 0-5", 200),
    ("items=0-5", 200),
    ("bytes=0-5,7-9", 200),
    ("bytes=99999999999999999999-", 416),
    ("bytes=0-99999999999999999999", 206),
]


@pytest.mark.parametrize("asked, status", RANGES)
def test_ranges_that_are_odd(server, asked, status):
    """RFC 9110, 14.2: what is not a single valid range is ignored; what starts beyond the end cannot be satisfied."""
    with our_client(server) as client:
        answer = client.get(BUCKET, "there", headers=[("range", asked)])
        assert answer.status == status, answer
        if status == 416:
            assert answer.code == "InvalidRange" and answer.header("content-range") == f"bytes */{len(BODY)}", answer.headers
        else:
            assert answer.body == BODY
        assert client.get(BUCKET, "there").body == BODY


def test_ranges_of_an_empty_object(server):
    with our_client(server) as client:
        assert client.put(BUCKET, "empty", b"").status == 200
        for asked, status in [("bytes=0-", 416), ("bytes=0-0", 416), ("bytes=-1", 200), ("bytes=x", 200)]:
            answer = client.get(BUCKET, "empty", headers=[("range", asked)])
            assert answer.status == status, f"{asked}: {answer}"


ODD_KEYS = [
    "//",
    "/",
    "a//b",
    "//a",
    "a//",
    "/a",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/./b",
    "./a",
    "a/..",
    "../../../../etc/passwd",
    "%",
    "%2F",
    "%2e%2e",
    "a%20b",
    "+",
    "a+b",
    " ",
    "  a  b  ",
    "a\tb",
    "a\nb",
    "a\rb",
    "\x01\x02",
    "\x7f",
    "!",
    "!!",
    "a!",
    "!a",
    "a!b!!c",
    "a!01ARZ3NDEKTSV4RRFFQ69G5FAVABCDEFGHJK",
    "~",
    "*",
    "'",
    '"',
    "<&>",
    "a;b",
    "a=b&c=d",
    "a?b",
    "a#b",
    "a\\b",
    "C:\\x",
    "ä",
    "a\u0308",
    "日本語",
    "\U0001f600",
    "\u202e",
    "\ufeff",
    "\uffff",
    "x" * 255,
    "x" * 256,
    "x" * 1024,
    "ä" * 512,
    "/".join(["d"] * 512),
    "a/" * 511 + "aa",
    ".s3o",
    ".s3o/id",
    ".s3o/n/61-",
    ".s3o-h/x",
    ".s3o~x",
    "health",
    "health/ready",
    "con",
    "a.",
    "a ",
]


def test_odd_keys_round_trip(server):
    """Every key that S3 allows is a key of its own, byte for byte: written, read, listed, deleted."""
    with our_client(server) as client:
        before = set(client.list_keys(BUCKET))
        keys = list(dict.fromkeys(ODD_KEYS))
        for i, key in enumerate(keys):
            assert client.put(BUCKET, key, b"%d" % i).status == 200, repr(key)
        for i, key in enumerate(keys):
            answer = client.get(BUCKET, key)
            assert (answer.status, answer.body) == (200, b"%d" % i), f"{key!r}: {answer}"
        from urllib.parse import unquote_plus

        listed = [unquote_plus(key) for key in client.list_keys(BUCKET, encoding_type="url")]
        assert sorted(set(listed) - before) == sorted(keys)
        assert listed == sorted(listed, key=str.encode), "in the order of their bytes"
        for key in keys[::2]:
            assert client.delete(BUCKET, key).status == 204, repr(key)
        for i, key in enumerate(keys):
            assert client.get(BUCKET, key).status == (200 if i % 2 else 404), repr(key)
        for key in keys[1::2]:
            assert client.delete(BUCKET, key).status == 204, repr(key)
        assert set(client.list_keys(BUCKET)) == before


def test_keys_that_nobody_allows(server):
    with our_client(server) as client:
        for key, code in [(b"x" * 1025, "KeyTooLongError"), (b"\xff\xfe", "InvalidURI"), (b"a\xc3", "InvalidURI")]:
            answer = client.put(BUCKET, key, b"x")
            assert (answer.status, answer.code) == (400, code), f"{key}: {answer}"
        for bucket, status, code in [
            ("Photos", 400, "InvalidBucketName"),
            ("ab", 400, "InvalidBucketName"),
            ("nobody", 404, "NoSuchBucket"),
            ("others", 403, "AccessDenied"),
        ]:
            answer = client.put(bucket, "x", b"x")
            assert (answer.status, answer.code) == (status, code), f"{bucket}: {answer}"


def test_no_key_leaves_the_directory(server, place):
    """After all of the above, nothing was written outside of the backend's folder."""
    assert sorted(path.name for path in place.iterdir()) == ["near", "server"]
    assert sorted(path.name for path in (place / "server").iterdir() if path.name != "server.log")


LISTS = [
    ([("list-type", "2"), ("max-keys", "abc")], 400, "InvalidArgument"),
    ([("list-type", "2"), ("max-keys", "-1")], 400, "InvalidArgument"),
    ([("list-type", "3")], 400, "InvalidArgument"),
    ([("list-type", "2"), ("continuation-token", "nonsense")], 400, "InvalidArgument"),
    ([("list-type", "2"), ("encoding-type", "base64")], 400, "InvalidArgument"),
    ([("policy", "")], 404, "NoSuchBucketPolicy"),
    ([("inventory", "")], 501, "NotImplemented"),
    ([("versions", ""), ("list-type", "2")], 501, "NotImplemented"),
    ([("versions", ""), ("version-id-marker", "null")], 400, "InvalidArgument"),
    ([("max-keys", "abc")], 400, "InvalidArgument"),
]


@pytest.mark.parametrize("query, status, code", LISTS, ids=[str(row[0]) for row in LISTS])
def test_lists_that_are_odd(server, query, status, code):
    with our_client(server) as client:
        answer = client.request("GET", BUCKET, query=query)
        assert (answer.status, answer.code) == (status, code), answer


def test_what_is_not_implemented_changes_nothing(server):
    """A sub-resource that we do not have is never taken for the object itself."""
    with our_client(server) as client:
        for method, query in [
            ("PUT", "retention"),
            ("PUT", "legal-hold"),
            ("POST", "restore"),
            ("POST", "select"),
            ("GET", "torrent"),
        ]:
            answer = client.request(method, BUCKET, "there", [(query, "")], body=b"<x/>" if method != "GET" else b"")
            assert (answer.status, answer.code) == (501, "NotImplemented"), f"{method} ?{query}: {answer}"
            check_untouched(client)


def test_sub_resources_that_are_asked_for_wrongly_change_nothing(server):
    with our_client(server) as client:
        for method, query, code in [("PUT", "acl", "MalformedXML"), ("GET", "attributes", "InvalidArgument")]:
            answer = client.request(method, BUCKET, "there", [(query, "")], body=b"<x/>" if method != "GET" else b"")
            assert (answer.status, answer.code) == (400, code), f"{method} ?{query}: {answer}"
            check_untouched(client)


def test_errors_are_s3s(server):
    """XML with code, message, resource and the request id of the header; HEAD has none."""
    with our_client(server) as client:
        answer = client.get(BUCKET, "nobody/<knows>")
        assert answer.status == 404 and answer.header("content-type") == "application/xml"
        assert lean.xml_texts(answer.body, "Code") == ["NoSuchKey"]
        assert lean.xml_texts(answer.body, "RequestId") == [answer.header("x-amz-request-id")]
        head = client.request("HEAD", BUCKET, "nobody")
        assert (head.status, head.body) == (404, b"")
        assert client.get(BUCKET, "there").status == 200
