"""The database does not answer: reads go on without it, everything else is refused at once, and all recovers alone.

SQLite lives in the process, so its faults are made where it meets the system: strace lets the system calls of its threads fail
or take too long, and another process holds its write lock.
"""

import base64
import contextlib
import hashlib
import os
import pathlib
import sqlite3
import subprocess
import threading
import time

import harness
import lean
import pytest
from conftest import QUICK_CLEANUP
from stub import pattern
from test_failures import COPIES, stubbed, wait_replicated
from test_operations import program

BUCKET = harness.BUCKET
DEGRADED = "x-s3o-degraded"
# Longer than a busy disk holds a sync back; no more, because what fails is tried again for so long.
QUICK = {"database": {"call_timeout": "3s"}, "circuit_breaker": {"failure_threshold": 3, "open_timeout": "1s"}}
UNREMEMBERED = harness.merged(QUICK, {"location_cache": {"max_size": 0}})
# Where the database is silent: longer than a disk holds a sync back, shorter than the silence.
IMPATIENT = harness.merged(UNREMEMBERED, {"database": {"call_timeout": "5s"}})
CALLS = ["fcntl", "pread64", "pwrite64", "fdatasync"]
FAULTS = {"errors": "error=EIO", "silence": "delay_enter=20000000"}


@contextlib.contextmanager
def broken_database(server, fault):
    """The threads that talk to SQLite's files meet this fault at every system call."""
    pid = server.process.child.pid
    threads = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        # Others come and go.
        with contextlib.suppress(OSError):
            threads += [task.name] if (task / "comm").read_text().startswith("sqlite-") else []
    assert len(threads) == 3, threads
    calls = CALLS if fault == "errors" else ["fcntl"]
    command = ["strace", "-o", "/dev/null", "-e", f"trace={','.join(calls)}"]
    for call in calls:
        command += ["-e", f"inject={call}:{FAULTS[fault]}"]
    for thread in threads:
        command += ["-p", thread]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        # It says so of each thread when it has stopped it: from then on each call meets the fault.
        for _ in threads:
            said = tracer.stderr.readline()
            assert "attached" in said, said + tracer.stderr.read()
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=60)


def state(server):
    return server.metric("s3o_circuit_breaker_state", name="database")


def listings(stub):
    return sum(request == ("GET", "") for request in stub.requests)


def refused(answer):
    return (answer.status, answer.code, answer.header("retry-after")) == (503, "ServiceUnavailable", "1")


def put(client, key, body, **more):
    """Until it is acknowledged: the database has little time, and the machine may stand still for longer."""
    harness.wait_for(f"a write of {key}", lambda: client.put(BUCKET, key, body, **more).status == 200)


def exact(client, key):
    """The answer by the database, likewise."""
    found = lambda answer: answer if answer.status != 503 and answer.header(DEGRADED) is None else None  # noqa: E731
    return harness.wait_for(f"{key} by the database", lambda: found(client.get(BUCKET, key)))


DELETES = b"<Delete><Object><Key>dir/key 1!</Key></Object><Object><Key>dir/key 2!</Key></Object></Delete>"
METADATA = [("content-type", "text/x-test"), ("x-amz-meta-owner", "me"), ("content-disposition", "inline")]


