"""Resident memory depends on the number of connections, not on the size of objects: 16 uploads and 16 downloads at once of
256 MiB against the same of 10 MiB, peak against peak, over a backend that discards and makes up its bytes."""

import pathlib
import subprocess
import sys
import threading

import pytest

import harness
import lean
from stub import BLOCK, backend_at

BUCKET = harness.BUCKET
CONNECTIONS = 16
DIFFERENCE_BYTES_MAX = 16 * harness.MIB


def reset_peak(server):
    # Sets the peak back to what is resident now (proc(5), clear_refs).
    pathlib.Path(f"/proc/{server.process.child.pid}/clear_refs").write_text("5")


def peak_bytes(server):
    for line in pathlib.Path(f"/proc/{server.process.child.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * harness.KIB
    raise AssertionError("no VmHWM")


def upload(server, key, size, times):
    with server.client(timeout=120) as client, client.connect() as connection:
        headers = [("content-length", str(size))]
        for _ in range(times):
            connection.send(lean.Signed(client, "PUT", lean.encode_path(BUCKET, key), [], headers, lean.UNSIGNED).head())
            for _ in range(size // len(BLOCK)):
                connection.sock.sendall(BLOCK)
            answer = connection.response("PUT")
            assert answer.status == 200, answer


def download(server, key, size, times):
    buffer = bytearray(1 << 20)
    with server.client(timeout=120) as client, client.connect() as connection:
        for _ in range(times):
            connection.send(client.signed("GET", BUCKET, key).head())
            status, _, headers = connection.head()
            assert (status, dict(headers)["content-length"]) == (200, str(size))
            left = size - len(connection.buffer)
            connection.buffer.clear()
            while left:
                got = connection.sock.recv_into(buffer, min(left, len(buffer)))
                assert got, f"{left} bytes short"
                left -= got


def storm(server, name, size, times):
    """All transfers at once; every one must be right in length and status."""
    upload(server, f"{name}/source", size, 1)
    faults = []

    def run(work, *arguments):
        try:
            work(server, *arguments, size, times)
        except BaseException as fault:
            faults.append(repr(fault))

    threads = [threading.Thread(target=run, args=(upload, f"{name}/{i}")) for i in range(CONNECTIONS)]
    threads += [threading.Thread(target=run, args=(download, f"{name}/source")) for _ in range(CONNECTIONS)]
    reset_peak(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    return peak_bytes(server)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("relay", ["splice", "copy"])
def test_memory_does_not_grow_with_object_size(tmp_path, relay):
    port = harness.free_port()
    stub = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("stub.py"), str(port)])
    try:
        harness.wait_for("the stub listens", lambda: harness.accepts(port))
        backend = backend_at(port, "far")
        with harness.Server(tmp_path / "server", [backend], {"server": {"relay": relay}}) as server:
            storm(server, "warm", 10 * harness.MIB, 2)
            small = storm(server, "small", 10 * harness.MIB, 8)
            large = storm(server, "large", 256 * harness.MIB, 1)
            print(f"{small / harness.MIB:.1f} MiB, then {large / harness.MIB:.1f} MiB")
            assert large - small < DIFFERENCE_BYTES_MAX, f"{small / harness.MIB:.1f} MiB, then {large / harness.MIB:.1f} MiB"
            assert large < 256 * harness.MIB, f"{large / harness.MIB:.1f} MiB resident"
    finally:
        stub.kill()
        stub.wait()
