"""Monthly limits of backends: what the backend itself counts is never more than the limit (I6)."""

import collections
import contextlib
import pathlib
import shutil
import signal
import sqlite3
import threading
import time

import harness
import lean
import pytest
import stub


class Clients:
    """Many connections that do one thing until they are told that it is over."""

    def __init__(self, servers, number, work):
        self.answers, self.lock = [], threading.Lock()
        self.servers, self.work = servers, work
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(number)]
        for thread in self.threads:
            thread.start()

    def run(self, i):
        server = self.servers[i % len(self.servers)]
        with server.client() as client:
            for round in range(10_000):
                status = self.work(client, f"{i}-{round}")
                with self.lock:
                    self.answers.append(status)
                if status != 200:
                    return

    def ended(self):
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive(), "a client hangs"
        return self.answers


def put(client, key, size=100):
    return client.put(harness.BUCKET, key, b"x" * size).status


def get(client, key):
    return client.get(harness.BUCKET, key).status


def asked(backend, *methods):
    """Requests that the stub got for objects, by method."""
    with backend.lock:
        return sum(one[0] in methods and ".s3o/" not in one[1] for one in backend.requests)


def budget_of(server, counter):
    return next(one for one in server.status()["budgets"] if one["counter"] == counter)


# One pool that the looks at the marker are no part of, so that the numbers are the test's own.
PUTS = [{"name": "puts", "operations": ["PutObject"], "limit": 500}]


@pytest.fixture
def backend(place):
    with contextlib.closing(stub.Stub(harness.free_port())) as one:
        yield one


def server_of(place, name, backends, **settings):
    return harness.Server(place / name, backends, settings)


def test_many_clients_get_every_call_of_a_limit_and_not_one_more(place, backend):
    with server_of(place, "exact", [backend.backend("cloud", request_limits=PUTS)]) as server:
        probes = asked_probes(backend)
        answers = Clients([server], 24, put).ended()
        assert answers.count(200) == asked(backend, "PUT") == 500 - probes
        assert set(answers) == {200, 507}
        assert server.metric("s3o_usage_limit_rejections_total", operation="PutObject", limit_type="write") == 24
        assert server.metric("s3o_usage_pool_requests", pool="puts") == 500
        assert server.metric("s3o_usage_pool_limit", pool="puts") == 500
        # Reads and deletes go on.
        with server.client() as client:
            assert get(client, "0-0") == 200
            assert client.delete(harness.BUCKET, "0-0").status == 204
    # A restart changes nothing: all was spent, and nothing is lent twice.
    with server.start(), server.client() as client:
        assert put(client, "again") == 507
        assert budget_of(server, "pool:puts")["used"] == 500


def asked_probes(backend):
    """PUTs that the measuring of the backend took: they count."""
    with backend.lock:
        return sum(one[0] == "PUT" and ".s3o/" in one[1] for one in backend.requests)


def test_a_killed_instance_has_spent_what_it_held(place, backend):
    with server_of(place, "killed", [backend.backend("cloud", request_limits=PUTS)]) as server:
        for _ in range(4):
            clients = Clients([server], 8, lambda client, key: put_unless_killed(client, key))
            harness.wait_for("some calls", lambda: len(clients.answers) > 40)
            server.kill()
            clients.ended()
            server.start()
        Clients([server], 8, put).ended()
        admitted = asked(backend, "PUT") + asked_probes(backend)
        assert admitted <= 500, "never more than the limit"
        assert admitted >= 200, "what four deaths cost is a part"
        budget = budget_of(server, "pool:puts")
        assert budget["lent"] <= 500 and budget["used"] <= admitted


def put_unless_killed(client, key):
    try:
        return put(client, key)
    except (OSError, lean.Cut):
        return 0


def test_writes_go_on_elsewhere_and_reads_take_another_copy(place, backend):
    pools = [
        {"name": "puts", "operations": ["PutObject"], "limit": 40},
        {"name": "gets", "operations": ["GetObject"], "limit": 60},
    ]
    settings = {"replication": {"factor": 2, "worker_interval": "200ms"}}
    with contextlib.closing(stub.Stub(harness.free_port())) as other:
        backends = [backend.backend("cloud", request_limits=pools), other.backend("other")]
        with server_of(place, "elsewhere", backends, **settings) as server, server.client() as client:
            for i in range(60):
                assert put(client, f"k{i}") == 200
            first = asked(backend, "PUT")
            assert 20 <= first <= 40 and first == 40 - asked_probes(backend)
            harness.wait_for("copies", lambda: server.backend_status("other")["object_count"] == 60)
            assert server.backend_status("cloud")["object_count"] == first, "no copy is made beyond the limit either"
            # Reads prefer what is clearly faster; a core that has met a slow answer of it does not, so they come to both.
            other.delay = 0.03

            def gets():
                with backend.lock:
                    # The look at the marker is one; a listing has no name.
                    return sum(method == "GET" and name != "" for method, name in backend.requests)

            def read_all():
                for i in range(60):
                    client.close()
                    assert get(client, f"k{i}") == 200, "the other has every object"
                return gets() >= 60

            harness.wait_for("all that it may be asked", read_all)
            read_all()
            assert gets() == 60, "and not more"
            assert server.metric("s3o_usage_limit_rejections_total") == 0