@pytest.mark.parametrize("fault", list(FAULTS))
def test_reads_go_on_and_everything_else_is_refused(tmp_path, fault):
    bodies = {f"dir/key {i}!": pattern(i, 3_000 * i) for i in range(6)}
    settings = harness.merged(IMPATIENT if fault == "silence" else UNREMEMBERED, COPIES)
    with stubbed(tmp_path, 2, settings) as (server, stubs), server.client() as client:
        for key, body in bodies.items():
            for content in (b"old", body):
                put(client, key, content, headers=METADATA)
        wait_replicated(server, len(bodies))
        server.wait_cleaned()
        with broken_database(server, fault):
            harness.wait_for("the breaker", lambda: client.get(BUCKET, "dir/key 0!").status == 200 and state(server) == 1)
            assert client.get(BUCKET, "dir/key 0!").header(DEGRADED) == "searched", "and remembered, now that it is open"
            for stub in stubs:
                stub.requests.clear()
            for _ in range(2):
                for key, body in bodies.items():
                    answer = client.get(BUCKET, key)
                    assert (answer.status, answer.body == body, answer.header(DEGRADED)) == (200, True, "searched"), answer
                    assert answer.header("content-type") == "text/x-test" and answer.header("content-disposition") == "inline"
                    assert answer.header("x-amz-meta-owner") == "me"
                    head = client.request("HEAD", BUCKET, key)
                    assert (head.status, head.header("content-length")) == (200, str(len(body)))
                    assert head.header("etag") == answer.header("etag") and head.header(DEGRADED) == "searched"
            assert state(server) in (1, 2), "open, or being probed"
            answer = client.get(BUCKET, "dir/key 5!", headers=[("range", "bytes=100-199")])
            assert (answer.status, answer.body) == (206, bodies["dir/key 5!"][100:200])
            same = client.get(BUCKET, "dir/key 5!", headers=[("if-none-match", answer.header("etag"))])
            assert (same.status, same.header(DEGRADED)) == (304, "searched")
            if fault == "errors":
                assert [listings(stub) for stub in stubs] == [len(bodies) - 1] * 2, "each other key is searched once"
            for method, key, query, body in [
                ("PUT", "new", (), b"body"),
                ("DELETE", "dir/key 1!", (), b""),
                ("GET", None, [("list-type", "2")], b""),
                ("POST", "new", [("uploads", "")], b""),
                ("GET", "dir/key 1!", [("tagging", "")], b""),
                ("POST", None, [("delete", "")], DELETES),
            ]:
                started = time.monotonic()
                checked = [("content-md5", base64.b64encode(hashlib.md5(body).digest()).decode())] if body == DELETES else ()
                answer = client.request(method, BUCKET, key, query=query, body=body, headers=checked)
                assert refused(answer), f"{method} {key} {query}: {answer}"
                assert time.monotonic() - started < 15
            for method in ("GET", "HEAD"):
                absent = client.request(method, BUCKET, "nothing here")
                assert (absent.status, absent.header(DEGRADED)) == (404, "searched"), "both backends have said so"
            unmet = client.get(BUCKET, "dir/key 5!", headers=[("if-match", '"other"')])
            assert (unmet.status, unmet.header(DEGRADED)) == (412, "searched")
            assert client.get(BUCKET, "dir/key 1!", query=[("partNumber", "1")]).status == 503, "no backend knows of parts"
            assert client.put(BUCKET, "new", b"body").header(DEGRADED) is None
            stubs[0].down_with = 500
            assert refused(client.get(BUCKET, "nothing there")), "one of them has not"
            for key, body in bodies.items():
                assert client.get(BUCKET, key).body == body, "from the other copy"
            stubs[0].mend()
            # What this process knows of its backends, and as what.
            status = server.status()
            assert status["db_healthy"] is False and [one["name"] for one in status["backends"]] == ["stub-0", "stub-1"]
            for one in status["backends"]:
                charged = sum(map(len, bodies.values()))
                assert (one["last_known"], one["bytes_charged"], one["bytes_limit"]) == (True, charged, 8 * harness.GIB), one
                assert (one["healthy"], one["draining"], one["bytes_used"], one["object_count"]) == (True, False, None, None), one
                assert one["breaker"] is None, "they are off"
            shown = program("admin", "--config", server.write_config(), "status").stdout
            assert "NOT ANSWERING" in shown and "stub-0" in shown and "CHARGED" in shown, shown
            compared = program("sync", "--config", server.write_config(), "--restored", check=False)
            assert compared.returncode == 1 and "the database does not answer" in compared.stderr, compared
            status, text = server.health()
            assert status == 200 and '"degraded"' in text
            assert server.health("/health/ready")[0] == 200
            assert server.metric("s3o_degraded_mode_active") == 1
            assert server.metric("s3o_degraded_reads_total", operation="GetObject") >= 2 * len(bodies)
            assert server.metric("s3o_degraded_write_rejections_total", operation="PutObject") == 2
            assert server.metric("s3o_degraded_write_rejections_total", operation="DeleteObjects") == 1
            assert server.metric("s3o_degraded_cache_hits_total") >= 1
            assert server.metric("s3o_degraded_cache_misses_total") >= len(bodies)
        harness.wait_for("its recovery", lambda: state(server) == 0 and '"ok"' in server.health()[1])
        for key, body in bodies.items():
            assert exact(client, key).body == body
        put(client, "new", b"body")
        harness.wait_for("a delete", lambda: client.delete(BUCKET, "dir/key 1!").status == 204)
        assert set(client.list_keys(BUCKET)) == {*bodies, "new"} - {"dir/key 1!"}
        assert server.status()["restored"] is False, "nobody has held it"
        harness.wait_for("the workers", lambda: server.metric("s3o_replication_pending") == 0)
        server.wait_cleaned()
        text = server.told("circuit breaker opened", "circuit breaker half-open", "circuit breaker closed")
        for message in ("circuit breaker opened", "circuit breaker half-open", "circuit breaker closed"):
            assert any(message in line and '"database"' in line for line in text.splitlines()), message
        for stub in stubs:
            assert len(stub.blobs()) == len(bodies), "no orphan is left"


