"""A deployment moves from SQLite to PostgreSQL: nothing is lost, nothing is served from two databases."""

import contextlib
import sqlite3
import subprocess

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP
from test_crash import POOL, manifest_of
from test_postgres import check_bytes

KEYS = {"a": b"", "a//b": POOL[:1], "ä/../%2e": POOL[:70_000], "z" * 1000: b"end"}


def migrate(config, source):
    command = [harness.BINARY, "migrate-store", "--config", config, "--from", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=150)


@pytest.fixture
def ended():
    """Ends what a test started, before its directory goes."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def old(tmp_path, ended):
    """An instance on SQLite that was killed with an upload open, a part and an object half way, and blobs to be deleted."""
    backends = [harness.directory_backend(name, tmp_path / name, quota_bytes=harness.GIB) for name in ("near", "nas")]
    root = {"root": {"access_key_id": "rootkey", "secret_access_key": "rootsecret"}}
    settings = {"cleanup_queue": {"interval": "1h", "grace": "1s"}, "write_path": {"settle": "2s"}, "auth": root}
    server = ended.enter_context(harness.Server(tmp_path / "old", backends, settings))
    with server.client() as client, lean.Client(server.address, "rootkey", "rootsecret") as owner:
        assert owner.request("PUT", "made").status == 200
        assert owner.put("made", "inside", b"inside").status == 200
        for key, body in KEYS.items():
            headers = [("x-amz-meta-name", "value"), ("x-amz-tagging", "colour=blue"), ("cache-control", "no-store")]
            assert client.put(harness.BUCKET, key, b"first").status == 200
            assert client.put(harness.BUCKET, key, body, headers=headers).status == 200
        assert client.put(harness.BUCKET, "gone", b"gone").status == 200
        assert client.delete(harness.BUCKET, "gone").status == 204
        whole = start_upload(client, "whole")
        assert finish_upload(client, whole, "whole", [put_part(client, whole, "whole", 1, POOL[:5])]).status == 200
        begun = start_upload(client, "begun")
        etag = put_part(client, begun, "begun", 1, POOL[: 5 * harness.MIB])
        halves = [half_a_write(server, "half", []), half_a_write(server, "begun", [("partNumber", "2"), *begun])]
        under_way = "SELECT 1 FROM part_attempts UNION ALL SELECT 1 FROM blobs WHERE state = 'reserved' AND upload IS NULL"
        harness.wait_for("both halves", lambda: len(harness.rows(server.database, under_way)) == 2)
    server.kill()
    for connection in halves:
        connection.close()
    return server, backends, settings, begun, etag


def start_upload(client, key):
    created = client.request("POST", harness.BUCKET, key, [("uploads", "")])
    return [("uploadId", lean.xml_texts(created.body, "UploadId")[0])]


def put_part(client, upload, key, number, body):
    answer = client.put(harness.BUCKET, key, body, query=[("partNumber", str(number)), *upload])
    assert answer.status == 200, answer
    return answer.header("etag")


def finish_upload(client, upload, key, etags):
    return client.request("POST", harness.BUCKET, key, upload, body=manifest_of(etags))


def execute(database, statement):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)
        connection.commit()


def half_a_write(server, key, query):
    """Leaves a request hanging whose body has begun."""
    client = server.client()
    signed = client.signed("PUT", harness.BUCKET, key, query, body=POOL[: 6 * harness.MIB], payload_hash="UNSIGNED-PAYLOAD")
    connection = client.connect()
    connection.send(signed.head() + POOL[:100_000])
    return connection


def test_everything_moves(tmp_path, ended, old):
    server, backends, settings, begun, etag = old
    postgres = harness.Postgres(tmp_path / "postgres.log")
    ended.callback(postgres.end)
    quick = harness.merged({**settings, **QUICK_CLEANUP}, {"database": postgres.settings()})
    new = harness.Server(tmp_path / "new", backends, quick, start=False)
    done = migrate(new.write_config(), server.database)
    assert done.returncode == 0, done.stderr
    assert "each row was read back" in done.stdout

    ended.enter_context(new)
    new.start()
    with new.client() as client, lean.Client(new.address, "rootkey", "rootsecret") as owner:
        for key, body in KEYS.items():
            answer = client.get(harness.BUCKET, key)
            assert (answer.status, answer.body) == (200, body)
            told = [answer.header(name) for name in ("x-amz-meta-name", "x-amz-tagging-count", "cache-control")]
            assert told == ["value", "1", "no-store"]
        assert sorted(client.list_keys(harness.BUCKET)) == sorted([*KEYS, "whole"], key=str.encode)
        assert client.get(harness.BUCKET, "whole", query=[("partNumber", "1")]).body == POOL[:5]
        assert owner.get("made", "inside").body == b"inside"
        # What the old instance left is given up, and the upload goes on where it was.
        left = "SELECT 1 AS one FROM part_attempts UNION ALL SELECT 1 FROM blobs WHERE state = 'reserved' AND upload IS NULL"
        harness.wait_for("the end of the old instance", lambda: postgres.rows(left) == [])
        listed = client.request("GET", harness.BUCKET, "begun", begun)
        assert lean.xml_texts(listed.body, "PartNumber") == ["1"]
        etags = [etag, put_part(client, begun, "begun", 2, b"tail")]
        assert finish_upload(client, begun, "begun", etags).status == 200
        assert client.get(harness.BUCKET, "begun").body == POOL[: 5 * harness.MIB] + b"tail"
        assert client.put(harness.BUCKET, "a", b"third").status == 200
    new.wait_cleaned()
    check_bytes(postgres, {name: harness.stored_in(tmp_path / name) for name in ("near", "nas")})

    # The old file serves no more, and the move is not made twice.
    server.launch()
    assert server.process.child.wait(60) != 0
    assert "was moved to the PostgreSQL database s3o on 127.0.0.1" in server.process.tail()
    server.process = None
    again = migrate(new.write_config(), server.database)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True), again.stderr


def test_refusals(tmp_path, ended, old):
    server, backends, settings, *_ = old
    postgres = harness.Postgres(tmp_path / "postgres.log")
    ended.callback(postgres.end)
    new = harness.Server(tmp_path / "new", backends, {**settings, "database": postgres.settings()}, start=False)
    config = new.write_config()

    def refused(reason, source=server.database, config=config):
        done = migrate(config, source)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr

    refused("No such file", tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()
    refused("driver is sqlite", config=server.write_config())
    server.start()
    refused("in use by another process")
    server.stop()
    # Books that do not add up are not moved; nothing stays behind.
    execute(server.database, "UPDATE backend_totals SET live_bytes = live_bytes + 1 WHERE backend = 1")
    refused("do not agree with its blobs, and nothing mends them: nothing was moved")
    assert postgres.rows("SELECT 1 AS one FROM versions") == []
    execute(server.database, "UPDATE backend_totals SET live_bytes = live_bytes - 1 WHERE backend = 1")
    # A database that serves another deployment is left alone.
    far = [harness.directory_backend("far", tmp_path / "far")]
    harness.Server(tmp_path / "other", far, {"database": postgres.settings()}).stop()
    refused("holds a deployment already")
    server.start()
    server.stop()
