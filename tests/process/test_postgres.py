"""The program on PostgreSQL: the main flows, and what is in the database afterwards; kills of the program."""

import hashlib
import os
import random
import time

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP, three_backends
from test_crash import POOL, SOURCES, World, Writer, check_every_key, manifest_of


@pytest.fixture(scope="module")
def postgres(place, stack):
    server = harness.Postgres(place / "postgres.log")
    stack.callback(server.end)
    return server


def check_bytes(postgres, stored):
    """Every backend holds exactly the blobs that live, of the sizes that are charged, and the shares say the same."""
    named = postgres.blobs()
    for backend, found in stored.items():
        rows = named.get(backend, {})
        assert {state for state, _ in rows.values()} <= {"live"}, f"{backend} is not cleaned: {rows}"
        assert {name: size for name, (_, size) in rows.items()} == found, backend
    query = "SELECT b.name, sum(charged) AS charged, sum(live_bytes) AS live FROM quota_shares JOIN backends b ON b.id = backend GROUP BY b.name"
    for row in postgres.rows(query):
        held = sum(stored[row["name"]].values())
        assert (row["charged"], row["live"]) == (held, held), row


def test_the_main_flows(place, stack, postgres):
    backends, s3s = three_backends(place / "flows", stack)
    settings = {**QUICK_CLEANUP, "database": postgres.settings(), "replication": {"factor": 2, "worker_interval": "200ms"}}
    server = stack.enter_context(harness.Server(place / "flows/server", backends, settings))
    keys = ["a", "a/b", "a/ä", "a!", "z" * 900]
    with server.client() as client:
        for number, key in enumerate(keys):
            assert client.put(harness.BUCKET, key, POOL[:number]).status == 200
        assert client.put(harness.BUCKET, "big", POOL[:300_000]).status == 200
        created = client.request("POST", harness.BUCKET, "parts", [("uploads", "")])
        query = [("uploadId", lean.xml_texts(created.body, "UploadId")[0])]
        parts = [POOL[: 5 * harness.MIB], b"end"]
        put = [client.put(harness.BUCKET, "parts", part, query=[("partNumber", str(i)), *query]) for i, part in enumerate(parts, 1)]
        manifest = manifest_of([answer.header("etag") for answer in put])
        assert client.request("POST", harness.BUCKET, "parts", query, body=manifest).status == 200
        assert client.put(harness.BUCKET, "a", b"second").status == 200
        assert client.put(harness.BUCKET, "gone", b"first").status == 200
        assert client.delete(harness.BUCKET, "gone").status == 204
    for _ in range(2):
        with server.client() as client:
            assert client.get(harness.BUCKET, "a").body == b"second"
            assert client.get(harness.BUCKET, "z" * 900).body == POOL[:4]
            assert client.get(harness.BUCKET, "parts").body == b"".join(parts)
            assert client.get(harness.BUCKET, "gone").status == 404
            assert sorted(client.list_keys(harness.BUCKET)) == sorted([*keys, "big", "parts"])
        server.stop()
        server.start()
    harness.wait_for("copies", lambda: server.metric("s3o_replication_pending") == 0 and two_copies(postgres))
    server.wait_cleaned()
    folder = place / "flows"
    check_bytes(postgres, {"near": harness.stored_in(folder / "near"), "nas": harness.stored_in(folder / "nas"), "cloud": s3s.stored()})


def two_copies(postgres):
    query = "SELECT count(*) FROM blobs WHERE state = 'live' GROUP BY bucket, key"
    return {row["count"] for row in postgres.rows(query)} == {2}


@pytest.mark.timeout(300)
def test_sigkill_loses_nothing_acknowledged(place, stack):
    """As test_crash, which has more of it."""
    seed = os.environ.get("S3O_TEST_SEED") or str(random.randrange(1 << 30))
    print(f"S3O_TEST_SEED={seed}")
    dice, world = random.Random(seed), World()
    postgres = harness.Postgres(place / "postgres-kill.log")
    stack.callback(postgres.end)
    backends, _ = three_backends(place / "kill", stack)
    settings = {**QUICK_CLEANUP, "database": postgres.settings(), "routing_strategy": "spread"}
    server = harness.Server(place / "kill/server", backends, settings)
    stack.callback(server.kill)
    with server.client() as client:
        for key, body in SOURCES.items():
            assert client.put(harness.BUCKET, key, body).status == 200
            world.settle(key, hashlib.sha256(body).hexdigest())
    number = 0
    # More rounds where the machine is slow: a load that is too thin means nothing.
    while number < 6 or world.acknowledged <= 60:
        number += 1
        writers = [Writer(server, world, one, f"{seed}/{number}/{one}") for one in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(dice.uniform(0.3, 1.5))
        server.kill()
        for writer in writers:
            writer.join(30)
            assert not writer.is_alive() and writer.fault is None, f"{writer.fault!r}"
        world.crashed()
        server.start()
        check_every_key(server, world)
    server.stop()
