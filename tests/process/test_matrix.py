"""What moves bytes and waits for sockets, on every combination of driver and body path: {ring, epoll} x {splice, copy}.

Every test here runs four times; what does not depend on either is tested once, elsewhere.
"""

import contextlib
import hashlib
import os
import select
import socket
import struct
import threading
import time

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP

BUCKET = harness.BUCKET
# Around every size that the code decides by: nothing, a head's buffer, splice from 64 KiB, a body buffer, pipes, yields.
SIZES = [0, 1, 4096, 16_384, 65_535, 65_536, 65_537, 262_143, 262_145, 1_048_576, 1_048_577, 5_000_003]
RANDOM = os.urandom(20 * harness.MIB)


@pytest.fixture(scope="module", params=["ring-splice", "ring-copy", "epoll-splice", "epoll-copy"])
def server(request, place, tmp_path_factory):
    driver, relay = request.param.split("-")
    folder = place / request.param
    with contextlib.ExitStack() as stack:
        s3s = harness.S3sFs(folder / "s3s")
        stack.callback(s3s.end)
        backends = [
            harness.directory_backend("near", folder / "near", quota_bytes=4 * harness.GIB),
            s3s.backend("cloud", quota_bytes=4 * harness.GIB),
        ]
        settings = {**QUICK_CLEANUP, "routing_strategy": "spread", "server": {"driver": driver, "relay": relay}}
        server = stack.enter_context(harness.Server(folder / "server", backends, settings))
        server.driver, server.relay = driver, relay
        yield server


def test_the_driver_is_the_one_that_was_asked_for(server):
    name = {"ring": "io_uring", "epoll": "epoll"}[server.driver]
    # Two reactors and the mover.
    said = lambda: [line["driver"] for line in server.lines() if line["msg"] == "reactor driver"]
    harness.wait_for("the drivers to be told", lambda: len(said()) == 3)
    assert said() == [name] * 3
    rings = [link for link in descriptors(server) if "io_uring" in link]
    assert bool(rings) == (server.driver == "ring"), rings


def descriptors(server):
    folder = f"/proc/{server.process.child.pid}/fd"
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"{folder}/{name}"))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_every_payload_mode_round_trips(server, size):
    body = RANDOM[:size]
    with server.client() as client:
        for mode in ("declared", "unsigned", "signed-chunks", "signed-chunks-trailer"):
            key = f"modes/{mode}/{size}"
            signed_put(client, key, body, mode)
            answer = client.get(BUCKET, key)
            assert (answer.status, answer.body == body) == (200, True), f"{mode}: {answer}"
            assert answer.header("etag") == f'"{hashlib.md5(body).hexdigest()}"', mode
            assert answer.header("content-length") == str(size)
            head = client.request("HEAD", BUCKET, key)
            assert (head.status, head.header("content-length")) == (200, str(size))


def signed_put(client, key, body, mode):
    if mode in ("declared", "unsigned"):
        answer = client.put(BUCKET, key, body, payload_hash=lean.UNSIGNED if mode == "unsigned" else None)
    else:
        answer = streamed_put(client, key, body, trailer=mode.endswith("trailer"))
    assert answer.status == 200, f"{mode} {len(body)}: {answer}"
    assert answer.header("etag") == f'"{hashlib.md5(body).hexdigest()}"', mode


def streamed_put(client, key, body, trailer, chunk=64 * harness.KIB):
    """An upload in signed chunks, with a CRC32 in a signed trailer or without."""
    mode = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    headers = [("x-amz-decoded-content-length", str(len(body))), ("content-encoding", "aws-chunked")]
    headers += [("x-amz-trailer", "x-amz-checksum-crc32")] if trailer else []
    # Lengths of the framing do not depend on the signatures, so a dry run measures them.
    length = sum(
        len(piece)
        for piece in framed(client.signed("PUT", BUCKET, key, headers=headers, payload_hash=mode), body, trailer, chunk)
    )
    headers.append(("content-length", str(length)))
    signed = lean.Signed(client, "PUT", lean.encode_path(BUCKET, key), [], headers, mode)
    client.connection = client.connection or client.connect()
    client.connection.send(signed.head())
    for piece in framed(signed, body, trailer, chunk):
        client.connection.send(piece)
    return client.connection.response("PUT")


