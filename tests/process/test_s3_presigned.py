"""Presigned URLs (SigV4 in the query), and buckets in the host name. The URLs are botocore's; they are sent over a plain
socket, so that nothing but what the URL holds is sent."""

import base64
import datetime
import hashlib
import os
import random
import time
import urllib.parse
import zlib

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import harness
import lean

BUCKET = harness.BUCKET
DOMAIN = "s3.test"


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    settings = {"server": {"domains": [DOMAIN, "other.s3.test"]}}
    return stack.enter_context(harness.Server(place / "server", [backend], settings))


@pytest.fixture(params=["version 4", "boto3's default"])
def s3(request, server, boto):
    """By default boto3 signs URLs for us-east-1 in version 2."""
    return boto(server, **({"signature_version": "s3v4"} if request.param == "version 4" else {}))


def send(server, method, url, headers=(), body=b"", host=None):
    """The request that a plain HTTP client makes of a URL."""
    parts = urllib.parse.urlsplit(url)
    lines = [f"{method} {parts.path}?{parts.query} HTTP/1.1", f"host: {host or parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in dict(headers).items()]
    if body or method in ("PUT", "POST"):
        lines.append(f"content-length: {len(body)}")
    with lean.Connection(server.address) as connection:
        connection.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body)
        return connection.response(method)


def presign(server, method, target, headers=(), expires=60, at=None, monkeypatch=None, host=None, secret=harness.SECRET):
    """A URL by botocore's signer; the headers are signed and must be sent."""
    if at is not None:
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(seconds=at)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: now)
    host = host or f"127.0.0.1:{server.port}"
    # Named, so that it is signed as it is sent: the signer would write it in lower case and without a usual port.
    request = AWSRequest(method=method, url=f"http://{host}{target}", headers={**dict(headers), "host": host})
    credentials = Credentials(harness.ACCESS_KEY, secret)
    botocore.auth.S3SigV4QueryAuth(credentials, "s3", "us-east-1", expires=expires).add_auth(request)
    return request.url


def message(answer):
    return lean.xml_texts(answer.body, "Message")[0]


def test_every_operation_by_url(server, s3):
    body = os.urandom(100_000)
    named = {"Bucket": BUCKET, "Key": "by url/ü+&="}
    put = send(server, "PUT", s3.generate_presigned_url("put_object", named), body=body)
    assert (put.status, put.header("etag")) == (200, f'"{hashlib.md5(body).hexdigest()}"')
    got = send(server, "GET", s3.generate_presigned_url("get_object", named), {"range": "bytes=5-9"})
    assert (got.status, got.body) == (206, body[5:10])
    head = send(server, "HEAD", s3.generate_presigned_url("head_object", named))
    assert (head.status, head.header("content-length")) == (200, "100000")
    listed = send(server, "GET", s3.generate_presigned_url("list_objects_v2", {"Bucket": BUCKET, "Prefix": "by url/"}))
    assert [urllib.parse.unquote(key) for key in lean.xml_texts(listed.body, "Key")] == [named["Key"]]
    assert send(server, "DELETE", s3.generate_presigned_url("delete_object", named)).status == 204
    assert send(server, "GET", s3.generate_presigned_url("get_object", named)).code == "NoSuchKey"


