"""CORS by the rules of the configuration: preflights without a signature, and what pages may see of actual answers."""

import pytest

import harness
import lean

BUCKET = harness.BUCKET
APP = "https://app.example"
RULES = [
    {
        "allowed_origins": [APP],
        "allowed_methods": ["GET", "PUT"],
        "allowed_headers": ["x-amz-*", "Content-Type"],
        "expose_headers": ["ETag", "x-amz-request-id"],
        "max_age": 600,
    },
    {"allowed_origins": "https://*.example", "allowed_methods": ["DELETE"]},
    {"allowed_origins": ["*"], "allowed_methods": ["HEAD"], "allowed_headers": "*"},
]


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    keys = [{"access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET}]
    others = [{"access_key_id": "otherskey", "secret_access_key": "otherssecret"}]
    buckets = [{"name": BUCKET, "credentials": keys, "cors": RULES}, {"name": "others", "credentials": others}]
    settings = {"buckets": buckets, "server": {"domains": ["s3.test"]}}
    return stack.enter_context(harness.Server(place / "server", [backend], settings))


def preflight(server, origin, method, headers="", path=f"/{BUCKET}/key", host="a"):
    lines = [f"OPTIONS {path} HTTP/1.1", f"host: {host}"]
    lines += [f"origin: {origin}"] * bool(origin) + [f"access-control-request-method: {method}"] * bool(method)
    lines += [f"access-control-request-headers: {headers}"] * bool(headers)
    with lean.Connection(server.address) as connection:
        connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return connection.response("OPTIONS")


def test_admitted_preflights(server):
    answer = preflight(server, APP, "PUT", "X-Amz-Meta-A, content-type")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("access-control-allow-origin") == APP
    assert answer.header("access-control-allow-methods") == "GET, PUT"
    assert answer.header("access-control-allow-headers") == "x-amz-meta-a, content-type"
    assert answer.header("access-control-expose-headers") == "ETag, x-amz-request-id"
    assert answer.header("access-control-max-age") == "600"
    assert answer.header("access-control-allow-credentials") is None
    assert "Origin" in answer.header("vary")
    assert preflight(server, "https://b.example", "DELETE").header("access-control-allow-origin") == "https://b.example"
    assert preflight(server, "null", "HEAD", "anything").header("access-control-allow-origin") == "*"
    hosted = preflight(server, APP, "GET", path="/key", host=f"{BUCKET}.s3.test")
    assert hosted.header("access-control-allow-origin") == APP


def test_refused_preflights(server):
    refused = [
        preflight(server, APP, "PUT", "authorization"),
        preflight(server, APP, "POST"),
        preflight(server, "http://app.example", "PUT"),
        preflight(server, APP, "GET", path="/others/key"),
        preflight(server, APP, "GET", path="/nobody-has-it/key"),
        preflight(server, APP, "GET", path="/"),
    ]
    for answer in refused:
        assert (answer.status, answer.code) == (403, "AccessForbidden"), answer
        assert answer.header("access-control-allow-origin") is None
    texts = {tuple(lean.xml_texts(answer.body, "Message")) for answer in refused}
    assert len(texts) == 1, "no rules, no match and no bucket look alike"
    for answer in (preflight(server, "", "GET"), preflight(server, APP, ""), preflight(server, APP, "BREW")):
        assert (answer.status, answer.code) == (400, "BadRequest"), answer


def test_actual_answers(server):
    with server.client() as client:
        put = client.put(BUCKET, "key", b"x", headers=[("origin", APP)])
        assert (put.status, put.header("access-control-allow-origin")) == (200, APP)
        for key, status in [("key", 200), ("nothing", 404)]:
            got = client.get(BUCKET, key, headers=[("origin", APP)])
            assert got.status == status
            assert got.header("access-control-allow-origin") == APP and "ETag" in got.header("access-control-expose-headers")
            assert "Origin" in got.header("vary")
        stranger = client.get(BUCKET, "key", headers=[("origin", "https://b.example")])
        assert stranger.status == 200 and stranger.header("access-control-allow-origin") is None
        plain = client.get(BUCKET, "key")
        assert plain.header("access-control-allow-origin") is None and "Origin" in plain.header("vary")
    with lean.Client(server.address, "otherskey", "otherssecret") as client:
        assert client.put("others", "key", b"x", headers=[("origin", APP)]).header("vary") is None
    with lean.Client(server.address, harness.ACCESS_KEY, "wrong") as client:
        denied = client.get(BUCKET, "key", headers=[("origin", APP)])
        assert (denied.status, denied.header("access-control-allow-origin")) == (403, APP), "a page can read why"


def test_uploads_of_a_page(server, boto):
    """A preflight and a presigned PUT, as a browser sends them."""
    url = boto(server, signature_version="s3v4").generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "from a page"})
    path = url.split(str(server.port))[1]
    assert preflight(server, APP, "PUT", "content-type", path=path).status == 200
    with lean.Connection(server.address) as connection:
        head = f"PUT {path} HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\norigin: {APP}\r\ncontent-type: text/plain\r\ncontent-length: 1\r\n\r\nx"
        connection.send(head.encode())
        answer = connection.response("PUT")
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, APP), answer
