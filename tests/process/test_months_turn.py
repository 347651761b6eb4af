"""A month ends while the program runs: libfaketime shows it another date, whose clock goes on as the real one does."""

import contextlib
import datetime
import itertools
import pathlib
import socket
import tempfile
import threading
import time

import harness
import pytest
import stub
from test_budgets import asked, asked_probes, budget_of, get, put

PUTS, GETS = 40, 30
POOLS = [
    {"name": "puts", "operations": ["PutObject"], "limit": PUTS},
    {"name": "gets", "operations": ["GetObject"], "limit": GETS},
]
EGRESS = 50_000


class Calendar:
    """The wall's time of a process that is started with its environment: some seconds before this month's end."""

    def __init__(self, folder, seconds):
        self.file = folder / "date"
        self.turn_in(seconds)
        found = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        assert found, "libfaketime is missing: install the Debian package faketime (tests/run does)"
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            # What counts seconds goes on as it did.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def turn_in(self, seconds):
        """From now on the month ends in so many seconds."""
        now = datetime.datetime.now(datetime.timezone.utc)
        turn = (now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + datetime.timedelta(days=32)).replace(day=1)
        self.old, self.new = f"{now:%Y-%m}", f"{turn:%Y-%m}"
        self.ahead = turn - now - datetime.timedelta(seconds=seconds)
        written = self.file.with_suffix(".new")
        written.write_text(f"{self.ahead.total_seconds():+.3f}\n")
        written.replace(self.file)

    def shows(self):
        """The month that it shows now."""
        return f"{datetime.datetime.now(datetime.timezone.utc) + self.ahead:%Y-%m}"


def spent_of(database, period):
    """What the database says of a month: lent by counter, and bytes sent."""
    lent = harness.rows(database, "SELECT counter, sum(granted) AS lent FROM budget_leases WHERE period = ? GROUP BY 1", period)
    sent = harness.rows(database, "SELECT sum(value) AS sent FROM usage WHERE period = ? AND counter = 'egress_bytes'", period)
    return {row["counter"]: row["lent"] for row in lent}, sent[0]["sent"]


def test_budgets_begin_anew_when_the_month_turns(tmp_path):
    calendar = Calendar(tmp_path, seconds=600)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(contextlib.closing(stub.Stub(harness.free_port())))
        server = harness.Server(
            tmp_path / "server",
            [backend.backend("cloud", request_limits=POOLS, egress_byte_limit=EGRESS)],
            {"usage_flush": {"interval": "1s"}},
            environment=calendar.environment,
        )
        stack.callback(server.kill)
        client = stack.enter_context(server.client())

        def until_refused(work, refused):
            """How many were admitted."""
            count = 0
            client.ahead = calendar.ahead
            while (status := work(client, f"k{count}")) == 200:
                count += 1
            assert status == refused
            return count

        assert until_refused(put, 507) == PUTS - asked_probes(backend)
        before = GETS - until_refused(lambda client, _: get(client, "k0"), 429)
        assert before < GETS / 2, "looks at the marker"
        old = server.status()
        assert old["usage_period"] == calendar.old
        used = {budget["counter"]: budget["used"] for budget in old["budgets"]}
        assert (used["pool:puts"], used["pool:gets"]) == (PUTS, GETS)
        lent, sent = spent_of(server.database, calendar.old)

        calendar.turn_in(3)
        client.ahead = calendar.ahead
        # It may come after the end, where the machine stands still.
        early = put(client, "refused") == 200
        assert not early or calendar.shows() == calendar.new, "refused until the very end"
        harness.wait_for("the new month", lambda: server.status()["usage_period"] == calendar.new, every=0.1)
        looks = budget_of(server, "pool:gets")["used"]
        assert looks < GETS / 2 and budget_of(server, "pool:puts")["used"] == early
        assert until_refused(put, 507) == PUTS - early, "all of it, and not one more"
        assert GETS / 2 < until_refused(lambda client, _: get(client, "k0"), 429) <= GETS - looks
        assert asked(backend, "PUT") + asked_probes(backend) == 2 * PUTS
        assert server.status()["usage_period"] == calendar.new
        client.close()
        server.stop()
        stayed, still = spent_of(server.database, calendar.old)
        # What an idle instance holds of the bytes it gives back.
        assert still == sent <= stayed.pop("egress_bytes") <= lent.pop("egress_bytes")
        assert stayed == lent == {"pool:puts": PUTS, "pool:gets": GETS}, "the old month stays as it was"
        lent, _ = spent_of(server.database, calendar.new)
        assert (lent["pool:puts"], lent["pool:gets"]) == (PUTS, GETS) and lent["egress_bytes"] <= EGRESS
        # It is the new month after a restart too: nothing of it is lent again.
        server.start()
        assert put(client, "again") == 507
        server.stop()


