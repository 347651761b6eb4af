"""Three instances over one PostgreSQL at the limit of a budget: the backend gets every call of it and not one more, with Redis,
without it, and while it comes and goes; whoever dies meanwhile has spent what it held (I6). What they have used is exact to the
byte after any outage of Redis."""

import contextlib
import signal
import threading
import time

import pytest

import harness
import lean
import stub
from test_budgets import asked, asked_probes
from test_redis import MONTH, QUICK, Redis

LIMIT = 600
PUTS = [{"name": "puts", "operations": ["PutObject"], "limit": LIMIT}]
EGRESS_LIMIT = 3_000_000
# Longer than a machine stands still: only who is stopped loses it.
LEASE = 8.0


class Fleet:
    """Three instances, one database, one backend that counts for itself, and a Redis if there is to be one."""

    def __init__(self, place, stack, redis=False, lease="20s", **settings):
        self.stack = stack
        place.mkdir()
        self.postgres = harness.Postgres(place / "postgres.log")
        stack.callback(self.postgres.end)
        self.backend = stack.enter_context(contextlib.closing(stub.Stub(harness.free_port())))
        self.redis = Redis(place / "redis") if redis else None
        if redis:
            stack.callback(self.redis.end)
            settings = {**settings, "redis": {"address": f"127.0.0.1:{self.redis.port}", **QUICK}}
        settings = {
            "database": self.postgres.settings(),
            "write_path": {"lease": lease},
            # Only what Redis tells is told in time.
            "usage_flush": {"interval": "1h"},
            **settings,
        }
        backends = [self.backend.backend("cloud", request_limits=PUTS, egress_byte_limit=EGRESS_LIMIT)]
        self.servers = [harness.Server(place / f"server-{i}", backends, settings, start=False) for i in range(3)]
        for server in self.servers:
            stack.callback(server.kill)
            server.launch()
        for server in self.servers:
            server.wait_ready()

    def puts(self):
        """All that the backend got, those that measured it included."""
        return asked(self.backend, "PUT") + asked_probes(self.backend)

    def leases(self, counter="pool:puts"):
        return self.postgres.rows(f"SELECT incarnation, granted, used FROM budget_leases WHERE counter = '{counter}' ORDER BY 1")

    def stop(self):
        for server in self.servers:
            server.stop()


@pytest.fixture
def fleet(place, request):
    with contextlib.ExitStack() as stack:
        yield lambda **more: Fleet(place / f"fleet-{request.node.name.translate(NAME)}", stack, **more)


NAME = str.maketrans("[]", "--")


class Writers:
    """Eight clients of each instance, writing until the budget is spent; what fails for another reason is tried again."""

    def __init__(self, servers, seconds=120):
        self.answers, self.lock = [], threading.Lock()
        self.deadline = time.monotonic() + seconds
        self.threads = [threading.Thread(target=self.run, args=(server, f"{i}-{j}")) for j in range(8) for i, server in enumerate(servers)]
        for thread in self.threads:
            thread.start()

    def run(self, server, name):
        round = 0
        while time.monotonic() < self.deadline:
            with contextlib.suppress(OSError, lean.Cut), server.client(timeout=20) as client:
                while time.monotonic() < self.deadline:
                    round += 1
                    status = client.put(harness.BUCKET, f"{name}-{round}", b"x" * 100).status
                    with self.lock:
                        self.answers.append(status)
                    if status == 507:
                        return
                    if status != 200:
                        time.sleep(0.05)
            time.sleep(0.05)

    def written(self):
        with self.lock:
            return self.answers.count(200)

    def ended(self):
        for thread in self.threads:
            thread.join(150)
            assert not thread.is_alive(), "a client hangs"
        assert self.answers.count(507) == len(self.threads), "each was told in the end that the budget is spent"
        return self.answers


