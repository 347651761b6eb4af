"""The protocol bugs that bit every S3 proxy before this one, each with the tests that would see it here (a `file` of this
folder, or of `src/`, and names in it):

| what went wrong elsewhere | where it is tested |
|---|---|
| today's SDKs stream with trailers by default, and every such PUT failed | test_s3_streams: \
test_every_state_of_every_checksum |
| chunks of a signed stream were not verified; their framing was stored | test_bad_input: test_tampered_streams, \
test_s3_streams: test_every_state_of_every_checksum |
| the date of chunk signatures | test_matrix: test_every_payload_mode_round_trips, src/proto/aws_chunked/tests.rs: fn |
| backends refuse checksums and headers that nobody asked for | test_traps: test_backends_are_sent_nothing_unsolicited |
| proxies in between change what was signed | test_traps: test_behind_a_proxy |
| unsigned `x-amz-` fields, empty names, fields that must be signed | test_bad_input: test_signatures, test_sigv4_random: \
test_what_botocore_signs_is_accepted_and_nothing_else |
| queries with repeated names and Unicode | test_sigv4_random: test_what_botocore_signs_is_accepted_and_nothing_else |
| the hash and the checksums of a presigned PUT | test_s3_presigned: test_declared_hash, test_fields_in_the_query |
| `//`, leading `/`, `.`, `..`, `%2F` in keys, long keys | test_bad_input: test_odd_keys_round_trip, \
test_no_key_leaves_the_directory, test_traps: test_every_character_is_a_key |
| how a copy's source is decoded | test_s3_copy: test_what_is_refused, src/handlers/copy_source.rs: sources |
| the backend's ETag was passed on | test_traps: test_etags_are_ours |
| Complete asked again after a lost answer | test_s3_multipart: test_complete_asked_again_answers_the_same |
| Complete answers 200 with an error in the body | src/backend/s3/answer.rs: 200, test_failures: \
test_an_answer_that_never_came_leaves_no_bytes |
| parts: missing, small, numbers out of range, other ETags | test_bad_input: test_completing_what_does_not_fit, \
test_s3_multipart: test_manifests_that_are_refused |
| listings at exactly the page's size, markers, key counts, encodings | test_s3_listing: test_pages, test_bad_input: \
test_lists_that_are_odd; and tests/model |
| odd ranges | test_bad_input: test_ranges_that_are_odd, test_ranges_of_an_empty_object |
| HEAD is not as GET; its errors have bodies | test_boto3: test_put_get_head_delete; and tests/model |
| an early error poisons the connection | test_bad_input: test_a_refused_upload_is_drained_or_closed, test_matrix: \
test_what_follows_an_empty_body_is_answered |
| `Expect: 100-continue` | test_bad_input: test_continue_is_sent_only_when_the_body_is_wanted, test_real_data: \
test_empty_files_between_others |
| chunked transfer without a length | test_bad_input: test_bodies_without_a_length, \
test_streams_in_transfer_chunks_are_taken |
| two lengths, length and chunks, upgrades, pipelining | test_bad_input: test_malformed_heads, test_matrix: \
test_pipelined_requests_are_answered_in_order, test_traps: test_nobody_is_upgraded |
| stale connections to backends | test_failures: test_stale_connections_are_retried_once, test_idle_connections_are_let_go |
| HTTP/2 to backends | test_traps: test_backends_are_spoken_to_in_http_1 |
| XML: unknown elements, floods of attributes and namespaces, depth | test_bad_input: test_malformed_xml, test_traps: \
test_xml_floods |
| empty objects, also over others, also as copies | test_s3_copy: test_small_and_empty, test_traps: \
test_an_empty_object_over_another_is_copied |
| redirects that carry credentials away | test_traps: test_redirects_are_not_followed |
| conditions: 409, 412, 404, quotes, `*` | test_boto3: test_conditions, test_s3_copy: test_conditions, test_s3_multipart: \
test_conditions_of_complete; and tests/model |
| breakers tripped by 404s and clients, stuck half-open | test_breakers: test_what_is_no_fault_never_trips, \
test_a_breaker_opens_keeps_away_and_closes |
| bodies held in memory | test_memory: test_memory_does_not_grow_with_object_size |
"""

import getpass
import hashlib
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest

import harness
import lean
import stub as stubs

BUCKET = harness.BUCKET
HERE = pathlib.Path(__file__).parent


def test_the_table_names_tests_that_exist():
    rows = [line.split("|")[2] for line in __doc__.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) == 29
    for row in rows:
        file = None
        for name in re.findall(r"[\w/.]+(?=[:,;]|\s|$)", row.replace("and tests/model", "")):
            if name.startswith(("test_", "src/")) and f"{name}:" in row:
                file = HERE.parent.parent / name if name.startswith("src/") else HERE / f"{name}.py"
            else:
                assert file and name in file.read_text(), f"{name} is not in {file}: {row}"


@pytest.fixture
def stub(request):
    server = stubs.Stub(harness.free_port())
    request.addfinalizer(server.close)
    return server


