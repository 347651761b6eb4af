"""Operators over a fleet on one PostgreSQL: drains and removals that pass between instances, imports, and the restore drill."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP
from stub import Stub
from test_operations import admin, bodies, program, put_all, read_all
from test_postgres import check_bytes

BUCKET = harness.BUCKET
NAMES = ("near", "cloud")


@pytest.fixture
def fleet(tmp_path):
    """Two instances over one database and two directories, every object on both."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(tmp_path / "postgres.log")
        stack.callback(postgres.end)
        backends = [harness.directory_backend(name, tmp_path / name, quota_bytes=harness.GIB) for name in NAMES]
        replication = {"factor": 2, "worker_interval": "300ms"}
        path = {**QUICK_CLEANUP["write_path"], "lease": "6s"}
        settings = {**QUICK_CLEANUP, "write_path": path, "database": postgres.settings(), "replication": replication}
        servers = [harness.Server(tmp_path / name, backends, settings) for name in ("first", "second")]
        for server in servers:
            stack.callback(server.kill)
        yield postgres, servers, tmp_path


def copied(server, count):
    return all(one["object_count"] == count for one in server.status()["backends"])


def check_all(postgres, server, folder, names=NAMES):
    server.wait_cleaned()
    check_bytes(postgres, {name: harness.stored_in(folder / name) for name in names})


def test_a_drain_passes_to_another_instance(fleet):
    postgres, (first, second), folder = fleet
    for server in (first, second):
        server.stop()
        server.config["replication"]["factor"] = 1
        server.start()
    objects = bodies(30)
    put_all(first, objects)
    assert second.backend_status("near")["object_count"] == 30
    with first.client() as client:
        started = client.request("POST", BUCKET, "upload", query=[("uploads", "")])
        upload = lean.xml_texts(started.body, "UploadId")[0]
    assert admin(first, "drain", "near") == {"status": "started"}

    def told_by_both():
        one, other = (admin(server, "drain-status", "near") for server in (first, second))
        for told in (one, other):
            assert (told["objects_stuck"] is not None) == (told["told_by"] == told["worked_by"]), told
        assert one["told_by"] != other["told_by"]
        return one["worked_by"] == other["worked_by"] and one["worked_by"] in (one["told_by"], other["told_by"])

    harness.wait_for("that one works at it, and both know who", told_by_both)
    first.kill()
    told = harness.wait_for(
        "moved by the other", lambda: (s := admin(second, "drain-status", "near"))["objects_remaining"] == 0 and s, 60
    )
    assert told["status"] == "draining" and told["uploads_open"] == 1, told
    told = harness.wait_for(
        "that it is its work", lambda: (s := admin(second, "drain-status", "near"))["worked_by"] == s["told_by"] and s, 60
    )
    assert told["objects_stuck"] == 0, told
    second.stop()
    first.start()
    assert admin(first, "drain-status", "near")["status"] == "draining", "it is in the database"
    second.start()
    more = bodies(5, prefix="more")
    put_all(second, more)
    assert first.backend_status("near")["object_count"] == 0, "nothing new goes there, through whichever instance"
    with second.client() as client:
        assert client.request("DELETE", BUCKET, "upload", query=[("uploadId", upload)]).status == 204
    for server in (first, second):
        harness.wait_for("drained", lambda: admin(server, "drain-status", "near")["status"] == "drained", 60)
        read_all(server, {**objects, **more})
    assert harness.stored_in(folder / "near") == {}
    assert admin(second, "drain-cancel", "near") == {"status": "cancelled"}
    put_all(second, {"back": b"again"})
    assert first.backend_status("near")["object_count"] == 1
    check_all(postgres, first, folder)


def test_a_backend_is_removed_from_a_fleet(fleet):
    postgres, (first, second), folder = fleet
    objects = bodies(30)
    put_all(first, objects)
    harness.wait_for("copies", lambda: copied(second, 30), 60)
    preview = admin(second, "remove-backend", "near", "--purge")
    assert (preview["object_count"], preview["objects_lost"]) == (30, 0)
    wrong = admin(first, "remove-backend", "near", "--purge", "--confirm", preview["confirm_token"], check=False)
    assert wrong.returncode == 1, "it confirms where it was shown"
    done = admin(second, "remove-backend", "near", "--purge", "--confirm", preview["confirm_token"])
    assert (done["copies"], done["objects_lost"]) == (30, 0)
    harness.wait_for("drained", lambda: admin(first, "drain-status", "near")["status"] == "drained", 60)
    assert harness.stored_in(folder / "near") == {}
    for server in (first, second):
        server.stop()
        server.config["backends"] = server.config["backends"][1:]
        server.config["replication"]["factor"] = 1
        server.start()
        assert [one["name"] for one in server.status()["backends"]] == ["cloud"]
        read_all(server, objects)
    check_all(postgres, first, folder, ["cloud"])


