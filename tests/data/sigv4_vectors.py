#!/usr/bin/env python3
"""Writes sigv4_vectors.json: requests with odd targets and headers, signed by clients that others wrote.

    pip install botocore minio requests requests-aws4auth s3cmd
    python3 tests/data/sigv4_vectors.py [how many of each client, 10 if not given] > tests/data/sigv4_vectors.json

Each vector is a request as it goes over the wire. `same_headers` says that the client signed just the headers that our
own signer signs, so that both signatures must be equal. The output depends on nothing but this file and the clients.
"""
import datetime
import hashlib
import json
import random
import sys
import urllib.parse
from types import SimpleNamespace

import botocore.auth
import minio.credentials
import minio.signer
import requests
import requests_aws4auth
import S3.Config
import S3.Crypto
import S3.SortedDict
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS_KEY, SECRET = "AKIDEXAMPLE/odd", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime.datetime(2026, 11, 22, 17, 0, 0, tzinfo=datetime.timezone.utc)
AMZ_DATE = "20261122T170000Z"
EMPTY = hashlib.sha256(b"").hexdigest()
dice = random.Random(7)

PIECES = ["a", "Z", "9", "//", "/", ".", "..", "é", "ß", "日本", "😀", "%", "%41", "%2F", "+", "~", " ", "  ", "!", "'", "(",
          ")", "*", "=", "&", "?", "#", "@", "$", ",", ";", ":", "\\", "|", "\"", "<", ">", "[", "]", "^", "`", "{", "}",
          "-", "_", "photo-0001.jpg"]
NAMES = ["prefix", "delimiter", "uploads", "uploadId", "partNumber", "list-type", "max-keys", "x-id", "a", "a-b", "A", "é"]
VALUES = ["simple", "a  b", "  around  ", "tab\there", "é", "", "a,b", "x=y;z", "\"quoted  twice\""]


def key():
    return "".join(dice.choice(PIECES) for _ in range(dice.randint(1, 8)))


def parameters():
    return [(dice.choice(NAMES), dice.choice(["", key(), "1"])) for _ in range(dice.choice([0, 0, 1, 2, 4]))]


def headers():
    some = {"x-amz-meta-" + chr(97 + n): dice.choice(VALUES) for n in range(dice.randint(0, 3))}
    if dice.random() < 0.4:
        some["Content-Type"] = dice.choice(["text/plain", "text/plain;  charset=utf-8"])
    if dice.random() < 0.3:
        some["Content-MD5"] = "1B2M2Y8AsgTpgAmY7PhCfg=="
    return some


def loosely(text, safe):
    """As a careless client encodes: some reserved characters raw, some digits in lower case."""
    encoded = urllib.parse.quote(text, safe=safe + dice.choice(["", "!'()*", "+:@,;=$"]))
    return encoded.lower() if dice.random() < 0.3 and encoded.isascii() else encoded


def vector(client, method, target, sent, same_headers):
    path, _, query = target.partition("?")
    return {"client": client, "method": method, "path": path, "query": query, "headers": sorted(sent.items()),
            "same_headers": same_headers}


def by_botocore():
    botocore.auth.get_current_datetime = lambda *_, **__: NOW.replace(tzinfo=None)
    path = "/bucket/" + (urllib.parse.quote(key(), safe="/-_.~") if dice.random() < 0.5 else loosely(key(), "/~"))
    query = "&".join(f"{urllib.parse.quote(n, safe='-_.~')}={loosely(v, '~')}" for n, v in parameters())
    target = path + ("?" + query if query else "")
    sent = headers()
    extra = dice.random() < 0.4
    if extra:
        sent |= {"Range": "bytes=0-9", "Content-Encoding": "gzip", "If-None-Match": "\"x\""}
    method = dice.choice(["GET", "PUT", "DELETE", "HEAD", "POST"])
    body = dice.choice([b"", b"body"])
    request = AWSRequest(method=method, url="http://localhost:9000" + target, data=body, headers=sent)
    request.context["payload_signing_enabled"] = True
    botocore.auth.S3SigV4Auth(Credentials(ACCESS_KEY, SECRET), "s3", "eu-west-1").add_auth(request)
    return vector("botocore", method, target, {"Host": "localhost:9000", **dict(request.headers.items())}, not extra)


def by_minio():
    query = "&".join(f"{urllib.parse.quote(n, safe='')}={urllib.parse.quote(v, safe='')}" for n, v in parameters())
    target = "/bucket/" + urllib.parse.quote(key(), safe="/-_.~") + ("?" + query if query else "")
    sent = {"Host": "localhost:9000", "x-amz-content-sha256": EMPTY, "x-amz-date": AMZ_DATE}
    sent |= {name: value.replace("\t", " ") for name, value in headers().items()}
    url = urllib.parse.urlsplit("http://localhost:9000" + target)
    signed = minio.signer.sign_v4_s3(method="GET", url=url, region="eu-west-1", headers=sent, date=NOW,
                                     credentials=minio.credentials.Credentials(ACCESS_KEY, SECRET), content_sha256=EMPTY)
    return vector("minio-py", "GET", target, signed, True)


def by_aws4auth():
    # This client spoils "//", dot segments and ";" itself: a plainer key.
    plain = "k" + "".join(char for char in key() if char not in "/.#?;")
    url = "http://localhost:9000/bucket/" + urllib.parse.quote(plain, safe="/~!'()*+,;=:@$")
    pairs = {name: value.replace(" ", "") for name, value in parameters() if value}
    prepared = requests.Request("GET", url, params=pairs, headers={"x-amz-date": AMZ_DATE, "Host": "localhost:9000"}).prepare()
    requests_aws4auth.AWS4Auth(ACCESS_KEY, SECRET, "eu-west-1", "s3")(prepared)
    return vector("requests-aws4auth", "GET", prepared.path_url, dict(prepared.headers.items()), True)


def by_s3cmd():
    config = S3.Config.Config()
    config.access_key, config.secret_key = ACCESS_KEY, SECRET
    clock = SimpleNamespace(utcnow=lambda: NOW)
    S3.Crypto.datetime = SimpleNamespace(datetime=clock)
    # It sorts names before it encodes them, which only shows in names that it never sends.
    path, pairs = "/bucket/" + key(), {name: value for name, value in parameters() if name.isascii()}
    sent = S3.SortedDict.SortedDict({"content-type": "text/plain", "x-amz-meta-a": "b"}, ignore_case=True)
    signed = S3.Crypto.sign_request_v4("PUT", "localhost:9000", path, pairs, "eu-west-1", sent, b"body")
    target = S3.Crypto.s3_quote(path, quote_backslashes=False, unicode_output=True)
    target += S3.Crypto.format_param_str(pairs)
    return vector("s3cmd", "PUT", target, {"Host": "localhost:9000", **dict(signed.items())}, True)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    makers = [by_botocore] * 4 + [by_minio, by_aws4auth, by_s3cmd]
    vectors = [make() for make in makers for _ in range(count)]
    print('{"access_key":%s,"secret":%s,"region":"eu-west-1","seconds":%d,"vectors":[' % (
        json.dumps(ACCESS_KEY), json.dumps(SECRET), NOW.timestamp()))
    print(",\n".join(json.dumps(one, ensure_ascii=False) for one in vectors))
    print("]}")


main()
