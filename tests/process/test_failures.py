"""What goes wrong around the product: backends that stop, lie, fill up or come back; the product told to stop, started twice,
out of descriptors. A read is whole or visibly broken; a write that was not acknowledged changes nothing."""

import concurrent.futures
import contextlib
import os
import shutil
import signal
import socket
import ssl
import threading
import time

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP
from stub import Stub, Times, pattern

BUCKET = harness.BUCKET
BIG = 40 * harness.MIB


@pytest.fixture
def stack(tmp_path):
    """Ends with each test, before its folder (hence the argument) goes."""
    with contextlib.ExitStack() as open_things:
        yield open_things


@contextlib.contextmanager
def stubbed(folder, count=1, settings=None, **backend):
    """A server over scripted backends."""
    with contextlib.ExitStack() as stack:
        stubs = [Stub(harness.free_port()) for _ in range(count)]
        for stub in stubs:
            stack.callback(stub.close)
        quota = {"quota_bytes": 8 * harness.GIB, **backend}
        backends = [stub.backend(f"stub-{i}", **quota) for i, stub in enumerate(stubs)]
        server = stack.enter_context(harness.Server(folder / "server", backends, harness.merged(QUICK_CLEANUP, settings or {})))
        yield server, stubs


COPIES = {"replication": {"factor": 2, "worker_interval": "300ms"}}


def wait_replicated(server, objects):
    harness.wait_for(
        "a copy on every backend",
        lambda: all(one["object_count"] == objects for one in server.status()["backends"])
        and server.metric("s3o_replication_pending") == 0,
    )


def unsigned_put(client, key, body):
    return client.put(BUCKET, key, body, payload_hash=lean.UNSIGNED)


def test_a_broken_read_goes_on_at_the_exact_offset_on_another_copy(tmp_path):
    with stubbed(tmp_path, 2, COPIES) as (server, stubs), server.client() as client:
        assert unsigned_put(client, "big", pattern(0, BIG)).status == 200
        wait_replicated(server, 1)
        for cut_after in (0, 1, 65_536, 5_000_001, BIG - 2000):
            for asked, first, last in [(None, 0, BIG - 1), (f"bytes=1000-{BIG - 7}", 1000, BIG - 7)]:
                # Whichever copy is asked first breaks, once; the backends behave otherwise.
                times = Times(1)
                for stub in stubs:
                    stub.cut_after, stub.cuts = cut_after, times
                answer = client.get(BUCKET, "big", headers=[("range", asked)] if asked else [])
                assert answer.status == (206 if asked else 200), answer
                assert answer.body == pattern(first, last - first + 1), f"cut after {cut_after}, {asked}"
                assert times.left < 0 or times.left == 0, "nothing was cut"
        assert server.metric("s3o_read_resumes_total") >= 6


def begun_read(client, key, count):
    """A GET of which the client has taken that many bytes, and takes no more for now."""
    connection = client.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.send(client.signed("GET", BUCKET, key).head())
    assert connection.head()[0] == 200
    return connection, connection.body(count)


def test_a_read_survives_a_backend_that_is_killed(tmp_path, stack):
    """The same with real bytes on real servers: SIGKILL while the client is in the middle of the body."""
    clouds = {name: harness.S3sFs(tmp_path / name) for name in ("east", "west")}
    for cloud in clouds.values():
        stack.callback(cloud.end)
    backends = [cloud.backend(name, quota_bytes=harness.GIB) for name, cloud in clouds.items()]
    body = os.urandom(BIG)

    def gets(server):
        return {name: server.metric("s3o_backend_requests_total", backend=name, operation="get") for name in clouds}

    with harness.Server(tmp_path / "server", backends, harness.merged(QUICK_CLEANUP, COPIES)) as server:
        with server.client() as client:
            assert client.put(BUCKET, "big", body).status == 200
            wait_replicated(server, 1)
            for turn in (1, 2):
                before = gets(server)
                connection, first = begun_read(client, "big", 1_000_000)
                asked = [name for name, count in gets(server).items() if count > before[name]]
                assert len(asked) == 1, f"one copy serves a read: {asked}"
                clouds[asked[0]].end(signal.SIGKILL)
                assert first + connection.body(BIG - 1_000_000) == body
                connection.close()
                assert server.metric("s3o_read_resumes_total") == turn
                assert client.get(BUCKET, "big").body == body, "and the next read finds the other copy at once"
                clouds[asked[0]].start()
                assert client.get(BUCKET, "big").body == body


