"""Signatures checked against an independent signer: random requests with odd keys, queries and header values are signed by
botocore, in the header and in the query, and sent as bytes over a socket. Each must be taken for what it is, and none may
be once anything that the signature covers was changed. The seed of a run is random unless it is set, and named by a failure."""

import os
import random
import urllib.parse

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import harness
import lean

BUCKET, ACCESS_KEY, SECRET = harness.BUCKET, harness.ACCESS_KEY, harness.SECRET
OTHER_KEY = "othersecretskey"
# Both can be set to have a failure again.
SEED = int(os.environ.get("S3O_SIGV4_SEED", random.randrange(1 << 32)))
REQUESTS = int(os.environ.get("S3O_SIGV4_REQUESTS", 250))

PIECES = ["a", "Z", "9", "//", "/", ".", "..", "é", "ß", "日本", "😀", "%", "%41", "%2F", "+", "~", " ", "  ", "!", "'", "("]
PIECES += [")", "*", "=", "&", "?", "#", "@", "$", ",", ";", ":", "\\", "|", '"', "<", ">", "[", "]", "^", "`", "{", "}", "-", "_"]
NAMES = ["prefix", "delimiter", "uploads", "uploadId", "partNumber", "list-type", "max-keys", "x-id", "a", "a-b", "A", "é", "a b"]
VALUES = ["simple", "a  b", "  around  ", "tab\there", "é", "", "a,b", "x=y;z", '"quoted  twice"', "日本", "a:b", "%41+%20"]
# What a request whose signature is not right is told.
REFUSALS = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "AuthorizationHeaderMalformed"}
REFUSALS |= {"AuthorizationQueryParametersError", "RequestTimeTooSkewed", "XAmzContentSHA256Mismatch"}


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    credentials = [{"access_key_id": key, "secret_access_key": secret} for key, secret in [(ACCESS_KEY, SECRET), (OTHER_KEY, "other")]]
    settings = {"buckets": [{"name": BUCKET, "credentials": credentials}]}
    return stack.enter_context(harness.Server(place / "server", [backend], settings))


class Maker:
    def __init__(self, server, number):
        self.dice = random.Random(f"{SEED}/{number}")
        self.host = f"127.0.0.1:{server.port}"

    def key(self):
        return "".join(self.dice.choice(PIECES) for _ in range(self.dice.randint(1, 8)))

    def encoded(self, text, safe):
        """As careful and as careless clients write it: some reserved characters raw, some digits in lower case."""
        written = urllib.parse.quote(text, safe=safe + self.dice.choice(["", "", "!'()*", "+:@,;=$"]))
        return written.lower() if self.dice.random() < 0.2 and text.isascii() and text == text.lower() else written

    def target(self):
        path = f"/{BUCKET}/" + self.encoded(self.key(), "/~")
        names = [self.dice.choice(NAMES) for _ in range(self.dice.choice([0, 0, 1, 2, 4]))]
        pairs = [f"{urllib.parse.quote(name, safe='-_.~')}={self.encoded(self.dice.choice(['', '1', self.key()]), '~')}" for name in names]
        return path + ("?" + "&".join(pairs) if pairs else "")

    def headers(self):
        found = {f"x-amz-meta-{chr(97 + n)}": self.dice.choice(VALUES) for n in range(self.dice.randint(0, 3))}
        for name, value in [("Content-Type", "text/plain;  charset=utf-8"), ("Range", "bytes=0-9"), ("Accept-Encoding", "gzip")]:
            if self.dice.random() < 0.3:
                found[name] = value
        return found

    def request(self, presigned):
        method = self.dice.choice(["GET", "GET", "PUT", "DELETE", "HEAD"])
        # botocore takes the body of a request that it presigns for fields of the query.
        body = self.dice.choice([b"", b"body"]) if method == "PUT" and not presigned else b""
        request = AWSRequest(method=method, url=f"http://{self.host}{self.target()}", data=body, headers=self.headers())
        credentials, region = Credentials(ACCESS_KEY, SECRET), self.dice.choice(["us-east-1", "eu-west-1"])
        if presigned:
            botocore.auth.S3SigV4QueryAuth(credentials, "s3", region, expires=self.dice.choice([60, 604800])).add_auth(request)
        else:
            request.context["payload_signing_enabled"] = self.dice.random() < 0.7
            botocore.auth.S3SigV4Auth(credentials, "s3", region).add_auth(request)
        target = request.url[len(f"http://{self.host}") :]
        fields = [("Host", self.host), *request.headers.items()]
        if method == "PUT" and "Content-Length" not in request.headers:
            fields.append(("Content-Length", str(len(body))))
        return method, target, fields, body


def send(connection, method, target, fields, body):
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    connection.send(head.encode() + body)
    return connection.response(method)