def framed(signed, body, trailer, chunk):
    for at in range(0, len(body), chunk):
        yield signed.chunk(body[at : at + chunk])
    yield signed.chunk(b"")
    if trailer:
        line = f"x-amz-checksum-crc32:{lean.crc32_base64(body)}"
        yield f"{line}\r\nx-amz-trailer-signature:{signed.trailer_signature([line])}\r\n".encode()
    yield b"\r\n"


def test_ranges(server):
    size = 3_000_000
    body = RANDOM[:size]
    with server.client() as client:
        assert client.put(BUCKET, "ranges", body).status == 200
        for asked, first, last in [
            ("bytes=0-0", 0, 0),
            ("bytes=0-99", 0, 99),
            ("bytes=65536-2000000", 65536, 2000000),
            ("bytes=2999999-", size - 1, size - 1),
            ("bytes=1-", 1, size - 1),
            ("bytes=-1", size - 1, size - 1),
            ("bytes=-100000", size - 100000, size - 1),
            ("bytes=-9999999", 0, size - 1),
            ("bytes=100-9999999", 100, size - 1),
        ]:
            answer = client.get(BUCKET, "ranges", headers=[("range", asked)])
            assert answer.status == 206, f"{asked}: {answer}"
            assert answer.header("content-range") == f"bytes {first}-{last}/{size}", asked
            assert answer.body == body[first : last + 1], asked


def test_multipart(server):
    parts = [RANDOM[: 5 * harness.MIB], RANDOM[3 : 6 * harness.MIB], RANDOM[5:100_000]]
    with server.client() as client:
        created = client.request("POST", BUCKET, "multi", [("uploads", "")])
        upload = lean.xml_texts(created.body, "UploadId")[0]
        etags = []
        # In another order than they are numbered.
        for number in (3, 1, 2):
            query = [("partNumber", str(number)), ("uploadId", upload)]
            answer = client.put(BUCKET, "multi", parts[number - 1], query=query)
            assert answer.status == 200, answer
            etags.append((number, answer.header("etag")))
        named = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in sorted(etags))
        manifest = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
        for _ in range(2):
            # Asked again after a lost answer, it answers the same.
            done = client.request("POST", BUCKET, "multi", [("uploadId", upload)], body=manifest)
            assert done.status == 200, done
            whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + "-3"
            assert lean.xml_texts(done.body, "ETag") == [f'"{whole}"']
        body = b"".join(parts)
        answer = client.get(BUCKET, "multi")
        assert answer.body == body and answer.header("etag") == f'"{whole}"'
        # Across the seam of two parts.
        seam = len(parts[0])
        answer = client.get(BUCKET, "multi", headers=[("range", f"bytes={seam - 10}-{seam + 9}")])
        assert answer.body == body[seam - 10 : seam + 10]


def test_pipelined_requests_are_answered_in_order(server):
    with server.client() as client, client.connect() as connection:
        bodies = {f"pipe/{i}": RANDOM[i : i + 1000 * (i + 1)] for i in range(8)}
        connection.send(b"".join(client.signed("PUT", BUCKET, key, body=body).head() + body for key, body in bodies.items()))
        assert [connection.response("PUT").status for _ in bodies] == [200] * 8
        connection.send(b"".join(client.signed("GET", BUCKET, key).head() for key in bodies))
        assert [connection.response().body for _ in bodies] == list(bodies.values())


def test_answers_to_a_client_that_reads_late_are_whole_and_in_order(server):
    """More than the kernel holds is asked for before the first answer is read."""
    with server.client() as client, client.connect() as connection:
        bodies = [RANDOM[i : i + 12_000 + i] for i in range(16)]
        for i, body in enumerate(bodies):
            assert client.put(BUCKET, f"late/{i}", body).status == 200
        heads = b"".join(client.signed("GET", BUCKET, f"late/{i}").head() for i in range(len(bodies)))
        asking = threading.Thread(target=connection.send, args=(heads * 40,))
        asking.start()
        time.sleep(1)
        for _ in range(40):
            assert [connection.response().body for _ in bodies] == bodies
        asking.join()


