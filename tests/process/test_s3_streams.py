"""Streamed uploads as one table: the three streaming forms of the body, five checksum algorithms, bodies that are held and
bodies that pass through, and the checksum right, wrong, missing, given twice, cut, and under another name. After every
refusal the object that was there is there unchanged."""

import base64
import functools
import os
import socket

import pytest

import harness
import lean
from conftest import QUICK_CLEANUP
from test_bad_input import CHECKSUMS, streamed

BUCKET = harness.BUCKET
SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER = FORMS = (
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
)
# One that is received whole before it leaves, one that is not.
BODIES = {"held": os.urandom(3_000), "passing": os.urandom(300_000)}
BEFORE = b"what was there before"
STATES = ["right", "wrong", "missing", "duplicated", "truncated value", "truncated body", "other name"]


@functools.cache
def checksum(algorithm, size):
    return base64.b64encode(CHECKSUMS[algorithm](BODIES[size])).decode()


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("near", place / "near", quota_bytes=harness.GIB)
    settings = {**QUICK_CLEANUP, "server": {"region": "eu-central-1"}}
    return stack.enter_context(harness.Server(place / "server", [backend], settings))


def other(algorithm):
    names = list(CHECKSUMS)
    return names[(names.index(algorithm) + 1) % len(names)]


def wrong(value):
    raw = bytearray(base64.b64decode(value))
    raw[-1] ^= 1
    return base64.b64encode(raw).decode()


def as_header(algorithm, state, size):
    """The fields of a stream without trailers, whose checksum is a header; status and codes."""
    name, value = f"x-amz-checksum-{algorithm}", checksum(algorithm, size)
    named = ("x-amz-sdk-checksum-algorithm", algorithm.upper())
    return {
        "right": ([(name, value), named], 200, [None]),
        "wrong": ([(name, wrong(value)), named], 400, ["BadDigest"]),
        "missing": ([named], 400, ["InvalidRequest"]),
        # In one field with a comma; two fields of one name cannot be signed apart.
        "duplicated": ([(name, f"{value},{value}"), named], 400, ["InvalidRequest"]),
        "truncated value": ([(name, value[:-4]), named], 400, ["InvalidRequest"]),
        "truncated body": ([(name, value), named], 400, ["IncompleteBody"]),
        "other name": ([(f"x-amz-checksum-{other(algorithm)}", value), named], 400, ["InvalidRequest", "BadDigest"]),
    }[state]


def as_trailer(algorithm, state, size, signed):
    """Trailer, what is done to the pieces of the wire; status and codes. A signature may notice before the checksum does."""
    name, value = f"x-amz-checksum-{algorithm}", checksum(algorithm, size)
    start = name.encode()

    def edit(change):
        return lambda pieces: [piece for one in pieces for piece in (change(one) if one.startswith(start) else [one])]

    noticed = ["MalformedTrailerError"] + ["SignatureDoesNotMatch"] * signed
    return {
        "right": ((name, value), None, 200, [None]),
        "wrong": ((name, wrong(value)), None, 400, ["BadDigest"]),
        "missing": ((name, value), edit(lambda _: []), 400, noticed),
        "duplicated": ((name, value), edit(lambda one: [one, one]), 400, noticed),
        "truncated value": ((name, value[:-4]), None, 400, ["InvalidRequest"]),
        "truncated body": ((name, value), None, 400, ["IncompleteBody"]),
        "other name": (
            (name, value),
            edit(lambda one: [one.replace(start, f"x-amz-checksum-{other(algorithm)}".encode())]),
            400,
            noticed,
        ),
    }[state]


def wire_of(client, key, form, algorithm, state, size, framing):
    body = BODIES[size]
    if form == SIGNED:
        fields, status, codes = as_header(algorithm, state, size)
        trailer = tamper = None
    else:
        fields = []
        trailer, tamper, status, codes = as_trailer(algorithm, state, size, form == SIGNED_TRAILER)
    more = {"trailer": trailer} if trailer else {}
    wire = streamed(client, key, body, form, chunk=65_536, tamper=tamper, more=fields, framing_length=framing, **more)
    return wire, status, codes


@pytest.mark.parametrize("size", BODIES)
@pytest.mark.parametrize("algorithm", CHECKSUMS)
@pytest.mark.parametrize("form", FORMS)
def test_every_state_of_every_checksum(server, form, algorithm, size):
    with server.client(region="eu-central-1") as client:
        for framing in ("length", "chunked"):
            for state in STATES:
                what = f"{state}, {framing}"
                key = f"{form}/{algorithm}/{size}/{what}"
                assert client.put(BUCKET, key, BEFORE).status == 200
                wire, status, codes = wire_of(client, key, form, algorithm, state, size, framing)
                with client.connect() as connection:
                    if state == "truncated body":
                        connection.send(wire[: -len(BODIES[size]) // 2])
                        connection.sock.shutdown(socket.SHUT_WR)
                    else:
                        connection.send(wire)
                    answer = connection.response("PUT")
                assert answer.status == status or "SignatureDoesNotMatch" in codes and answer.status == 403, f"{what}: {answer}"
                assert answer.code in codes, f"{what}: {answer}"
                found = client.get(BUCKET, key, headers=[("x-amz-checksum-mode", "ENABLED")])
                if state == "right":
                    assert found.body == BODIES[size], what
                    assert found.header(f"x-amz-checksum-{algorithm}") == checksum(algorithm, size), what
                    assert found.header("content-encoding") is None, what
                else:
                    assert found.body == BEFORE, f"{what}: not as it was"
