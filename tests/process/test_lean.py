"""Our own client signs as botocore does: a fault here would make every other test say the wrong thing."""

import datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import lean

KEYS = ["plain", "a b", "a//b", "ä/ö", "100%", "a+b&c=d", "!'()*", "~._-", "trailing/", "\U0001f600"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("query", [[], [("uploads", "")], [("prefix", "a b/ö"), ("list-type", "2")]])
def test_the_signature_is_botocores(key, query, monkeypatch):
    now = datetime.datetime(2026, 5, 4, 3, 2, 1, tzinfo=datetime.timezone.utc)
    client = lean.Client(("127.0.0.1", 9000))
    ours = client.signed("PUT", "photos", key, query, [("x-amz-meta-a", "b  c")], b"body", now=now)

    target = lean.encode_path("photos", key) + ("?" + lean.encode_query(query) if query else "")
    theirs = AWSRequest(
        "PUT", f"http://127.0.0.1:9000{target}", data=b"body", headers={"x-amz-meta-a": "b  c", "content-length": "4"}
    )
    theirs.headers["x-amz-content-sha256"] = ours.fields["x-amz-content-sha256"]
    signer = S3SigV4Auth(Credentials("photoskey", "photossecret"), "s3", "us-east-1")
    theirs.context["timestamp"] = ours.stamp
    theirs.headers["X-Amz-Date"] = ours.stamp
    names = signer.headers_to_sign(theirs)
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert sorted(name.lower() for name in names.keys()) == sorted(set(ours.fields) - {"authorization"})
    assert signer.signature(text, theirs) == ours.signature