def test_what_was_not_acknowledged_is_not_served(tmp_path):
    """A body that reached its backend, but not the database: readers get the version before it."""
    with stubbed(tmp_path, 1, UNREMEMBERED) as (server, (stub,)), server.client() as client:
        put(client, "key", b"old")
        request = client.signed("PUT", BUCKET, "key", body=pattern(0, 200_000))
        with client.connect() as connection:
            connection.send(request.head() + pattern(0, 200_000)[:100_000])
            harness.wait_for("its reservation", lambda: server.backend_status("stub-0")["bytes_reserved"] == 200_000)
            with broken_database(server, "errors"):
                connection.send(pattern(0, 200_000)[100_000:])
                assert connection.response().status == 503
                harness.wait_for("its bytes", lambda: len(stub.blobs()) == 2)
                answer = client.get(BUCKET, "key")
                assert (answer.status, answer.body, answer.header(DEGRADED)) == (200, b"old", "searched")
        harness.wait_for("its recovery", lambda: state(server) == 0)
        # A 503 is no promise that it did not happen, nor that it will not: its commit may have waited for the database.
        before = exact(client, "key").body
        server.wait_cleaned()
        after = exact(client, "key").body
        assert before in (b"old", after) and after in (b"old", pattern(0, 200_000))
        assert len(stub.blobs()) == 1


def test_known_locations_are_exact(tmp_path):
    """With SQLite nobody else writes: what the location cache holds is what the database would say."""
    with stubbed(tmp_path, 1, QUICK) as (server, (stub,)), server.client() as client:
        for key in ("read", "unread"):
            put(client, key, key.encode(), headers=METADATA)
        assert client.get(BUCKET, "read").body == b"read"
        with broken_database(server, "errors"):
            assert refused(client.put(BUCKET, "new", b"body"))
            answer = client.get(BUCKET, "read")
            assert (answer.body, answer.header(DEGRADED)) == (b"read", None)
            answer = client.get(BUCKET, "unread")
            assert (answer.body, answer.header(DEGRADED)) == (b"unread", "searched")


def test_degraded_reads_can_be_turned_off(tmp_path):
    settings = harness.merged(UNREMEMBERED, {"circuit_breaker": {"degraded_reads_enabled": False}})
    with stubbed(tmp_path, 1, settings) as (server, _), server.client() as client:
        put(client, "key", b"body")
        with broken_database(server, "errors"):
            for _ in range(5):
                assert refused(client.get(BUCKET, "key"))


@pytest.mark.parametrize("parallel", [False, True])
def test_directories_answer_without_the_database(tmp_path, parallel):
    """Any key, headers from extended attributes, newest version first, whichever directory has it."""
    folders = [tmp_path / name for name in ("one", "two")]
    backends = [harness.directory_backend(folder.name, folder, quota_bytes=quota) for folder, quota in zip(folders, (9_000, 900_000))]
    settings = harness.merged(QUICK_CLEANUP, harness.merged(UNREMEMBERED, {"circuit_breaker": {"parallel_broadcast": parallel}}))
    keys = ["plain", "a/b//c", "../up", "ends/", "x" * 1024, "exclaim!!", "ü/ä"]
    with harness.Server(tmp_path / "server", backends, settings) as server, server.client() as client:
        for key in keys:
            # The first takes a small one, the next version has no room there.
            for body in (b"small", pattern(1, 20_000)):
                put(client, key, body, headers=METADATA)
        with broken_database(server, "errors"):
            for key in keys:
                answer = client.get(BUCKET, key)
                assert (answer.status, answer.body == pattern(1, 20_000)) == (200, True), f"{key}: {answer}"
                assert (answer.header(DEGRADED), answer.header("x-amz-meta-owner")) == ("searched", "me")
            assert client.get(BUCKET, "plai").status == 404


def test_what_was_imported_is_not_said_to_be_absent(tmp_path):
    """It has the names of those who put it there, which only rows know: no search finds it."""
    folder = tmp_path / "one"
    (folder / BUCKET).mkdir(parents=True)
    (folder / BUCKET / "below").write_bytes(b"below the bucket's name")
    (folder / "beside").write_bytes(b"beside it")
    backend = harness.directory_backend("one", folder, quota_bytes=900_000)
    with harness.Server(tmp_path / "server", [backend], UNREMEMBERED) as server, server.client() as client:
        program("sync", "--addr", f"127.0.0.1:{server.admin_port}", "--backend", "one", "--bucket", BUCKET)
        assert client.get(BUCKET, "below").body == b"below the bucket's name"
        assert client.get(BUCKET, "beside").body == b"beside it"
        with broken_database(server, "errors"):
            for key in ("below", "beside"):
                assert refused(client.get(BUCKET, key)), key
            assert client.get(BUCKET, "nowhere").status == 404


