"""An instance is killed, or stopped and continued after its lease, in each phase of a write, while a second one works: what it
had reserved is given up by the other and never becomes an object, an acknowledged write or delete stands, and in the end each
key is right, both instances agree, and every byte on a backend is charged.

Each phase is held where it is: at the scripted backend, by a client that does not send, or by a lock in the database. Every
key is in one phase when the instance goes; `by_the_other` says what the other instance does to it meanwhile.
"""

import contextlib
import hashlib
import signal
import threading

import pytest

import harness
import lean
from stub import Stub, pattern
from test_crash import manifest_of

BUCKET = harness.BUCKET
# Longer than a machine stands still: nobody loses it before it is stopped.
LEASE = 8
SETTINGS = {
    "server": {"reactors": 1, "backend_timeout": "90s", "body_progress_timeout": "90s"},
    "cleanup_queue": {"interval": "200ms", "grace": "500ms", "retry_first": "500ms"},
    "write_path": {"lease": f"{LEASE}s", "settle": "1s", "multipart": {"enforce_min_part_size": False}},
}
# Nothing in the database gives up by itself: what is held there is held until the test lets it go.
PATIENT = {"call_timeout": "90s", "statement_timeout": "90s", "lock_timeout": "90s"}
OLD, NEW, OTHER = pattern(1, 5_000), pattern(2, 700_000), pattern(3, 9_000)
CHUNK = 100_000
HOW = ["killed", "frozen", "frozen, and its commit is lost"]
# What the other instance does to a key meanwhile, and what is there then.
MEANWHILE = {"left": OLD, "overwritten": OTHER, "deleted": None}


class Fleet:
    """Two instances over one database and two scripted backends. All background jobs are the first's as long as it lives."""

    def __init__(self, folder, stack, factor=1):
        self.postgres = harness.Postgres(folder / "postgres.log")
        stack.callback(self.postgres.end)
        self.stubs = [Stub(harness.free_port()) for _ in range(2)]
        for stub in self.stubs:
            stack.callback(stub.close)
        backends = [stub.backend(f"stub-{i}", quota_bytes=harness.GIB) for i, stub in enumerate(self.stubs)]
        copies = {"replication": {"factor": factor, "worker_interval": "200ms", "concurrency": 16}}
        settings = {**SETTINGS, **copies, "database": self.postgres.settings(**PATIENT)}
        self.first, self.second = (harness.Server(folder / name, backends, settings, start=False) for name in ("first", "second"))
        for server in (self.first, self.second):
            stack.callback(server.kill)
        self.first.start()
        self.incarnation = self.living()[0]
        harness.wait_for("its background jobs", lambda: self.holds("cleanup") and self.holds("replicate"))
        self.second.start()

    def living(self):
        return [row["id"] for row in self.postgres.rows("SELECT id FROM incarnations WHERE ended IS NULL ORDER BY id")]

    def holds(self, service):
        return self.postgres.rows(f"SELECT 1 FROM services WHERE name = '{service}' AND incarnation = {self.incarnation}")

    def states(self, key):
        """Of the key's blobs, the oldest first."""
        query = f"SELECT state FROM blobs WHERE key = '{key}' ORDER BY id"
        return [row["state"] for row in self.postgres.rows(query)]

    def live(self, stub):
        return self.postgres.rows(
            f"SELECT 1 FROM blobs x JOIN backends b ON b.id = backend WHERE b.name = 'stub-{stub}' AND state = 'live'"
        )

    def reserved(self, key):
        harness.wait_for(f"{key} is reserved", lambda: "reserved" in self.states(key))

    def freeze(self):
        self.first.process.child.send_signal(signal.SIGSTOP)

    def kill(self):
        """Its lease lapses now: there is nobody whose clock could say otherwise."""
        self.first.kill()
        self.postgres.run(f"UPDATE incarnations SET lease_until = 0 WHERE id = {self.incarnation}")

    def wait_given_up(self):
        """The other has ended the first's run: what it had reserved is doomed."""
        harness.wait_for("the end of its lease", lambda: self.incarnation not in self.living(), 10 * LEASE)
        assert not self.postgres.rows(f"SELECT 1 FROM blobs WHERE incarnation = {self.incarnation} AND state = 'reserved'")

    def thaw(self):
        """The first goes on, and is another run before anybody asks it for anything."""
        self.first.process.child.send_signal(signal.SIGCONT)
        harness.wait_for("another run of it", lambda: len(self.living()) == 2)
        harness.wait_for("that it knows", lambda: "registered anew" in self.first.log.read_text())

    def check(self, expected):
        """Both say the same of each key, and the backends hold what is charged."""
        with self.first.client() as one, self.second.client() as two:
            for key, body in expected.items():
                for client in (one, two):
                    answer = client.get(BUCKET, key)
                    found = {200: answer.body, 404: None}.get(answer.status, answer)
                    assert found == body, f"{key}: {answer.status} {len(answer.body)}"
            there = sorted(key for key, body in expected.items() if body is not None)
            assert one.list_keys(BUCKET) == two.list_keys(BUCKET) == there
        self.second.wait_cleaned()
        query = "SELECT b.name AS backend, convert_from(x.name, 'UTF8') AS name, bytes FROM blobs x JOIN backends b ON b.id = backend"
        charged = {(row["backend"], row["name"]): row["bytes"] for row in self.postgres.rows(query)}
        stored = {(f"stub-{i}", name): stub.objects[name][1] for i, stub in enumerate(self.stubs) for name in stub.blobs()}
        assert stored == charged
        assert not any(stub.uploads for stub in self.stubs)
        query = "SELECT b.name, sum(charged) AS charged FROM quota_shares JOIN backends b ON b.id = backend GROUP BY b.name"
        for row in self.postgres.rows(query):
            assert row["charged"] == sum(size for (backend, _), size in charged.items() if backend == row["name"])
        # And it is an instance as good as any.
        with self.first.client() as one, self.second.client() as two:
            for key in expected:
                assert one.put(BUCKET, key, b"afterwards").status == 200
                assert two.get(BUCKET, key).body == b"afterwards"
        self.first.stop()
        self.second.stop()


