"""SIGKILL at random moments under concurrent load: nothing acknowledged is lost, nothing deleted comes back, no byte is left
that nobody charges for.

What a key may hold after a crash follows from when its writes began and were answered. A write that ended before another,
acknowledged one began cannot be what is there; a write that was never answered ended, at the latest, with the process. Each
check sees every key and compares whole bodies.
"""

import contextlib
import hashlib
import os
import random
import threading
import time

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP, three_backends

ROUNDS = 52
WRITERS = 6
KEYS_OWN, KEYS_SHARED = 9, 6
POOL = os.urandom(9 * harness.MIB)
# What copies are made of, put once.
SOURCES = {f"source/{size}": POOL[:size] for size in (0, 700, 300_000, 4_000_000)}


class Write:
    """A put or a delete (`digest` None) of a key; `end` is None while nothing was answered."""

    def __init__(self, digest):
        self.digest, self.start, self.end, self.acknowledged = digest, time.monotonic(), None, False


class World:
    """What was asked and answered, per key."""

    def __init__(self):
        self.lock = threading.Lock()
        self.writes = {}
        # Completes that nobody answered, by upload: asked again at the end.
        self.completing = {}
        self.acknowledged = self.unanswered = 0

    def began(self, key, digest):
        with self.lock:
            write = Write(digest)
            self.writes.setdefault(key, []).append(write)
            return write

    def answered(self, key, write, status):
        with self.lock:
            write.end = time.monotonic()
            write.acknowledged = status in (200, 204)
            self.acknowledged += write.acknowledged
            if 400 <= status < 500:
                # Refused: it never was.
                self.writes[key].remove(write)

    def crashed(self):
        """The process is gone: whatever was not answered ended now."""
        with self.lock:
            for writes in self.writes.values():
                for write in writes:
                    if write.end is None:
                        write.end = time.monotonic()
                        self.unanswered += 1

    def allowed(self, key, asked_at):
        """Digests that a read which began at `asked_at` may return (None: no such key)."""
        with self.lock:
            writes = list(self.writes.get(key, []))
        later_starts = [one.start for one in writes if one.acknowledged and one.end <= asked_at]
        newest = max(later_starts, default=None)
        found = {one.digest for one in writes if newest is None or one.end is None or one.end >= newest}
        return found if newest is not None else found | {None}

    def settle(self, key, digest):
        """A read with no write under way saw this: from now on it is the truth."""
        with self.lock:
            seen = Write(digest)
            seen.end, seen.acknowledged = seen.start, True
            self.writes[key] = [seen]


def a_body(dice):
    size = dice.choice([0, 1, 700, 4096, 60_000, 70_000, 300_000, 1_100_000, 3_000_000])
    at = dice.randrange(len(POOL) - size)
    return POOL[at : at + size]


