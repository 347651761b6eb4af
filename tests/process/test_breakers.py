"""Backend breakers: what trips them, what they keep away, how they close; and that one bad backend costs the others nothing."""

import contextlib
import json
import shutil
import statistics
import threading
import time

import harness
import lean
import pytest
from conftest import QUICK_CLEANUP
from stub import Stub, Times, pattern
from test_failures import COPIES, stubbed, wait_replicated

BUCKET = harness.BUCKET
BREAKERS = {"backend_circuit_breaker": {"enabled": True, "failure_threshold": 4, "open_timeout": "1s"}}
# For backends that hang: longer than a machine stands still, or those that do not would be given up as well.
HANGING = harness.merged(BREAKERS, {"server": {"backend_timeout": "5s"}})

TRANSITIONS = "s3o_circuit_breaker_transitions_total"


def state(server, name):
    return server.metric("s3o_circuit_breaker_state", name=name)


def wait_state(server, name, want):
    harness.wait_for(f"breaker {name} in state {want}", lambda: state(server, name) == want)


def trip(server, client, name="stub-0"):
    """Asks for the object `key` until the breaker has opened."""
    deadline = time.monotonic() + 60
    while state(server, name) == 0:
        assert time.monotonic() < deadline, "it does not open"
        with contextlib.suppress(lean.Cut):
            client.get(BUCKET, "key")


def breaker_lines(server, name):
    """Messages of one breaker, in order."""
    return [line for line in server.lines() if "circuit breaker" in json.dumps(line) and line.get("name") == name]


def asked_objects(stub):
    return [request for request in stub.requests if not request[1].startswith(".s3o/")]


FAULTS = [
    ("500s", {"down_with": 500}),
    ("silence", {"hangs": True}),
    ("bodies cut", {"cut_after": 0, "cuts": 1_000_000}),
    ("bodies that stand still", {"cut_after": 100, "cuts": 1_000_000, "stands_still": True}),
    ("a closed port", None),
]


@pytest.mark.parametrize("fault", [fault for _, fault in FAULTS], ids=[name for name, _ in FAULTS])
def test_a_breaker_opens_keeps_away_and_closes(tmp_path, fault):
    """Every read succeeds in every phase, writes go elsewhere, and all is as before when the backend is."""
    body = pattern(0, 5_000)
    with stubbed(tmp_path, 2, harness.merged(HANGING, COPIES)) as (server, stubs), server.client() as client:
        first = stubs[0]
        assert client.put(BUCKET, "key", body).status == 200
        wait_replicated(server, 1)
        if fault is None:
            first.close()
        for name, value in (fault or {}).items():
            setattr(first, name, Times(value) if name == "cuts" else value)
        deadline = time.monotonic() + 120
        # Health alone makes reads prefer the other copy for a moment; writes go on trying.
        while state(server, "stub-0") == 0:
            assert time.monotonic() < deadline, "it does not open"
            # On whichever core: one that has met a slow answer of the backend prefers the other.
            client.close()
            answer = client.get(BUCKET, "key")
            assert (answer.status, answer.body == body) == (200, True), answer
            if fault is None or "cuts" not in fault:
                assert client.put(BUCKET, f"tripping/{time.monotonic()}", b"body").status in (200, 503)
        assert server.metric("s3o_backend_usable", backend="stub-0") == 0
        before = len(asked_objects(first))
        for i in range(20):
            answer = client.get(BUCKET, "key")
            assert (answer.status, answer.body == body) == (200, True), answer
            assert client.put(BUCKET, f"open/{i}", b"body").status == 200
        if state(server, "stub-0") != 0:
            # What a worker had begun with an earlier object may arrive later.
            asked = [request for request in asked_objects(first)[before:] if "/tripping/" not in request[1]]
            assert not asked, "nothing is asked of it while its breaker is open"
        if fault is None:
            stubs[0] = first = reopened(first)
        first.mend()
        wait_state(server, "stub-0", 0)
        assert server.metric("s3o_backend_usable", backend="stub-0") == 1
        harness.wait_for("its copies", lambda: server.metric("s3o_replication_pending") == 0)
        assert client.get(BUCKET, "key").body == body
        for step in [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]:
            moves = server.metric("s3o_circuit_breaker_transitions_total", name="stub-0", **{"from": step[0], "to": step[1]})
            assert moves >= 1, step
        assert server.metric("s3o_circuit_breaker_transitions_total", name="stub-1") == 0
        server.told("circuit breaker opened", "circuit breaker half-open", "circuit breaker closed")
        closed = [line for line in breaker_lines(server, "stub-0") if "closed" in json.dumps(line)][-1]
        assert "degraded_duration" in json.dumps(closed), closed
        if fault is None:
            first.close()


