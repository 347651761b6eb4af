"""docs/disaster-recovery.md is true: every command in it is run, in its order, against a deployment in the state that its
section describes, and what the section promises is looked at afterwards."""

import contextlib
import os
import pathlib
import re
import sqlite3
import subprocess
import time

import pytest

import harness
from conftest import QUICK_CLEANUP
from stub import Stub
from test_redis import Redis

GUIDE = pathlib.Path(__file__).parent.parent.parent / "docs" / "disaster-recovery.md"
BUCKET = harness.BUCKET


def sections():
    """[(heading, [commands of each sh block])]."""
    found = []
    for part in re.split(r"^## ", GUIDE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        found.append((heading, re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)))
    return found


BLOCKS = dict(sections())


class Deployment:
    """`my.yaml`, `near` and `cloud`, as the guide has them; commands run in its folder with the product on the path."""

    def __init__(self, folder, stub=None, environment=None, **settings):
        self.folder = folder
        self.environment = environment or {}
        self.stub = stub
        backends = [
            harness.directory_backend("near", folder / "near", quota_bytes=harness.GIB),
            stub.backend("cloud") if stub else harness.directory_backend("cloud", folder / "cloud", quota_bytes=harness.GIB),
        ]
        shared = {**QUICK_CLEANUP, "replication": {"factor": 2, "worker_interval": "300ms"}}
        self.server = harness.Server(folder, backends, harness.merged(shared, settings), start=False)
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "s3-orchestrator").symlink_to(harness.BINARY)
        self.server.write_config = self.write_config
        # Of the same library that the product has in it: Debian's command may be missing.
        shell = self.bin / "sqlite3"
        shell.write_text(f"#!/bin/sh\nexec {os.sys.executable} {__file__} \"$@\"\n")
        shell.chmod(0o755)
        self.objects = {}

    def write_config(self):
        path = self.folder / "my.yaml"
        path.write_text(harness.yaml.safe_dump(self.server.config, sort_keys=False))
        return path

    def run(self, block):
        """A block as a shell runs it; the first command that fails ends it."""
        environment = {**os.environ, **self.environment, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def put(self, count, prefix="k"):
        with self.server.client() as client:
            for i in range(count):
                key, body = f"{prefix}/{i:03}", os.urandom(1_000 + i)
                assert client.put(BUCKET, key, body).status == 200
                self.objects[key] = body
        harness.wait_for(
            "copies", lambda: all(one["object_count"] == len(self.objects) for one in self.server.status()["backends"])
        )

    def check(self):
        with self.server.client() as client:
            for key, body in self.objects.items():
                answer = client.get(BUCKET, key)
                assert (answer.status, answer.body) == (200, body), key
            assert sorted(client.list_keys(BUCKET)) == sorted(self.objects)

    def is_held(self):
        with contextlib.suppress(OSError, AssertionError, KeyError, ValueError):
            return self.server.status()["restored"]

    def drain_status(self, backend):
        return harness.json.loads(self.run(f"s3-orchestrator admin --config my.yaml drain-status {backend} --json"))


def test_every_section_with_commands_has_its_test():
    tested = {
        "What holds the state",
        "The database does not answer",
        "Redis does not answer",
        "A backend that is lost for good",
        "A backend that is to be given up, and still answers",
        "Deletes that fail",
        "The database is restored from a backup",
        "Objects that others put on a backend",
    }
    assert {heading for heading, blocks in sections() if blocks} == tested
    text = GUIDE.read_text()
    assert text.count("s3-orchestrator ") - text.count("`s3-orchestrator") == sum(
        block.count("s3-orchestrator ") for blocks in BLOCKS.values() for block in blocks
    ), "a command outside a block that is run"


def test_status(tmp_path):
    place = Deployment(tmp_path, admin={"token": "secret-of-operators"})
    with place.server.start():
        (block,) = BLOCKS["What holds the state"]
        told = place.run(block)
        assert "database healthy" in told and '"name": "cloud"' in told, told


def test_the_database_does_not_answer(tmp_path):
    # What else this section and "Several instances" promise: test_outage.py, test_degraded.py and test_instances.py.
    with contextlib.closing(harness.Postgres(tmp_path / "postgres.log")) as postgres:
        place = Deployment(tmp_path, database=postgres.settings(), circuit_breaker={"open_timeout": "1s"})
        (block,) = BLOCKS["The database does not answer"]
        with place.server.start():
            place.put(5)
        # So short that it is renewed often; nobody writes any more who could lose it.
        place.server.config["write_path"]["lease"] = "400ms"
        with place.server.start():
            place.check()
            postgres.stop()
            harness.wait_for("degraded", lambda: '"degraded"' in place.server.health()[1])
            harness.wait_for("it opens", lambda: "circuit breaker opened" in place.server.log.read_text())
            told = place.run(block)
            assert "database NOT ANSWERING" in told and '"circuit breaker opened"' in told and '"name":"database"' in told, told
            assert "degraded_duration" in told and '"failures":' in told, told
            assert [place.server.health(path)[0] for path in ("/health", "/health/ready")] == [200, 200]
            with place.server.client() as client:
                for key, body in place.objects.items():
                    answer = client.get(BUCKET, key)
                    assert (answer.status, answer.body, answer.header("x-s3o-degraded")) == (200, body, "remembered")
                answer = client.get(BUCKET, "nobody's")
                assert (answer.status, answer.code, answer.header("x-s3o-degraded")) == (404, "NoSuchKey", "searched")
                for answer in (client.put(BUCKET, "k", b""), client.delete(BUCKET, "k"), client.request("GET", BUCKET)):
                    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "ServiceUnavailable", "1")
            # That it fails is said once, not at each attempt: ten renewals and more have failed then. One whose answer was lost
            # is asked about first, for `call_timeout`.
            place.server.told("the lease could not be renewed")
            time.sleep(1.2)
            messages = [line["msg"] for line in place.server.lines()]
            assert messages.count("the lease could not be renewed") in (1, 2), messages
            postgres.restart()
            harness.wait_for("it closes", lambda: "circuit breaker closed" in place.server.log.read_text())
            place.server.told("circuit breaker half-open")
            told = place.run(block)
            assert "database healthy" in told and '"circuit breaker half-open"' in told, told
            place.check()


