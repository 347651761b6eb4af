"""What operators do from the command line: dead letters, drains, removed and lost backends, sync after restores."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess

import pytest

import harness
from conftest import QUICK_CLEANUP
from stub import Stub

BUCKET = harness.BUCKET
TOKEN = "operators-only"


def program(*arguments, check=True, environment=None, timeout=120):
    """The product as a command."""
    done = subprocess.run(
        [harness.BINARY, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
    )
    if check:
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def admin(server, *arguments, check=True):
    """`admin` with its answer as JSON."""
    done = program("admin", "--addr", f"127.0.0.1:{server.admin_port}", "-json", *arguments, check=check)
    return json.loads(done.stdout) if done.returncode == 0 else done


def directories(folder, *names, quota=harness.GIB):
    return [harness.directory_backend(name, folder / name, quota_bytes=quota) for name in names]


def put_all(server, objects):
    with server.client() as client:
        for key, body in objects.items():
            assert client.put(BUCKET, key, body).status == 200, key


def read_all(server, objects):
    with server.client() as client:
        for key, body in objects.items():
            answer = client.get(BUCKET, key)
            assert (answer.status, answer.body) == (200, body), key
        assert sorted(client.list_keys(BUCKET)) == sorted(objects)


def bodies(count, size=2_000, prefix="k"):
    return {f"{prefix}/{i:03}": os.urandom(size + i) for i in range(count)}


def test_dead_letters_are_requeued_and_written_off(tmp_path):
    stub = Stub(harness.free_port())
    quick = {"cleanup_queue": {"interval": "50ms", "grace": "0s", "retry_first": "10ms", "retry_max": "20ms", "max_attempts": 3}}
    settings = {**quick, "admin": {"token": TOKEN}}
    with contextlib.closing(stub), harness.Server(tmp_path / "server", [stub.backend("stub")], settings) as server:
        address = f"127.0.0.1:{server.admin_port}"

        def ask(*arguments, **more):
            return program("admin", "--addr", address, *arguments, environment={"S3O_ADMIN_TOKEN": TOKEN}, **more)

        refused = program("admin", "--addr", address, "status", check=False)
        assert refused.returncode == 1 and "401" in refused.stderr and "token" in refused.stderr, refused.stderr
        assert "stub" in program("admin", "--config", server.write_config(), "status").stdout
        stub.refuse = {"DELETE": 500}
        put_all(server, {"one": b"1" * 100, "two": b"2" * 200})
        with server.client() as client:
            for key in ("one", "two"):
                assert client.delete(BUCKET, key).status == 204
        listed = harness.wait_for(
            "dead letters",
            lambda: (found := json.loads(ask("--json", "cleanup-dlq").stdout))["depth"] == 2 and found["items"],
        )
        first, second = sorted(listed, key=lambda item: item["size_bytes"])
        assert (first["object_key"], first["attempts"], first["backend_name"]) == (f"{BUCKET}/one", 3, "stub")
        assert "500" in first["last_error"] and first["moved_at"] >= first["first_enqueued_at"]
        table = ask("cleanup-dlq").stdout
        assert f"{BUCKET}/two" in table and "2 copies" in table, table
        assert f"{BUCKET}/one" in ask("cleanup-dlq", "--backend", "stub", "--limit", 1, "list").stdout
        for action in ([], ["requeue"]):
            unknown = ask("cleanup-dlq", "--backend", "nowhere", *action, check=False)
            assert unknown.returncode == 1 and "no backend" in unknown.stderr, action

        assert ask("cleanup-dlq", "write-off", second["id"]).stdout.strip() == "written off"
        assert ask("cleanup-dlq", "write-off", second["id"], check=False).returncode == 1
        status = json.loads(ask("--json", "status").stdout)["backends"][0]
        assert (status["orphan_bytes"], status["cleanup_dlq"]) == (100, 1)
        stub.mend()
        assert json.loads(ask("--json", "cleanup-dlq", "requeue").stdout) == {"requeued": 1}
        harness.wait_for("the bytes are gone", lambda: len(stub.blobs()) == 1)
        server.admin = lambda path, inner=server.admin: inner(path, token=TOKEN)
        server.wait_cleaned()
        assert json.loads(ask("--json", "cleanup-queue").stdout) == {"depth": 0, "items": []}


def test_nobody_answers(tmp_path):
    done = program("admin", "--addr", f"127.0.0.1:{harness.free_port()}", "status", check=False)
    assert done.returncode == 1 and "is it running" in done.stderr, done.stderr


def test_a_drain_moves_everything_and_survives_a_restart(tmp_path):
    backends = directories(tmp_path, "old", "new", quota=4 * harness.MIB)
    objects = bodies(40, 20_000)
    server = harness.Server(tmp_path / "server", backends, QUICK_CLEANUP)
    with server:
        put_all(server, objects)
        assert server.backend_status("old")["object_count"] == 40
        with server.client() as client:
            started = client.request("POST", BUCKET, "upload", query=[("uploads", "")])
            upload = harness.lean.xml_texts(started.body, "UploadId")[0]
        assert admin(server, "drain", "old") == {"status": "started"}
        harness.wait_for("all moved", lambda: server.backend_status("new")["object_count"] == 40)
        told = harness.wait_for("cleaned", lambda: (s := admin(server, "drain-status", "old"))["cleanup_queue"] == 0 and s)
        assert told["status"] == "draining" and told["uploads_open"] == 1, "an upload is waited for"
        assert told["objects_moved"] == 40 and told["bytes_moved"] == sum(map(len, objects.values()))
        assert server.metric("s3o_drain_active") == 1 and server.metric("s3o_drain_objects_moved_total") == 40
    with server.start():
        assert admin(server, "drain-status", "old")["status"] == "draining", "it survives a restart"
        put_all(server, {"later": b"x"})
        objects["later"] = b"x"
        assert server.backend_status("old")["object_count"] == 0, "nothing new goes there"
        with server.client() as client:
            assert client.request("DELETE", BUCKET, "upload", query=[("uploadId", upload)]).status == 204
        harness.wait_for("drained", lambda: admin(server, "drain-status", "old")["status"] == "drained", 60)
        assert server.metric("s3o_drain_active") == 0
        assert harness.stored_in(tmp_path / "old") == {}
        read_all(server, objects)
    server.config["backends"] = backends[1:]
    with server.start():
        read_all(server, objects)
        assert [one["name"] for one in server.status()["backends"]] == ["new"], "nothing names it any more"


def test_what_cannot_be_moved_is_told_and_a_drain_can_be_cancelled(tmp_path):
    backends = [*directories(tmp_path, "big"), *directories(tmp_path, "small", quota=50_000)]
    with harness.Server(tmp_path / "server", backends, QUICK_CLEANUP) as server:
        objects = {"large": os.urandom(60_000), "fits": os.urandom(1_000)}
        put_all(server, objects)
        admin(server, "drain", "big")
        told = harness.wait_for(
            "it is told", lambda: (s := admin(server, "drain-status", "big"))["objects_moved"] == 1 and s["objects_stuck"] == 1 and s
        )
        assert "no backend takes another copy" in told["error"] and told["objects_remaining"] == 1
        text = program("admin", "--addr", f"127.0.0.1:{server.admin_port}", "drain-status", "big").stdout
        assert "1 copies could not be moved" in text and "last trouble" in text, text
        with server.client() as client:
            assert client.put(BUCKET, "new", b"n" * 60_000).status == 507, "and nothing new goes there"
        assert admin(server, "drain-cancel", "big") == {"status": "cancelled"}
        assert admin(server, "drain-status", "big")["status"] == "not draining"
        put_all(server, {"new": b"n" * 60_000})
        read_all(server, {**objects, "new": b"n" * 60_000})
        assert admin(server, "drain", "nowhere", check=False).returncode == 1


@pytest.mark.parametrize("purge", [True, False])
def test_a_backend_is_removed(tmp_path, purge):
    backends = directories(tmp_path, "gone", "kept")
    server = harness.Server(tmp_path / "server", backends, {**QUICK_CLEANUP, "replication": {"factor": 2}})
    with server:
        objects = bodies(30)
        put_all(server, objects)
        harness.wait_for("copies", lambda: server.backend_status("kept")["object_count"] == 30)
        flags = ["--purge"] if purge else []
        preview = admin(server, "remove-backend", "gone", *flags)
        assert (preview["object_count"], preview["objects_lost"]) == (30, 0)
        assert preview["total_bytes"] == sum(map(len, objects.values()))
        assert server.backend_status("gone")["object_count"] == 30, "a preview changes nothing"
        assert admin(server, "remove-backend", "gone", *flags, "--confirm", "guessed", check=False).returncode == 1
        other = [] if purge else ["--purge"]
        wrong = admin(server, "remove-backend", "gone", *other, "--confirm", preview["confirm_token"], check=False)
        assert wrong.returncode == 1, "it confirms what was shown"
        done = admin(server, "remove-backend", "gone", *flags, "--confirm", preview["confirm_token"])
        assert (done["copies"], done["objects_lost"]) == (30, 0)
        again = admin(server, "remove-backend", "gone", *flags, "--confirm", preview["confirm_token"], check=False)
        assert again.returncode == 1, "it confirms once"
        harness.wait_for("drained", lambda: admin(server, "drain-status", "gone")["status"] == "drained", 60)
        left = harness.stored_in(tmp_path / "gone")
        assert len(left) == (0 if purge else 30)
        read_all(server, objects)
    server.config["backends"] = backends[1:]
    server.config["replication"]["factor"] = 1
    with server.start():
        read_all(server, objects)
        assert [one["name"] for one in server.status()["backends"]] == ["kept"]
    harness.check_bytes(server, {"kept": harness.stored_in(tmp_path / "kept")}, {"kept": sum(map(len, objects.values()))})


def test_a_lost_backend_without_copies_is_removed(tmp_path):
    backends = directories(tmp_path, "lost", "kept")
    server = harness.Server(tmp_path / "server", backends, QUICK_CLEANUP)
    with server:
        put_all(server, bodies(5))
    shutil.rmtree(tmp_path / "lost")
    server.config["backends"] = backends[1:]
    with server.start():
        told = lambda: [line for line in server.lines() if line.get("backend") == "lost" and line.get("blobs") == 5]
        warned = harness.wait_for("rows of a backend that is not configured to be counted", told)
        assert warned[-1]["level"].upper() == "WARN"
        with server.client() as client:
            assert client.get(BUCKET, "k/000").status == 503
            assert client.request("HEAD", BUCKET, "k/000").status == 200, "the row remains"
        preview = admin(server, "remove-backend", "lost")
        assert (preview["object_count"], preview["objects_lost"]) == (5, 5)
        assert admin(server, "drain", "lost", check=False).returncode == 1
        done = admin(server, "remove-backend", "lost", "--confirm", preview["confirm_token"])
        assert done["objects_lost"] == 5
        with server.client() as client:
            assert client.get(BUCKET, "k/000").status == 404
            assert client.list_keys(BUCKET) == []
        put_all(server, {"new": b"x"})


def test_sync_imports_what_others_put_there(tmp_path):
    s3s = harness.S3sFs(tmp_path / "s3s")
    try:
        base = s3s.root / s3s.bucket
        (base / BUCKET / "in").mkdir(parents=True)
        (base / "plain").write_bytes(b"plain bytes")
        (base / BUCKET / "in" / "bucket").write_bytes(b"of the bucket")
        server = harness.Server(tmp_path / "server", [s3s.backend("cloud", quota_bytes=harness.GIB)], QUICK_CLEANUP)
        with server:
            put_all(server, {"ours": b"ours", "in/ours": b"2"})
            where = ["--addr", f"127.0.0.1:{server.admin_port}", "--backend", "cloud", "--bucket", BUCKET]
            dry = program("sync", *where, "--dry-run").stdout
            assert "2 imported" in dry and "Nothing was changed" in dry, dry
            with server.client() as client:
                assert client.get(BUCKET, "plain").status == 404
            events = [json.loads(line) for line in program("sync", *where, "--json").stdout.splitlines()]
            found = {event["key"]: event["found"] for event in events if event["event"] == "item"}
            assert found == {f"{BUCKET}/plain": "imported", f"{BUCKET}/in/bucket": "imported"}
            assert events[-1]["event"] == "result" and events[-1]["known"] == 2
            objects = {"ours": b"ours", "in/ours": b"2", "plain": b"plain bytes", "in/bucket": b"of the bucket"}
            read_all(server, objects)
            again = program("sync", *where).stdout
            assert "0 imported" in again and "4 known" in again, again
            assert server.backend_status("cloud")["bytes_used"] == sum(map(len, objects.values()))
            # Overwritten and deleted as any object.
            put_all(server, {"plain": b"new"})
            with server.client() as client:
                assert client.delete(BUCKET, "in/bucket").status == 204
            server.wait_cleaned()
            assert not (base / "plain").exists() and not (base / BUCKET / "in" / "bucket").exists()
            unknown = program("sync", *where[:2], "--backend", "nowhere", "--bucket", BUCKET, check=False)
            assert unknown.returncode == 1 and "nowhere" in unknown.stderr
    finally:
        s3s.end()


def test_sync_reports_what_is_gone(tmp_path):
    backends = directories(tmp_path, "one", "two")
    server = harness.Server(tmp_path / "server", backends, {**QUICK_CLEANUP, "replication": {"factor": 2}})
    with server:
        objects = bodies(6)
        put_all(server, objects)
        harness.wait_for("copies", lambda: server.backend_status("two")["object_count"] == 6)
        names = sorted(harness.stored_in(tmp_path / "one"))
        for name in names[:2]:
            (tmp_path / "one" / name).unlink()
        lost = next(name for name in harness.stored_in(tmp_path / "two") if name.startswith(names[0].rsplit("!", 1)[0]))
        (tmp_path / "two" / lost).unlink()
        where = ["--addr", f"127.0.0.1:{server.admin_port}", "--bucket", BUCKET, "--json"]
        seen = []
        for backend in ("one", "two"):
            for line in program("sync", *where, "--backend", backend).stdout.splitlines():
                event = json.loads(line)
                if event["event"] == "item":
                    seen.append((backend, event["found"], event["key"]))
        first, second = (name.rsplit("!", 1)[0] for name in names[:2])
        assert ("one", "copy_gone", second) in seen or ("one", "copy_gone", first) in seen
        assert ("two", "object_gone", first) in seen and len(seen) == 3, seen
        del objects[first.split("/", 1)[1]]
        read_all(server, objects)
        harness.wait_for("copies again", lambda: server.backend_status("one")["object_count"] == 5, 60)


def hot_backup(database, backup):
    """Of a database in use, as `sqlite3 DATABASE .backup` does it."""
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(backup)) as target:
        source.backup(target)


def begin_upload(client, key, body):
    """A multipart upload of one part; what completes it."""
    started = client.request("POST", BUCKET, key, query=[("uploads", "")])
    upload = harness.lean.xml_texts(started.body, "UploadId")[0]
    query = [("partNumber", "1"), ("uploadId", upload)]
    return upload, client.request("PUT", BUCKET, key, query=query, body=body).header("etag")


def complete_upload(client, key, upload, etag):
    manifest = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    done = client.request("POST", BUCKET, key, query=[("uploadId", upload)], body=manifest.encode())
    assert done.status == 200, done.body


def upload_all(client, key, body):
    complete_upload(client, key, *begin_upload(client, key, body))


def put_back(server, backup):
    for name in ("metadata.db", "metadata.db-wal", "metadata.db-shm"):
        (server.folder / name).unlink(missing_ok=True)
    shutil.copy(backup, server.database)


def restore_drill(tmp_path, backends, offline):
    """A backup of the database, more writes and deletes, the backup put back: what was acknowledged and has bytes is there.
    Some keys lie under their hash, each written in another way."""
    settings = {**QUICK_CLEANUP, "replication": {"factor": 2, "worker_interval": "300ms"}}
    server = harness.Server(tmp_path / "server", backends, settings)
    backup = tmp_path / "backup.db"
    with server:
        before = bodies(20, prefix="before")
        put_all(server, before)
        harness.wait_for("copies", lambda: all(one["object_count"] == 20 for one in server.status()["backends"]))
    with server.start():
        hot_backup(server.database, backup)
        objects = dict(before)
        after = bodies(20, prefix="after")
        changed = {key: os.urandom(3_000) for key in list(before)[:5]}
        put_all(server, {**after, **changed})
        objects.update({**after, **changed})
        with server.client() as client:
            for key in list(before)[10:15]:
                assert client.delete(BUCKET, key).status == 204
                del objects[key]
            upload_all(client, "parts", b"p" * 5_000)
            objects["parts"] = b"p" * 5_000
            meta = {"content-type": "image/png", "x-amz-meta-who": "me"}
            assert client.put(BUCKET, "with/headers", b"h", headers=meta.items()).status == 200
            objects["with/headers"] = b"h"
            odd = {"/a//b": b"1", "ends in/": b"2" * 300_000, "ü\"" * 341: b"3"}
            put_all(server, odd)
            source = [("x-amz-copy-source", f"/{BUCKET}/with/headers")]
            assert client.put(BUCKET, "./copied", b"", headers=source).status == 200
            upload_all(client, "../parts", b"q" * 5_000)
            objects.update({**odd, "./copied": b"h", "../parts": b"q" * 5_000})
        server.wait_cleaned()
        harness.wait_for("copies", lambda: all(one["object_count"] == len(objects) for one in server.status()["backends"]))
    put_back(server, backup)

    command = ["sync", "--restored", "--config", server.write_config(), "--json"]
    if offline:
        events = [json.loads(line) for line in program(*command).stdout.splitlines()]
        server.start()
    else:
        server.start()
        assert server.status()["restored"], "it is seen without being told"
        server.told("nothing is deleted")
        # Whatever is given up meanwhile stays.
        put_all(server, {"while/held": b"1"})
        put_all(server, {"while/held": b"22"})
        objects["while/held"] = b"22"
        harness.time.sleep(3)
        assert sum(one["cleanup_queue"] for one in server.status()["backends"]) > 0
        events = [json.loads(line) for line in program(*command).stdout.splitlines()]
    result = events[-1]
    assert result["event"] == "result" and result["released"], result
    assert not server.status()["restored"]
    gone = {event["key"] for event in events if event.get("found") == "object_gone"}
    assert gone == {f"{BUCKET}/{key}" for key in list(before)[10:15]}, "deletes after the backup are listed, not revived"
    newer = {event["key"].split("/", 1)[1] for event in events if event.get("found") == "newer"}
    # The copy of an object of parts has a newer version in its name than the object itself.
    assert newer - {"parts", "../parts"} == set(changed) and result["differs"] == result["unclear"] == 0, result
    read_all(server, objects)
    with server.client() as client:
        answer = client.get(BUCKET, "with/headers")
        assert (answer.header("content-type"), answer.header("x-amz-meta-who")) == ("image/png", "me")
        assert client.get(BUCKET, "./copied").header("x-amz-meta-who") == "me"
    server.wait_cleaned()
    harness.wait_for("copies", lambda: all(one["object_count"] == len(objects) for one in server.status()["backends"]), 60)
    server.stop()
    return server, objects


@pytest.mark.parametrize("offline", [True, False])
def test_a_restored_database_of_directories(tmp_path, offline):
    server, objects = restore_drill(tmp_path, directories(tmp_path, "one", "two"), offline)
    size = sum(map(len, objects.values()))
    stored = {name: harness.stored_in(tmp_path / name) for name in ("one", "two")}
    harness.check_bytes(server, stored, {"one": size, "two": size})


def test_a_restored_database_of_s3_servers(tmp_path):
    servers = [harness.S3sFs(tmp_path / name) for name in ("one", "two")]
    try:
        backends = [s3s.backend(s3s.root.name, quota_bytes=harness.GIB) for s3s in servers]
        server, objects = restore_drill(tmp_path, backends, offline=True)
        size = sum(map(len, objects.values()))
        stored = {s3s.root.name: s3s.stored() for s3s in servers}
        harness.check_bytes(server, stored, {"one": size, "two": size})
    finally:
        for s3s in servers:
            s3s.end()


def test_what_was_moved_or_completed_after_the_backup(tmp_path):
    """An object that was moved keeps what only the database knows, an upload that was completed is not aborted as forgotten,
    and what the held database says of copies removes none."""
    backends = directories(tmp_path, "near", "other")
    server = harness.Server(tmp_path / "server", backends, QUICK_CLEANUP)
    backup = tmp_path / "backup.db"
    with server:
        with server.client() as client:
            assert client.put(BUCKET, "moved", b"hello", headers=[("x-amz-tagging", "a=b")]).status == 200
            etag = client.get(BUCKET, "moved").header("etag")
            upload = begin_upload(client, "parts", b"p" * 5_000)
        hot_backup(server.database, backup)
        admin(server, "drain", "near")
        moved = lambda: server.backend_status("near")["object_count"] == 0 and server.backend_status("near")["cleanup_queue"] == 0  # noqa: E731
        harness.wait_for("moved away", moved)
        admin(server, "drain-cancel", "near")
        with server.client() as client:
            complete_upload(client, "parts", *upload)
    put_back(server, backup)
    server.config["cleanup_queue"]["multipart_stale_timeout"] = "2s"
    with server.start():
        assert server.status()["restored"]
        put_all(server, {"held": b"1"})
        admin(server, "drain", "near")
        harness.time.sleep(3)
        assert "held" in "".join(harness.stored_in(tmp_path / "near")), "nothing is moved meanwhile"
        assert admin(server, "drain-status", "near")["uploads_open"] == 1, "or aborted"
        admin(server, "drain-cancel", "near")
        done = program("sync", "--restored", "--addr", f"127.0.0.1:{server.admin_port}", "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        found = [(event["backend"], event["key"], event["found"]) for event in events if event["event"] == "item"]
        moved = f"{BUCKET}/moved"
        assert set(found) == {
            ("near", f"{BUCKET}/parts", "imported"), ("other", moved, "copy"), ("near", moved, "copy_gone"),
        }, found
        server.wait_cleaned()
        read_all(server, {"moved": b"hello", "parts": b"p" * 5_000, "held": b"1"})
        with server.client() as client:
            assert client.get(BUCKET, "moved").header("etag") == etag
            assert b"<Key>a</Key>" in client.request("GET", BUCKET, "moved", query=[("tagging", "")]).body


def test_a_database_without_its_lock_file_is_held(tmp_path):
    server = harness.Server(tmp_path / "server", directories(tmp_path, "one"), QUICK_CLEANUP)
    with server:
        put_all(server, {"k": b"1"})
        assert not server.status()["restored"]
    with server.start():
        assert not server.status()["restored"], "a restart is no restore"
    (server.folder / "metadata.db.lock").unlink()
    with server.start():
        assert server.status()["restored"], "a database that came alone was put there by somebody"
        program("sync", "--restored", "--addr", f"127.0.0.1:{server.admin_port}")
        assert not server.status()["restored"]
        read_all(server, {"k": b"1"})


def test_a_lost_backend_is_replaced_and_trimmed_when_it_comes_back(tmp_path):
    stubs = [Stub(harness.free_port()) for _ in range(3)]
    breaker = {"enabled": True, "failure_threshold": 3, "open_timeout": "1s"}
    settings = {
        **QUICK_CLEANUP,
        "replication": {"factor": 2, "worker_interval": "300ms", "unhealthy_threshold": "3s"},
        "backend_circuit_breaker": breaker,
        "routing_strategy": "spread",
    }
    backends = [stub.backend(f"stub-{i}", quota_bytes=harness.GIB) for i, stub in enumerate(stubs)]
    with contextlib.ExitStack() as stack:
        for stub in stubs[1:]:
            stack.callback(stub.close)
        server = stack.enter_context(harness.Server(tmp_path / "server", backends, settings))
        objects = bodies(30)
        put_all(server, objects)

        def copies():
            return [server.backend_status(f"stub-{i}")["object_count"] for i in range(3)]

        harness.wait_for("two copies of each", lambda: sum(copies()) == 60)
        held = copies()[0]
        assert held > 0, "it holds something that can be lost"
        port = stubs[0].port
        kept = stubs[0].objects
        stubs[0].close()

        def read_until_it_opens():
            with server.client() as client:
                for key, body in objects.items():
                    assert client.get(BUCKET, key).body == body, "reads fall through to the other copy"
            return server.metric("s3o_circuit_breaker_state", name="stub-0") > 0

        # By the regular look, each minute, where reads find the others faster.
        harness.wait_for("the breaker opens", read_until_it_opens, 120)
        harness.wait_for("replacements", lambda: sum(copies()[1:]) == 60, 60)
        assert server.metric("s3o_replication_copies_created_total") >= 30 + held
        read_all(server, objects)
        stubs[0] = Stub(port)
        stubs[0].objects = kept
        stack.callback(stubs[0].close)
        harness.wait_for("surplus copies are trimmed", lambda: sum(copies()) == 60, 60)
        # It is counted behind its commit.
        harness.wait_for("their count", lambda: server.metric("s3o_over_replication_removed_total") == held)
        server.wait_cleaned()
        read_all(server, objects)


def test_copies_and_the_log_follow_the_file(tmp_path):
    """SIGHUP: of `replication` and `server.log_level`. The next regular look of a worker would be an hour away."""
    settings = {**QUICK_CLEANUP, "replication": {"worker_interval": "1h"}, "server": {"log_level": "warn"}}
    server = harness.Server(tmp_path / "server", directories(tmp_path, "one", "two", "three"), settings)

    def follow(factor, level):
        server.config["replication"]["factor"] = factor
        server.config["server"]["log_level"] = level
        server.write_config()
        server.process.child.send_signal(signal.SIGHUP)

    def copies(count):
        harness.wait_for(f"{count} copies", lambda: sum(one["object_count"] for one in server.status()["backends"]) == count, 60)

    def levels():
        """Audit lines are no log."""
        return {line["level"] for line in server.lines() if not line.get("audit")}

    with server:
        objects = bodies(10)
        put_all(server, objects)
        copies(10)
        follow(3, "warn")
        copies(30)
        assert "INFO" not in levels()
        follow(2, "info")
        copies(20)
        put_all(server, {"later": b"1"})
        copies(22)
        read_all(server, {**objects, "later": b"1"})
        harness.wait_for("a line of the new level", lambda: "INFO" in levels())
        assert not [line for line in server.lines() if "next start" in line.get("msg", "")]


@pytest.mark.parametrize("remedy", ["the marker", "a removal"])
def test_an_empty_backend_without_its_marker_is_not_taken_for_a_new_one(tmp_path, remedy):
    """Nothing was on it yet, so no row misses it; but what was written to the place under it would be hidden by it."""
    place = tmp_path / "disk"
    with harness.Server(tmp_path / "server", [harness.directory_backend("disk", place, quota_bytes=harness.GIB)]) as server:
        marker = (place / ".s3o/id").read_text()
        shutil.move(place, tmp_path / "unmounted")
        place.mkdir()
        server.stop()
        server.launch()
        harness.wait_for("the refusal", lambda: "was in use" in server.process.tail(100))
        harness.wait_for("its port", lambda: server.health()[0] == 200)
        with server.client() as client:
            assert client.put(BUCKET, "key", b"body").status in (503, 507)
            assert list(place.iterdir()) == []
            if remedy == "the marker":
                (place / ".s3o").mkdir()
                (place / ".s3o/id").write_text(marker)
            else:
                remove = lambda *more: admin(server, "remove-backend", "disk", *more)  # noqa: E731
                remove("--confirm", remove()["confirm_token"])
                admin(server, "drain-cancel", "disk")
            harness.wait_for("the backend", lambda: client.put(BUCKET, "key", b"body").status == 200)
