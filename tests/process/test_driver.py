"""A machine that gives no ring, or too few: each reactor takes what it can get, says so, and serves.

Without CAP_IPC_LOCK a ring's memory counts against RLIMIT_MEMLOCK, summed over all threads; that is what a container or an
ordinary user meets.
"""

import os

import pytest

import harness

BUCKET = harness.BUCKET
BODY = os.urandom(300_000)


def locked_memory(limit):
    """Runs a command with so many bytes of lockable memory and without the privilege to ignore that."""
    wrapper = ["prlimit", f"--memlock={limit}:{limit}"]
    return wrapper + ["setpriv", "--bounding-set", "-ipc_lock"] if os.geteuid() == 0 else wrapper


def start(folder, limit, driver="auto"):
    backends = [harness.directory_backend("near", folder / "near", quota_bytes=harness.GIB)]
    return harness.Server(folder / "server", backends, {"server": {"driver": driver}}, wrapper=locked_memory(limit))


def drivers(server):
    """Of two reactors and the mover."""
    told = lambda: [line["driver"] for line in server.lines() if line["msg"] == "reactor driver"]
    harness.wait_for("three drivers", lambda: len(told()) == 3)
    return sorted(told())


# No ring at all; and enough for one small ring or two, not for three.
@pytest.mark.parametrize("limit, without", [(0, 3), (65_536, 1)])
def test_a_reactor_without_a_ring_serves_on_epoll(tmp_path, limit, without):
    with start(tmp_path, limit) as server:
        epoll = drivers(server).count("epoll")
        assert epoll >= without, drivers(server)
        reasons = [line["cause"] for line in server.lines() if line["msg"] == "io_uring is not available, using epoll"]
        assert len(reasons) == epoll and all("os error 12" in one for one in reasons), reasons
        # Connections until both reactors were met.
        for i in range(1000):
            with server.client() as client:
                assert client.put(BUCKET, f"{i}", BODY).status == 200
                assert client.get(BUCKET, f"{i}").body == BODY
            if all(one["requests"] > 0 for one in server.status()["reactors"]):
                return
        raise AssertionError("one reactor was given no connection")


def test_a_ring_that_was_asked_for_and_cannot_be_had_is_an_error(tmp_path):
    server = harness.Server(
        tmp_path / "server",
        [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)],
        {"server": {"driver": "ring"}},
        wrapper=locked_memory(0),
        start=False,
    )
    server.launch()
    assert server.process.child.wait(60) != 0
    assert "Cannot allocate memory" in server.process.tail()