def test_redis_does_not_answer(tmp_path):
    # What else this section promises: test_redis.py and test_budget_fleet.py.
    redis = Redis(tmp_path / "redis")
    try:
        place = Deployment(tmp_path, redis={"address": f"127.0.0.1:{redis.port}", "open_timeout": "1s"})
        (block,) = BLOCKS["Redis does not answer"]
        with place.server.start():
            place.put(2)
            used = lambda: {one["name"]: one["ingress_bytes"] for one in place.server.status()["backends"]}  # noqa: E731
            before = used()
            redis.end()
            harness.wait_for("it opens", lambda: place.server.metric("s3o_circuit_breaker_state", name="redis") > 0)
            harness.wait_for("it falls back", lambda: place.server.metric("s3o_redis_fallback_active") == 1)
            place.server.told("circuit breaker opened")
            told = place.run(block)
            assert '"circuit breaker opened"' in told and '"name":"redis"' in told and f'"ingress_bytes": {before["near"]}' in told, told
            place.check()
            redis.start()
            harness.wait_for("it closes", lambda: place.server.metric("s3o_redis_fallback_active") == 0, 60)
            place.server.told("circuit breaker closed")
            assert '"circuit breaker closed"' in place.run(block)
            assert used() == before, "nothing was written meanwhile"
    finally:
        redis.end()


def test_a_lost_backend(tmp_path):
    place = Deployment(tmp_path)
    with place.server.start():
        place.put(5)
        (block,) = BLOCKS["A backend that is lost for good"]
        told = place.run(block)
        assert "0 objects have no other copy" in told and "backend removed: 5 copies forgotten, 0 objects lost" in told, told
        harness.wait_for("drained", lambda: place.drain_status("cloud")["status"] == "drained")
        place.check()
    place.server.config["backends"] = place.server.config["backends"][:1]
    place.server.config["replication"]["factor"] = 1
    with place.server.start():
        place.check()


def test_a_drain(tmp_path):
    place = Deployment(tmp_path)
    with place.server.start():
        place.put(5)
        (block,) = BLOCKS["A backend that is to be given up, and still answers"]
        with place.server.client() as client:
            started = client.request("POST", BUCKET, "upload", [("uploads", "")])
            upload = [("uploadId", harness.lean.xml_texts(started.body, "UploadId")[0])]
        # It waits for the upload, however long the commands take.
        told = place.run(block)
        assert "draining near" in told and "near: draining" in told and "near is not drained any more" in told, told
        with place.server.client() as client:
            assert client.delete(BUCKET, "upload", query=upload).status == 204
        place.run(block.splitlines()[0])
        harness.wait_for("drained", lambda: place.drain_status("near")["status"] == "drained", 60)
        place.check()
    place.server.config["backends"] = place.server.config["backends"][1:]
    place.server.config["replication"]["factor"] = 1
    with place.server.start():
        place.check()


