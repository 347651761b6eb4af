"""PostgreSQL is stopped, frozen, killed and brought back under two instances, with clients on both all the while: reads go on,
writes are refused in time, all recovers alone, and nothing that was acknowledged is lost or comes back.
"""

import contextlib
import hashlib
import json
import random
import threading
import time

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP
from test_crash import POOL, World
from test_degraded import DEGRADED, exact, refused, state
from test_postgres import check_bytes, two_copies

BUCKET = harness.BUCKET
SETTINGS = {
    **QUICK_CLEANUP,
    "write_path": {**QUICK_CLEANUP["write_path"], "lease": "2s"},
    "circuit_breaker": {"failure_threshold": 3, "open_timeout": "1s", "cache_ttl": "2s"},
    "replication": {"factor": 2, "worker_interval": "200ms"},
}
# `cache_ttl` and a fifth of it: so old may be what an instance has found on the backends. The other may write again before
# this one has the database back.
FOUND_SECONDS = 2.4
# A write is answered within that, whatever the database does.
ANSWERED_SECONDS = 5
# Never written again: whoever reads one gets it, in any phase.
STABLE = {f"stable/{i}": POOL[i : i + 3_000 * i] for i in range(16)}
CHANGING = [f"changing/{i}" for i in range(12)]


def digest(body):
    return hashlib.sha256(body).hexdigest()


@contextlib.contextmanager
def fleet(folder, postgres=None, **postgres_settings):
    """Two instances over one PostgreSQL and the same two directories."""
    with contextlib.ExitStack() as stack:
        if postgres is None:
            postgres = harness.Postgres(folder / "postgres.log")
            stack.callback(postgres.end)
        backends = [harness.directory_backend(name, folder / name, quota_bytes=harness.GIB) for name in ("near", "nas")]
        settings = {**SETTINGS, "database": postgres.settings(**{"call_timeout": "1s", **postgres_settings})}
        servers = [harness.Server(folder / name, backends, settings, start=False) for name in ("first", "second")]
        for server in servers:
            stack.callback(server.kill)
        yield postgres, servers


def put_all(server, objects):
    """Each until it is acknowledged: with so little time a database is at times too slow."""
    with server.client() as client:
        for key, body in objects.items():
            harness.wait_for(f"a write of {key}", lambda: client.put(BUCKET, key, body).status == 200, every=0.1)


class Client(threading.Thread):
    """Reads, writes and deletes on one instance until it is told to end; what is wrong is kept."""

    def __init__(self, server, world, seed, writes):
        super().__init__(daemon=True)
        self.server, self.world, self.dice, self.writes = server, world, random.Random(seed), writes
        self.ending = threading.Event()
        self.wrong, self.slow_writes, self.reads, self.refusals, self.degraded = [], [], 0, 0, 0

    def run(self):
        try:
            with self.server.client(timeout=20) as client:
                while not self.ending.is_set():
                    self.step(client)
        except (lean.Cut, OSError) as cause:
            self.wrong.append(f"a connection was cut: {cause!r}")
        except BaseException as cause:
            self.wrong.append(repr(cause))

    def step(self, client):
        if not self.writes:
            self.read_stable(client, self.dice.choice(list(STABLE)))
            return self.read(client, self.dice.choice(CHANGING))
        key = self.dice.choice(CHANGING)
        body = None if self.dice.random() < 0.3 else POOL[self.dice.randrange(9_000) :][: self.dice.choice([0, 900, 20_000])]
        write, started = self.world.began(key, None if body is None else digest(body)), time.monotonic()
        answer = client.delete(BUCKET, key) if body is None else client.put(BUCKET, key, body)
        if (ended := time.monotonic()) - started >= ANSWERED_SECONDS:
            self.slow_writes.append((started, ended, answer))
        if answer.status == 503:
            # It may have happened, or happen yet: that is known when the database is back, also if that was said meanwhile.
            write.end = None
            self.refusals += 1
            # SlowDown where calls that wait for the database have filled the desk.
            if answer.code not in ("ServiceUnavailable", "SlowDown") or answer.header("retry-after") != "1":
                self.wrong.append(f"no Retry-After: {answer}")
            time.sleep(0.05)
        else:
            self.world.answered(key, write, answer.status)
            if answer.status not in (200, 204):
                self.wrong.append(f"{key}: {answer}")

    def read_stable(self, client, key):
        answer = client.get(BUCKET, key)
        self.reads += 1
        self.degraded += answer.header(DEGRADED) is not None
        if (answer.status, answer.body == STABLE[key]) != (200, True):
            self.wrong.append(f"{key}: {answer}")

    def read(self, client, key):
        asked_at = time.monotonic()
        before = self.world.allowed(key, asked_at)
        answer = client.get(BUCKET, key)
        self.reads += 1
        found = {200: digest(answer.body), 404: None}.get(answer.status, answer)
        allowed = before | self.world.allowed(key, asked_at)
        if answer.status == 503 and None in allowed:
            # Without the database: its only blob is one whose commit was not answered, so that nobody can say.
            return
        if answer.header(DEGRADED) is None:
            if found not in allowed:
                self.wrong.append(f"{key}: {answer} is none of what it may be")
        elif found is None:
            # Each backend has said that there is nothing: there was a time, since then, when that was so.
            if None not in allowed | self.world.allowed(key, asked_at - FOUND_SECONDS):
                self.wrong.append(f"{key} was there all the while: {answer}")
        elif found not in self.ever(key):
            self.wrong.append(f"{key}: {answer} was never written")

    def ever(self, key):
        with self.world.lock:
            return {write.digest for write in self.world.history.get(key, [])}