@pytest.fixture
def stack():
    with contextlib.ExitStack() as open_things:
        yield open_things


class Sent:
    """A request to the first instance: its head, as much of its body as is said, the rest when the instance is back."""

    def __init__(self, fleet, method, key, body=b"", first=None, **more):
        self.method, self.rest = method, b"" if first is None else body[first:]
        client = fleet.first.client(timeout=60)
        self.connection = client.connect()
        signed = client.signed(method, BUCKET, key, body=body, **more)
        self.connection.send(signed.head() + body[: len(body) if first is None else first])

    def acknowledged(self):
        """Whether the rest is sent and answered so."""
        with contextlib.suppress(lean.Cut, OSError), self.connection:
            self.connection.send(self.rest)
            answer = self.connection.response(self.method)
            # What takes long is answered 200 before its end is known, and the body says how it went.
            return answer.status == 200 and b"<Error>" not in answer.body
        return False


class SentInChunks(Sent):
    """The same of a body that goes in signed chunks, of which so many leave at first."""

    def __init__(self, fleet, key, body, first):
        self.method = "PUT"
        client = fleet.first.client(timeout=60)
        self.connection = client.connect()
        pieces = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
        mode = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
        # What a chunk's header takes depends on its length only.
        unsigned = client.signed("PUT", BUCKET, key, payload_hash=mode)
        length = sum(len(unsigned.chunk(piece)) for piece in [*pieces, b""]) + 2
        headers = [("x-amz-decoded-content-length", str(len(body))), ("content-length", str(length))]
        signed = client.signed("PUT", BUCKET, key, headers=headers, payload_hash=mode)
        chunks = [signed.chunk(piece) for piece in pieces]
        self.rest = b"".join(chunks[first:]) + signed.chunk(b"") + b"\r\n"
        self.connection.send(signed.head() + b"".join(chunks[:first]))