def test_bytes_are_given_back_when_they_were_not_moved(place, backend):
    size = 8 * harness.MIB
    limit = 6 * size
    limits = {"egress_byte_limit": limit, "ingress_byte_limit": 2 * size}
    with server_of(place, "bytes", [backend.backend("cloud", **limits)]) as server, server.client() as client:
        assert put(client, "big", size) == 200
        used = budget_of(server, "ingress_bytes")["used"]
        assert size <= used <= size + 100_000, "the object, the marker and the probes"
        assert announce(client, "too-much", size + 1) == 507
        # Clients that leave midway: what was moved counts, not what was asked for.
        for _ in range(4):
            leave_midway(server, "big")

        def used_exactly():
            used = budget_of(server, "egress_bytes")["used"]
            return used if used == server.metric("s3o_backend_egress_bytes_total") else None

        used = harness.wait_for("what was not moved is given back", used_exactly)
        assert 0 < used < 4 * size
        whole = (limit - used) // size
        statuses = [client.get(harness.BUCKET, "big").status for _ in range(whole + 2)]
        assert statuses == [200] * whole + [429] * 2
        assert client.get(harness.BUCKET, "big").code == "SlowDown"
        assert used_exactly() == used + whole * size <= limit
        assert server.metric("s3o_usage_limit_rejections_total", operation="GetObject", limit_type="read") == 3
        # A range that still fits is served, to the last byte.
        left = limit - used - whole * size
        ranged = lambda length: client.get(harness.BUCKET, "big", headers=[("range", f"bytes=0-{length - 1}")]).status
        assert ranged(left + 1) == 429
        assert left == 0 or ranged(left) == 206
        assert harness.wait_for("counted", used_exactly) == limit


def announce(client, key, size):
    """Asks whether a body of this size may come, and sends none."""
    headers = [("content-length", str(size)), ("expect", "100-continue")]
    signed = client.signed("PUT", harness.BUCKET, key, headers=headers, payload_hash="UNSIGNED-PAYLOAD")
    with client.connect() as connection:
        connection.send(signed.head())
        return connection.response("PUT").status


def leave_midway(server, key):
    with server.client() as client, client.connect() as connection:
        connection.send(client.signed("GET", harness.BUCKET, key).head())
        assert connection.head()[0] == 200
        connection.sock.recv(100_000)


def calls_of(backend):
    """What the stub was asked for, as its provider would count it."""
    with backend.lock:
        asked = list(backend.requests)
    named = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
    return collections.Counter("ListObjects" if (method, name) == ("GET", "") else named[method] for method, name in asked)


def pool(server, name):
    return server.metric("s3o_usage_pool_requests", pool=name)


def test_a_call_counts_in_every_pool_that_names_it_and_unmetered_ones_in_none(place, backend):
    pools = [
        {"name": "most", "operations": ["*"], "limit": 400},
        {"name": "puts", "operations": ["PutObject"], "limit": 60},
        {"name": "changes", "operations": ["PutObject", "DeleteObject"], "limit": 0},
    ]
    settings = {"cleanup_queue": {"interval": "50ms", "grace": "0s"}}
    with server_of(place, "pools", [backend.backend("cloud", request_limits=pools, unmetered=["GetObject"])], **settings) as server:
        with server.client() as client:
            stored = [key for key in map(str, range(80)) if put(client, key) == 200]
            assert len(stored) == 60 - asked_probes(backend) and calls_of(backend)["PutObject"] == 60
            assert [get(client, key) for key in stored * 8] == [200] * (8 * len(stored)), "what is unmetered is never refused"
            for key in stored:
                assert client.delete(harness.BUCKET, key).status == 204
            server.wait_cleaned()
            assert put(client, "more") == 507, "a delete gives no request back"

        def are_told():
            calls = calls_of(backend)
            del calls["GetObject"]
            want = {"most": calls.total(), "puts": 60, "changes": 60 + calls["DeleteObject"]}
            return {name: pool(server, name) for name in want} == want

        harness.wait_for("each pool has what the stub was asked for", are_told)
        assert calls_of(backend)["DeleteObject"] >= len(stored)


def told_usage(server, backend):
    """What the database of a running server has of it, without asking the server, which would tell it."""
    query = "SELECT coalesce(max(value), 0) AS value FROM usage WHERE backend = 'cloud' AND counter = 'api_requests'"
    return harness.rows(server.database, query)[0]["value"] == calls_of(backend).total()