def test_a_read_survives_a_file_that_is_damaged(tmp_path, stack):
    """A directory's copy is cut short, or gone, or longer than it was: the copy on another backend serves."""
    s3s = harness.S3sFs(tmp_path / "s3s")
    stack.callback(s3s.end)
    near = tmp_path / "near"
    backends = [harness.directory_backend("near", near, quota_bytes=harness.GIB), s3s.backend("cloud", quota_bytes=harness.GIB)]
    big, small = os.urandom(BIG), os.urandom(300_000)
    with harness.Server(tmp_path / "server", backends, harness.merged(QUICK_CLEANUP, COPIES)) as server:
        with server.client() as client:
            assert client.put(BUCKET, "big", big).status == 200
            for key in ("small", "whole"):
                assert client.put(BUCKET, key, small).status == 200
            wait_replicated(server, 3)
            (file,) = [near / name for name in harness.stored_in(near) if "/big!" in name]
            connection, first = begun_read(client, "big", 1_000_000)
            os.truncate(file, BIG // 2 + 1)
            assert first + connection.body(BIG - 1_000_000) == big, "a directory is read first, and broke off"
            connection.close()
            assert server.metric("s3o_read_resumes_total") == 1
            others = 0

            def meets_the_damage():
                # After a failure the directory is avoided for a while, until it has served something whole.
                assert client.get(BUCKET, "whole").body == small
                assert client.get(BUCKET, "small").body == small
                return server.metric("s3o_read_resumes_total") + server.metric("s3o_read_failovers_total") > others

            (file,) = [near / name for name in harness.stored_in(near) if "/small!" in name]
            for damage in (-1, +1, -len(small), None):
                others = server.metric("s3o_read_resumes_total") + server.metric("s3o_read_failovers_total")
                if damage is None:
                    file.unlink()
                else:
                    os.truncate(file, len(small) + damage)
                harness.wait_for(f"a read of a file with {damage} bytes more", meets_the_damage, every=0.2)
            assert server.metric("s3o_bodies_cut_total") == 0


READ_FAULTS = [
    ("an error", {"refuse": {"GET": 500}}),
    ("overload", {"refuse": {"GET": 503}}),
    ("credentials that are not taken any more", {"refuse": {"GET": 403}}),
    ("an object that is gone", {"refuse": {"GET": 404}}),
    ("an object that has grown", {"extra_bytes": 1}),
    ("an object that has shrunk", {"extra_bytes": -1}),
    ("silence", {"silences": 1_000_000}),
    ("a head and silence", {"cut_after": 0, "cuts": 1_000_000, "stands_still": True}),
    ("a connection that ends", {"cut_after": 0, "cuts": 1_000_000}),
]


@pytest.mark.parametrize("fault", [fault for _, fault in READ_FAULTS], ids=[name for name, _ in READ_FAULTS])
def test_reads_fail_over_to_another_copy(tmp_path, fault):
    """Whatever one copy's backend does: the object comes from the other one, whole."""
    bodies = {"big": pattern(0, 5_000_000), "small": pattern(3, 5_000)}
    # Longer than a machine stands still: the other copy's backend would be given up as well.
    with stubbed(tmp_path, 2, {**COPIES, "server": {"backend_timeout": "5s"}}) as (server, stubs), server.client() as client:
        for key, body in bodies.items():
            assert unsigned_put(client, key, body).status == 200
        wait_replicated(server, len(bodies))
        for stub in stubs:
            for name, value in fault.items():
                setattr(stub, name, Times(value) if name in ("silences", "cuts") else value)
            for key, body in bodies.items():
                answer = client.get(BUCKET, key)
                assert (answer.status, answer.body == body) == (200, True), f"{key}: {answer.status}, {len(answer.body)} bytes"
            stub.mend()
        assert server.metric("s3o_read_failovers_total") + server.metric("s3o_read_resumes_total") >= 1
        assert server.metric("s3o_bodies_cut_total") == 0


def test_a_backend_that_stands_still(tmp_path):
    """No answer, or none any more: an error or a cut after `backend_timeout`, and nobody else waits for it."""
    settings = {"server": {"reactors": 1, "backend_timeout": "4s"}}
    with stubbed(tmp_path, settings=settings) as (server, (stub,)), server.client() as client, server.client() as other:
        for key, size in [("big", BIG), ("small", 5_000)]:
            assert unsigned_put(client, key, pattern(0, size)).status == 200
        for key in ("big", "small"):
            stub.cut_after, stub.cuts, stub.stands_still = 1_000, Times(1_000), True
            connection = client.connect()
            connection.send(client.signed("GET", BUCKET, key).head())
            started = time.monotonic()
            assert other.request("HEAD", BUCKET, "small").status == 200 and other.list_keys(BUCKET) == ["big", "small"]
            assert time.monotonic() - started < 3.9, "others are served meanwhile"
            with contextlib.suppress(lean.Cut):
                answer = connection.response()
                assert answer.status == 503, f"{answer.status}: never an answer that looks whole"
            assert time.monotonic() - started < 45
            connection.close()
            stub.cuts = Times(0)
        for method, body in [("GET", b""), ("PUT", pattern(1, 5_000)), ("PUT", pattern(1, 1_000_000))]:
            stub.silences = Times(1_000)
            started = time.monotonic()
            answer = client.request(method, BUCKET, "small", body=body)
            assert (answer.status, answer.code) == (503, "ServiceUnavailable"), f"{method} of {len(body)}: {answer}"
            assert time.monotonic() - started < 45
            stub.silences = Times(0)
            assert client.get(BUCKET, "small").body == pattern(0, 5_000), "what was there is there"
        server.wait_cleaned()
        assert len(stub.blobs()) == 2, stub.blobs()


def test_a_broken_read_without_another_copy_is_cut(tmp_path):
    """Never a whole answer with too few bytes, never bytes that nobody wrote."""
    with stubbed(tmp_path) as (server, (stub,)), server.client() as client:
        for key, size in [("big", BIG), ("small", 100_000), ("tiny", 1000)]:
            body = pattern(0, size)
            assert unsigned_put(client, key, body).status == 200
            for cut_after in (0, 10, size // 2, size - 1):
                stub.cut_after, stub.cuts = cut_after, Times(1000)
                try:
                    answer = client.get(BUCKET, key)
                    assert answer.status in (500, 502, 503), f"{size} cut after {cut_after}: {answer.status}"
                except lean.Cut as cut:
                    assert body.startswith(cut.got) and len(cut.got) < size
                    client.close()
                stub.cuts = Times(0)
                assert client.get(BUCKET, key).body == body
        assert server.metric("s3o_bodies_cut_total") >= 1


def test_a_backend_that_lost_or_changed_an_object_is_not_believed(tmp_path):
    """Other sizes than the row's, a 404: an error, not an object."""
    with stubbed(tmp_path) as (server, (stub,)), server.client() as client:
        assert client.put(BUCKET, "key", pattern(0, 5000)).status == 200
        for extra in (1, -1, 5000, -5000):
            stub.extra_bytes = extra
            with contextlib.suppress(lean.Cut):
                answer = client.get(BUCKET, "key")
                assert answer.status >= 500, f"{extra} bytes more: {answer.status} with {len(answer.body)} bytes"
        stub.extra_bytes = 0
        assert client.get(BUCKET, "key").body == pattern(0, 5000)
        with stub.lock:
            kept = dict(stub.objects)
            for name in stub.objects.copy():
                if not name.startswith(".s3o/"):
                    del stub.objects[name]
        answer = client.get(BUCKET, "key")
        assert answer.status >= 500, f"a live row whose bytes are gone is no 404: {answer}"
        stub.objects = kept


def test_a_copy_looks_again_where_one_of_its_sources_was_gone(tmp_path):
    """Whichever of the two is asked first: one has lost the bytes for a moment, the other's backend fails."""
    with stubbed(tmp_path, 2, COPIES) as (server, stubs), server.client() as client:
        body = pattern(0, 5_000)
        assert client.put(BUCKET, "source", body).status == 200
        wait_replicated(server, 1)
        for one in stubs:
            one.copies = False
        for i, (lost, failing) in enumerate((stubs, reversed(stubs))):
            name = next(iter(name for name in lost.blobs() if "source" in name))
            with lost.lock:
                kept = lost.objects.pop(name)
            failing.refuse = {"GET": 500}
            asked = failing.hold("GET", "source", "body")
            with server.client() as other, concurrent.futures.ThreadPoolExecutor() as pool:
                copy = pool.submit(other.request, "PUT", BUCKET, f"copy-{i}", headers=[("x-amz-copy-source", f"{BUCKET}/source")])
                asked.wait()
                with lost.lock:
                    lost.objects[name] = kept
                asked.let_go()
                answer = copy.result()
            failing.mend()
            assert answer.status == 200, answer
            assert client.get(BUCKET, f"copy-{i}").body == body


def test_a_write_fails_over_before_its_body_is_consumed(tmp_path):
    """A backend that refuses or breaks: small bodies are sent again elsewhere; a big one is a 503 that changes nothing."""
    with stubbed(tmp_path, 2) as (server, (first, second)), server.client() as client:
        assert client.put(BUCKET, "key", b"old").status == 200
        first.refuse = {"PUT": 503}
        for i in range(5):
            assert client.put(BUCKET, f"small/{i}", pattern(i, 10_000)).status == 200
            assert client.get(BUCKET, f"small/{i}").body == pattern(i, 10_000)
        first.refuse, first.put_cut_after = {}, 1_000_000
        statuses = set()
        # More than once if the first is not avoided any more by then.
        for turn in range(10):
            with contextlib.suppress(lean.Cut):
                answer = client.put(BUCKET, "key", pattern(turn, 8 * harness.MIB))
                statuses.add(answer.status)
                if answer.status == 200:
                    break
                assert answer.status == 503, answer
                assert client.get(BUCKET, "key").body == b"old"
        assert 200 in statuses, "the client's own retry finds the healthy backend"
        assert client.get(BUCKET, "key").body == pattern(turn, 8 * harness.MIB)
        first.put_cut_after = None
        server.wait_cleaned()
        assert server.metric("s3o_write_failover_total") >= 1


def test_an_answer_that_never_came_leaves_no_bytes(tmp_path):
    """The backend stored the object and hung up. The write goes elsewhere or fails; the stray is deleted after settling."""
    with stubbed(tmp_path, 2) as (server, (first, second)), server.client() as client:
        first.swallow_answers = True
        answer = client.put(BUCKET, "key", pattern(0, 5000))
        assert answer.status in (200, 503), answer
        # The stray itself may be gone by now.
        assert any(method == "PUT" and not name.startswith(".s3o/") for method, name in first.requests), "the fault did not happen"
        first.swallow_answers = False
        harness.wait_for("the stray is deleted", lambda: not first.blobs())
        server.wait_cleaned()
        if answer.status == 200:
            assert client.get(BUCKET, "key").body == pattern(0, 5000)


def test_stale_connections_are_retried_once(tmp_path):
    """A backend that closes every connection after its answer, without a word: nobody notices."""
    with stubbed(tmp_path) as (server, (stub,)), server.client() as client:
        stub.hang_up = True
        for i in range(60):
            body = pattern(i, 5000 * (i % 3) + 1)
            assert client.put(BUCKET, f"key/{i % 7}", body).status == 200, i
            assert client.get(BUCKET, f"key/{i % 7}").body == body, i


def test_all_backends_gone(tmp_path):
    with stubbed(tmp_path) as (server, (stub,)), server.client() as client:
        assert client.put(BUCKET, "key", b"body").status == 200
        stub.close()
        for answer in (client.put(BUCKET, "key", b"other"), client.get(BUCKET, "key")):
            assert (answer.status, answer.code) in [(503, "ServiceUnavailable"), (503, "SlowDown")], answer
        # What needs no backend is answered from the metadata.
        head = client.request("HEAD", BUCKET, "key")
        assert (head.status, head.header("content-length")) == (200, "4")
        assert client.list_keys(BUCKET) == ["key"]
        assert client.delete(BUCKET, "key").status == 204
        assert server.health()[0] == 200


def test_deletes_that_fail_become_dead_letters_still_charged(tmp_path):
    settings = {
        "cleanup_queue": {"interval": "100ms", "grace": "100ms", "retry_first": "100ms", "retry_max": "200ms", "max_attempts": 3}
    }
    with stubbed(tmp_path, settings=settings) as (server, (stub,)), server.client() as client:
        stub.refuse = {"DELETE": 500}
        assert client.put(BUCKET, "key", pattern(0, 7000)).status == 200
        assert client.delete(BUCKET, "key").status == 204
        assert client.get(BUCKET, "key").status == 404
        harness.wait_for("a dead letter", lambda: server.metric("s3o_cleanup_dlq_depth") == 1)
        assert server.metric("s3o_cleanup_dlq_enqueued_total", backend="stub-0") == 1
        assert server.backend_status("stub-0")["orphan_bytes"] == 7000
        assert len(stub.blobs()) == 1
        attempts = [request for request in stub.requests if request[0] == "DELETE" and not request[1].startswith(".s3o/")]
        assert len(attempts) == 3


def test_quotas_overflow_to_the_next_backend_and_then_507(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    backends = [harness.directory_backend(folder.name, folder, quota_bytes=1_000_000) for folder in folders]
    with harness.Server(tmp_path / "server", backends, QUICK_CLEANUP) as server, server.client() as client:

        def used():
            return {one["name"]: one["bytes_used"] for one in server.status()["backends"]}

        for i in range(3):
            assert client.put(BUCKET, f"a/{i}", pattern(i, 300_000)).status == 200
        assert used() == {"one": 900_000, "two": 0}, "pack fills the first"
        for i in range(3):
            assert client.put(BUCKET, f"b/{i}", pattern(i, 300_000)).status == 200
        assert used() == {"one": 900_000, "two": 900_000}
        assert client.put(BUCKET, "fits", pattern(0, 100_000)).status == 200
        for size in (100_001, 300_000, 2_000_000):
            answer = client.put(BUCKET, "none", pattern(0, size))
            assert (answer.status, answer.code) == (507, "InsufficientStorage"), answer
        # A client that sends all of a part before it reads hears why it was refused.
        for _ in range(5):
            answer = client.put(BUCKET, "none", bytes(8 * harness.MIB))
            assert (answer.status, answer.code) == (507, "InsufficientStorage"), answer
        # Refused before the body flows.
        with client.connect() as connection:
            expect = [("expect", "100-continue")]
            connection.send(client.signed("PUT", BUCKET, "none", headers=expect, body=pattern(0, 300_000)).head())
            assert connection.head()[0] == 507
        assert client.get(BUCKET, "none").status == 404
        # What is deleted makes room as soon as somebody needs it.
        assert client.delete(BUCKET, "a/0").status == 204
        harness.wait_for("room", lambda: client.put(BUCKET, "again", pattern(9, 300_000)).status == 200, every=0.2)
        for folder in folders:
            assert sum(harness.stored_in(folder).values()) <= 1_000_000
        server.wait_cleaned()
        assert sum(used().values()) == sum(sum(harness.stored_in(folder).values()) for folder in folders)


def test_an_upload_in_parts_goes_where_there_is_room_for_more(tmp_path):
    """Nobody knows how much will come: begun on the little that is left of the first backend it could never be completed."""
    folders = [tmp_path / name for name in ("one", "two", "three")]
    backends = [
        harness.directory_backend(folder.name, folder, quota_bytes=quota * harness.MIB)
        for folder, quota in zip(folders, (6, 30, 20))
    ]
    with harness.Server(tmp_path / "server", backends) as server, server.client() as client:
        assert client.put(BUCKET, "small", b"x").status == 200
        created = client.request("POST", BUCKET, "big", query=[("uploads", "")])
        upload = ("uploadId", lean.xml_texts(created.body, "UploadId")[0])
        parts = ""
        for number in range(1, 4):
            query = [("partNumber", str(number)), upload]
            part = client.put(BUCKET, "big", pattern(number, 5 * harness.MIB), query=query)
            assert part.status == 200, part
            parts += f"<Part><PartNumber>{number}</PartNumber><ETag>{part.header('etag')}</ETag></Part>"
        manifest = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        assert client.request("POST", BUCKET, "big", query=[upload], body=manifest).status == 200
        used = {one["name"]: one["bytes_used"] for one in server.status()["backends"]}
        assert used == {"one": 1, "two": 15 * harness.MIB, "three": 0}


def test_a_quota_holds_under_concurrent_writes(tmp_path):
    """Sixteen writers race for the room of ten objects: never more than fits, on disk or in the accounts."""
    folder = tmp_path / "one"
    backends = [harness.directory_backend("one", folder, quota_bytes=1_000_000)]
    with harness.Server(tmp_path / "server", backends, QUICK_CLEANUP) as server:
        answers, peak, done = [], [0], threading.Event()

        def write(number):
            with server.client() as client:
                for i in range(4):
                    answers.append(client.put(BUCKET, f"{number}/{i}", pattern(0, 100_000)).status)

        def watch():
            while not done.is_set():
                row = server.backend_status("one")
                peak[0] = max(peak[0], row["bytes_used"] + row["bytes_reserved"] + row["orphan_bytes"])
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        watcher.join()
        assert sorted(set(answers)) == [200, 507] and answers.count(200) == 10, answers
        assert peak[0] <= 1_000_000
        assert sum(harness.stored_in(folder).values()) <= 1_000_000


@pytest.mark.parametrize("holds", ["an object", "a part"])
def test_a_directory_that_is_not_ours_is_refused(tmp_path, holds):
    """An unmounted directory, or somebody else's: a clear message, and no bytes go there."""
    backends = [harness.directory_backend(name, tmp_path / name, quota_bytes=harness.GIB) for name in ("one", "two")]
    with harness.Server(tmp_path / "server", backends, QUICK_CLEANUP) as server, server.client() as client:
        query = []
        if holds == "a part":
            created = client.request("POST", BUCKET, "key", [("uploads", "")])
            query = [("partNumber", "1"), ("uploadId", lean.xml_texts(created.body, "UploadId")[0])]
        assert client.put(BUCKET, "key", b"body", query=query).status == 200
    marker = tmp_path / "one/.s3o/id"
    assert "one" in marker.read_text()
    shutil.move(tmp_path / "one", tmp_path / "unmounted")
    (tmp_path / "one").mkdir()
    server.launch()
    try:
        harness.wait_for("the refusal", lambda: "marker" in server.process.tail(100) or not server.process.alive())
        if server.process.alive():
            server.wait_ready()
            with server.client() as client:
                if holds == "an object":
                    assert client.get(BUCKET, "key").status >= 500, "a live object on an unmounted disk is no 404"
                assert client.put(BUCKET, "other", b"body").status == 200, "the other backend takes it"
                assert not harness.stored_in(tmp_path / "one")
    finally:
        server.kill()
    assert "one" in server.log.read_text()


def test_a_backend_at_another_place_is_measured_again(tmp_path):
    """What one bucket does says nothing of the next one that has its backend's name."""
    s3s = harness.S3sFs(tmp_path / "s3s")
    (s3s.root / "other").mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(s3s.end)
        server = harness.Server(tmp_path / "server", [s3s.backend("cloud", quota_bytes=harness.GIB)], start=False)
        for bucket, times in (("store", 1), ("store", 1), ("other", 2)):
            server.config["backends"][0]["bucket"] = bucket
            if bucket == "other":
                # It was copied with all that is in it.
                shutil.copytree(s3s.root / "store", s3s.root / "other", dirs_exist_ok=True)
            server.launch()
            server.wait_ready()
            # An orderly stop waits for the log.
            server.stop()
            assert server.log.read_text().count("backend measured") == times


def test_in_flight_requests_finish_on_sigterm(tmp_path):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    # A delay in which it is seen to be leaving, however busy the machine.
    settings = {"server": {"shutdown_delay": "8s", "shutdown_timeout": "60s"}}
    body = os.urandom(30 * harness.MIB)
    server = harness.Server(tmp_path / "server", backends, settings)
    with server.client() as client:
        assert client.put(BUCKET, "big", body).status == 200
        idle, upload, download = client.connect(), client.connect(), client.connect()
        for connection in (idle, download):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        idle.send(client.signed("HEAD", BUCKET, "big").head())
        assert idle.response("HEAD").status == 200
        upload.send(client.signed("PUT", BUCKET, "late", body=body).head() + body[:1_000_000])
        download.send(client.signed("GET", BUCKET, "big").head())
        download.head()
        server.process.child.send_signal(signal.SIGTERM)
        # During the delay it still serves, but says that it is leaving.
        harness.wait_for("not ready", lambda: server.health("/health/ready")[0] == 503)
        assert server.health("/health")[0] == 200
        harness.wait_for("no new connections", lambda: not harness.accepts(server.port))
        assert idle.ended(), "an idle connection is closed"
        time.sleep(0.5)
        upload.send(body[1_000_000:])
        answer = upload.response("PUT")
        assert answer.status == 200 and answer.header("connection", "").lower() == "close", answer
        assert download.body(len(body)) == body
        assert server.process.child.wait(60) == 0
    server.process = None
    server.check_log()
    server.config["server"].pop("shutdown_delay")
    with server.start(), server.client() as client:
        assert client.get(BUCKET, "late").body == body, "what was acknowledged on the way out is there"


def test_shutdown_is_bounded(tmp_path):
    """A client that never finishes does not keep the process alive."""
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    server = harness.Server(tmp_path / "server", backends, {"server": {"shutdown_timeout": "1s"}})
    with server.client() as client, client.connect() as connection:
        connection.send(client.signed("PUT", BUCKET, "never", body=bytes(1000)).head() + b"x")
        time.sleep(0.3)
        started = time.monotonic()
        server.stop()
        # The default is 30 s.
        assert time.monotonic() - started < 20


def test_a_stop_in_the_middle_of_the_start_is_an_orderly_one(tmp_path):
    with contextlib.closing(Stub(harness.free_port())) as stub:
        stub.hangs = True
        server = harness.Server(tmp_path / "server", [stub.backend("stub", quota_bytes=harness.GIB)], start=False)
        server.launch()
        try:
            harness.wait_for("an answer", lambda: server.health()[0] == 200)
            assert not server.ready(), "its backend has not been seen"
            assert server.process.end() == 0
        finally:
            server.process.end(signal.SIGKILL)


def test_a_second_process_is_refused(tmp_path):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    with harness.Server(tmp_path / "server", backends) as server, server.client() as client:
        # Another port, the same database.
        second = harness.Server(tmp_path / "second", backends, {"database": {"path": str(server.database)}}, start=False)
        second.launch()
        assert second.process.child.wait(60) != 0
        assert "metadata.db" in second.process.tail() and "another" in second.process.tail().lower(), second.process.tail()
        # Another database, the same port: a port shared by two would give each half of the connections.
        folder = harness.directory_backend("else", tmp_path / "else", quota_bytes=harness.GIB)
        third = harness.Server(tmp_path / "third", [folder], {"server": {"listen_addr": f"127.0.0.1:{server.port}"}}, start=False)
        third.launch()
        assert third.process.child.wait(60) != 0
        assert str(server.port) in third.process.tail() and "in use" in third.process.tail(), third.process.tail()
        for _ in range(20):
            client.close()
            assert client.put(BUCKET, "key", b"body").status == 200


def test_it_survives_running_out_of_descriptors(tmp_path):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    with harness.Server(tmp_path / "server", backends, wrapper=["prlimit", "--nofile=200:200"]) as server:
        with server.client() as client:
            assert client.put(BUCKET, "key", pattern(0, 500_000)).status == 200
        crowd = []
        for _ in range(400):
            connection = socket.create_connection(server.address, timeout=60)
            crowd.append(connection)
        harness.wait_for("descriptors run out", lambda: descriptor_count(server) >= 195)
        time.sleep(0.5)
        assert server.process.alive()
        for connection in crowd:
            connection.close()
        harness.wait_for("it serves again", lambda: serves(server))
        assert server.metric("s3o_accept_errors_total") > 0


def descriptor_count(server):
    return len(os.listdir(f"/proc/{server.process.child.pid}/fd"))


def serves(server):
    with contextlib.suppress(OSError, lean.Cut), server.client(timeout=3) as client:
        return client.get(BUCKET, "key").body == pattern(0, 500_000)


def test_too_many_connections_are_turned_away(tmp_path):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    settings = {"server": {"reactors": 1, "max_connections": 20}}
    with harness.Server(tmp_path / "server", backends, settings) as server:
        with contextlib.ExitStack() as crowd:
            held = []
            # The health checks' own connections may still be closing.
            while len(held) < 20:
                client = crowd.enter_context(server.client())
                if client.request("HEAD", BUCKET).status == 503:
                    assert len(held) >= 18
                    break
                held.append(client)
            with contextlib.suppress(OSError, lean.Cut), server.client(timeout=3) as client:
                assert client.request("HEAD", BUCKET).status == 503
            assert all(client.request("HEAD", BUCKET).status == 200 for client in held), "those that are in stay"
        harness.wait_for("room again", lambda: server.ready())


def test_idle_connections_are_let_go(tmp_path):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    with harness.Server(tmp_path / "server", backends, {"server": {"idle_timeout": "8s"}}) as server, server.client() as client:
        connection = client.connect()
        for pause in (0, 0.5, 1):
            time.sleep(pause)
            started = time.monotonic()
            connection.send(client.signed("HEAD", BUCKET).head())
            assert connection.response("HEAD").status == 200, "the same connection serves again"
        # The default is two minutes.
        assert connection.ended(60) and 7.5 < time.monotonic() - started < 60


def test_tls(tmp_path, certificates):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    settings = {"server": {"read_header_timeout": "5s"}}
    body = os.urandom(5_000_000)
    with harness.Server(tmp_path / "server", backends, settings, tls=certificates) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = certificates.context()
            context.minimum_version = context.maximum_version = version
            with lean.Client(server.address, tls=context) as client:
                assert client.put(BUCKET, "key", body).status == 200
                assert client.get(BUCKET, "key").body == body
                assert client.connection.sock.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
        # A client that does not know the CA, one that speaks plain HTTP, one that says nothing.
        with pytest.raises(ssl.SSLCertVerificationError):
            lean.Connection(server.address, ssl.create_default_context())
        with lean.Connection(server.address) as connection:
            connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            connection.sock.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                while data := connection.sock.recv(4096):
                    assert not data.startswith(b"HTTP/1.1 200")

        def is_let_go_in_time():
            started = time.monotonic()
            with lean.Connection(server.address) as connection:
                return connection.ended() and time.monotonic() - started < 8

        # And not its default of 10 s: now and then the machine stands still for the difference.
        harness.wait_for("the end of a handshake after the head's time", is_let_go_in_time)
        # A body that TLS cut off (no close_notify) is no object.
        with server.client() as client:
            connection = client.connect()
            connection.send(client.signed("PUT", BUCKET, "cut", body=body).head() + body[:2_000_000])
            connection.sock.close()
            time.sleep(0.3)
            assert client.get(BUCKET, "cut").status == 404
            assert client.get(BUCKET, "key").body == body


def test_an_https_backend_is_verified(tmp_path, certificates, stack):
    """A backend over TLS with a CA of its own; without that CA it is not trusted. The backend is another of ours."""
    far = stack.enter_context(
        harness.Server(
            tmp_path / "far", [harness.directory_backend("disk", tmp_path / "disk", quota_bytes=harness.GIB)], tls=certificates
        )
    )
    backend = {
        "name": "far",
        "endpoint": far.url.replace("127.0.0.1", "localhost"),
        "bucket": BUCKET,
        "access_key_id": harness.ACCESS_KEY,
        "secret_access_key": harness.SECRET,
        "force_path_style": True,
        "quota_bytes": harness.GIB,
    }
    body = os.urandom(3_000_000)
    trusted = {**backend, "ca_file": str(certificates.ca_file)}
    with harness.Server(tmp_path / "near", [trusted], QUICK_CLEANUP) as server, server.client() as client:
        assert client.put(BUCKET, "key", body).status == 200
        assert client.get(BUCKET, "key").body == body
        # Multipart through two of us in a row.
        created = client.request("POST", BUCKET, "parts", [("uploads", "")])
        upload = lean.xml_texts(created.body, "UploadId")[0]
        part = os.urandom(5 * harness.MIB)
        etag = client.put(BUCKET, "parts", part, query=[("partNumber", "1"), ("uploadId", upload)]).header("etag")
        manifest = (
            f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        )
        done = client.request("POST", BUCKET, "parts", [("uploadId", upload)], body=manifest.encode())
        assert done.status == 200 and client.get(BUCKET, "parts").body == part, done
    untrusting = harness.Server(tmp_path / "untrusting", [backend], QUICK_CLEANUP, start=False)
    untrusting.launch()
    try:
        harness.wait_for("a verdict", lambda: untrusting.ready() or not untrusting.process.alive())
        if untrusting.process.alive():
            with untrusting.client() as client:
                assert client.put(BUCKET, "key", b"body").status in (503, 507)
        harness.wait_for("the reason", lambda: "certificate" in untrusting.log.read_text().lower())
    finally:
        untrusting.kill()


def test_deletes_on_a_hung_backend_hold_up_no_others(tmp_path):
    """There are more of them than are made at once, and each waits for an answer that does not come."""
    quick = {"concurrency": 2, "interval": "100ms", "grace": "0s", "retry_first": "10m"}
    settings = {"cleanup_queue": quick, "server": {"backend_timeout": "10s"}}
    with stubbed(tmp_path, 2, settings, quota_bytes=40_000) as (server, stubs), server.client() as client:
        for i in range(40):
            assert client.put(BUCKET, f"there/{i}", pattern(i, 1_000)).status == 200
        assert client.put(BUCKET, "here", pattern(0, 1_000)).status == 200
        assert [len(stub.blobs()) for stub in stubs] == [40, 1]
        stubs[0].hangs = True
        for i in range(40):
            assert client.delete(BUCKET, f"there/{i}").status == 204
        assert client.delete(BUCKET, "here").status == 204
        # Behind all the others it would come after 200 s.
        harness.wait_for("the delete on the other one", lambda: not stubs[1].blobs())
        stubs[0].mend()


def test_copies_from_a_hung_backend_hold_up_no_others(tmp_path):
    """The factor is raised while the backend that holds nearly everything hangs: what is written elsewhere is copied all the same."""
    settings = {"server": {"backend_timeout": "10s"}, "replication": {"worker_interval": "300ms", "concurrency": 2}}
    with stubbed(tmp_path, 3, settings, quota_bytes=40_000) as (server, stubs), server.client() as client:
        for i in range(40):
            assert client.put(BUCKET, f"a/{i}", pattern(i, 1_000)).status == 200
        assert [len(stub.blobs()) for stub in stubs] == [40, 0, 0]
        stubs[0].hangs = True
        server.config["replication"]["factor"] = 2
        server.write_config()
        server.process.child.send_signal(signal.SIGHUP)
        harness.wait_for("the new factor", lambda: server.metric("s3o_replication_pending") >= 40)
        assert client.put(BUCKET, "new", pattern(0, 1_000)).status == 200
        harness.wait_for("its second copy", lambda: [len(stub.blobs()) for stub in stubs[1:]] == [1, 1])
        stubs[0].mend()
        harness.wait_for("the rest", lambda: server.metric("s3o_replication_pending") == 0, 60)