class Writer(threading.Thread):
    """Puts, overwrites, deletes, reads and multipart uploads until the server is gone."""

    def __init__(self, server, world, number, seed):
        super().__init__(daemon=True)
        self.server, self.world = server, world
        self.dice = random.Random(seed)
        self.keys = [f"own/{number}/{i}" for i in range(KEYS_OWN)] + [f"shared/{i}" for i in range(KEYS_SHARED)]
        self.fault = None

    def run(self):
        try:
            with self.server.client(timeout=20) as client:
                while True:
                    self.step(client)
        except (lean.Cut, OSError):
            # The kill. A cut before it is found by the check that the process was alive until then.
            pass
        except BaseException as fault:
            self.fault = fault

    def step(self, client):
        key, what = self.dice.choice(self.keys), self.dice.random()
        if what < 0.60:
            self.put(client, key)
        elif what < 0.75:
            write = self.world.began(key, None)
            self.world.answered(key, write, client.delete(harness.BUCKET, key).status)
        elif what < 0.82:
            self.multipart(client, key)
        elif what < 0.88:
            self.copy(client, key)
        else:
            self.read(client, key)

    def put(self, client, key):
        body = a_body(self.dice)
        write = self.world.began(key, hashlib.sha256(body).hexdigest())
        answer = client.put(harness.BUCKET, key, body)
        assert answer.status in (200, 503), answer
        self.world.answered(key, write, answer.status)

    def copy(self, client, key):
        """Of an object that never changes; by the backend itself where key and source come to be on one."""
        source = self.dice.choice(sorted(SOURCES))
        write = self.world.began(key, hashlib.sha256(SOURCES[source]).hexdigest())
        answer = client.request("PUT", harness.BUCKET, key, headers=[("x-amz-copy-source", f"{harness.BUCKET}/{source}")])
        assert answer.status in (200, 503), answer
        self.world.answered(key, write, answer.status)

    def read(self, client, key):
        asked_at = time.monotonic()
        answer = client.get(harness.BUCKET, key)
        assert answer.status in (200, 404), answer
        digest = hashlib.sha256(answer.body).hexdigest() if answer.status == 200 else None
        assert digest in self.world.allowed(key, asked_at), f"{key}: {answer.status}, a body of nobody or too old"

    def multipart(self, client, key):
        created = client.request("POST", harness.BUCKET, key, [("uploads", "")])
        assert created.status == 200, created
        upload = lean.xml_texts(created.body, "UploadId")[0]
        parts = [POOL[: 5 * harness.MIB], a_body(self.dice) or b"x"]
        etags = []
        for number, part in enumerate(parts, 1):
            query = [("partNumber", str(number)), ("uploadId", upload)]
            answer = client.put(harness.BUCKET, key, part, query=query)
            assert answer.status in (200, 503), answer
            if answer.status == 503:
                return
            etags.append(answer.header("etag"))
        if self.dice.random() < 0.2:
            assert client.delete(harness.BUCKET, key, query=[("uploadId", upload)]).status == 204
            return
        manifest = manifest_of(etags)
        write = self.world.began(key, hashlib.sha256(b"".join(parts)).hexdigest())
        self.world.completing[upload] = (key, write, manifest)
        answer = client.request("POST", harness.BUCKET, key, [("uploadId", upload)], body=manifest)
        assert answer.status == 503 or answer.status == 200 and b"<Error>" not in answer.body, answer
        self.world.answered(key, write, answer.status)
        if answer.status == 200:
            del self.world.completing[upload]


def manifest_of(etags):
    named = "".join(f"<Part><PartNumber>{i}</PartNumber><ETag>{etag}</ETag></Part>" for i, etag in enumerate(etags, 1))
    return f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()


def check_every_key(server, world):
    with server.client() as client:
        for key in sorted(world.writes):
            asked_at = time.monotonic()
            answer = client.get(harness.BUCKET, key)
            assert answer.status in (200, 404), f"{key}: {answer}"
            digest = hashlib.sha256(answer.body).hexdigest() if answer.status == 200 else None
            allowed = world.allowed(key, asked_at)
            assert digest in allowed, f"{key}: found {digest} ({answer.status}), allowed {allowed}"
            world.settle(key, digest)
        there = {key for key, writes in world.writes.items() if writes[-1].digest is not None}
        assert set(client.list_keys(harness.BUCKET)) == there, "the listing and the objects differ"