class Trouble:
    """Does one harm after the other until it is told to end; then all is well again."""

    def __init__(self, *harms):
        self.over = threading.Event()
        self.done = 0
        self.thread = threading.Thread(target=self.run, args=(harms,))
        self.thread.start()

    def run(self, harms):
        while not self.over.wait(0.2):
            harms[self.done % len(harms)]()
            self.done += 1

    def end(self):
        self.over.set()
        self.thread.join(30)
        assert self.done > 0, "nothing has happened"


def away(redis, how):
    """Redis ends, or stands still, for a moment."""
    if how == signal.SIGSTOP:
        redis.child.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        redis.child.send_signal(signal.SIGCONT)
    else:
        redis.end(how)
        time.sleep(0.5)
        redis.start()


def harms_of(redis):
    return [lambda how=how: away(redis, how) for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP)]


@pytest.mark.parametrize("redis", ["without", "with", "coming-and-going"])
def test_three_instances_make_every_call_of_a_limit_and_not_one_more(fleet, redis):
    fleet = fleet(redis=redis != "without")
    trouble = Trouble(*harms_of(fleet.redis)) if redis == "coming-and-going" else None
    # Slow enough that Redis goes more than once.
    fleet.backend.put_delay = 0.02
    probes = asked_probes(fleet.backend)
    answers = Writers(fleet.servers).ended()
    assert set(answers) == {200, 507}
    assert fleet.puts() == LIMIT, "nothing beyond the limit, and nothing of it lost"
    assert answers.count(200) == LIMIT - probes
    assert sum(row["granted"] for row in fleet.leases()) == LIMIT

    if trouble:
        trouble.end()
    # Each tells what it has spent when it is asked.
    spent = lambda: [server.metric("s3o_usage_pool_requests", pool="puts") for server in fleet.servers]  # noqa: E731
    harness.wait_for("what all have spent", lambda: spent() == [LIMIT] * 3)
    for server in fleet.servers:
        with server.client() as client:
            assert client.put(harness.BUCKET, "more", b"x").status == 507
            assert client.delete(harness.BUCKET, "0-0-1").status == 204, "deletes are never refused"
            assert client.get(harness.BUCKET, "1-0-1").status == 200, "and reads have a limit of their own"
    fleet.stop()