def reopened(old):
    """The same backend on the same port, with what it held."""
    new = Stub(old.port)
    new.objects = old.objects
    return new


def test_what_is_no_fault_never_trips(tmp_path):
    """4xx, objects that are gone, and clients that go away midway, in either direction."""
    settings = harness.merged(BREAKERS, {"backend_circuit_breaker": {"failure_threshold": 1}})
    with stubbed(tmp_path, settings=settings) as (server, (stub,)), server.client() as client:
        assert client.put(BUCKET, "key", pattern(0, 3_000_000)).status == 200
        for status in (400, 403, 404, 409, 412, 416, 429):
            stub.refuse = {"GET": status, "PUT": status}
            for _ in range(3):
                assert client.get(BUCKET, "key").status >= 500
                assert client.put(BUCKET, "other", b"body").status >= 500
            assert state(server, "stub-0") == 0, status
        stub.mend()
        for _ in range(3):
            with client.connect() as connection:
                connection.send(client.signed("GET", BUCKET, "key").head())
                connection.head()
            request = client.signed("PUT", BUCKET, "half", body=pattern(0, 3_000_000))
            with client.connect() as connection:
                connection.send(request.head() + pattern(0, 1_000_000))
                time.sleep(0.1)
        time.sleep(0.5)
        assert state(server, "stub-0") == 0
        assert server.metric("s3o_circuit_breaker_transitions_total") == 0
        assert client.get(BUCKET, "key").body == pattern(0, 3_000_000)


def test_the_only_copy_is_read_whatever_its_breaker_says(tmp_path):
    """Back before its probe is due: reads work at once, and bring the probe forward; writes follow."""
    settings = harness.merged(BREAKERS, {"backend_circuit_breaker": {"open_timeout": "10m"}})
    with stubbed(tmp_path, settings=settings) as (server, (stub,)), server.client() as client:
        assert client.put(BUCKET, "key", b"body").status == 200
        stub.down_with = 500
        trip(server, client)
        answer = client.put(BUCKET, "key", b"other")
        assert (answer.status, answer.code, answer.header("retry-after")) == (503, "ServiceUnavailable", "1"), answer
        assert client.get(BUCKET, "key").status == 503
        stub.mend()
        assert client.get(BUCKET, "key").body == b"body"
        wait_state(server, "stub-0", 0)
        assert client.put(BUCKET, "key", b"other").status == 200


def test_a_hung_backend_holds_up_nobody_else(tmp_path):
    """Many readers of its only copies: some wait for it, the rest hear at once, and others are served all the while."""
    settings = {"server": {"reactors": 1, "backend_timeout": "12s"}, "backend_circuit_breaker": {"open_timeout": "10m"}}
    settings = harness.merged(BREAKERS, settings)
    with contextlib.ExitStack() as stack:
        stubs = [Stub(harness.free_port()) for _ in range(2)]
        for stub in stubs:
            stack.callback(stub.close)
        backends = [stub.backend(f"stub-{i}", quota_bytes=100_000) for i, stub in enumerate(stubs)]
        server = stack.enter_context(harness.Server(tmp_path / "server", backends, harness.merged(QUICK_CLEANUP, settings)))
        client = stack.enter_context(server.client())
        assert client.put(BUCKET, "key", pattern(0, 90_000)).status == 200, "fills the first"
        assert client.put(BUCKET, "well", pattern(1, 50_000)).status == 200
        stubs[0].hangs = True
        answers = []

        def ask():
            with server.client() as mine:
                started = time.monotonic()
                answer = mine.get(BUCKET, "key")
                answers.append((answer.status, time.monotonic() - started))

        for wave in range(2):
            threads = [threading.Thread(target=ask) for _ in range(60)]
            for thread in threads:
                thread.start()
            deadline, waits = time.monotonic() + 2, []
            while time.monotonic() < deadline or len(waits) < 20:
                started = time.monotonic()
                assert client.get(BUCKET, "well").body == pattern(1, 50_000)
                waits.append(time.monotonic() - started)
            # All would wait if any did; one may on a machine that stands still.
            assert statistics.median(waits) < 1.0
            for thread in threads:
                thread.join()
            assert {status for status, _ in answers} == {503}
            if wave == 0:
                wait_state(server, "stub-0", 1)
                answers.clear()
        # Half of what a backend has: a machine stands still for less.
        at_once = sum(seconds < 6.0 for _, seconds in answers)
        assert at_once >= 40, f"{at_once} of 60 heard at once: {sorted(seconds for _, seconds in answers)}"
        stubs[0].mend()
        assert client.get(BUCKET, "key").body == pattern(0, 90_000)