def test_imports_and_losses_on_a_fleet(fleet):
    postgres, (first, second), folder = fleet
    objects = bodies(6)
    put_all(first, objects)
    harness.wait_for("copies", lambda: copied(second, 6), 60)
    (folder / "near" / "theirs").write_bytes(b"put there by others")
    victim = sorted(harness.stored_in(folder / "near"))[0]
    if victim == "theirs":
        victim = sorted(harness.stored_in(folder / "near"))[1]
    (folder / "near" / victim).unlink()
    where = ["--addr", f"127.0.0.1:{second.admin_port}", "--backend", "near", "--bucket", BUCKET]
    events = [json.loads(line) for line in program("sync", *where, "--json").stdout.splitlines()]
    found = {event["key"]: event["found"] for event in events if event["event"] == "item"}
    lost = victim.rsplit("!", 1)[0].replace("!!", "!")
    assert found == {f"{BUCKET}/theirs": "imported", lost: "copy_gone"}, found
    objects["theirs"] = b"put there by others"
    for server in (first, second):
        read_all(server, objects)
    harness.wait_for("copies again", lambda: copied(first, 7), 60)
    again = program("sync", *where).stdout
    assert "0 imported" in again and "7 known" in again, again
    check_all(postgres, first, folder)


class Load:
    """Clients of both instances, each with keys of its own. `may_be`: what a key may hold (None: nothing); one value, unless
    an answer did not come."""

    def __init__(self, servers):
        self.may_be, self.acknowledged = {}, 0
        self.running = self.deleting = True
        self.threads = [
            threading.Thread(target=self.work, args=(server, number), daemon=True) for number, server in enumerate(servers * 2)
        ]
        for thread in self.threads:
            thread.start()

    def work(self, server, number):
        dice = random.Random(number)
        mine = []
        while self.running:
            with contextlib.suppress(OSError, lean.Cut), server.client() as client:
                while self.running:
                    self.one(client, dice, number, mine)
            time.sleep(0.1)

    def one(self, client, dice, number, mine):
        roll = dice.random()
        if not mine or roll < 0.5:
            mine.append(f"load{number}/{len(mine):04}")
            key = mine[-1]
        else:
            key = dice.choice(mine)
        body = None if roll > 0.9 and self.deleting else dice.randbytes(dice.randrange(4_000))
        before = self.may_be.get(key, {None})
        self.may_be[key] = before | {body}
        answer = client.delete(BUCKET, key) if body is None else client.put(BUCKET, key, body)
        if answer.status in (200, 204):
            self.may_be[key] = {body}
            self.acknowledged += 1
        else:
            time.sleep(0.1)

    def end(self):
        self.running = False
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def on_server(postgres, *command, database="s3o", **more):
    where = ["-h", str(postgres.directory), "-p", str(postgres.port), "-U", "s3o"]
    return subprocess.run([command[0], *where, "-d", database, *command[1:]], check=True, timeout=120, **more)


