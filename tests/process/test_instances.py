"""Several instances over one PostgreSQL: who is alive, whose writes count, who does the background work."""

import concurrent.futures
import contextlib
import signal
import threading

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP
from test_crash import POOL
from test_postgres import check_bytes
from test_s3_users import client_of, code_of, hang_up, names, user

# Longer than a machine stands still: only who is stopped loses it.
LEASE = 8.0
AUTH = {"users": [user("ann", ["create-buckets"]), user("bob", ["create-buckets"])]}
BODY = POOL[: 2 * harness.MIB]


@pytest.fixture
def fleet(tmp_path):
    """Two instances over one database and the same two directories."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(tmp_path / "postgres.log")
        stack.callback(postgres.end)
        backends = [harness.directory_backend(name, tmp_path / name, quota_bytes=harness.GIB) for name in ("near", "nas")]
        path = {**QUICK_CLEANUP["write_path"], "lease": f"{LEASE}s"}
        settings = {**QUICK_CLEANUP, "write_path": path, "database": postgres.settings(), "auth": AUTH}
        servers = [harness.Server(tmp_path / name, backends, settings) for name in ("first", "second")]
        for server in servers:
            stack.callback(server.kill)
        yield postgres, servers, tmp_path


def half_a_put(client, key):
    """A PUT that waits for the rest of its body."""
    connection = client.connect()
    connection.send(client.signed("PUT", harness.BUCKET, key, body=BODY).head() + BODY[: len(BODY) // 2])
    return connection


def reserved(postgres):
    return [name for found in postgres.blobs().values() for name, (state, _) in found.items() if state == "reserved"]


def settled(postgres, server, folder):
    """Nothing is left of what was not finished, and the bytes are those that are charged."""
    server.wait_cleaned()
    check_bytes(postgres, {name: harness.stored_in(folder / name) for name in ("near", "nas")})


def test_both_serve_the_same(fleet):
    postgres, (first, second), folder = fleet
    with first.client() as one, second.client() as two:
        assert one.put(harness.BUCKET, "k", b"first").status == 200
        assert two.get(harness.BUCKET, "k").body == b"first"
        assert two.put(harness.BUCKET, "k", b"second").status == 200
        assert one.get(harness.BUCKET, "k").body == b"second"
        assert one.delete(harness.BUCKET, "k").status == 204
        assert two.get(harness.BUCKET, "k").status == 404
    written, lock = [], threading.Lock()

    def write(server, number):
        with server.client() as client:
            for i in range(20):
                body = f"{number}/{i}".encode()
                assert client.put(harness.BUCKET, "common", body).status == 200
                with lock:
                    written.append(body)

    writers = [threading.Thread(target=write, args=(server, number)) for number, server in enumerate([first, second] * 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(written) == 80, "every write was answered with 200"
    with first.client() as one, second.client() as two:
        assert one.get(harness.BUCKET, "common").body == two.get(harness.BUCKET, "common").body
        assert one.get(harness.BUCKET, "common").body in written
    settled(postgres, second, folder)


def test_a_killed_instance(fleet):
    postgres, (first, second), folder = fleet
    with second.client() as two:
        assert two.put(harness.BUCKET, "kept", b"kept").status == 200
    with first.client() as one:
        connection = half_a_put(one, "lost")
        harness.wait_for("a reservation", lambda: reserved(postgres))
        first.kill()
        connection.close()
    harness.wait_for("the end of its blobs", lambda: not reserved(postgres), 10 * LEASE)
    with second.client() as two:
        assert two.get(harness.BUCKET, "lost").status == 404, "doomed, never promoted"
        assert two.delete(harness.BUCKET, "kept").status == 204
    # The background jobs are the other's now, whoever had them.
    settled(postgres, second, folder)
    first.start()
    with first.client() as one:
        assert one.put(harness.BUCKET, "again", b"x").status == 200
    second.stop()
    with first.client() as one:
        assert one.delete(harness.BUCKET, "again").status == 204
    settled(postgres, first, folder)
    first.stop()


def test_a_stopped_instance_goes_on_as_another(fleet):
    postgres, (first, second), folder = fleet
    with first.client() as one:
        connection = half_a_put(one, "cut")
        harness.wait_for("a reservation", lambda: reserved(postgres))
        pid = first.process.child
        pid.send_signal(signal.SIGSTOP)
        harness.wait_for("the end of its blobs", lambda: not reserved(postgres), 10 * LEASE)
        with second.client() as two:
            assert two.put(harness.BUCKET, "cut", b"by the other").status == 200
        pid.send_signal(signal.SIGCONT)
        with contextlib.suppress(OSError, lean.Cut):
            connection.send(BODY[len(BODY) // 2 :])
            answer = connection.response("PUT")
            assert answer.status >= 500, f"its lease has passed: {answer}"
        connection.close()

        def serves():
            return one.put(harness.BUCKET, "alive", b"again").status == 200

        harness.wait_for("the first instance again", serves, every=0.2)
        assert one.get(harness.BUCKET, "cut").body == b"by the other"
    harness.wait_for("the end of its temporary file", lambda: not list(folder.rglob(".s3o~*")))
    settled(postgres, second, folder)
    first.told("registered anew")
    first.stop()
    second.stop()


def test_buckets_of_one_instance_are_the_others_too(fleet):
    postgres, (first, second), folder = fleet
    one, two = (client_of(server, "annkey", "annsecret") for server in (first, second))
    bob = client_of(second, "bobkey", "bobsecret")
    one.create_bucket(Bucket="made")
    # The name is taken at once, whoever has heard of it.
    assert code_of(lambda: bob.create_bucket(Bucket="made")) == "BucketAlreadyExists"
    assert code_of(lambda: two.create_bucket(Bucket="made")) == "BucketAlreadyOwnedByYou"
    one.create_bucket(Bucket="later")
    harness.wait_for("the bucket on the other", lambda: code_of(lambda: two.head_bucket(Bucket="later")) is None)
    assert names(two) == ["later", "made"] and names(bob) == []
    two.put_object(Bucket="made", Key="k", Body=b"x")
    assert one.get_object(Bucket="made", Key="k")["Body"].read() == b"x"
    assert code_of(lambda: one.delete_bucket(Bucket="made")) == "BucketNotEmpty"
    two.delete_object(Bucket="made", Key="k")
    one.delete_bucket(Bucket="made")
    # Nothing is written into it any more, also where nobody has heard of its end.
    assert code_of(lambda: two.put_object(Bucket="made", Key="k", Body=b"x")) == "NoSuchBucket"
    harness.wait_for("its end on the other", lambda: code_of(lambda: two.head_bucket(Bucket="made")) == "404")
    assert names(two) == ["later"]
    # The next bucket of the name is another one, and another user's.
    bob.create_bucket(Bucket="made")
    harness.wait_for("the new owner", lambda: code_of(lambda: one.head_bucket(Bucket="made")) == "403")
    settled(postgres, second, folder)


def test_of_creates_that_race_on_two_instances_one_wins(fleet):
    _, (first, second), _ = fleet
    clients = [client_of(server, f"{who}key", f"{who}secret") for server in (first, second) for who in ("ann", "bob")]
    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        for i in range(10):
            codes = list(pool.map(lambda client, i=i: code_of(lambda: client.create_bucket(Bucket=f"race-{i}")), clients))
            assert codes.count(None) == 1, codes
            winner = codes.index(None)
            for number, code in enumerate(codes):
                want = "BucketAlreadyOwnedByYou" if number % 2 == winner % 2 else "BucketAlreadyExists"
                assert code in (None, want), codes


def test_a_changed_secret_is_in_force_where_its_file_was_read(fleet):
    _, servers, _ = fleet
    client_of(servers[0], "annkey", "annsecret").create_bucket(Bucket="anns")
    harness.wait_for("the bucket on the other", lambda: names(client_of(servers[1], "annkey", "annsecret")))

    def codes(secret):
        """What each instance says, on several connections."""
        found = [{code_of(lambda: client_of(server, "annkey", secret).head_bucket(Bucket="anns")) for _ in range(6)} for server in servers]
        assert all(len(codes) == 1 for codes in found), found
        return [codes.pop() for codes in found]

    assert (codes("annsecret"), codes("changed")) == ([None, None], ["403", "403"])
    for number, server in enumerate(servers):
        server.config["auth"] = {"users": [{**user("ann", ["create-buckets"]), "secret_access_key": "changed"}]}
        hang_up(server)
        told = number + 1
        assert codes("changed") == [None] * told + ["403"] * (2 - told)
        assert codes("annsecret") == ["403"] * told + [None] * (2 - told)