def test_version_2(server, boto):
    """What it covers cannot be changed, and nothing unsigned makes another operation of it."""
    s3, named = boto(server), {"Bucket": BUCKET, "Key": "by version 2/é"}
    sent = {**named, "ContentType": "text/x", "Metadata": {"a": "b c"}}
    url = s3.generate_presigned_url("put_object", sent)
    assert "AWSAccessKeyId=" in url and "X-Amz-Algorithm" not in url
    fields = {"content-type": "text/x", "x-amz-meta-a": "b c"}
    assert send(server, "PUT", url, fields, b"x").status == 200
    head = s3.head_object(**named)
    assert (head["ContentType"], head["Metadata"]) == ("text/x", {"a": "b c"})
    answer = send(server, "PUT", url, {**fields, "content-type": "text/y"}, b"y")
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), answer
    for changed in [{"x-amz-meta-a": "c"}, {**fields, "x-amz-meta-b": "c"}]:
        assert send(server, "PUT", url, changed, b"y").status in (400, 403), changed
    got = s3.generate_presigned_url("get_object", {**named, "ResponseContentType": "text/other"})
    assert send(server, "GET", got).header("content-type") == "text/other"
    for method, other in [
        ("GET", got.replace("text%2Fother", "text%2Fhtml")),
        ("GET", got.replace("by%20version", "by%20Version")),
        ("GET", got + "&tagging"),
        ("GET", got + "&attributes"),
        ("GET", got + "&anything=1"),
        ("DELETE", got),
        ("PUT", got),
    ]:
        answer = send(server, method, other)
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), f"{method} {other}: {answer}"
    for seconds in (-1, 0):
        time.sleep(1 - time.time() % 1)  # Just after a second's turn: what ended with it is not valid a moment longer.
        answer = send(server, "GET", s3.generate_presigned_url("get_object", named, ExpiresIn=seconds))
        assert (answer.status, answer.code, message(answer)) == (403, "AccessDenied", "Request has expired")
    assert s3.get_object(**named)["Body"].read() == b"x"


def test_parts_by_url(server, s3):
    named = {"Bucket": BUCKET, "Key": "parts"}
    upload = {**named, "UploadId": s3.create_multipart_upload(**named)["UploadId"]}
    parts = [os.urandom(5 * harness.MIB), os.urandom(1000)]
    done = []
    for number, part in enumerate(parts, 1):
        url = s3.generate_presigned_url("upload_part", {**upload, "PartNumber": number})
        done.append({"PartNumber": number, "ETag": send(server, "PUT", url, body=part).header("etag")})
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
    assert s3.get_object(**named)["Body"].read() == b"".join(parts)


def test_fields_in_the_query(server):
    """What a presigner puts into the query counts as the header of that name, and is as binding."""
    body = b"some bytes"
    crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    query = urllib.parse.urlencode({"x-amz-checksum-crc32": crc, "x-amz-meta-colour": "sea green", "x-amz-acl": "private"})
    url = presign(server, "PUT", f"/{BUCKET}/fields?{query}")
    answer = send(server, "PUT", url, body=b"other data")
    assert (answer.status, answer.code) == (400, "BadDigest")
    assert send(server, "PUT", url, body=body).header("x-amz-checksum-crc32") == crc
    head = send(server, "HEAD", presign(server, "HEAD", f"/{BUCKET}/fields"))
    assert head.header("x-amz-meta-colour") == "sea green"
    refused = presign(server, "PUT", f"/{BUCKET}/fields?x-amz-acl=public-read")
    assert send(server, "PUT", refused, body=body).code == "AccessControlListNotSupported"


def test_signed_headers_must_be_sent(server):
    headers = {"content-type": "text/plain", "x-amz-meta-a": "b", "content-md5": base64.b64encode(hashlib.md5(b"x").digest()).decode()}
    url = presign(server, "PUT", f"/{BUCKET}/signed", headers)
    assert send(server, "PUT", url, headers, b"x").status == 200
    for changed in ({"x-amz-meta-a": "c"}, {"content-type": "text/html"}, {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}):
        assert send(server, "PUT", url, {**headers, **changed}, b"x").code in ("SignatureDoesNotMatch", "InvalidDigest", "BadDigest")
    assert send(server, "PUT", url, {}, b"x").code == "SignatureDoesNotMatch"
    answer = send(server, "PUT", url, {**headers, "x-amz-acl": "private"}, b"x")
    assert answer.code == "AccessDenied" and "were not signed" in message(answer)
    answer = send(server, "PUT", url, headers, b"y")
    assert answer.code == "BadDigest"