def meanwhile(fleet, by_the_other):
    """What the other instance's clients do: all of it is acknowledged."""
    with fleet.second.client() as client:
        for key, what in by_the_other.items():
            if what == "overwritten":
                assert client.put(BUCKET, key, OTHER).status == 200
            elif what == "deleted":
                assert client.delete(BUCKET, key).status == 204


def go_in_commit(fleet, how, key, *acknowledgements):
    """The backend acknowledges, and the first instance goes when it has sent its commit for the key, which the database holds
    until then and now carries out, or not. Whether it did."""
    with fleet.postgres.locked(f"SELECT id FROM blobs WHERE key = '{key}' FOR UPDATE"):
        for hold in acknowledgements:
            hold.let_go()
        session, *_ = harness.wait_for(f"a commit of {key}", fleet.postgres.waiting)
        fleet.freeze()
        if how == HOW[2]:
            fleet.postgres.run(f"SELECT pg_terminate_backend({session})")
            harness.wait_for("the end of its session", lambda: session not in fleet.postgres.waiting())
    committed = how != HOW[2]
    if committed:
        harness.wait_for("its commit", lambda: "reserved" not in fleet.states(key))
    return committed


@pytest.mark.parametrize("how", HOW)
def test_a_put(tmp_path, stack, how):
    fleet = Fleet(tmp_path, stack)
    phases = ["begun", "begun small", "partly sent", "partly in chunks", "copied", "stored"]
    by_the_other = {f"{phase}/{what}": what for phase in phases for what in MEANWHILE}
    expected = {key: MEANWHILE[what] for key, what in by_the_other.items()}
    stub = fleet.stubs[0]
    with fleet.second.client() as client:
        for key in [*by_the_other, "source", "commit"]:
            assert client.put(BUCKET, key, OLD).status == 200
    # The old bytes' DELETE, by the first instance's cleanup: before its effect, or after it.
    delete = stub.hold("DELETE", "replaced!", "body" if how == "frozen" else "done")
    with fleet.first.client() as client:
        for body in (OLD, NEW):
            assert client.put(BUCKET, "replaced", body).status == 200
    delete.wait()
    sent, holds = {}, [delete]
    for key in by_the_other:
        if key.startswith("begun small"):
            sent[key] = Sent(fleet, "PUT", key, OLD, first=0)
        elif key.startswith("begun"):
            sent[key] = Sent(fleet, "PUT", key, NEW, first=0)
        elif key.startswith("partly"):
            at_half = stub.hold("PUT", key, "half")
            at_half.let_go()
            in_chunks = "chunks" in key
            sent[key] = SentInChunks(fleet, key, NEW, first=4) if in_chunks else Sent(fleet, "PUT", key, NEW, first=400_000)
            at_half.wait()
        elif key.startswith("copied"):
            holds.append(stub.hold("PUT", key, "done"))
            sent[key] = Sent(fleet, "PUT", key, headers=[("x-amz-copy-source", f"{BUCKET}/source")])
            holds[-1].wait()
        else:
            holds.append(stub.hold("PUT", key, "done"))
            sent[key] = Sent(fleet, "PUT", key, NEW)
            holds[-1].wait()
        fleet.reserved(key)
    stored = stub.hold("PUT", "commit!", "done")
    commit = Sent(fleet, "PUT", "commit", NEW)
    stored.wait()
    committed = go_in_commit(fleet, how, "commit", stored)
    if how == "killed":
        fleet.kill()
        for hold in holds:
            hold.let_go()
    expected |= {"source": OLD, "replaced": NEW, "commit": NEW if committed else OLD}
    with fleet.second.client() as client:
        for key in by_the_other:
            assert client.get(BUCKET, key).body == OLD, "nobody was told otherwise"
        assert client.get(BUCKET, "commit").body == expected["commit"]
    fleet.wait_given_up()
    meanwhile(fleet, by_the_other)
    fleet.second.wait_cleaned()
    if how == "killed":
        fleet.first.start()
    else:
        # A pass of its background jobs that hangs would keep it waiting.
        delete.let_go()
        fleet.thaw()
        for hold in holds:
            hold.let_go()
        assert [key for key, one in sent.items() if one.acknowledged()] == []
        assert commit.acknowledged() == committed
    fleet.check(expected)