@pytest.fixture
def behind(stub, tmp_path):
    with harness.Server(tmp_path / "server", [stub.backend("cloud")]) as server:
        yield server


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    return stack.enter_context(harness.Server(place / "server", [backend]))


# What every S3 provider has known for as long as it exists.
PLAIN = {"host", "content-length", "expect", "authorization", "x-amz-date", "x-amz-content-sha256", "content-type"}
PLAIN |= {"cache-control", "content-disposition", "content-language", "range", "if-match"}
PLAIN |= {"x-amz-copy-source", "x-amz-metadata-directive"}


def test_backends_are_sent_nothing_unsolicited(behind, stub, boto):
    """Whatever the client sends: R2, B2 and GCS refuse checksums and chunks that they do not know."""
    s3 = boto(behind)
    body = os.urandom(300_000)
    s3.put_object(Bucket=BUCKET, Key="sdk", Body=body, ContentEncoding="gzip", Metadata={"a": "b"}, Tagging="t=u")
    s3.copy_object(Bucket=BUCKET, Key="copied", CopySource=f"{BUCKET}/sdk")
    assert s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == body
    with behind.client() as client:
        assert client.put(BUCKET, "lean", body[:1000], headers=[("x-amz-meta-c", "d")]).status == 200
    s3.delete_object(Bucket=BUCKET, Key="sdk")
    assert len(stub.fields) > 6
    for request, fields in zip(stub.requests, stub.fields):
        # The first probe asks whether the backend verifies a checksum.
        if request[1].startswith(".s3o/"):
            continue
        unknown = {name for name in fields if name not in PLAIN and not name.startswith("x-amz-meta-")}
        assert not unknown, f"{request} carries {unknown}"
        assert not fields["x-amz-content-sha256"].startswith("STREAMING"), request


def test_etags_are_ours(behind, stub):
    stub.odd_etags = True
    body = os.urandom(100_000)
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    with behind.client() as client:
        put = client.put(BUCKET, "odd", body)
        assert (put.status, put.header("etag")) == (200, etag)
        got = client.get(BUCKET, "odd")
        assert (got.header("etag"), got.body) == (etag, body)
        assert client.get(BUCKET, "odd", headers=[("if-none-match", etag)]).status == 304
        assert lean.xml_texts(client.request("GET", BUCKET, query=[("list-type", "2")]).body, "ETag") == [etag]


def test_redirects_are_not_followed(behind, stub):
    """Nor does anything of ours reach the place that they name."""
    elsewhere = stubs.Stub(harness.free_port())
    with behind.client() as client:
        assert client.put(BUCKET, "there", b"before").status == 200
        stub.redirects_to = f"http://127.0.0.1:{elsewhere.port}"
        assert client.put(BUCKET, "other", b"x").status >= 500
        assert client.get(BUCKET, "there").status >= 500
        stub.redirects_to = None
    assert elsewhere.requests == []
    elsewhere.close()


def test_backends_are_spoken_to_in_http_1(tmp_path, certificates):
    """An HTTPS backend that would like HTTP/2 is not offered it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert_file, certificates.key_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    listener, chosen = socket.create_server(("127.0.0.1", harness.free_port())), []

    def accept():
        try:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secure:
                chosen.append((secure.selected_alpn_protocol(), secure.recv(65536)))
        except OSError as error:
            chosen.append(("failed", str(error).encode()))

    threading.Thread(target=accept, daemon=True).start()
    backend = {**stubs.backend_at(0, "cloud"), "endpoint": f"https://127.0.0.1:{listener.getsockname()[1]}"}
    backend["ca_file"] = str(certificates.ca_file)
    near = harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)
    with harness.Server(tmp_path / "server", [near, backend]):
        harness.wait_for("a connection to the backend", lambda: chosen)
    listener.close()
    protocol, head = chosen[0]
    assert protocol in (None, "http/1.1") and b" HTTP/1.1\r\n" in head, chosen


def test_nobody_is_upgraded(server):
    """To HTTP/2 or to anything; what follows such a request is read as HTTP/1.1."""
    with server.client() as client, client.connect() as connection:
        fields = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")]
        names = ["host", "x-amz-date", "x-amz-content-sha256"]
        request = client.signed("GET", BUCKET, None, [("list-type", "2")], fields, signed_names=names).head()
        connection.send(request + client.signed("GET", BUCKET, "none").head())
        assert connection.response().status == 200
        assert connection.response().code == "NoSuchKey"


def test_every_character_is_a_key(server):
    """All of Unicode's first plane but surrogates and NUL, some of each other plane, in keys of up to 1024 bytes."""
    points = [*range(1, 0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 4099)]
    keys, key = [], ""
    for character in map(chr, points):
        if len((key + character).encode()) > 1024:
            keys.append(key)
            key = ""
        key += character
    keys.append(key)
    with server.client() as client:
        for i, key in enumerate(keys):
            assert client.put(BUCKET, key, b"%d" % i).status == 200, repr(key)
        listed = [urllib.parse.unquote(key) for key in client.list_keys(BUCKET, encoding_type="url")]
        assert [key for key in listed if key in set(keys)] == sorted(keys, key=str.encode)
        for i, key in enumerate(keys):
            assert client.get(BUCKET, key).body == b"%d" % i, repr(key)
            assert client.delete(BUCKET, key).status == 204, repr(key)


