#!/usr/bin/env python3
"""Writes presigned_vectors.json: URLs with odd targets, fields and times, presigned by botocore.

    pip install botocore
    python3 tests/data/presigned_vectors.py [how many, 80 if not given] > tests/data/presigned_vectors.json

The pseudo-header `expires` tells for how many seconds the URL is valid. The output depends on nothing but this file and
botocore.
"""
import datetime
import json
import random
import sys
import urllib.parse

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS_KEY, SECRET, HOST = "AKIDEXAMPLE/odd", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "localhost:9000"
NOW = datetime.datetime(2026, 11, 22, 17, 0, 0)
dice = random.Random(11)

PIECES = ["a", "Z", "9", "//", "/", ".", "..", "é", "日本", "😀", "%", "%41", "%2F", "+", "~", " ", "  ", "!", "'", "(", ")",
          "*", "=", "&", "?", "#", "@", "$", ",", ";", ":", "\\", "|", "\"", "<", ">", "[", "]", "^", "`", "-", "_", "photo.jpg"]
NAMES = ["prefix", "uploadId", "partNumber", "response-content-type", "x-id", "a", "a-b", "A", "Xa", "é",
         "x-amz-checksum-crc32", "x-amz-meta-q"]
VALUES = ["simple", "a  b", "  around  ", "é", "", "a,b", "x=y;z", "\"quoted  twice\""]


def text():
    return "".join(dice.choice(PIECES) for _ in range(dice.randint(1, 8)))


def vector():
    path = "/bucket/" + urllib.parse.quote(text(), safe=dice.choice(["/-_.~", "/~!'()*", "/~+:@,;=$"]))
    pairs = [(dice.choice(NAMES), dice.choice(["", text(), "1"])) for _ in range(dice.choice([0, 0, 1, 2, 4]))]
    # Presigning puts parameters into a dictionary: each name once.
    query = "&".join(f"{urllib.parse.quote(n, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}" for n, v in dict(pairs).items())
    sent = {"x-amz-meta-" + chr(97 + n): dice.choice(VALUES) for n in range(dice.choice([0, 0, 1, 2]))}
    if dice.random() < 0.3:
        sent |= {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg==", "Range": "bytes=0-9"}
    expires = dice.choice([1, 60, 3600, 604800])
    method = dice.choice(["GET", "PUT", "DELETE", "HEAD", "POST"])
    request = AWSRequest(method=method, url=f"http://{HOST}{path}" + ("?" + query if query else ""), headers=sent)
    botocore.auth.S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET), "s3", "eu-west-1", expires=expires).add_auth(request)
    signed = urllib.parse.urlsplit(request.url)
    headers = {"Host": HOST, **dict(request.headers.items()), "expires": str(expires)}
    return {"client": "botocore", "method": method, "path": signed.path, "query": signed.query,
            "headers": sorted(headers.items()), "same_headers": False}


def main():
    botocore.auth.get_current_datetime = lambda *_, **__: NOW
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    print('{"access_key":%s,"secret":%s,"region":"eu-west-1","seconds":%d,"vectors":[' % (
        json.dumps(ACCESS_KEY), json.dumps(SECRET), NOW.replace(tzinfo=datetime.timezone.utc).timestamp()))
    print(",\n".join(json.dumps(vector(), ensure_ascii=False) for _ in range(count)))
    print("]}")


main()