def test_declared_hash(server):
    """A hash of the body in the URL, or in a signed header, is checked."""
    for place in ("query", "header"):
        digest = hashlib.sha256(b"right").hexdigest()
        headers = {"x-amz-content-sha256": digest} if place == "header" else {}
        target = f"/{BUCKET}/hash" + (f"?X-Amz-Content-Sha256={digest}" if place == "query" else "")
        request = AWSRequest(method="PUT", url=f"{server.url}{target}", headers=headers)
        signer = botocore.auth.S3SigV4QueryAuth(Credentials(harness.ACCESS_KEY, harness.SECRET), "s3", "us-east-1")
        signer.payload = lambda _request, digest=digest: digest
        signer.add_auth(request)
        assert send(server, "PUT", request.url, headers, b"wrong").code == "XAmzContentSHA256Mismatch", place
        assert send(server, "PUT", request.url, headers, b"right").status == 200, place


def test_time(server, monkeypatch):
    def get(at, expires):
        return send(server, "GET", presign(server, "GET", f"/{BUCKET}?list-type=2", expires=expires, at=at, monkeypatch=monkeypatch))

    week = 7 * 24 * 3600
    assert get(0, week).status == 200 and get(60 - week, week).status == 200 and get(800, 60).status == 200
    for at, expires, text in [(-62, 60, "Request has expired"), (-week - 2, week, "Request has expired"), (960, week, "Request is not valid yet")]:
        answer = get(at, expires)
        assert (answer.status, answer.code, message(answer)) == (403, "AccessDenied", text)
    answer = get(0, week + 1)
    assert (answer.status, answer.code) == (400, "AuthorizationQueryParametersError")
    assert "less than a week" in message(answer)