def test_a_backend_that_hangs_at_the_start_keeps_no_other_from_being_used(tmp_path):
    """Writes go to those that answer at once, not when it has been given up."""
    with contextlib.closing(Stub(harness.free_port())) as stub:
        stub.hangs = True
        backends = [stub.backend("hung"), harness.directory_backend("well", tmp_path / "well")]
        server = harness.Server(tmp_path / "server", backends, {"server": {"backend_timeout": "2m"}}, start=False)
        server.launch()
        try:

            def is_written():
                with contextlib.suppress(OSError, lean.Cut), server.client() as client:
                    return client.put(BUCKET, "key", b"body").status == 200

            harness.wait_for("a write", is_written, 60)
            assert server.backend_status("hung")["healthy"] is False
        finally:
            server.kill()


def test_a_backend_that_comes_back_is_noticed_while_another_hangs(tmp_path):
    with contextlib.ExitStack() as stack:
        hung, back = (stack.enter_context(contextlib.closing(Stub(harness.free_port()))) for _ in range(2))
        hung.hangs, back.down_with = True, 500
        backends = [hung.backend("hung"), back.backend("back")]
        server = harness.Server(tmp_path / "server", backends, {"server": {"backend_timeout": "5m"}}, start=False)
        server.launch()
        stack.callback(server.kill)
        harness.wait_for("a look at both", lambda: hung.requests and back.requests)
        harness.wait_for("the admin port", lambda: harness.accepts(server.admin_port))
        assert server.backend_status("back")["healthy"] is False
        back.mend()
        harness.wait_for("its use", lambda: server.backend_status("back")["healthy"], 60)
        assert server.backend_status("hung")["healthy"] is False
        with server.client() as client:
            assert client.put(BUCKET, "key", b"body").status == 200


def test_deletes_wait_while_the_breaker_is_open_and_their_bytes_stay_charged(tmp_path):
    cleanup = {"cleanup_queue": {"interval": "200ms", "grace": "100ms", "retry_first": "100ms", "max_attempts": 2}}
    with stubbed(tmp_path, settings=harness.merged(BREAKERS, cleanup)) as (server, (stub,)), server.client() as client:
        assert client.put(BUCKET, "key", pattern(0, 7_000)).status == 200
        assert client.put(BUCKET, "going", pattern(0, 9_000)).status == 200
        stub.down_with = 500
        trip(server, client)
        assert client.delete(BUCKET, "going").status == 204
        assert client.get(BUCKET, "going").status == 404
        time.sleep(1.5)
        row = server.backend_status("stub-0")
        assert (row["orphan_bytes"], row["cleanup_queue"], row["cleanup_dlq"]) == (9_000, 1, 0), "it waits, no attempt is spent"
        stub.mend()
        wait_state(server, "stub-0", 0)
        server.wait_cleaned()
        assert sum(size for size in (one[1] for name, one in stub.objects.items() if not name.startswith(".s3o/"))) == 7_000