def test_what_follows_an_empty_body_is_answered(server):
    """At once behind it, and later on the same connection: an empty part lost the buffer that the next head comes in."""
    with server.client() as client:
        upload = lean.xml_texts(client.request("POST", BUCKET, "hollow", [("uploads", "")]).body, "UploadId")[0]
        part = client.signed("PUT", BUCKET, "hollow", [("partNumber", "1"), ("uploadId", upload)]).head()
        whole = client.signed("PUT", BUCKET, "hollow", [], body=b"").head()
        head = client.signed("GET", BUCKET, "hollow").head()
        with client.connect() as connection:
            for request in (whole, part):
                connection.send(request + head)
                assert [connection.response("PUT").status, connection.response().status] == [200, 200]
                connection.send(request)
                assert connection.response("PUT").status == 200
                connection.send(head)
                assert connection.response().body == b""


def test_a_body_in_drops_is_taken(server):
    """Every write of the client is a packet of its own, with pauses: nothing waits for more than it needs."""
    body = RANDOM[:100_000]
    with server.client() as client, client.connect() as connection:
        head = client.signed("PUT", BUCKET, "drops", body=body).head()
        for at in range(0, len(head), 97):
            connection.send(head[at : at + 97])
        for at in range(0, len(body), 5_000):
            connection.send(body[at : at + 5_000])
            time.sleep(0.005)
        assert connection.response("PUT").status == 200
        assert client.get(BUCKET, "drops").body == body


def test_fast_requests_beside_slow_bodies(server):
    """Clients that stand still in the middle of a body hold nobody up."""
    big = RANDOM[: 8 * harness.MIB]
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(server.client())
        assert client.put(BUCKET, "slow", big).status == 200
        slow = []
        for i in range(12):
            connection = stack.enter_context(contextlib.closing(client.connect()))
            if i % 2:
                connection.send(client.signed("GET", BUCKET, "slow").head())
            else:
                connection.send(client.signed("PUT", BUCKET, f"slow-{i}", body=big).head() + big[:200_000])
            slow.append(connection)
        times = []
        for i in range(100):
            assert client.put(BUCKET, f"fast/{i % 5}", RANDOM[:1000]).status == 200
            # What is written waits for the disk, which others keep busy.
            started = time.monotonic()
            assert client.get(BUCKET, f"fast/{i % 5}").body == RANDOM[:1000]
            times.append(time.monotonic() - started)
        assert sorted(times)[90] < 0.5, f"slow beside slow clients: {sorted(times)[-5:]}"
        # And the slow ones, once they go on, end well.
        for i, connection in enumerate(slow):
            if i % 2:
                assert connection.response().body == big
            else:
                connection.send(big[200_000:])
                assert connection.response("PUT").status == 200