class History(World):
    """With everything that was ever begun: a read without the database may show it."""

    def __init__(self):
        super().__init__()
        self.history = {}

    def began(self, key, digest):
        write = super().began(key, digest)
        with self.lock:
            self.history.setdefault(key, []).append(write)
        return write


def breaker_lines(server):
    return [line for line in server.lines() if "circuit breaker" in json.dumps(line) and line.get("name") == "database"]


def moved_by_workers(server):
    return server.metric("s3o_backend_requests_total", core="mover")


def stands_still(server):
    before = moved_by_workers(server)
    time.sleep(1)
    return moved_by_workers(server) == before


def check_outage(servers, pulse):
    """What holds while the database is away."""
    for server in servers:
        harness.wait_for("the breaker", lambda: state(server) != 0)
        status, text = server.health()
        assert status == 200 and '"degraded"' in text
        assert server.metric("s3o_degraded_mode_active") == 1
        with server.client() as client:
            for method, key, query in [
                ("PUT", "refused", ()),
                ("DELETE", "stable/1", ()),
                ("GET", None, [("list-type", "2")]),
                ("POST", "refused", [("uploads", "")]),
            ]:
                started = time.monotonic()
                answer = client.request(method, BUCKET, key, query=query)
                assert refused(answer), f"{method} {key}: {answer}"
                assert pulse.seconds(started, time.monotonic()) < ANSWERED_SECONDS
    # What they had begun ends, however slow the disk is.
    harness.wait_for("workers to pause", lambda: all(stands_still(server) for server in servers))


def check_recovery(servers):
    started = time.monotonic()
    for server in servers:
        harness.wait_for("its recovery", lambda: state(server) == 0 and '"ok"' in server.health()[1])
        with server.client() as client:
            harness.wait_for("writes", lambda: client.put(BUCKET, "after", b"after").status == 200)
    assert time.monotonic() - started < 30, "all of it"


FAULTS = {
    "stopped": (harness.Postgres.stop, harness.Postgres.restart),
    "frozen": (harness.Postgres.freeze, harness.Postgres.thaw),
    "killed": (harness.Postgres.crash, harness.Postgres.restart),
}


@pytest.mark.timeout(240)
def test_the_database_comes_and_goes(tmp_path):
    world = History()
    with fleet(tmp_path) as (postgres, servers), harness.Pulse(tmp_path) as pulse:
        for server in servers:
            server.start()
        put_all(servers[0], STABLE)
        harness.wait_for("copies", lambda: two_copies(postgres))
        clients = [Client(server, world, seed, writes) for seed in range(2) for writes in (True, False) for server in servers]
        for client in clients:
            client.start()
        for fault, (begin, end) in FAULTS.items():
            time.sleep(1)
            begin(postgres)
            try:
                check_outage(servers, pulse)
            finally:
                end(postgres)
            check_recovery(servers)
            # A batch behind what hung has been answered: whatever was not is decided.
            world.crashed()
            assert not [wrong for client in clients for wrong in client.wrong], fault
        time.sleep(1)
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join(30)
        assert not [wrong for client in clients for wrong in client.wrong]
        assert all(client.reads > 100 for client in clients if not client.writes), "readers went on"
        assert all(client.refusals > 0 for client in clients if client.writes)
        assert sum(client.degraded for client in clients) > 50
        slow = [write for client in clients for write in client.slow_writes]
        assert not [write for write in slow if pulse.seconds(*write[:2]) >= ANSWERED_SECONDS], pulse.pauses
        check_signs(servers)
        world.crashed()
        check_end(postgres, servers, world, tmp_path)


