"""Usage counters by way of a real redis-server that is stopped, emptied and started again: exact to the byte afterwards."""

import contextlib
import datetime
import socket

import harness
import pytest


class Redis(harness.Process):
    """Without persistence: each start is empty."""

    def __init__(self, folder, *options):
        self.folder, self.port, self.options = folder, harness.free_port(), options
        folder.mkdir(parents=True)
        self.start()

    def start(self):
        super().__init__(
            self.folder / "redis.log",
            ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--dir", self.folder, *self.options],
        )
        harness.wait_for("redis listens", lambda: harness.accepts(self.port))

    def ask(self, *words, password=None):
        """One command; simple answers, numbers, texts and lists of them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection, connection.makefile("rb") as answers:
            for command in ([["AUTH", password]] if password else []) + [list(words)]:
                parts = [str(part).encode() for part in command]
                connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(one), one) for one in parts))
                answer = read_answer(answers)
            return answer

    def hash(self, key, **more):
        flat = self.ask("HGETALL", key, **more)
        return dict(zip(flat[::2], map(int, flat[1::2])))


def read_answer(answers):
    line = answers.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"$":
        return None if rest == "-1" else answers.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [read_answer(answers) for _ in range(int(rest))]
    assert kind != b"-", rest
    return int(rest) if kind == b":" else rest


MONTH = datetime.datetime.now(datetime.UTC).strftime("%Y-%m")
QUICK = {"open_timeout": "300ms", "failure_threshold": 2}


@pytest.fixture
def redis(place, request):
    one = Redis(place / f"redis-{request.node.name}")
    yield one
    one.end()


def serve(place, name, redis, **settings):
    backends = [harness.directory_backend("nas", place / name / "nas")]
    address = f"127.0.0.1:{redis.port}"
    return harness.Server(place / name, backends, {"redis": {"address": address, **QUICK, **settings}})


def usage(server):
    row = server.backend_status("nas")
    return {f"nas:{name}": row[name] for name in ("api_requests", "egress_bytes", "ingress_bytes")}


def work(server, rounds):
    with server.client() as client:
        for i in range(rounds):
            assert client.put(harness.BUCKET, f"k{i}", b"x" * 1000).status == 200
            assert client.get(harness.BUCKET, f"k{i}").status == 200


def fallback(server):
    return server.metric("s3o_redis_fallback_active")


def breaker(server):
    return server.metric("s3o_circuit_breaker_state", name="redis")


def told(server, redis, instance=1, **more):
    """Waits until Redis holds what this instance has used, to the byte."""
    return harness.wait_for("redis is told", lambda: redis.hash(f"s3orch:usage:{MONTH}:{instance}", **more) == usage(server))


def test_counts_are_exact_after_redis_was_away_and_came_back_empty(place, redis):
    with serve(place, "away", redis) as server:
        work(server, 20)
        told(server, redis)
        assert usage(server)["nas:egress_bytes"] == 20_000 == usage(server)["nas:ingress_bytes"]
        # A machine that stood still may have cost a call.
        harness.wait_for("it is used", lambda: (fallback(server), breaker(server)) == (0, 0))
        for _ in range(2):
            redis.end()
            work(server, 20)
            harness.wait_for("it falls back", lambda: fallback(server) == 1)
            harness.wait_for("the breaker opens", lambda: breaker(server) in (1, 2))
            pings = server.metric("s3o_redis_operations_total", operation="ping", status="error")
            work(server, 5)
            harness.wait_for("it is asked again", lambda: server.metric("s3o_redis_operations_total", operation="ping", status="error") > pings)
            redis.start()
            harness.wait_for("it recovers", lambda: fallback(server) == 0)
            told(server, redis)
        assert usage(server)["nas:egress_bytes"] == 70_000 == usage(server)["nas:ingress_bytes"]
        assert 0 < redis.ask("TTL", f"s3orch:usage:{MONTH}:1") <= 35 * 24 * 3600
        assert redis.ask("SMEMBERS", f"s3orch:usage:{MONTH}") == ["1"]
        for operation in ("write", "ping"):
            for status in ("success", "error"):
                assert server.metric("s3o_redis_operations_total", operation=operation, status=status) > 0, (operation, status)


def test_what_others_have_used_is_added_once(place, redis):
    with serve(place, "others", redis) as server:
        work(server, 3)
        told(server, redis)
        own = usage(server)
        # Another instance, of which the database knows nothing yet; twice the same, as after an outage.
        for _ in range(2):
            redis.ask("HSET", f"s3orch:usage:{MONTH}:7", "nas:api_requests", 11, "nas:egress_bytes", 1 << 40, "other:later", 5)
            redis.ask("SADD", f"s3orch:usage:{MONTH}", 7)
        more = {"nas:api_requests": 11, "nas:egress_bytes": 1 << 40, "nas:ingress_bytes": 0}
        want = {name: own[name] + more[name] for name in own}
        harness.wait_for("the other's usage is seen", lambda: usage(server) == want)
        redis.end()
        harness.wait_for("without redis the database's is shown", lambda: usage(server) == own)
        redis.start()


def test_a_start_without_redis_falls_back_and_finds_it_later(place, redis):
    redis.end()
    with serve(place, "late", redis, key_prefix="mine") as server:
        assert fallback(server) == 1, "from the start"
        work(server, 2)
        harness.wait_for("the breaker opens", lambda: breaker(server) in (1, 2))
        redis.start()
        harness.wait_for("it finds it", lambda: redis.hash(f"mine:usage:{MONTH}:1") == usage(server))
        server.told('"msg":"circuit breaker opened"', '"msg":"circuit breaker closed"')


def test_password_database_and_tls(place, certificates):
    tls = ["--tls-port", "{port}", "--tls-cert-file", certificates.cert_file, "--tls-key-file", certificates.key_file]
    tls += ["--tls-ca-cert-file", certificates.ca_file, "--tls-auth-clients", "no"]
    plain = Redis(place / "redis-password", "--requirepass", "open-sesame")
    with contextlib.closing(Ending(plain)):
        with serve(place, "password", plain, password="open-sesame", db=3) as server:
            work(server, 1)
            shared = lambda: fallback(server) == 0 and server.metric("s3o_redis_operations_total", operation="write", status="success")
            harness.wait_for("redis is told", shared)
            assert plain.ask("INFO", "keyspace", password="open-sesame").count("db3:") == 1
        with serve(place, "wrong-password", plain, password="open") as server:
            harness.wait_for("it falls back", lambda: fallback(server) == 1)
    secured = TlsRedis(place / "redis-tls", tls)
    with contextlib.closing(Ending(secured)):
        trusted = {"tls": True, "ca_file": str(certificates.ca_file)}
        with serve(place, "tls", secured, **trusted) as server:
            harness.wait_for("redis is told", lambda: server.metric("s3o_redis_operations_total", operation="write", status="success"))
            assert fallback(server) == 0
        with serve(place, "tls-untrusted", secured, tls=True) as server:
            harness.wait_for("it falls back", lambda: fallback(server) == 1)


class Ending:
    def __init__(self, process):
        self.process = process

    def close(self):
        self.process.end()


class TlsRedis(Redis):
    def __init__(self, folder, options):
        self.tls = options
        super().__init__(folder)

    def start(self):
        options = [str(one).format(port=self.port) for one in self.tls]
        harness.Process.__init__(
            self, self.folder / "redis.log", ["redis-server", "--bind", "127.0.0.1", "--port", "0", "--save", "", *options]
        )
        harness.wait_for("redis listens", lambda: harness.accepts(self.port))
