"""Acknowledged means durable: a strace of every sync, rename and answer shows their order.

On the epoll driver every one of these is a system call that strace sees. Puts run one at a time, so the n-th answer belongs
to the n-th put. SIGKILL cannot show a missing fsync; this can.
"""

import os
import re

import harness

BUCKET = harness.BUCKET
SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs")
RENAMES = ("rename", "renameat", "renameat2", "link", "linkat")
SENDS = ("sendto", "write", "writev", "sendmsg")


class Event:
    """A system call."""

    def __init__(self, name, text, result):
        self.name, self.text, self.result = name, text, result

    @property
    def path(self):
        """What the first descriptor of the call refers to (strace -y)."""
        found = re.match(r"\d+<([^>]*)>", self.text)
        return found[1] if found else ""

    def __repr__(self):
        return f"{self.name}({self.text[:150]}) = {self.result}"


def events(trace):
    """The calls in the order in which they were completed; what is sent, in the order in which it was begun: from then on the
    client may have it."""
    found, open_calls = [], {}
    for line in trace.read_text(errors="replace").splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            rest = rest.removesuffix("<unfinished ...>")
            sent = re.match(r"(\w+)\((.*)", rest)
            if sent and sent[1] in SENDS:
                found.append(Event(sent[1], sent[2], "?"))
            else:
                open_calls[pid] = rest
            continue
        resumed = re.match(r"<\.\.\. (\w+) resumed>(.*)", rest)
        if resumed and resumed[1] in SENDS:
            continue
        if resumed:
            rest = open_calls.pop(pid, "") + resumed[2]
        call = re.match(r"(\w+)\((.*)\)\s+= (-?\d+|\?)", rest)
        if call:
            found.append(Event(call[1], call[2], call[3]))
    return found


def test_every_acknowledged_put_was_synced_first(tmp_path):
    trace, disk = tmp_path / "trace", tmp_path / "disk"
    backends = [harness.directory_backend("disk", disk, quota_bytes=harness.GIB)]
    calls = ",".join((*SYNCS, *RENAMES, *SENDS, "mkdir", "mkdirat"))
    wrapper = ["strace", "-f", "-y", "-s", "64", "-o", trace, "-e", f"trace={calls}"]
    # The same folder again, a new one, a deeper one; small, medium, spliced sizes; an overwrite.
    puts = [
        ("one", 100),
        ("two", 0),
        ("new/a", 4096),
        ("new/b", 100_000),
        ("deep/er/and/deeper/c", 300_000),
        ("one", 2_000_000),
        ("//odd", 500),
    ]
    with harness.Server(tmp_path / "server", backends, {"server": {"driver": "epoll"}}, wrapper=wrapper) as server:
        # strace is the child; the product is its child and gets the signal from here.
        with server.client() as client:
            for key, size in puts:
                assert client.put(BUCKET, key, os.urandom(size)).status == 200
            assert client.delete(BUCKET, "two").status == 204
        product = int(open(f"/proc/{server.process.child.pid}/task/{server.process.child.pid}/children").read().split()[0])
        os.kill(product, 15)
        assert server.process.child.wait(60) == 0
        server.process = None
    found = events(trace)

    answers = [i for i, event in enumerate(found) if event.name in SENDS and '"HTTP/1.1 20' in event.text]
    # The last of them are ours: before them only health checks were answered.
    answers = answers[-len(puts) - 1 :]
    before = next(i for i in range(answers[0] - 1, -1, -1) if i == 0 or '"HTTP/1.1 ' in found[i].text)
    for (key, size), answered in zip(puts, answers):
        window = found[before + 1 : answered]
        check_put(window, key, disk)
        before = answered
    # A delete changes the metadata only, and that is synced too.
    window = found[before + 1 : answers[-1]]
    assert any(is_wal_sync(event) for event in window), f"the delete's commit: {window}"


def is_wal_sync(event):
    return event.name in SYNCS and event.path.endswith("metadata.db-wal") and event.result == "0"


def check_put(window, key, disk):
    """Reservation, bytes, name, folders, commit: in this order, all before the answer."""
    told = "\n".join(map(repr, window))
    wal = [i for i, event in enumerate(window) if is_wal_sync(event)]
    assert len(wal) >= 2, f"{key}: a reservation and a commit, each synced:\n{told}"
    files = [
        i
        for i, event in enumerate(window)
        if event.name in SYNCS and event.path.startswith(f"{disk}/") and event.result == "0" and not os.path.isdir(event.path)
    ]
    assert files, f"{key}: the blob's file is not synced:\n{told}"
    renames = [i for i, event in enumerate(window) if event.name in RENAMES and event.result == "0" and "!" in event.text]
    assert renames, f"{key}: the blob does not get its name:\n{told}"
    renamed = renames[-1]
    assert wal[0] < files[0] < renamed < wal[-1], f"{key}: reserved, synced, named, committed:\n{told}"
    folders = [
        (i, event.path)
        for i, event in enumerate(window)
        if event.name in SYNCS and os.path.isdir(event.path) and event.path.startswith(str(disk)) and event.result == "0"
    ]
    assert any(renamed < i < wal[-1] for i, _ in folders), f"{key}: the folder's entry is not synced after the rename:\n{told}"
    # Every folder that was made has an entry in its own parent, synced before the commit.
    for i, event in enumerate(window):
        if event.name in ("mkdir", "mkdirat") and event.result == "0":
            made = re.findall(r'"([^"]*)"', event.text)[0]
            base = re.match(r"\d+<([^>]*)>", event.text)
            parent = os.path.dirname(os.path.normpath(os.path.join(base[1] if base else "/", made)))
            assert any(path == parent and i < at < wal[-1] for at, path in folders), f"{key}: {parent} is not synced:\n{told}"