def test_dead_letters(tmp_path):
    quick = {"cleanup_queue": {"interval": "50ms", "grace": "0s", "retry_first": "10ms", "retry_max": "20ms", "max_attempts": 3}}
    with contextlib.closing(Stub(harness.free_port())) as stub:
        place = Deployment(tmp_path, stub, **quick)
        with place.server.start():
            place.put(3)
            stub.refuse = {"DELETE": 500}
            with place.server.client() as client:
                for key in place.objects:
                    assert client.delete(BUCKET, key).status == 204
            place.objects = {}
            held = lambda: place.server.backend_status("cloud")  # noqa: E731
            harness.wait_for("dead letters", lambda: held()["cleanup_dlq"] == 3)
            look, again, off = BLOCKS["Deletes that fail"]
            told = place.run(look)
            assert f"{BUCKET}/k/000" in told and "3 copies whose deletion failed for good" in told, told
            assert "3 will be tried again" in place.run(again)
            harness.wait_for("dead again", lambda: held()["cleanup_dlq"] == 3)
            before = held()["orphan_bytes"]
            assert "written off" in place.run(off)
            assert held()["cleanup_dlq"] == 2 and held()["orphan_bytes"] < before
            stub.mend()
            place.run(again)
            place.server.wait_cleaned()


def test_a_restored_database(tmp_path):
    place = Deployment(tmp_path)
    backup, _, restore, _, verify = BLOCKS["The database is restored from a backup"]
    with place.server.start():
        place.put(10, "before")
        place.run(backup)
        place.put(10, "after")
        with place.server.client() as client:
            gone = "before/003"
            assert client.delete(BUCKET, gone).status == 204
            del place.objects[gone]
        place.server.wait_cleaned()
    told = place.run(restore)
    assert "Nothing was changed" in told and "10 imported" in told and "1 objects dropped" in told, told
    assert f"{BUCKET}/{gone}" in told and "in use again" in told
    with place.server.start():
        place.check()
        assert "database healthy" in place.run(verify)
        assert not place.server.status()["restored"]


@pytest.mark.parametrize("running", [True, False])
def test_a_restored_postgres(tmp_path, running):
    with contextlib.closing(harness.Postgres(tmp_path / "postgres.log")) as postgres:
        environment = {"PGHOST": str(postgres.directory), "PGPORT": str(postgres.port), "PGUSER": "s3o"}
        quick = {"circuit_breaker": {"open_timeout": "1s"}}
        place = Deployment(tmp_path, environment=environment, database=postgres.settings(), **quick)
        _, backup, _, restore, verify = BLOCKS["The database is restored from a backup"]
        with place.server.start():
            place.put(10, "before")
            place.run(backup)
            place.put(10, "after")
            with place.server.client() as client:
                gone = "before/003"
                assert client.delete(BUCKET, gone).status == 204
                del place.objects[gone]
            place.server.wait_cleaned()
            if not running:
                place.server.stop()
            *put_back, compare = restore.splitlines()
            place.run("\n".join(put_back))
            if running:
                harness.wait_for("it is noticed", place.is_held, 60, every=0.2)
            told = place.run(compare)
            assert "1 objects dropped" in told and f"{BUCKET}/{gone}" in told and "in use again" in told, told
            if not running:
                assert "10 imported" in told, told
                place.server.start()
            place.check()
            assert "database healthy" in place.run(verify)


def test_objects_of_others(tmp_path):
    place = Deployment(tmp_path)
    (tmp_path / "near" / "2026").mkdir(parents=True)
    (tmp_path / "near" / "2026" / "cat.jpg").write_bytes(b"a cat")
    (tmp_path / "near" / "dog.jpg").write_bytes(b"a dog")
    with place.server.start():
        (block,) = BLOCKS["Objects that others put on a backend"]
        told = place.run(block)
        assert "2 imported" in told and '"event":"result"' in told.replace(" ", ""), told
        with place.server.client() as client:
            assert client.get(BUCKET, "2026/cat.jpg").body == b"a cat" and client.get(BUCKET, "dog.jpg").body == b"a dog"


if __name__ == "__main__":
    # As `sqlite3 DATABASE ".backup FILE"`.
    database, command = os.sys.argv[1:]
    assert command.startswith(".backup ")
    with contextlib.closing(sqlite3.connect(database)) as source:
        with contextlib.closing(sqlite3.connect(command.removeprefix(".backup "))) as target:
            source.backup(target)