def test_a_backend_that_is_another_after_its_outage_is_refused(tmp_path):
    """The marker is read before the breaker closes: somebody else's bytes are not written to."""
    with stubbed(tmp_path, settings=BREAKERS) as (server, (stub,)), server.client() as client:
        assert client.put(BUCKET, "key", b"body").status == 200
        stub.down_with = 500
        trip(server, client)
        marker = stub.objects[".s3o/id"]
        other = json.dumps({"deployment": "another", "backend": "stub-0"}).encode()
        stub.objects[".s3o/id"] = (other, len(other), "etag", {})
        stub.mend()
        harness.wait_for("the refusal", lambda: "belongs to another deployment" in server.log.read_text())
        assert server.metric("s3o_backend_usable", backend="stub-0") == 0
        assert client.put(BUCKET, "key", b"other").status == 503
        stub.objects[".s3o/id"] = marker
        harness.wait_for("it is ours again", lambda: server.metric("s3o_backend_usable", backend="stub-0") == 1)
        assert client.put(BUCKET, "key", b"other").status == 200


def test_a_backend_that_comes_back_before_the_database_is_read_and_then_written_to(tmp_path):
    """A start without either: the backend's breaker closes for its own answer, whatever the database says."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(tmp_path / "postgres.log")
        stack.callback(postgres.end)
        settings = harness.merged(BREAKERS, {"circuit_breaker": {"open_timeout": "1s"}, "database": postgres.settings()})
        server, (stub,) = stack.enter_context(stubbed(tmp_path, settings=settings))
        with server.client() as client:
            assert client.put(BUCKET, "key", b"body").status == 200
        server.stop()
        postgres.stop()
        stub.down_with = 500
        server.start()
        with server.client() as client:
            trip(server, client)
            # A probe of a backend that is down still fails: the breaker has no better news than before.
            harness.wait_for("a probe", lambda: server.metric(TRANSITIONS, name="stub-0", **{"from": "half-open", "to": "open"}) > 0)
            stub.mend()
            wait_state(server, "stub-0", 0)
            answer = client.get(BUCKET, "key")
            assert (answer.status, answer.body) == (200, b"body")
            assert client.put(BUCKET, "key", b"newer").status == 503
            # Whose it is only the database says, so nothing more is asked until then: calls are paid for.
            asked = len(stub.requests)
            time.sleep(5)
            assert len(stub.requests) == asked, stub.requests[asked:]
            postgres.restart()
            harness.wait_for("writes", lambda: client.put(BUCKET, "key", b"newer").status == 200)
            assert client.get(BUCKET, "key").body == b"newer"
        lines = [line["msg"] for line in breaker_lines(server, "stub-0")]
        assert lines[-1] == "circuit breaker closed", lines


def test_a_directory_that_goes_away_and_comes_back(tmp_path):
    """Unmounted: nothing is believed gone, nothing is written into the mount point, reads come from the other copy."""
    folders = [tmp_path / name for name in ("one", "two")]
    backends = [harness.directory_backend(folder.name, folder, quota_bytes=harness.GIB) for folder in folders]
    settings = harness.merged(QUICK_CLEANUP, harness.merged(BREAKERS, COPIES))
    with harness.Server(tmp_path / "server", backends, settings) as server, server.client() as client:
        bodies = {f"key/{i}": pattern(i, 20_000) for i in range(8)}
        for key, body in bodies.items():
            assert client.put(BUCKET, key, body).status == 200
        wait_replicated(server, len(bodies))
        # The path is gone, and of what the process holds open everything that was there.
        shutil.move(folders[0], tmp_path / "elsewhere")
        shutil.move(tmp_path / "elsewhere" / BUCKET, tmp_path / "out of reach")
        for _ in range(3):
            for key, body in bodies.items():
                assert client.get(BUCKET, key).body == body, key
        assert client.put(BUCKET, "while", b"body").status == 200
        assert not folders[0].exists() or not harness.stored_in(folders[0])
        shutil.copytree(tmp_path / "out of reach", tmp_path / "elsewhere" / BUCKET, dirs_exist_ok=True)
        shutil.move(tmp_path / "elsewhere", folders[0])
        harness.wait_for("it is in use", lambda: server.metric("s3o_backend_usable", backend="one") == 1)
        harness.wait_for("its copies", lambda: server.metric("s3o_replication_pending") == 0)
        assert client.get(BUCKET, "while").body == b"body"