def dropped_and_restored(postgres, dump):
    for statement in ("DROP DATABASE s3o WITH (FORCE)", "CREATE DATABASE s3o TEMPLATE template0 ENCODING 'UTF8'"):
        on_server(postgres, "psql", "-Xqc", statement, database="postgres")
    on_server(postgres, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-1", "-f", str(dump), stdout=subprocess.DEVNULL)


def half_a_put(client, key, body):
    connection = client.connect()
    connection.send(client.signed("PUT", BUCKET, key, body=body).head() + body[: len(body) // 2])
    return connection


@pytest.mark.parametrize("running", [True, False])
def test_the_restore_drill(fleet, running):
    """A dump under load, more writes, the database dropped and restored, under instances that go on or are stopped; then
    `sync --restored`: what was acknowledged and has bytes is there, deletes since are told."""
    postgres, (first, second), folder = fleet
    kept = bodies(20, prefix="kept")
    put_all(first, kept)
    load = Load([first, second])
    harness.wait_for("a load", lambda: load.acknowledged > 150, 60)
    body = os.urandom(400_000)
    with first.client() as client:
        connection = half_a_put(client, "begun/before", body)
        harness.wait_for("a reservation", lambda: any(s == "reserved" for f in postgres.blobs().values() for s, _ in f.values()))
        dump = folder / "dump.sql"
        with open(dump, "wb") as output:
            on_server(postgres, "pg_dump", stdout=output)
        connection.send(body[len(body) // 2 :])
        assert connection.response("PUT").status == 200, "acknowledged after the dump, reserved in it"
        connection.close()
    seen = load.acknowledged
    harness.wait_for("more of it", lambda: load.acknowledged > seen + 150, 60)
    deleted = sorted(kept)[:5]
    with second.client() as client:
        for key in deleted:
            assert client.delete(BUCKET, key).status == 204
    load.deleting = False
    # What was deleted is gone: the dump cannot know of it, and nothing else does.
    left = lambda: [at.name for name in NAMES for at in (folder / name / BUCKET / "kept").glob("00[0-4]!*")]  # noqa: E731
    harness.wait_for("the end of its bytes", lambda: not left(), 60)
    seen = load.acknowledged
    harness.wait_for("writes to the end", lambda: load.acknowledged > seen + 50, 60)
    if not running:
        load.end()
        for server in (first, second):
            server.stop()
    dropped_and_restored(postgres, dump)
    if running:
        load.end()

        def noticed(server):
            with contextlib.suppress(OSError, AssertionError, KeyError, ValueError):
                return server.status()["restored"]

        for server in (first, second):
            harness.wait_for("it is noticed", lambda: noticed(server), 60, every=0.2)
        with first.client() as client:
            harness.wait_for("writes", lambda: client.put(BUCKET, "while/held", b"1").status == 200, every=0.1)
        put_all(first, {"while/held": b"22"})
        time.sleep(4)
        assert sum(one["cleanup_queue"] for one in second.status()["backends"]) > 0, "nothing is deleted meanwhile"
        command = ["sync", "--restored", "--addr", f"127.0.0.1:{second.admin_port}", "--json"]
    else:
        command = ["sync", "--restored", "--config", first.write_config(), "--json"]
    events = [json.loads(line) for line in program(*command).stdout.splitlines()]
    assert events[-1]["event"] == "result" and events[-1]["released"], events[-1]
    for server in (first, second):
        if not running:
            server.start()
        assert not server.status()["restored"]
    told = {event["key"] for event in events if event.get("found") == "object_gone"}
    assert {f"{BUCKET}/{key}" for key in deleted} <= told, "deletes after the dump are listed, not revived"
    expected = {**load.may_be, **{key: {value} for key, value in kept.items()}, "begun/before": {body}}
    expected.update({key: {None} for key in deleted})
    if running:
        expected["while/held"] = {b"22"}
    with first.client() as one, second.client() as two:
        for key, may_be in expected.items():
            answer = one.get(BUCKET, key)
            other = two.get(BUCKET, key)
            assert answer.status == other.status and answer.status in (200, 404), f"{key}: {answer}, {other}"
            got = answer.body if answer.status == 200 else None
            assert got in may_be, f"{key}: {answer.status}, {len(answer.body)} bytes"
            assert got is None or other.body == got, key
    harness.wait_for("copies", lambda: copied(first, len(listed(first))), 60)
    check_all(postgres, first, folder)


def test_a_write_that_was_reserved_in_the_dump(tmp_path):
    """The only copy of what was acknowledged after it, by a run that the dump knows as living."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(tmp_path / "postgres.log")
        stack.callback(postgres.end)
        backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
        settings = {**QUICK_CLEANUP, "database": postgres.settings()}
        server = harness.Server(tmp_path / "server", backends, settings)
        stack.callback(server.kill)
        body = os.urandom(400_000)
        with server.client() as client:
            connection = half_a_put(client, "begun", body)
            harness.wait_for("a reservation", lambda: any(s == "reserved" for f in postgres.blobs().values() for s, _ in f.values()))
            dump = tmp_path / "dump.sql"
            with open(dump, "wb") as output:
                on_server(postgres, "pg_dump", stdout=output)
            connection.send(body[len(body) // 2 :])
            assert connection.response("PUT").status == 200
            connection.close()
        server.stop()
        dropped_and_restored(postgres, dump)
        done = program("sync", "--restored", "--config", server.write_config(), "--json")
        result = json.loads(done.stdout.splitlines()[-1])
        assert (result["imported"], result["released"]) == (1, True), result
        server.start()
        server.wait_cleaned()
        read_all(server, {"begun": body})


def test_an_instance_that_slept_through_a_restore(fleet):
    """It finds out that the database was put back after `sync` has compared it: nothing is held again."""
    postgres, (first, second), folder = fleet
    for server in (first, second):
        server.stop()
        server.config["circuit_breaker"] = {"open_timeout": "1s"}
        server.start()
    put_all(second, {"before": b"1"})
    dump = folder / "dump.sql"
    with open(dump, "wb") as output:
        on_server(postgres, "pg_dump", stdout=output)
    put_all(second, {"after": b"2"})
    harness.wait_for("copies", lambda: copied(first, 2), 60)
    second.process.child.send_signal(signal.SIGSTOP)
    dropped_and_restored(postgres, dump)
    with first.client() as client:
        harness.wait_for("writes", lambda: client.put(BUCKET, "while/held", b"3").status == 200, 60, every=0.1)
    assert first.status()["restored"]
    done = program("sync", "--restored", "--addr", f"127.0.0.1:{first.admin_port}", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["released"]
    second.process.child.send_signal(signal.SIGCONT)
    with second.client() as client:
        harness.wait_for("writes", lambda: client.put(BUCKET, "again", b"4").status == 200, 60, every=0.1)
    second.told("has run since")
    assert not any("nothing is deleted" in line.get("msg", "") for line in second.lines()), "it has noticed"
    for server in (first, second):
        assert not server.status()["restored"]
        read_all(server, {"before": b"1", "after": b"2", "while/held": b"3", "again": b"4"})


def test_what_a_sleeping_instance_was_about_to_delete(tmp_path):
    """Its database is put back while it stands between being told what to delete and the DELETE: the bytes stay."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(tmp_path / "postgres.log")
        stack.callback(postgres.end)
        stub = Stub(harness.free_port())
        stack.callback(stub.close)
        settings = {
            "cleanup_queue": {**QUICK_CLEANUP["cleanup_queue"], "concurrency": 1},
            "write_path": {**QUICK_CLEANUP["write_path"], "lease": "6s"},
            "database": postgres.settings(),
        }
        server = harness.Server(tmp_path / "server", [stub.backend("cloud", quota_bytes=harness.GIB)], settings)
        stack.callback(server.kill)
        objects = bodies(20)
        put_all(server, objects)
        dump = tmp_path / "dump.sql"
        with open(dump, "wb") as output:
            on_server(postgres, "pg_dump", stdout=output)
        # While the deleter is busy with another one, all of them come due: it is told of them at once.
        gate = stub.hold("DELETE", f"{BUCKET}/gate", "body")
        with server.client() as client:
            assert client.put(BUCKET, "gate", b"1").status == 200
            for key in ("gate", *objects):
                assert client.delete(BUCKET, key).status == 204
        due = "SELECT 1 FROM blobs WHERE state = 'doomed' AND not_before <= now_millis()"
        harness.wait_for("all are due", lambda: len(postgres.rows(due)) == 1 + len(objects))
        gate.wait()
        held = stub.hold("DELETE", f"{BUCKET}/k", "body")
        gate.let_go()
        held.wait()
        server.process.child.send_signal(signal.SIGSTOP)
        dropped_and_restored(postgres, dump)
        time.sleep(6.5)  # longer than its lease
        held.let_go()
        server.process.child.send_signal(signal.SIGCONT)

        def noticed():
            with contextlib.suppress(OSError, AssertionError, KeyError, ValueError):
                return server.status()["restored"]

        harness.wait_for("it is noticed", noticed, 60, every=0.1)
        done = program("sync", "--restored", "--addr", f"127.0.0.1:{server.admin_port}", "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert events[-1]["event"] == "result" and events[-1]["released"], events[-1]
        deleted = [name for method, name in stub.requests if method == "DELETE" and name.startswith(f"{BUCKET}/k")]
        gone = [event["key"] for event in events if event.get("found") == "object_gone"]
        assert len(deleted) == len(gone) == 1, "what was under way, and nothing after it"
        read_all(server, {key: body for key, body in objects.items() if f"{BUCKET}/{key}" not in gone})


def test_what_a_kill_cut_off_after_the_backup(tmp_path):
    """A temporary file and an open upload that the restored database does not know go, and nothing that it knows."""
    folder = tmp_path / "near"
    server = harness.Server(tmp_path / "server", [harness.directory_backend("near", folder, quota_bytes=harness.GIB)], QUICK_CLEANUP)
    database, backup = tmp_path / "server/metadata.db", tmp_path / "backup.db"
    part = os.urandom(1000)

    def half_an_upload(client, key):
        started = client.request("POST", BUCKET, key, query=[("uploads", "")])
        upload = lean.xml_texts(started.body, "UploadId")[0]
        sent = client.request("PUT", BUCKET, key, query=[("partNumber", "1"), ("uploadId", upload)], body=part)
        assert sent.status == 200, sent
        return upload, sent.header("etag")

    unfinished = lambda: sorted(str(at.relative_to(folder)) for at in folder.rglob(".s3o~*"))  # noqa: E731
    with server:
        with server.client() as client:
            upload, etag = half_an_upload(client, "deep/known")
            known = unfinished()
            assert len(known) == 1, known
            with sqlite3.connect(database) as source, sqlite3.connect(backup) as target:
                source.backup(target)
            half_an_upload(client, "deep/cut")
            connection = half_a_put(client, "deep/half", os.urandom(400_000))
            harness.wait_for("a temporary file", lambda: len(unfinished()) == 3)
            server.kill()
            connection.close()
        for file in database.parent.glob("metadata.db*"):
            file.unlink()
        backup.rename(database)
        cut = sorted(set(unfinished()) - set(known))
        for dry_run in (["--dry-run"], []):
            done = program("sync", "--restored", "--config", server.write_config(), "--json", *dry_run)
            events = [json.loads(line) for line in done.stdout.splitlines()]
            assert events[-1]["unfinished"] == 2, events[-1]
            assert sorted(one["name"] for one in events if one.get("found") == "unfinished") == cut
            assert unfinished() == sorted(known + cut if dry_run else known)
        server.start()
        with server.client() as client:
            manifest = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
            done = client.request("POST", BUCKET, "deep/known", query=[("uploadId", upload)], body=manifest.encode())
            assert done.status == 200, done
        read_all(server, {"deep/known": part})
        server.wait_cleaned()
        assert len(harness.stored_in(folder)) == 1 and unfinished() == [], harness.stored_in(folder)


def test_what_may_be_newer_than_the_restored_database_knows(tmp_path):
    """An upload that was completed after the backup, of a key that was overwritten while it was open: nothing deletes it."""
    folder = tmp_path / "near"
    stale = {"cleanup_queue": {**QUICK_CLEANUP["cleanup_queue"], "multipart_stale_timeout": "1s"}}
    backend = harness.directory_backend("near", folder, quota_bytes=harness.GIB)
    server = harness.Server(tmp_path / "server", [backend], QUICK_CLEANUP)
    database, backup = tmp_path / "server/metadata.db", tmp_path / "backup.db"
    with server:
        with server.client() as client:
            started = client.request("POST", BUCKET, "key", query=[("uploads", "")])
            query = [("uploadId", lean.xml_texts(started.body, "UploadId")[0])]
            part = client.request("PUT", BUCKET, "key", query=[("partNumber", "1"), *query], body=b"p" * 1000)
            assert part.status == 200, part
            put_all(server, {"key": b"between"})
            with sqlite3.connect(database) as source, sqlite3.connect(backup) as target:
                source.backup(target)
            etag = part.header("etag")
            manifest = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
            done = client.request("POST", BUCKET, "key", query=query, body=manifest.encode())
            assert done.status == 200, done
        server.kill()
        for file in database.parent.glob("metadata.db*"):
            file.unlink()
        backup.rename(database)
        done = program("sync", "--restored", "--config", server.write_config(), "--json")
        assert json.loads(done.stdout.splitlines()[-1])["unclear"] == 1
        server.config = harness.merged(server.config, stale)
        server.start()
        (letter,) = admin(server, "cleanup-dlq")["items"]
        assert (letter["reason"], letter["object_key"], letter["size_bytes"]) == ("unclear", f"{BUCKET}/key", 1000)
        assert admin(server, "cleanup-dlq", "requeue") == {"requeued": 0}, "not among others"
        assert server.backend_status("near")["orphan_bytes"] == 1000
        read_all(server, {"key": b"between"})
        assert sorted(harness.stored_in(folder).values()) == [7, 1000]
        assert admin(server, "cleanup-dlq", "requeue", str(letter["id"])) == {"requeued": 1}
        server.wait_cleaned()
        assert sorted(harness.stored_in(folder).values()) == [7]


def listed(server):
    with server.client() as client:
        return list(client.list_keys(BUCKET))