def is_refused(method, answer):
    return answer.status == 403 if method == "HEAD" else answer.code in REFUSALS and answer.status in (400, 403)


def replaced(fields, name, change):
    return [(key, change(value)) if key.lower() == name else (key, value) for key, value in fields]


def other_digit(text, at):
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


def mutations(dice, method, target, fields, body):
    """Names and requests, each of which differs from what was signed in one thing."""
    path, question, query = target.partition("?")
    signed = [name for name, _ in fields if name.lower().startswith("x-amz-meta-")]
    other_method = {"GET": "DELETE", "DELETE": "GET", "HEAD": "GET", "PUT": "DELETE"}[method]
    yield "method", (other_method, target, fields, body)
    at = dice.randrange(len(f"/{BUCKET}/"), len(path) + 1)
    yield "path longer", (method, path[:at] + "x" + path[at:] + question + query, fields, body) if "%" not in path[max(0, at - 2) : at] else None
    yield "path and slash", (method, path + "/" + question + query, fields, body)
    yield "query longer", (method, target + ("&" if question else "?") + "b=1", fields, body)
    yield "unsigned x-amz-", (method, target, [*fields, ("x-amz-meta-unsigned", "1")], body)
    yield "host", (method, target, replaced(fields, "host", lambda value: "localhost" + value[9:]), body)
    if "&" in query:
        dropped = dice.choice([pair for pair in query.split("&")])
        yield "query shorter", (method, path + "?" + "&".join(pair for pair in query.split("&") if pair != dropped), fields, body)
    for name in signed[:1]:
        yield "value", (method, target, replaced(fields, name.lower(), lambda value: "x" + value), body)
        yield "missing field", (method, target, [pair for pair in fields if pair[0] != name], body)
    authorization = next((value for name, value in fields if name == "Authorization"), None)
    if authorization:
        at = authorization.index("Signature=") + 10 + dice.randrange(64)
        yield "signature", (method, target, replaced(fields, "authorization", lambda _: other_digit(authorization, at)), body)
        yield "other key", (method, target, replaced(fields, "authorization", lambda _: authorization.replace(ACCESS_KEY, OTHER_KEY)), body)
        yield "region", (method, target, replaced(fields, "authorization", lambda _: authorization.replace("/s3/", "x/s3/")), body)
        yield "date", (method, target, replaced(fields, "x-amz-date", lambda value: other_digit(value, len(value) - 2)), body)
        hashed = next(value for name, value in fields if name.lower() == "x-amz-content-sha256")
        if len(hashed) == 64:
            yield "hash", (method, target, replaced(fields, "x-amz-content-sha256", lambda _: other_digit(hashed, 7)), body)
            if body:
                yield "body", (method, target, fields, b"bodY")
        else:
            yield "hash", (method, target, replaced(fields, "x-amz-content-sha256", lambda _: lean.EMPTY_SHA256), body)
    else:
        at = target.index("X-Amz-Signature=") + 16 + dice.randrange(64)
        yield "signature", (method, other_digit(target, at), fields, body)
        yield "expires", (method, target.replace("Expires=60&", "Expires=61&").replace("Expires=604800&", "Expires=604799&"), fields, body)
        yield "other key", (method, target.replace(ACCESS_KEY, OTHER_KEY), fields, body)


@pytest.mark.parametrize("presigned", [False, True], ids=["header", "query"])
def test_what_botocore_signs_is_accepted_and_nothing_else(server, presigned):
    with lean.Connection(server.address) as connection:
        for number in range(REQUESTS):
            maker = Maker(server, f"{presigned}/{number}")
            method, target, fields, body = maker.request(presigned)
            what = f"S3O_SIGV4_SEED={SEED}, request {number}: {method} {target} {fields}"
            answer = send(connection, method, target, fields, body)
            assert not is_refused(method, answer), f"{what}: {answer}"
            assert answer.status < 500 or answer.status == 501, f"{what}: {answer}"
    # A refused request may end the connection.
    for number in range(REQUESTS // 5):
        maker = Maker(server, f"{presigned}/{number}")
        method, target, fields, body = maker.request(presigned)
        for name, mutated in mutations(maker.dice, method, target, fields, body):
            if mutated is None or mutated == (method, target, fields, body):
                continue
            with lean.Connection(server.address) as connection:
                answer = send(connection, *mutated)
            # A body is looked at only once its request is known to be wanted.
            right = answer.status >= 400 if name == "body" else is_refused(mutated[0], answer)
            # A key that is no UTF-8 any more is no key; an answer to HEAD has no code.
            right |= answer.status == 400 and (name == "path longer" or mutated[0] == "HEAD")
            assert right, f"{name} of S3O_SIGV4_SEED={SEED}, request {number}: {mutated}: {answer}"