def test_refusals(server):
    url = presign(server, "GET", f"/{BUCKET}/nothing")
    assert send(server, "GET", url).code == "NoSuchKey"
    for change, status, code in [
        (("X-Amz-Expires=60", "X-Amz-Expires=-1"), 400, "AuthorizationQueryParametersError"),
        (("X-Amz-Expires=60", "X-Amz-Expires=60s"), 400, "AuthorizationQueryParametersError"),
        (("X-Amz-Expires=60", "X-Amz-Expires=61"), 403, "SignatureDoesNotMatch"),
        (("X-Amz-Expires=60&", ""), 400, "AuthorizationQueryParametersError"),
        (("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), 400, "AuthorizationQueryParametersError"),
        (("aws4_request", "aws5_request"), 400, "AuthorizationQueryParametersError"),
        (("photoskey", "photoskez"), 403, "InvalidAccessKeyId"),
        (("/nothing?", "/other?"), 403, "SignatureDoesNotMatch"),
        (("X-Amz-Algorithm", "X-Amz-Security-Token=t&X-Amz-Algorithm"), 400, "InvalidToken"),
        (("X-Amz-Algorithm", "acl&X-Amz-Algorithm"), 403, "SignatureDoesNotMatch"),
    ]:
        assert change[0] in url
        answer = send(server, "GET", url.replace(*change))
        assert (answer.status, answer.code) == (status, code), change
    assert send(server, "PUT", url, body=b"x").code == "SignatureDoesNotMatch", "another method"
    assert send(server, "GET", presign(server, "GET", f"/{BUCKET}/nothing", secret="x")).code == "SignatureDoesNotMatch"
    with server.client() as client:
        signed = client.signed("GET", BUCKET, "nothing").fields
    answer = send(server, "GET", url, {name: value for name, value in signed.items() if name != "host"})
    assert (answer.status, answer.code) == (400, "InvalidArgument"), "header and query"
    refused = send(server, "GET", presign(server, "GET", "/somebody-elses/key"))
    assert refused.code in ("NoSuchBucket", "AccessDenied")


def test_random_requests_by_two_forms(server):
    """botocore's signer against ours, in both forms, on keys and parameters of every kind."""
    dice = random.Random(4)
    pieces = ["//", "..", "é", "日", "😀", "%41", "%2F", *"aZ/.%+~ !'(*=&?#@$,;:|<[^`{", "\\", '"']
    credentials = Credentials(harness.ACCESS_KEY, harness.SECRET)
    for turn in range(150):
        key = "k" + "".join(dice.choice(pieces) for _ in range(dice.randint(0, 8)))
        target = f"/{BUCKET}/" + urllib.parse.quote(key, safe=dice.choice(["/-_.~", "/~!'()*", "/+:@,;=$&"]))
        body = os.urandom(dice.choice([0, 1, 1000]))
        headers = {"x-amz-meta-n": dice.choice(["a", "a  b", "é", ""])} if dice.random() < 0.5 else {}
        url = presign(server, "PUT", target, headers)
        put = send(server, "PUT", url, headers, body)
        assert put.status == 200, f"{turn} {key!r}: {put}"
        request = AWSRequest(method="GET", url=f"{server.url}{target}?x-id=GetObject", headers=headers)
        botocore.auth.S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
        got = send(server, "GET", request.url, request.headers)
        assert (got.status, got.body) == (200, body), f"{turn} {key!r}"
        wrong = send(server, "GET", url.replace("X-Amz-Date=2", "X-Amz-Date=1"))
        assert wrong.status in (400, 403), f"{turn} {key!r}: {wrong}"


@pytest.mark.parametrize("host", [f"{BUCKET}.{DOMAIN}", f"{BUCKET.upper()}.S3.Test:9000", f"{BUCKET}.other.s3.test."])
def test_buckets_in_the_host(server, s3, host):
    """Signed over the wire's path and host, whatever the bucket; presigned and by header."""
    body = os.urandom(1000)
    put = send(server, "PUT", presign(server, "PUT", "/in/the%20host", host=host), body=body, host=host)
    assert put.status == 200, put
    assert s3.get_object(Bucket=BUCKET, Key="in/the host")["Body"].read() == body
    request = AWSRequest(method="GET", url=f"http://{host}/?list-type=2&prefix=in%2F", headers={"host": host})
    botocore.auth.S3SigV4Auth(Credentials(harness.ACCESS_KEY, harness.SECRET), "s3", "us-east-1").add_auth(request)
    listed = send(server, "GET", request.url, {name: value for name, value in request.headers.items() if name != "host"}, host=host)
    assert lean.xml_texts(listed.body, "Key") == ["in/the host"]
    assert send(server, "PUT", presign(server, "PUT", "/health", host=host), body=b"an object", host=host).status == 200
    assert send(server, "GET", presign(server, "GET", "/health", host=host), host=host).body == b"an object"


@pytest.mark.parametrize("how", ["url", "header"])
def test_version_2_says_nothing_of_the_host(server, boto, how):
    """A request that was signed for one bucket is good for no other by a change of its Host, which this version does not
    sign: the path, which it signs, would be a key there."""
    with server.client() as client:
        assert client.put(BUCKET, "beside", b"x").status == 200
        # The same path as below, in the bucket of the host.
        assert client.put(BUCKET, f"{BUCKET}/beside", b"another").status == 200
    if how == "url":
        url, headers = boto(server).generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "beside"}), {}
        assert "AWSAccessKeyId=" in url
    else:
        request = AWSRequest(method="GET", url=f"{server.url}/{BUCKET}/beside", headers={"content-length": "0"})
        botocore.auth.HmacV1Auth(Credentials(harness.ACCESS_KEY, harness.SECRET)).add_auth(request)
        url, headers = request.url + "?x-id=GetObject", request.headers
    assert send(server, "GET", url, headers).body == b"x"
    answer = send(server, "GET", url, headers, host=f"{BUCKET}.{DOMAIN}")
    assert (answer.status, answer.code) == (400, "InvalidRequest"), answer


def test_paths_beside_hosts(server):
    """The domain itself, an address and a stranger's name: the bucket is in the path."""
    for host in (DOMAIN, f"{DOMAIN}:80", "127.0.0.1", "localhost:9000", "photos.s3.example"):
        url = presign(server, "PUT", f"/{BUCKET}/beside", host=host)
        assert send(server, "PUT", url, body=b"x", host=host).status == 200, host
    answer = send(server, "GET", presign(server, "GET", f"/{BUCKET}/beside", host=f"nobody.{DOMAIN}"), host=f"nobody.{DOMAIN}")
    assert answer.code == "NoSuchBucket"
    with server.client() as client:
        assert "in/the host" in client.list_keys(BUCKET) or client.get(BUCKET, "beside").body == b"x"
