"""`location_cache.max_staleness`: two instances over one PostgreSQL, each of which answers reads from what it knows."""

import contextlib
import time

import pytest

import harness

# No test waits for it; shorter than the grace.
LONG = 200
TAGS = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"


@pytest.fixture
def fleet(tmp_path):
    """Starts two instances that may answer with what is so many seconds old, over one database and one directory."""
    with contextlib.ExitStack() as stack:
        postgres = harness.Postgres(tmp_path / "postgres.log")
        stack.callback(postgres.end)
        backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]

        def start(staleness):
            settings = {"database": postgres.settings(), "location_cache": {"max_staleness": f"{staleness}s"}}
            for name in ("first", "second"):
                server = harness.Server(tmp_path / name, backends, settings)
                stack.callback(server.kill)
                yield server, stack.enter_context(server.client())

        yield start


def hits(server):
    return server.metric("s3o_location_cache_hits_total")


def test_anothers_writes_are_seen_when_the_bound_is_over(fleet):
    bound = 1.0
    (first, one), (_, two) = fleet(bound)
    assert two.put(harness.BUCKET, "deleted", b"").status == 200
    for number in range(3):
        old, new = f"{number}".encode(), f"{number + 1}".encode()
        assert two.put(harness.BUCKET, "k", old).status == 200
        # Until it is one that is answered without asking.
        before, deadline = hits(first), time.monotonic() + 60
        while hits(first) == before or one.get(harness.BUCKET, "k").body != old:
            assert time.monotonic() < deadline, "the cache answers nothing"
            one.get(harness.BUCKET, "k")
        one.get(harness.BUCKET, "deleted")
        assert two.put(harness.BUCKET, "k", new).status == 200
        assert two.delete(harness.BUCKET, "deleted").status == 204
        done = time.monotonic()
        while True:
            began = time.monotonic()
            answer, deleted = one.get(harness.BUCKET, "k"), one.get(harness.BUCKET, "deleted")
            assert answer.status == 200 and answer.body in (old, new), answer
            if began - done > bound:
                assert (answer.body, deleted.status) == (new, 404), f"{began - done} s after it was overwritten"
                break


def test_own_writes_are_seen_at_once(fleet):
    (first, one), (_, two) = fleet(LONG)
    for number in range(20):
        body = f"{number}".encode()
        assert two.put(harness.BUCKET, "k", b"another's").status == 200
        assert one.put(harness.BUCKET, "k", body).status == 200
        assert one.get(harness.BUCKET, "k").body == body
        tagged = one.request("PUT", harness.BUCKET, "k", query=[("tagging", "")], body=TAGS)
        assert tagged.status == 200, tagged
        answer = one.get(harness.BUCKET, "k")
        assert (answer.body, answer.header("x-amz-tagging-count")) == (body, "1")
        assert one.delete(harness.BUCKET, "k").status == 204
        assert one.get(harness.BUCKET, "k").status == 404
    assert hits(first) > 0


def test_a_location_whose_bytes_are_gone(fleet, tmp_path):
    """It is looked for again: no error for an object that is there. And what is copied is never an old version."""
    (first, one), (_, two) = fleet(LONG)
    for key in ("k", "gone", "copied"):
        assert two.put(harness.BUCKET, key, b"old").status == 200
        assert one.get(harness.BUCKET, key).body == b"old"
    old = harness.stored_in(tmp_path / "near")
    for key in ("k", "copied"):
        assert two.put(harness.BUCKET, key, b"new").status == 200
    assert two.delete(harness.BUCKET, "gone").status == 204
    copied = one.request("PUT", harness.BUCKET, "copy", headers=[("x-amz-copy-source", f"{harness.BUCKET}/copied")])
    assert copied.status == 200 and one.get(harness.BUCKET, "copy").body == b"new"
    for name in old:
        (tmp_path / "near" / name).unlink()
    before = hits(first)
    answer = one.get(harness.BUCKET, "k")
    assert (answer.status, answer.body) == (200, b"new"), answer
    assert hits(first) > before, "it was not looked for where it had been"
    assert one.get(harness.BUCKET, "gone").status == 404
    assert two.get(harness.BUCKET, "k").body == b"new"
