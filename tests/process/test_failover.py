"""A streaming standby takes over when the primary is killed or hangs, under two instances with clients on both; and a host name
that moves. What counts here is that nobody has to help."""

import contextlib
import json
import os
import time

import pytest

import harness
from test_degraded import exact
from test_operations import program
from test_outage import BUCKET, STABLE, Client, History, check_end, check_recovery, fleet, put_all
from test_postgres import check_bytes, two_copies


@contextlib.contextmanager
def two_servers(folder, synchronous=True):
    """A primary with a standby, that has every commit before it is acknowledged if it is a synchronous one."""
    with contextlib.ExitStack() as stack:
        primary = harness.Postgres(folder / "primary.log")
        stack.callback(primary.end)
        standby = harness.Postgres(folder / "standby.log", standby_of=primary)
        stack.callback(standby.end)
        if synchronous:
            primary.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.run("SELECT pg_reload_conf()")
        harness.wait_for("a standby", lambda: standbys(primary) == ["sync" if synchronous else "async"])
        yield primary, standby


def standbys(primary):
    query = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'standby' AND state = 'streaming'"
    return [row["sync_state"] for row in primary.rows(query)]


def hosts(*servers):
    return [f"127.0.0.1:{server.port}" for server in servers]


def take_over(primary, standby):
    primary.crash()
    standby.run("SELECT pg_promote()")


@pytest.mark.timeout(240)
def test_a_synchronous_standby_takes_over(tmp_path):
    """The first host hangs: the kernel lets connections in, and nothing answers. Nothing that was acknowledged is missing, reads
    go on, writes come back by themselves."""
    world = History()
    with (
        two_servers(tmp_path) as (primary, standby),
        contextlib.ExitStack() as ending,
        fleet(tmp_path, primary, host=hosts(primary, standby)) as (_, servers),
    ):
        for server in servers:
            server.start()
        put_all(servers[0], STABLE)
        harness.wait_for("copies", lambda: two_copies(primary))
        clients = [Client(server, world, seed, writes) for seed in range(3) for writes in (True, False) for server in servers]
        for client in clients:
            client.start()
        harness.wait_for("a load", lambda: world.acknowledged > 100)
        primary.freeze()
        ending.callback(primary.crash)
        standby.run("SELECT pg_promote()")
        check_recovery(servers)
        # Whatever was not answered is decided.
        world.crashed()
        seen = world.acknowledged
        harness.wait_for("a load", lambda: world.acknowledged > seen + 100)
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join(30)
        assert not [wrong for client in clients for wrong in client.wrong]
        # It is the same database, of which nothing is missing: nobody takes it for a restored one.
        assert standby.rows("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline") == [{"timeline": "00000002"}]
        assert not any(server.status()["restored"] for server in servers)
        world.crashed()
        check_end(standby, servers, world, tmp_path)


def test_a_standby_that_missed_commits_takes_over(tmp_path):
    """That is noticed: nothing is deleted until `sync --restored` has put right what the database has forgotten."""
    with two_servers(tmp_path, synchronous=False) as (primary, standby):
        # The primary does not hang here: it is gone at once.
        with fleet(tmp_path, primary, host=hosts(primary, standby), call_timeout="10s") as (_, servers):
            for server in servers:
                server.start()
            first, second = servers
            expected = dict(STABLE)
            put_all(first, expected)
            harness.wait_for("copies", lambda: two_copies(primary))
            harness.wait_for("copies there", lambda: standby.rows("SELECT 1 FROM blobs") and two_copies(standby))
            standby.run("ALTER SYSTEM SET primary_conninfo = ''")
            standby.run("SELECT pg_reload_conf()")
            harness.wait_for("the end of its stream", lambda: standbys(primary) == [])
            missed = {"stable/1": b"changed", "stable/2": b"changed too", "new": b"never heard of"}
            put_all(second, missed)
            expected.update(missed)
            # Two copies of each and no third: what was overwritten is gone, as far as the primary knows.
            harness.wait_for("copies", lambda: two_copies(primary))
            for server in servers:
                server.wait_cleaned()
            take_over(primary, standby)
            for server in servers:
                harness.wait_for("it is noticed", lambda: told_restored(server), 60, every=0.2)
                with server.client() as client:
                    for key in set(STABLE) - set(missed):
                        assert client.get(BUCKET, key).body == STABLE[key]
            put_all(first, {"later": b"1"})
            put_all(second, {"later": b"22"})
            expected["later"] = b"22"
            command = ["sync", "--restored", "--addr", f"127.0.0.1:{second.admin_port}", "--json"]
            last = json.loads(program(*command).stdout.splitlines()[-1])
            assert last["event"] == "result" and last["released"], last
            for server in servers:
                harness.wait_for("its release", lambda: not server.status()["restored"])
                with server.client() as client:
                    for key, body in expected.items():
                        answer = exact(client, key)
                        assert (answer.status, answer.body) == (200, body), f"{key}: {answer}"
                    assert client.list_keys(BUCKET) == sorted(expected)
            check_charges(standby, first, tmp_path)


def told_restored(server):
    with contextlib.suppress(OSError, AssertionError, KeyError, ValueError):
        return server.status()["restored"]


def check_charges(postgres, server, folder):
    harness.wait_for("copies", lambda: two_copies(postgres), 60)
    server.wait_cleaned()
    check_bytes(postgres, {name: harness.stored_in(folder / name) for name in ("near", "nas")})


def test_a_host_name_is_looked_up_again(tmp_path):
    """The database comes to be at another address than its name had at start."""
    names, wrapper = tmp_path / "hosts", "libnss_wrapper.so"
    postgres = harness.Postgres(tmp_path / "postgres.log")
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    settings = {"database": postgres.settings(host="db.example.test", call_timeout="1s"), "circuit_breaker": {"open_timeout": "1s"}}

    def is_at(address, changed):
        names.write_text(f"{address} db.example.test\n")
        os.utime(names, (changed, changed))

    with contextlib.closing(postgres):
        # Nobody listens there.
        is_at("127.0.0.99", time.time() - 10)
        environment = {"LD_PRELOAD": wrapper, "NSS_WRAPPER_HOSTS": str(names)}
        with harness.Server(tmp_path / "server", backends, settings, environment=environment) as server, server.client() as client:
            assert client.put(BUCKET, "key", b"body").status == 503
            is_at("127.0.0.1", time.time())
            harness.wait_for("writes", lambda: client.put(BUCKET, "key", b"body").status == 200, every=0.1)