def test_bytes_of_three_instances_stay_within_their_limit(fleet):
    fleet, most = fleet(), 40_000
    with fleet.servers[0].client() as client:
        assert client.put(harness.BUCKET, "big", b"x" * most).status == 200
    read, lock = [], threading.Lock()

    def read_until_refused(server, number):
        with server.client() as client:
            for i in range(10_000):
                size = 1 + (i * 7919 + number * 104_729) % most
                answer = client.get(harness.BUCKET, "big", headers=[("range", f"bytes=0-{size - 1}")])
                if answer.status == 429:
                    return
                assert (answer.status, len(answer.body)) == (206, size)
                with lock:
                    read.append(size)

    readers = [threading.Thread(target=read_until_refused, args=(server, i)) for i, server in enumerate(fleet.servers * 2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive(), "a reader hangs"
    assert EGRESS_LIMIT - len(fleet.servers) * most <= sum(read) <= EGRESS_LIMIT
    assert sum(row["used"] for row in fleet.leases("egress_bytes")) <= EGRESS_LIMIT
    fleet.stop()


def test_whoever_dies_has_spent_what_it_held(fleet):
    fleet = fleet(lease=f"{LEASE}s")
    fleet.backend.put_delay = 0.02
    writers = Writers(fleet.servers)
    dies, stands_still, _ = fleet.servers
    harness.wait_for("some calls", lambda: writers.written() > LIMIT // 6)
    dies.kill()
    dead = fleet.leases()
    harness.wait_for("more calls", lambda: writers.written() > LIMIT // 4)
    # Beyond its lease: another has ended its incarnation when it goes on, and the rest is lent.
    stands_still.process.child.send_signal(signal.SIGSTOP)
    ended = "SELECT id FROM incarnations WHERE ended IS NOT NULL"
    harness.wait_for("the end of both", lambda: len(fleet.postgres.rows(ended)) == 2, 10 * LEASE)
    harness.wait_for("all is lent", lambda: sum(row["granted"] for row in fleet.leases()) == LIMIT)
    stands_still.process.child.send_signal(signal.SIGCONT)
    dies.start()
    writers.ended()
    leases = {row["incarnation"]: row for row in fleet.leases()}
    assert len(leases) == 4, "three instances, one of them twice"
    assert sum(row["granted"] for row in leases.values()) == LIMIT, "all was lent, and nothing of it twice"
    # Who has died is who told nothing any more.
    kept = max(row["granted"] - row["used"] for row in leases.values())
    assert LIMIT - kept <= fleet.puts() <= LIMIT
    assert kept <= LIMIT // 8 and all(leases[row["incarnation"]]["granted"] >= row["granted"] for row in dead)
    fleet.stop()


def test_answers_of_the_database_that_are_lost_lend_nothing_twice(fleet):
    fleet = fleet()
    fleet.backend.put_delay = 0.02
    cut = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = 's3o' AND pid <> pg_backend_pid()"
    trouble = Trouble(lambda: fleet.postgres.rows(cut))
    answers = Writers(fleet.servers).ended()
    trouble.end()
    assert fleet.puts() <= LIMIT
    assert sum(row["granted"] for row in fleet.leases()) <= LIMIT
    assert answers.count(200) > LIMIT // 2, "most of them in spite of it"
    fleet.stop()


def usage(server):
    row = server.backend_status("cloud")
    return [row[name] for name in ("api_requests", "egress_bytes", "ingress_bytes")]


def test_what_three_instances_have_used_is_exact_after_redis_was_away(fleet):
    fleet = fleet(redis=True)

    def all_told():
        """The sums of what each has told Redis, once every request is among them."""
        with fleet.backend.lock:
            requests = len(fleet.backend.requests)
        by_instance = [told(fleet.redis, one) for one in fleet.redis.ask("SMEMBERS", f"s3orch:usage:{MONTH}")]
        sums = [sum(own) for own in zip(*by_instance)]
        return sums if sums and sums[0] == requests else None

    def looks():
        return sum(request == ("GET", ".s3o/id") for request in fleet.backend.requests)

    # The looks at the backend at the start; there may be more.
    _, egress, ingress = harness.wait_for("the start is told", all_told)
    marker, before = len(fleet.backend.objects[".s3o/id"][0]), looks()
    puts = gets = 0
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        for away in (False, True):
            if away:
                fleet.redis.child.send_signal(how)
            for server in fleet.servers:
                with server.client() as client:
                    for i in range(10):
                        assert client.put(harness.BUCKET, f"k{i}", b"x" * 1001).status == 200
                        assert client.get(harness.BUCKET, f"k{i}").status == 200
                        puts, gets = puts + 1, gets + 1
        harness.wait_for("they fall back", lambda: all(one.metric("s3o_redis_fallback_active") == 1 for one in fleet.servers))
        if how == signal.SIGSTOP:
            fleet.redis.child.send_signal(signal.SIGCONT)
        else:
            fleet.redis.child.wait(60)
            fleet.redis.start()
        harness.wait_for("they are back", lambda: all(one.metric("s3o_redis_fallback_active") == 0 for one in fleet.servers))
    want = harness.wait_for("Redis is told", all_told)
    assert want[1:] == [egress + gets * 1001 + (looks() - before) * marker, ingress + puts * 1001]
    harness.wait_for("the usage of all", lambda: [usage(server) for server in fleet.servers] == [all_told()] * 3)
    fleet.stop()


def told(redis, instance):
    """What an instance has told Redis."""
    fields = redis.hash(f"s3orch:usage:{MONTH}:{instance}")
    return [fields.get(f"cloud:{name}", 0) for name in ("api_requests", "egress_bytes", "ingress_bytes")]