def test_a_copy_that_was_begun(tmp_path, stack):
    """The database carries out its begin when the instance is frozen: continued, it must not have the backend copy."""
    fleet = Fleet(tmp_path, stack)
    with fleet.second.client() as client:
        for key in ("source", "begun"):
            assert client.put(BUCKET, key, OLD).status == 200
    with fleet.postgres.locked("SELECT id FROM blobs WHERE key = 'begun' FOR UPDATE"):
        copy = Sent(fleet, "PUT", "begun", headers=[("x-amz-copy-source", f"{BUCKET}/source")])
        harness.wait_for("its begin", fleet.postgres.waiting)
        fleet.freeze()
    fleet.reserved("begun")
    fleet.wait_given_up()
    meanwhile(fleet, {"begun": "overwritten"})
    fleet.second.wait_cleaned()
    fleet.thaw()
    # It may begin anew.
    fleet.check({"source": OLD, "begun": OLD if copy.acknowledged() else OTHER})


def test_a_part_copy_that_was_begun(tmp_path, stack):
    """The same of UploadPartCopy: the part that another client has put under its number meanwhile stays what it is."""
    fleet = Fleet(tmp_path, stack)
    with fleet.second.client() as client:
        assert client.put(BUCKET, "source", OLD).status == 200
        named, _ = upload(client, "parts")
    part = [("partNumber", "2"), *named]
    with fleet.postgres.locked("SELECT id FROM blobs WHERE key = 'parts' FOR UPDATE"):
        copy = Sent(fleet, "PUT", "parts", query=part, headers=[("x-amz-copy-source", f"{BUCKET}/source")])
        harness.wait_for("its begin", fleet.postgres.waiting)
        fleet.freeze()
    harness.wait_for("its attempt", lambda: fleet.postgres.rows("SELECT 1 FROM part_attempts"))
    fleet.wait_given_up()
    with fleet.second.client() as client:
        assert client.put(BUCKET, "parts", OTHER, query=part).status == 200
    fleet.thaw()
    # It may begin anew.
    second = OLD if copy.acknowledged() else OTHER
    etags = [f'"{hashlib.md5(body).hexdigest()}"' for body in (NEW[:400_000], second)]
    complete(fleet.second, "parts", named, manifest_of(etags))
    fleet.check({"source": OLD, "parts": NEW[:400_000] + second})


# What the other instance is asked while a Complete is held, and what is there then.
ASKED = {
    "left": NEW,
    "overwritten": OTHER,
    "deleted": None,
    "asked again": NEW,
    "asked again, overwritten": OTHER,
    "asked again, deleted": None,
}


def upload(client, key):
    """An upload of two parts: the query that names it, and its manifest."""
    created = client.request("POST", BUCKET, key, [("uploads", "")])
    named = [("uploadId", lean.xml_texts(created.body, "UploadId")[0])]
    parts = [NEW[:400_000], NEW[400_000:]]
    etags = [client.put(BUCKET, key, part, query=[("partNumber", str(i)), *named]).header("etag") for i, part in enumerate(parts, 1)]
    return named, manifest_of(etags)


def complete(server, key, named, manifest):
    with server.client() as client:
        answer = client.request("POST", BUCKET, key, named, body=manifest)
        assert answer.status == 200 and b"<Error>" not in answer.body, f"{key}: {answer}"