def one_round(server, world, dice, seed):
    """Load, kill, restart, check."""
    writers = [Writer(server, world, number, f"{seed}/{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(dice.uniform(0.03, 1.0))
    assert server.process.alive(), server.process.tail()
    server.kill()
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive(), "a writer hangs after the process is gone"
        assert writer.fault is None, f"{writer.fault!r}"
    world.crashed()
    if dice.random() < 0.25:
        # Killed again while it starts and recovers.
        server.launch()
        time.sleep(dice.uniform(0, 0.25))
        server.kill()
    server.config["server"]["driver"] = dice.choice(["ring", "epoll"])
    server.config["server"]["relay"] = dice.choice(["splice", "copy", "auto"])
    server.start()
    check_every_key(server, world)


@pytest.mark.timeout(900)
def test_sigkill_loses_nothing_acknowledged(place, stack):
    seed = os.environ.get("S3O_TEST_SEED") or str(random.randrange(1 << 30))
    print(f"S3O_TEST_SEED={seed}")
    dice = random.Random(seed)
    backends, s3s = three_backends(place, stack)
    settings = {**QUICK_CLEANUP, "routing_strategy": "spread"}
    server, world = harness.Server(place / "server", backends, settings), World()
    stack.callback(server.kill)
    with server.client() as client:
        for key, body in SOURCES.items():
            write = world.began(key, hashlib.sha256(body).hexdigest())
            world.answered(key, write, client.put(harness.BUCKET, key, body).status)
    number = 0
    # More rounds where the machine is slow: thinner a load than this would mean nothing, nor kills that hit no requests.
    while number < ROUNDS or world.acknowledged <= 20 * ROUNDS or world.unanswered <= ROUNDS:
        one_round(server, world, dice, f"{seed}/{number}")
        number += 1

    end_uploads(server, world, s3s)
    check_every_key(server, world)
    server.wait_cleaned()
    charged = {one["name"]: one["bytes_used"] for one in server.status()["backends"]}
    server.stop()
    stored = {name: harness.stored_in(place / name) for name in ("near", "nas")}
    harness.check_bytes(server, {**stored, "cloud": s3s.stored()}, charged)


def end_uploads(server, world, s3s):
    """Uploads survive restarts. A Complete that nobody answered is asked again; every other open upload is aborted."""
    server.stop()
    open_uploads = harness.rows(server.database, "SELECT * FROM uploads WHERE state IN ('open', 'completing')")
    server.start()
    with server.client() as client:
        for row in open_uploads:
            query, known = [("uploadId", row["upload"])], world.completing.get(row["upload"])
            if known is not None:
                key, write, manifest = known
                answer = client.request("POST", row["bucket"], key, query, body=manifest)
                if answer.status == 200 and b"<Error>" not in answer.body:
                    # Its version is as old as the first Complete: a later write of the key stays above it.
                    write.end, write.acknowledged = time.monotonic(), True
                    world.writes[key].append(write)
                    continue
                # s3s-fs forgets an upload before it puts its parts together: a Complete that it was cut off from is lost.
                lost = not s3s.upload_file(row["backend_upload"]).exists() and row["name"].decode() not in s3s.stored()
                assert lost and answer.code == "InvalidPart", f"{row}: {answer}"
            answer = client.delete(row["bucket"], row["key"], query=query)
            assert answer.status == 204, f"{row}: {answer}"


def test_what_was_asked_of_a_backend_and_never_answered(tmp_path):
    """A Complete and an Abort that the backend carried out, and an upload that it lost, while the process was down."""
    parts = [POOL[: 5 * harness.MIB], POOL[:1000]]
    s3s = harness.S3sFs(tmp_path / "s3s")
    with contextlib.ExitStack() as stack:
        stack.callback(s3s.end)
        backends = [s3s.backend("cloud", quota_bytes=harness.GIB)]
        server = stack.enter_context(harness.Server(tmp_path / "server", backends, QUICK_CLEANUP))
        uploads = {}
        with server.client() as client:
            for key in ("completed", "aborted", "lost"):
                created = client.request("POST", harness.BUCKET, key, [("uploads", "")])
                query = [("uploadId", lean.xml_texts(created.body, "UploadId")[0])]
                put = [client.put(harness.BUCKET, key, part, query=[("partNumber", str(i)), *query]) for i, part in enumerate(parts, 1)]
                uploads[key] = query, manifest_of([answer.header("etag") for answer in put])
        server.stop()
        there = {row["key"].decode(): row for row in harness.rows(server.database, "SELECT * FROM uploads")}
        with lean.Client(("127.0.0.1", s3s.port), s3s.access_key, s3s.secret) as direct:
            names = {key: (s3s.bucket, row["name"], [("uploadId", row["backend_upload"])]) for key, row in there.items()}
            assert direct.request("POST", *names["completed"], body=uploads["completed"][1]).status == 200
            assert direct.request("DELETE", *names["aborted"]).status == 204
        s3s.upload_file(there["lost"]["backend_upload"]).unlink()
        server.start()
        with server.client() as client:
            answers = {key: client.request("POST", harness.BUCKET, key, query, body=body) for key, (query, body) in uploads.items()}
            assert [(one.status, one.code) for one in answers.values()] == [(200, None)] + [(400, "InvalidPart")] * 2, answers
            for key in ("aborted", "lost"):
                assert client.delete(harness.BUCKET, key, query=uploads[key][0]).status == 204
            assert client.get(harness.BUCKET, "completed").body == b"".join(parts)
            assert client.list_keys(harness.BUCKET) == ["completed"]
        server.wait_cleaned()
        charged = {"cloud": server.backend_status("cloud")["bytes_used"]}
        server.stop()
        harness.check_bytes(server, {"cloud": s3s.stored()}, charged)