def test_usage_is_told_more_often_near_a_limit(place, backend):
    flush = {"interval": "1h", "adaptive_enabled": True, "adaptive_threshold": 0.5, "fast_interval": "100ms"}
    pools = [{"name": "puts", "operations": ["PutObject"], "limit": 1000}]
    with server_of(place, "adaptive", [backend.backend("cloud", request_limits=pools)], usage_flush=flush) as server:
        with server.client() as client:
            for i in range(50):
                assert put(client, f"few{i}") == 200
            time.sleep(2)
            assert not told_usage(server, backend), "an hour has not passed"
            for i in range(500):
                assert put(client, f"many{i}") == 200
            harness.wait_for("half of the limit is used", lambda: told_usage(server, backend))
            # By SIGHUP the same: far from the limit again, and then every 100 ms whatever is used.
            reload(server, lambda of: of["request_limits"][0].update(limit=100_000))
            assert put(client, "one more") == 200
            time.sleep(2)
            assert not told_usage(server, backend)
            server.config["usage_flush"] = {"interval": "100ms"}
            reload(server, lambda of: None)
            harness.wait_for("the interval is short", lambda: told_usage(server, backend))


def reload(server, change, said="limits are in force as configured"):
    """Changes the first backend in the configuration, and waits until the process says so."""
    change(server.config["backends"][0])
    server.write_config()
    before = server.log.read_text().count(said)
    server.process.child.send_signal(signal.SIGHUP)
    harness.wait_for("the file to be read", lambda: server.log.read_text().count(said) > before)


def test_limits_change_by_sighup(place, backend):
    pools = [{"name": "puts", "operations": ["PutObject"], "limit": 40}]
    with server_of(place, "sighup", [backend.backend("cloud", request_limits=pools, quota_bytes=20_000)]) as server:
        with server.client() as client:

            def put_all(name):
                """Until one is refused; how many the backend has had in all."""
                while (status := put(client, name)) == 200:
                    pass
                assert status == 507
                return asked(backend, "PUT") + asked_probes(backend)

            assert put_all("a") == 40
            reload(server, lambda of: of["request_limits"][0].update(limit=70))
            assert server.metric("s3o_usage_pool_limit", pool="puts") == 70
            assert put_all("b") == 70
            reload(server, lambda of: of["request_limits"][0].update(limit=50))
            assert put_all("c") == 70
            reload(server, lambda of: (of["request_limits"][0].update(limit=100_000), of.update(quota_bytes=1_000)))
            assert server.backend_status("cloud")["bytes_limit"] == 1_000
            assert put(client, "d", 1_001) == 507
            reload(server, lambda of: of.update(quota_bytes=1_000_000))
            assert put(client, "d", 900_000) == 200 and put(client, "e", 900_000) == 507
            # A limit where there was none: what the month has had of it counts.
            for _ in range(3):
                assert client.get(harness.BUCKET, "d").status == 200
            used = server.backend_status("cloud")["egress_bytes"]
            assert used >= 3 * 900_000
            # With room for a look at the marker.
            reload(server, lambda of: of.update(egress_byte_limit=used + 2 * 900_000 + 1_000))
            assert [client.get(harness.BUCKET, "d").status for _ in range(3)] == [200, 200, 429]
            reload(server, lambda of: of.update(egress_byte_limit=used + 3 * 900_000 + 1_000))
            assert [client.get(harness.BUCKET, "d").status for _ in range(2)] == [200, 429]
            reload(server, lambda of: of.pop("egress_byte_limit"))
            assert client.get(harness.BUCKET, "d").status == 200
            # Which pools there are waits for a restart, and the log says so.
            reload(server, lambda of: of["request_limits"][0].update(name="others"))
            log = [line for line in server.lines() if line.get("level") == "WARN"]
            assert any(line.get("key") == "backends[0].request_limits[0].name" for line in log), log
            assert not any("limit" in line.get("key", "").rpartition(".")[2] for line in log), log


def test_after_a_restored_backup_what_is_not_known_counts_as_spent(place, backend):
    folder = place / "restored"
    with server_of(place, "restored", [backend.backend("cloud", request_limits=PUTS)]) as server:
        with server.client() as client:
            assert {put(client, f"before{i}") for i in range(20)} == {200}
            with contextlib.closing(sqlite3.connect(server.database)) as source, sqlite3.connect(folder / "backup.db") as target:
                source.backup(target)
            assert {put(client, f"after{i}") for i in range(30)} == {200}
        server.stop()
        for ending in ("", "-wal", "-shm"):
            pathlib.Path(f"{server.database}{ending}").unlink(missing_ok=True)
        shutil.copy(folder / "backup.db", server.database)
        server.start()
        assert server.status()["restored"]
        had = asked(backend, "PUT") + asked_probes(backend)
        with server.client() as client:
            assert put(client, "more") == 507, "how much was spent after the backup is not known"
            budget = budget_of(server, "pool:puts")
            assert budget["lent"] == 500 and budget["used"] <= had, budget
            reload(server, lambda of: of["request_limits"][0].update(limit=510))
            statuses = [put(client, f"more{i}") for i in range(11)]
            assert statuses == [200] * 10 + [507], "what the operator adds"