def test_bodies_both_ways_at_once(server):
    """Sixteen clients put, overwrite and read bodies of all sizes at the same time, each comparing what it reads."""
    faults = []

    def work(number):
        try:
            with server.client() as client:
                for turn in range(12):
                    body = RANDOM[number * 1000 + turn : number * 1000 + turn + SIZES[(number + turn) % len(SIZES)]]
                    assert client.put(BUCKET, f"both/{number}", body).status == 200
                    assert client.get(BUCKET, f"both/{number}").body == body
        except BaseException as fault:
            faults.append(f"{number}: {fault!r}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def test_clients_that_vanish_leave_nothing_behind(server):
    """Reset in the middle of an upload and of a download; half of a head; a silent connection."""
    big = RANDOM[: 16 * harness.MIB]
    with server.client() as client:
        assert client.put(BUCKET, "vanish", big).status == 200
        before = len(descriptors(server))
        for i in range(20):
            connection = client.connect()
            if i % 3 == 0:
                connection.send(client.signed("PUT", BUCKET, "vanish", body=big).head() + big[: i * 100_000])
            elif i % 3 == 1:
                connection.send(client.signed("GET", BUCKET, "vanish").head())
                connection.head()
            else:
                connection.send(client.signed("GET", BUCKET, "vanish").head()[:40])
            if i % 2:
                # RST instead of FIN.
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        harness.wait_for(
            "in-flight requests end",
            lambda: server.metric("s3o_inflight_requests") == 0,
        )
        # Pools and pipes may have grown a little; twenty connections with two sides each may not be among them.
        harness.wait_for("descriptors return", lambda: len(descriptors(server)) <= before + 16)
        assert client.get(BUCKET, "vanish").body == big, "an upload that broke changes nothing"
        server.wait_cleaned()


def test_silent_clients_are_let_go(server, tmp_path):
    """Each with its own limit: a head that does not end, a body that stands still."""
    limits = {"read_header_timeout": "1s", "body_progress_timeout": "1500ms"}
    settings = {**QUICK_CLEANUP, "server": {"driver": server.driver, "relay": server.relay, **limits}}
    s3s = harness.S3sFs(tmp_path / "s3s")
    with contextlib.ExitStack() as stack:
        stack.callback(s3s.end)
        backends = [s3s.backend("cloud", quota_bytes=harness.GIB)]
        strict = stack.enter_context(harness.Server(tmp_path / "server", backends, settings))
        client = stack.enter_context(strict.client())
        with client.connect() as connection:
            connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n")
            started = time.monotonic()
            answer = connection.response()
            assert (answer.status, answer.code) == (400, "RequestTimeout"), answer
            assert connection.ended(8) and time.monotonic() - started < 9, "read_header_timeout, and not its default of 10 s"
        with client.connect() as connection:
            connection.send(b"GET / HTTP/1.1\r\nx: ")
            started = time.monotonic()
            while not select.select([connection.sock], [], [], 0.1)[0]:
                assert time.monotonic() - started < 9, "a byte now and then is no head"
                connection.send(b"x")
            answer = connection.response()
            assert (answer.status, answer.code) == (400, "RequestTimeout"), answer
        with client.connect() as connection:
            connection.send(client.signed("PUT", BUCKET, "never", body=RANDOM[:500_000]).head() + RANDOM[:70_000])
            started = time.monotonic()
            answer = connection.response("PUT")
            assert (answer.status, answer.code) == (400, "RequestTimeout"), answer
            assert connection.ended(25) and time.monotonic() - started < 25, "body_progress_timeout, and not its default of 30 s"
        assert client.get(BUCKET, "never").status == 404
        strict.wait_cleaned()


def test_an_acknowledged_write_is_seen_on_the_other_reactor(server):
    """Connections until both reactors hold one, by their own metrics; then every write on one is read on the other."""
    with contextlib.ExitStack() as stack:
        by_core = {}
        for _ in range(200):
            client = stack.enter_context(server.client())
            before = requests_by_core(server)
            assert client.request("HEAD", BUCKET).status == 200
            # It is counted behind its answer.
            more = lambda: [core for core, count in requests_by_core(server).items() if count > before.get(core, 0)]  # noqa: E731
            grown = harness.wait_for("the request to be counted", more)
            assert len(grown) == 1, grown
            by_core.setdefault(grown[0], client)
            if len(by_core) == 2:
                break
        assert len(by_core) == 2, f"every connection came to reactor {list(by_core)}"
        one, other = by_core.values()
        for i in range(150):
            writer, reader = (one, other) if i % 2 else (other, one)
            body = b"%d" % i
            assert writer.put(BUCKET, "seen", body).status == 200
            assert reader.get(BUCKET, "seen").body == body, i
            if i % 10 == 0:
                assert writer.delete(BUCKET, "seen").status == 204
                assert reader.get(BUCKET, "seen").status == 404, i


def requests_by_core(server):
    found = {}
    for name, labels, value in server.metrics():
        if name == "s3o_requests_total" and labels["core"].isdigit():
            found[labels["core"]] = found.get(labels["core"], 0) + value
    return found


def test_z_bodies_took_the_path_that_was_asked_for(server):
    """Last: what the others moved. Signed chunks cannot be spliced, so copies there are in both."""
    spliced = server.metric("s3o_relay_bytes_total", path="splice")
    copied = server.metric("s3o_relay_bytes_total", path="copy")
    assert copied > 0
    assert (spliced > 50 * harness.MIB) if server.relay == "splice" else spliced == 0, (spliced, copied)