def test_more_blobs_than_are_looked_through(tmp_path):
    """The newest may be among those that were not: nothing older is served in its place."""
    displaced_stay = harness.merged(UNREMEMBERED, {"cleanup_queue": {"grace": "1h"}})
    with stubbed(tmp_path, 1, displaced_stay) as (server, [stub]), server.client() as client:
        for key, blobs in (("few", 3), ("many", 52)):
            for body in range(blobs):
                put(client, key, f"body {body}".encode())
        assert len(stub.objects) >= 55, "displaced ones are there"
        stub.page_max = 1
        with broken_database(server, "errors"):
            harness.wait_for("a search", lambda: client.get(BUCKET, "few").header(DEGRADED) == "searched")
            assert client.get(BUCKET, "few").body == b"body 2"
            assert refused(client.get(BUCKET, "many"))


def test_metadata_that_the_backend_writes_anew(tmp_path):
    """s3s-fs decodes what is encoded as in RFC 2047 and encodes it again, in words of 75 characters, as AWS does."""
    values = {"short": "ä", "long": "ä€😀 and " * 20, "blanks": "two  blanks", "word": "a =?UTF-8?B?w6Q=?= b", "plain": "me"}
    metadata = [(f"x-amz-meta-{name}", value.strip()) for name, value in values.items()]
    with contextlib.ExitStack() as stack:
        upstream = harness.S3sFs(tmp_path / "upstream")
        stack.callback(upstream.end)
        server = stack.enter_context(harness.Server(tmp_path / "server", [upstream.backend("one")], UNREMEMBERED))
        client = stack.enter_context(server.client())
        put(client, "key", b"body", headers=metadata)
        told = lambda answer: [answer.header(name) for name, _ in metadata]  # noqa: E731
        before = client.get(BUCKET, "key")
        assert told(before) == [value.encode().decode("latin-1") for _, value in metadata]
        with broken_database(server, "errors"):
            answer = harness.wait_for("a search", lambda: (a := client.get(BUCKET, "key")).header(DEGRADED) == "searched" and a)
            assert (answer.status, answer.body, told(answer)) == (200, b"body", told(before))


def test_a_database_that_takes_no_changes_is_read_exactly(tmp_path):
    """Somebody holds its write lock: writes are 503 when the call's time is over, reads and listings as ever."""
    with stubbed(tmp_path, 1, IMPATIENT) as (server, (stub,)), server.client() as client:
        put(client, "key", b"body")
        holder = sqlite3.connect(server.database, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        for _ in range(5):
            started = time.monotonic()
            assert refused(client.put(BUCKET, "key", b"other"))
            assert time.monotonic() - started < 15
            answer = client.get(BUCKET, "key")
            assert (answer.status, answer.body, answer.header(DEGRADED)) == (200, b"body", None)
            assert client.list_keys(BUCKET) == ["key"]
        assert state(server) != 0 and '"degraded"' in server.health()[1]
        holder.execute("ROLLBACK")
        holder.close()
        harness.wait_for("its recovery", lambda: state(server) == 0)
        put(client, "key", b"other")
        assert client.get(BUCKET, "key").body == b"other"
        server.wait_cleaned()


def test_readers_all_the_while(tmp_path):
    """Several readers while the database comes and goes: not one read fails in any phase."""
    bodies = {f"key/{i}": pattern(i, 10_000) for i in range(10)}
    with stubbed(tmp_path, 2, harness.merged(IMPATIENT, COPIES)) as (server, _), server.client() as client:
        for key, body in bodies.items():
            put(client, key, body)
        wait_replicated(server, len(bodies))
        stop, wrong, count = threading.Event(), [], [0]

        def read():
            with server.client() as mine:
                while not stop.is_set():
                    for key, body in bodies.items():
                        try:
                            answer = mine.get(BUCKET, key)
                        except (lean.Cut, OSError) as cause:
                            wrong.append(f"{key}: {cause!r}")
                            return
                        count[0] += 1
                        if (answer.status, answer.body == body) != (200, True):
                            wrong.append(f"{key}: {answer}")

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for fault in ("errors", "silence"):
            with broken_database(server, fault):
                harness.wait_for("the breaker", lambda: state(server) != 0)
                time.sleep(2)
            harness.wait_for("its recovery", lambda: state(server) == 0)
            time.sleep(0.5)
        stop.set()
        for reader in readers:
            reader.join()
        assert not wrong, wrong[:5]
        assert count[0] > 100 and server.metric("s3o_degraded_reads_total") > 0
        put(client, "key/0", b"new")


assert os.geteuid() == 0 or pathlib.Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() == "0", (
    "these tests attach strace to a running process: run them as root, or with kernel.yama.ptrace_scope = 0"
)