@pytest.mark.parametrize("how", HOW[:2])
def test_a_complete(tmp_path, stack, how):
    """An upload has no lease: whoever is asked for its Complete again goes on from where it was. A part has one."""
    fleet = Fleet(tmp_path, stack)
    stub = fleet.stubs[0]
    keys = {f"{phase}/{what}": what for phase in ("sent", "answered") for what in ASKED}
    with fleet.second.client() as client:
        uploads = {key: upload(client, key) for key in [*keys, "commit", "part"]}
    holds, sent = {}, {}
    for key in [*keys, "commit"]:
        holds[key] = stub.hold("POST", f"{key}!", "body" if key.startswith("sent") else "done")
        sent[key] = Sent(fleet, "POST", key, query=uploads[key][0], body=uploads[key][1])
        holds[key].wait()
    part = [("partNumber", "1"), *uploads["part"][0]]
    at_half = stub.hold("PUT", "part!", "half")
    at_half.let_go()
    sent["part"] = Sent(fleet, "PUT", "part", NEW, first=400_000, query=part)
    at_half.wait()
    assert go_in_commit(fleet, how, "commit", holds.pop("commit"))
    if how == "killed":
        fleet.kill()
        for hold in holds.values():
            hold.let_go()
    fleet.wait_given_up()
    with fleet.second.client() as client:
        assert client.get(BUCKET, "commit").body == NEW
        for key, what in keys.items():
            assert client.get(BUCKET, key).status == 404
            if what.startswith("asked again"):
                complete(fleet.second, key, *uploads[key])
                assert client.get(BUCKET, key).body == NEW
            if what.endswith("overwritten"):
                assert client.put(BUCKET, key, OTHER).status == 200
            if what.endswith("deleted"):
                assert client.delete(BUCKET, key).status == 204
        # Another part of that number, which stays, whatever the first instance's client sends then.
        etags = [client.put(BUCKET, "part", OTHER, query=part).header("etag"), f'"{hashlib.md5(NEW[400_000:]).hexdigest()}"']
        uploads["part"] = (uploads["part"][0], manifest_of(etags))
    if how == "killed":
        fleet.first.start()
    else:
        fleet.thaw()
        for hold in holds.values():
            hold.let_go()
        assert not sent.pop("part").acknowledged()
        assert sent.pop("commit").acknowledged()
        for one in sent.values():
            one.acknowledged()
    for key in uploads:
        # Asked again by a client that has heard nothing: it says yes, and revives nothing.
        complete(fleet.second, key, *uploads[key])
    fleet.check({**{key: ASKED[what] for key, what in keys.items()}, "commit": NEW, "part": OTHER + NEW[400_000:]})


@pytest.mark.parametrize("how", HOW[:2])
def test_a_copy(tmp_path, stack, how):
    """Of the replicator, which is the other instance's from then on."""
    fleet = Fleet(tmp_path, stack, factor=2)
    source, target = fleet.stubs
    phases = {"begun": (source, "GET", "done"), "partly sent": (source, "GET", "half"), "stored": (target, "PUT", "done")}
    by_the_other = {f"{phase}/{what}": what for phase in phases for what in MEANWHILE}
    bodies = {**MEANWHILE, "left": NEW}
    expected = {key: bodies[what] for key, what in by_the_other.items()}
    holds = {}
    for key in by_the_other:
        stub, method, place = phases[key.split("/")[0]]
        holds[key] = stub.hold(method, f"{key}!", place)
    last = target.hold("PUT", "commit!", "done")
    with fleet.second.client() as client:
        # One pass is to find them all: it begins when this one's copy goes on.
        gate = target.hold("PUT", "gate!", "done")
        assert client.put(BUCKET, "gate", NEW).status == 200
        gate.wait()
        for key in [*by_the_other, "commit"]:
            assert client.put(BUCKET, key, NEW).status == 200
        gate.let_go()
    for hold in [*holds.values(), last]:
        hold.wait()
    for key in by_the_other:
        fleet.reserved(key)
    assert go_in_commit(fleet, how, "commit", last)
    if how == "killed":
        fleet.kill()
        for hold in holds.values():
            hold.let_go()
    fleet.wait_given_up()
    meanwhile(fleet, by_the_other)
    there = sum(body is not None for body in expected.values()) + 2
    harness.wait_for("the other's copies", lambda: [len(fleet.live(i)) for i in range(2)] == [there, there])
    if how == "killed":
        fleet.first.start()
    else:
        # A pass that hangs would keep it waiting.
        fleet.first.process.child.send_signal(signal.SIGCONT)
        for hold in holds.values():
            hold.let_go()
        fleet.thaw()
    fleet.check({**expected, "commit": NEW, "gate": NEW})