@pytest.mark.parametrize("told_in_time", [True, False])
def test_a_body_goes_on_in_the_new_month_if_the_database_was_told_of_it_in_time(tmp_path, told_in_time):
    """In the hour before it. Otherwise nothing keeps room for it: it is cut, and the rest asked for and paid for anew."""
    calendar = Calendar(tmp_path, seconds=600 if told_in_time else 7200)
    size, limit = 64 * harness.MIB, 100 * harness.MIB
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(contextlib.closing(stub.Stub(harness.free_port())))
        server = harness.Server(
            tmp_path / "server",
            [backend.backend("cloud", egress_byte_limit=limit)],
            {"usage_flush": {"interval": "1h"}},
            environment=calendar.environment,
        )
        stack.callback(server.kill)
        client = stack.enter_context(server.client())
        client.ahead = calendar.ahead
        assert client.put(harness.BUCKET, "key", bytes(size)).status == 200
        connection = stack.enter_context(contextlib.closing(client.connect()))
        # So that most of the body waits for us.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * harness.KIB)
        connection.send(client.signed("GET", harness.BUCKET, "key").head())
        received = len(connection.sock.recv(1000))
        # The status would tell the database: it is asked when the month has turned wherever it is looked at.
        calendar.turn_in(0)
        time.sleep(3)
        client.ahead = calendar.ahead
        assert server.status()["usage_period"] == calendar.new
        with contextlib.suppress(ConnectionError, TimeoutError):
            while received < size and (more := connection.sock.recv(1 << 20)):
                received += len(more)
        assert received >= size, "the head of the answer, too"
        assert server.metric("s3o_read_resumes_total") == (0 if told_in_time else 1)
        assert client.get(harness.BUCKET, "key").status == 429, "what came of it now is the new month's"
        server.stop()


class Writers:
    """Clients of each instance that write until they are told to stop, whether they are refused or not."""

    def __init__(self, servers, calendars):
        self.over, self.refused, self.others = threading.Event(), 0, []
        self.lock = threading.Lock()
        clients = [(server, calendar) for server, calendar in zip(servers, calendars) for _ in range(4)]
        self.threads = [threading.Thread(target=self.run, args=(i, *one)) for i, one in enumerate(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, i, server, calendar):
        with server.client(timeout=60) as client:
            for round in itertools.count():
                client.ahead = calendar.ahead
                status = put(client, f"{i}-{calendar.old}-{round}")
                with self.lock:
                    self.refused += status == 507
                    self.others += [status] if status not in (200, 507) else []
                if self.over.is_set():
                    return
                if status == 507:
                    time.sleep(0.02)

    def refuse_again(self):
        """Until each client was refused about twice more."""
        since = self.refused
        harness.wait_for("refusals", lambda: self.refused >= since + 2 * len(self.threads), 60)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(90)
            assert not thread.is_alive(), "a client hangs"
        # A machine that stands still lets calls wait for too long.
        assert set(self.others) <= {503}, "each call is admitted or the month is spent"


def test_two_instances_and_their_database_turn_to_a_new_month(tmp_path):
    limit = 300
    with contextlib.ExitStack() as stack:
        # The database's own user must be able to read it.
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        # The clocks of the database and of the first instance; the second's month turns a second later.
        calendars = [Calendar(folder, seconds=400), Calendar(tmp_path, seconds=401)]
        first, second = calendars
        postgres = harness.Postgres(tmp_path / "postgres.log", environment=first.environment)
        stack.callback(postgres.end)
        backend = stack.enter_context(contextlib.closing(stub.Stub(harness.free_port())))
        pools = [{"name": "puts", "operations": ["PutObject"], "limit": limit}]
        settings = {
            "database": postgres.settings(call_timeout="20s"),
            "usage_flush": {"interval": "1s"},
            # Longer than what the clocks are moved by.
            "write_path": {"lease": "600s"},
        }
        servers = []
        for i, calendar in enumerate(calendars):
            here = [backend.backend("cloud", request_limits=pools)]
            servers.append(harness.Server(tmp_path / f"server-{i}", here, settings, environment=calendar.environment))
            stack.callback(servers[-1].kill)

        def made():
            """All calls that the backend got, those that measured it included."""
            return asked(backend, "PUT") + asked_probes(backend)

        def month():
            return postgres.rows("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM') AS month")[0]["month"]

        writers = Writers(servers, calendars)
        stack.callback(writers.over.set)
        harness.wait_for("the old month's calls", lambda: made() >= limit, 60)
        writers.refuse_again()
        assert made() == limit and month() == first.old
        first.turn_in(3)
        second.turn_in(4)
        # Looked at before the clock: what is made later is not seen.
        while (calls := made(), first.shows())[1] == first.old:
            assert calls == limit, "until the very end"
            time.sleep(0.02)
        harness.wait_for("the new month's calls", lambda: made() >= 2 * limit, 60)
        # The first may have made them all before the second's month turned.
        shown = lambda: {server.status()["usage_period"] for server in servers}  # noqa: E731
        harness.wait_for("the new month at both", lambda: shown() == {first.new})
        writers.refuse_again()
        writers.end()
        assert made() == 2 * limit, "all of the new month, and not one call more"
        assert month() == first.new
        for server in servers:
            server.stop()
        lent = postgres.rows("SELECT period, sum(granted) AS lent FROM budget_leases WHERE counter = 'pool:puts' GROUP BY 1 ORDER BY 1")
        assert lent == [{"period": first.old, "lent": limit}, {"period": first.new, "lent": limit}]