def check_signs(servers):
    """What operators see of it."""
    for server in servers:
        lines = breaker_lines(server)
        for message in ("circuit breaker opened", "circuit breaker half-open", "circuit breaker closed"):
            found = [line for line in lines if message in json.dumps(line)]
            assert len(found) >= len(FAULTS), message
            assert all("failures" in line and line["degraded_duration"].endswith("s") for line in found), found[0]
        for step in (("closed", "open"), ("open", "half-open"), ("half-open", "closed")):
            count = server.metric("s3o_circuit_breaker_transitions_total", name="database", **{"from": step[0], "to": step[1]})
            assert count >= len(FAULTS), step
        assert server.metric("s3o_degraded_reads_total", operation="GetObject") > 0
        assert server.metric("s3o_degraded_cache_hits_total") > 0
        assert server.metric("s3o_degraded_write_rejections_total", operation="PutObject") > 0
    # The second has never heard of most stable keys before the first outage.
    assert sum(server.metric("s3o_degraded_cache_misses_total") for server in servers) > 0


def check_end(postgres, servers, world, folder):
    with servers[0].client() as one, servers[1].client() as two:
        for key in [*STABLE, *CHANGING]:
            answers = [exact(client, key) for client in (one, two)]
            first, second = [(answer.status, digest(answer.body) if answer.status == 200 else None) for answer in answers]
            assert first == second, key
            allowed = {digest(STABLE[key])} if key in STABLE else world.allowed(key, time.monotonic())
            assert first[1] in allowed, f"{key}: {answers[0]}"
    harness.wait_for("copies", lambda: two_copies(postgres))
    for server in servers:
        server.wait_cleaned()
    check_bytes(postgres, {name: harness.stored_in(folder / name) for name in ("near", "nas")})
    for server in servers:
        server.stop()


MAKER = {"name": "maker", "access_key_id": "MAKER", "secret_access_key": "maker secret", "permissions": ["create-buckets"]}


def maker(server):
    return lean.Client(server.address, MAKER["access_key_id"], MAKER["secret_access_key"])


def test_a_start_without_the_database(tmp_path):
    """Reads are served from the backends, everything else is refused, and the instance becomes whole by itself."""
    with fleet(tmp_path) as (postgres, (server, _)):
        server.config["auth"] = {"users": [MAKER]}
        server.start()
        put_all(server, dict(list(STABLE.items())[:4]))
        with maker(server) as other:
            made = lambda: other.put("stored", None, b"").code in (None, "BucketAlreadyOwnedByYou")  # noqa: E731
            harness.wait_for("a bucket", made)
            harness.wait_for("an object in it", lambda: other.put("stored", "key", b"body").status == 200)
        server.stop()
        for begin, end in (FAULTS["stopped"], FAULTS["frozen"]):
            begin(postgres)
            try:
                server.start()
                with server.client() as client, maker(server) as other:
                    for key, body in list(STABLE.items())[:4]:
                        answer = client.get(BUCKET, key)
                        assert (answer.status, answer.body == body, answer.header(DEGRADED)) == (200, True, "searched"), answer
                    assert client.get(BUCKET, "nothing").status == 404
                    for answer in (client.put(BUCKET, "new", b"x"), other.get("stored", "key"), other.get(None, None)):
                        assert refused(answer), f"nobody knows which buckets are stored: {answer}"
                    assert server.health()[0] == 200 and '"degraded"' in server.health()[1]
            finally:
                end(postgres)
            check_recovery([server])
            put_all(server, {"new": b"x"})
            with server.client() as client, maker(server) as other:
                harness.wait_for("the stored bucket", lambda: other.get("stored", "key").body == b"body")
                harness.wait_for("the others' names", lambda: client.get("nowhere", "key").code == "NoSuchBucket")
                harness.wait_for("a read by the database", lambda: client.get(BUCKET, "new").header(DEGRADED) is None)
            server.stop()