FLOODS = {
    "attributes": b"<Delete " + b" ".join(b'a%d="x"' % i for i in range(100_000)) + b"><Object><Key>a</Key></Object></Delete>",
    "one attribute": b"<Delete " + b'a="x" ' * 100_000 + b"><Object><Key>a</Key></Object></Delete>",
    "namespaces": b"<Delete " + b" ".join(b'xmlns:n%d="u"' % i for i in range(60_000)) + b"><Object><Key>a</Key></Object></Delete>",
    "unknown elements": b"<Delete>" + b"<Other/>" * 100_000 + b"<Object><Key>a</Key></Object></Delete>",
    "comments": b"<Delete>" + b"<!---->" * 100_000 + b"<Object><Key>a</Key></Object></Delete>",
    "references": b"<Delete><Object><Key>" + b"&amp;" * 180_000 + b"</Key></Object></Delete>",
    "depth": b"<a>" * 300_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_xml_floods(server, name):
    """Taken or refused, but in no time, and nobody else waits for it."""
    with server.client() as client:
        started = time.monotonic()
        md5 = lean.b64encode(hashlib.md5(FLOODS[name]).digest()).decode()
        answer = client.request("POST", BUCKET, None, [("delete", "")], [("content-md5", md5)], FLOODS[name])
        assert answer.status in (200, 400), answer
        assert answer.status == 200 or answer.code in ("MalformedXML", "MaxMessageLengthExceeded", "EntityTooLarge"), answer
        # Seconds on a busy machine; what grows with the square takes minutes.
        assert time.monotonic() - started < 40


def test_an_empty_object_over_another_is_copied(tmp_path):
    """The second copy of an empty version replaces that of a full one, and the other way round."""
    backends = [harness.directory_backend(name, tmp_path / name, quota_bytes=harness.GIB) for name in ("one", "two")]
    settings = {
        "replication": {"factor": 2, "worker_interval": "300ms"},
        "cleanup_queue": {"interval": "200ms", "grace": "100ms"},
        "write_path": {"settle": "1s"},
    }
    with harness.Server(tmp_path / "server", backends, settings) as server, server.client() as client:
        for body in (b"full", b"", b"full again", b""):
            assert client.put(BUCKET, "k", body).status == 200
            wanted = [len(body)]
            harness.wait_for(
                "two copies and no others",
                lambda: all(list(harness.stored_in(tmp_path / name).values()) == wanted for name in ("one", "two")),
            )
            assert client.get(BUCKET, "k").body == body


NGINX = """daemon off; user {user}; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_set_header Host $http_host; }}
    }}
}}
"""
HAPROXY = """defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend all
    bind 127.0.0.1:{port}
    option forwardfor
    default_backend ours
backend ours
    server one 127.0.0.1:{upstream}
"""


@pytest.fixture(params=["nginx", "haproxy"])
def proxied(request, server, tmp_path):
    """A port behind which the server stands, with the least that each proxy must be told."""
    port, config = harness.free_port(), tmp_path / "proxy.conf"
    text = NGINX if request.param == "nginx" else HAPROXY
    config.write_text(text.format(user=getpass.getuser(), folder=tmp_path, port=port, upstream=server.port))
    command = ["nginx", "-p", tmp_path, "-c", config] if request.param == "nginx" else ["haproxy", "-db", "-f", config]
    proxy = harness.Process(tmp_path / "proxy.log", command)
    request.addfinalizer(proxy.end)
    harness.wait_for(f"{request.param} listens", lambda: harness.accepts(port))

    class Proxied:
        url, tls = f"http://127.0.0.1:{port}", None

    return Proxied


def test_behind_a_proxy(proxied, boto, aws, tmp_path):
    """Clients in their default settings sign what the proxies pass on unchanged: fields like `Accept-Encoding`, `Expect`
    and `amz-sdk-…` may be changed on the way, and a query like `x-id` may not."""
    s3, body = boto(proxied), os.urandom(300_000)
    key = "behind/a b+c//é%2F"
    assert s3.put_object(Bucket=BUCKET, Key=key, Body=body)["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(body)
    assert s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=5-9")["Body"].read() == body[5:10]
    link = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})
    assert subprocess.run(["curl", "-sf", link], capture_output=True, check=True).stdout == body
    (tmp_path / "file").write_bytes(body * 40)
    aws(proxied, "s3", "cp", tmp_path / "file", f"s3://{BUCKET}/behind/parts", "--only-show-errors")
    aws(proxied, "s3", "cp", f"s3://{BUCKET}/behind/parts", tmp_path / "back", "--only-show-errors")
    assert (tmp_path / "back").read_bytes() == body * 40
    aws(proxied, "s3", "rm", "--recursive", f"s3://{BUCKET}/behind/", "--only-show-errors")
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="behind/")
