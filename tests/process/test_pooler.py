"""PgBouncer between two instances and their PostgreSQL: in session mode, and in transaction mode, where each transaction may
get another of few sessions and a statement that was prepared is not there any more."""

import contextlib
import os

import pytest

import harness
from test_outage import BUCKET, STABLE, Client, History, check_end, fleet

# Fewer than the instances have connections, in transaction mode.
SESSIONS = {"session": 30, "transaction": 4}


class Pooler(harness.Process):
    """It does not run as root: then it runs as the user postgres."""

    def __init__(self, folder, postgres, mode):
        self.port = harness.free_port()
        settings = f"""
            [databases]
            s3o = host={postgres.directory} port={postgres.port} user=s3o
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            pool_mode = {mode}
            default_pool_size = {SESSIONS[mode]}
        """
        # Where that user may read it.
        file = postgres.directory / "pgbouncer.ini"
        file.write_text("\n".join(line.strip() for line in settings.splitlines()))
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"] if os.geteuid() == 0 else []
        path = f"{os.environ['PATH']}:/usr/sbin"
        super().__init__(
            folder / "pgbouncer.log",
            [*as_user, "sh", "-c", 'exec pgbouncer "$0"', file],
            env={**os.environ, "PATH": path},
        )
        harness.wait_for("pgbouncer listens", lambda: harness.accepts(self.port))


@contextlib.contextmanager
def behind(folder, mode, **database):
    """Two instances that are not started yet."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(folder / "postgres.log", "log_statement=all")
        stack.callback(postgres.end)
        pooler = Pooler(folder, postgres, mode)
        stack.callback(pooler.end)
        # Nor does the database give up what takes its time.
        patient = dict.fromkeys(("connect_timeout", "statement_timeout", "lock_timeout"), harness.PATIENCE)
        _, servers = stack.enter_context(fleet(folder, postgres, port=pooler.port, **{**patient, **database}))
        for server in servers:
            # Nobody is to lose it here, however slow the machine is.
            server.config["write_path"]["lease"] = "60s"
        yield postgres, servers


@pytest.mark.parametrize(("mode", "prepared"), [("session", True), ("transaction", False)])
def test_it_works_behind_a_pooler(tmp_path, mode, prepared):
    world = History()
    with behind(tmp_path, mode, prepared_statements=prepared, call_timeout="20s") as (postgres, servers):
        # At once: both want to bring the tables up to date.
        for server in servers:
            server.launch()
        for server in servers:
            server.wait_ready()
            with server.client() as client:
                harness.wait_for("writes", lambda: client.put(BUCKET, "after", b"after").status == 200)
        with servers[0].client() as client:
            for key, body in STABLE.items():
                assert client.put(BUCKET, key, body).status == 200
        clients = [Client(server, world, seed, writes) for seed in range(2) for writes in (True, False) for server in servers]
        for client in clients:
            client.start()
        harness.wait_for("a load", lambda: world.acknowledged > 150, 60)
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join(30)
        assert not [wrong for client in clients for wrong in client.wrong]
        assert sum(client.refusals + client.degraded for client in clients) == 0
        check_end(postgres, servers, world, tmp_path)
        # A migration takes its time in its own transaction: what it told a session, whoever gets that next would have.
        heard = (postgres.directory / "server.log").read_text(errors="replace").splitlines()
        told = [line for line in heard if "SET LOCAL statement_timeout = 0" in line]
        assert told and not [line for line in heard if "SET statement_timeout = 0" in line]


def test_prepared_statements_in_transaction_mode(tmp_path):
    """They cannot work: the database is not used, and the log says what to set."""
    with behind(tmp_path, "transaction", prepared_statements=True) as (_, (server, _)):
        server.launch()
        harness.wait_for("its port", lambda: server.health()[0] == 200)
        said = "statements find other sessions: behind a pooler in transaction mode"
        server.told(said)
        line, *_ = [line for line in server.lines() if said in line.get("failure", "")]
        assert "set database.prepared_statements: false" in line["failure"]
        with server.client() as client:
            assert client.put(BUCKET, "key", b"body").status == 503
