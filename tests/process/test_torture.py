"""Six writers overwrite and delete 72 keys through two instances, while instances and PostgreSQL are killed at random: every read
is checked against what may be true of its key; at the end every key is right, both instances say the same, and every byte on
disk is charged. `S3O_TORTURE_SECONDS` is how long it goes on; `S3O_TEST_SEED` repeats its choices.
"""

import os
import random
import threading
import time

import pytest

import harness
import lean
from test_crash import POOL
from test_degraded import DEGRADED, exact, state
from test_outage import History, digest, fleet
from test_postgres import check_bytes, two_copies

BUCKET = harness.BUCKET
SECONDS = float(os.environ.get("S3O_TORTURE_SECONDS", "60"))
KEYS = [f"key/{i}" for i in range(72)]
WRITERS = 6
# What a search without the database found is remembered to the end of the outage (PROTOCOL.md), that nothing is there too. For
# the other instance it may have ended before, and the key be written again: the answer says that it may be old.
OUTAGE_MAX = 10.0


class Torturer(threading.Thread):
    """Through whichever instance is up (had been ready). What was not answered may have happened until its connection ended."""

    def __init__(self, up, world, seed):
        super().__init__(daemon=True)
        self.up, self.world, self.dice = up, world, random.Random(seed)
        self.ending = threading.Event()
        self.wrong, self.steps, self.degraded, self.cut, self.server = [], 0, 0, 0, None

    def run(self):
        while not self.ending.is_set() and not self.wrong:
            up = list(self.up)
            if not up:
                time.sleep(0.02)
                continue
            try:
                self.server = self.dice.choice(up)
                with self.server.client(timeout=20) as client:
                    for _ in range(self.dice.randrange(1, 60)):
                        if not self.ending.is_set():
                            self.step(client)
            except (lean.Cut, OSError):
                # An instance that was killed.
                self.cut += 1
                time.sleep(0.02)
            except BaseException as cause:
                self.wrong.append(repr(cause))

    def step(self, client):
        self.steps += 1
        key, what = self.dice.choice(KEYS), self.dice.random()
        if what < 0.4:
            return self.read(client, key)
        body = None if what < 0.6 else POOL[self.dice.randrange(9_000) :][: self.dice.choice([0, 900, 5_000, 70_000])]
        write, status = self.world.began(key, None if body is None else digest(body)), 0
        try:
            status = (client.delete(BUCKET, key) if body is None else client.put(BUCKET, key, body)).status
        finally:
            self.world.answered(key, write, status)
        if status == 503:
            time.sleep(0.01)
        elif status not in (200, 204):
            self.wrong.append(f"a write of {key} was answered {status}")

    def read(self, client, key):
        asked_at = time.monotonic()
        # An outage that one instance sees can be several of the database's.
        outage_began = min(asked_at - OUTAGE_MAX, self.world.answered_at.get(self.server, 0))
        before = self.world.allowed(key, asked_at)
        answer = client.get(BUCKET, key)
        found = {200: digest(answer.body), 404: None}.get(answer.status, answer)
        allowed = before | self.world.allowed(key, asked_at)
        if answer.status == 503 and None in allowed:
            # Without the database: its only blob is one whose commit was not answered, so that nobody can say.
            return
        if answer.header(DEGRADED) is None:
            if found not in allowed:
                self.wrong.append(f"{key}: {answer} ({found}) is none of {allowed}")
            self.world.answered_at[self.server] = asked_at
            return
        self.degraded += 1
        with self.world.lock:
            ever = {write.digest for write in self.world.history.get(key, [])}
        if found not in (self.world.allowed(key, outage_began) if found is None else ever):
            self.wrong.append(f"{key}: {answer} is none of what it ever was")


def torture(up, postgres, dice, writers, world):
    """One thing after another is killed and comes back, sometimes before the other is back."""
    kills, until = {"instance": 0, "database": 0}, time.monotonic() + SECONDS

    def is_enough():
        """Longer where the machine is slow: less would mean nothing."""
        is_loaded = world.acknowledged > 5 * SECONDS and any(writer.degraded for writer in writers)
        return time.monotonic() >= until and min(kills.values()) >= 2 and is_loaded

    while not is_enough() and not any(writer.wrong for writer in writers):
        time.sleep(dice.uniform(0.5, 2.5))
        server = dice.choice(up)
        what = dice.choice(["instance", "database", "both"])
        if what != "database":
            up.remove(server)
            server.kill()
            kills["instance"] += 1
        if what != "instance":
            postgres.crash()
            kills["database"] += 1
            time.sleep(dice.uniform(0.1, 2.0))
        if what == "both" and dice.random() < 0.5:
            up.append(server.start())
            postgres.restart()
            continue
        if what != "instance":
            postgres.restart()
        if what != "database":
            up.append(server.start())
    return kills


@pytest.mark.timeout(180 + 2 * SECONDS)
def test_torture(tmp_path):
    seed = os.environ.get("S3O_TEST_SEED") or str(random.randrange(1 << 30))
    print(f"S3O_TEST_SEED={seed}")
    dice, world = random.Random(seed), History()
    # By instance: when the last read was asked that it answered by the database.
    world.answered_at = {}
    with fleet(tmp_path) as (postgres, servers):
        for server in servers:
            server.start()
        up = list(servers)
        writers = [Torturer(up, world, f"{seed}/{number}") for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        kills = torture(up, postgres, dice, writers, world)
        for server in servers:
            harness.wait_for("its recovery", lambda: state(server) == 0)
        time.sleep(1)
        for writer in writers:
            writer.ending.set()
        for writer in writers:
            writer.join(30)
        assert not [wrong for writer in writers for wrong in writer.wrong]
        acknowledged, degraded = world.acknowledged, sum(writer.degraded for writer in writers)
        print(f"{kills}, {acknowledged} writes acknowledged, {degraded} reads without the database")
        for server in servers:
            with server.client() as client:
                harness.wait_for("writes", lambda: client.put(BUCKET, "after", b"after").status == 200)
        check_end(postgres, servers, world, tmp_path)


def check_end(postgres, servers, world, folder):
    with servers[0].client() as one, servers[1].client() as two:
        for key in KEYS:
            asked_at = time.monotonic()
            answers = [exact(client, key) for client in (one, two)]
            found = [{200: digest(answer.body), 404: None}.get(answer.status, answer) for answer in answers]
            assert found[0] == found[1], f"{key}: the instances differ"
            assert found[0] in world.allowed(key, asked_at), f"{key}: {found[0]}"
            world.settle(key, found[0])
        there = {key for key in KEYS if world.writes.get(key) and world.writes[key][-1].digest is not None}
        for client in (one, two):
            harness.wait_for("a listing", lambda: client.request("GET", BUCKET, query=[("list-type", "2")]).status == 200)
            assert set(client.list_keys(BUCKET)) == there | {"after"}
    harness.wait_for("copies", lambda: two_copies(postgres), 60)
    for server in servers:
        server.wait_cleaned()
    check_bytes(postgres, {name: harness.stored_in(folder / name) for name in ("near", "nas")})
    assert "deadlock detected" not in (postgres.directory / "server.log").read_text(errors="replace")
    for server in servers:
        server.stop()
