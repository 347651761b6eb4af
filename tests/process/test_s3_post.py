"""Browser uploads: forms as boto3 makes them, sent by `requests` and byte by byte."""

import base64
import datetime
import hashlib
import hmac
import json
import os

import pytest
import requests

import harness
import lean

BUCKET = harness.BUCKET


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    settings = {"server": {"domains": ["s3.test"]}}
    return stack.enter_context(harness.Server(place / "server", [backend], settings))


@pytest.fixture
def s3(server, boto):
    return boto(server, signature_version="s3v4")


def post(form, body=b"the file", name="a b.txt", **more):
    """What a browser does with the form: all fields, then the file."""
    return requests.post(form["url"], data=form["fields"], files={"file": (name, body)}, allow_redirects=False, timeout=60, **more)


def code_of(answer):
    return lean.xml_texts(answer.content, "Code")[0]


def read(s3, key):
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


@pytest.mark.parametrize("size", [0, 1, 30_000, 262_000, 300_000, 20_000_000])
def test_files_of_every_size(server, s3, size):
    body = os.urandom(size)
    form = s3.generate_presigned_post(BUCKET, f"sizes/{size}")
    answer = post(form, body)
    assert (answer.status_code, answer.content) == (204, b""), answer.content
    assert answer.headers["etag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert answer.headers["location"] == f"{server.url}/{BUCKET}/sizes/{size}"
    assert read(s3, f"sizes/{size}") == body


def test_tags(s3):
    tags = [{"Key": "a b", "Value": "c+d=/"}, {"Key": "ü", "Value": ""}]
    pairs = "".join(f"<Tag><Key>{tag['Key']}</Key><Value>{tag['Value']}</Value></Tag>" for tag in tags)
    allowed = [["starts-with", "$tagging", ""]]

    def tagged(document, conditions=allowed):
        return post(s3.generate_presigned_post(BUCKET, "tagged", {"tagging": document}, conditions), b"with tags")

    document = f"<Tagging><TagSet>{pairs}</TagSet></Tagging>"
    assert tagged(document).status_code == 204
    assert read(s3, "tagged") == b"with tags"
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"] == tags
    assert code_of(tagged("a=b")) == "MalformedXML"
    assert code_of(tagged(document.replace("a b", "aws:b"))) == "InvalidTag"
    assert code_of(tagged(document, [])) == "AccessDenied"
    both = s3.generate_presigned_post(
        BUCKET, "tagged", {"tagging": document, "x-amz-tagging": "a=b"}, [*allowed, ["starts-with", "$x-amz-tagging", ""]]
    )
    assert code_of(post(both)) == "InvalidArgument"
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"] == tags


def test_a_large_file_is_not_held_in_memory(server, s3):
    before = server.rss_bytes()
    body = b"0123456789abcdef" * (100 * harness.MIB // 16)
    assert post(s3.generate_presigned_post(BUCKET, "large"), body).status_code == 204
    assert server.rss_bytes() - before < 40 * harness.MIB
    assert s3.head_object(Bucket=BUCKET, Key="large")["ContentLength"] == len(body)


def test_fields_of_the_object(s3):
    fields = {
        "Content-Type": "text/plain",
        "Cache-Control": "max-age=1",
        "x-amz-meta-colour": "sea green",
        "acl": "private",
        "success_action_status": "201",
        "x-ignore-this": "at all",
    }
    conditions = [{name: value} for name, value in fields.items() if not name.startswith("x-ignore-")]
    answer = post(s3.generate_presigned_post(BUCKET, "up/${filename}", fields, [*conditions, ["starts-with", "$key", "up/"]]), b"x")
    assert answer.status_code == 201
    texts = [lean.xml_texts(answer.content, name)[0] for name in ("Bucket", "Key", "ETag")]
    assert texts == [BUCKET, "up/a b.txt", f'"{hashlib.md5(b"x").hexdigest()}"']
    assert lean.xml_texts(answer.content, "Location")[0].endswith(f"/{BUCKET}/up/a%20b.txt") == answer.headers["location"].endswith("a%20b.txt")
    found = s3.get_object(Bucket=BUCKET, Key="up/a b.txt")
    assert (found["ContentType"], found["CacheControl"], found["Metadata"]) == ("text/plain", "max-age=1", {"colour": "sea green"})


def test_how_success_looks(s3):
    def answer_to(**fields):
        return post(s3.generate_presigned_post(BUCKET, "success", dict(fields), [{name: value} for name, value in fields.items()]))

    for status, want in [("200", 200), ("201", 201), ("204", 204), ("404", 204), ("", 204)]:
        assert answer_to(success_action_status=status).status_code == want
    for url, want in [("https://app.example/done", "https://app.example/done?"), ("https://app.example/?a=b", "https://app.example/?a=b&")]:
        answer = answer_to(success_action_redirect=url)
        etag = hashlib.md5(b"the file").hexdigest()
        assert (answer.status_code, answer.headers["location"]) == (303, f"{want}bucket={BUCKET}&key=success&etag=%22{etag}%22")
    assert answer_to(success_action_redirect="no url").status_code == 204


def test_conditions(s3):
    def answer_to(key="conditions", fields=None, conditions=(), edit=None, body=b"12345", **more):
        form = s3.generate_presigned_post(BUCKET, key, fields or {}, list(conditions), **more)
        if edit:
            form["fields"] |= edit
        answer = post(form, body)
        return (answer.status_code, None if answer.status_code == 204 else code_of(answer))

    good = (204, None)
    denied = (403, "AccessDenied")
    assert answer_to(conditions=[["content-length-range", 5, 5]]) == good
    assert answer_to(conditions=[["content-length-range", 6, 9]]) == (400, "EntityTooSmall")
    assert answer_to(conditions=[["content-length-range", 0, 4]]) == (400, "EntityTooLarge")
    assert answer_to(conditions=[["content-length-range", 0, 300_000]], body=os.urandom(400_000)) == (400, "EntityTooLarge")
    assert answer_to(edit={"key": "another"}) == denied
    assert answer_to(edit={"x-amz-meta-more": "x"}) == denied
    assert answer_to(conditions=[{"x-amz-meta-a": "b"}]) == denied
    assert answer_to(conditions=[["starts-with", "$content-type", "image/"]], edit={"content-type": "text/x"}) == denied
    assert answer_to(conditions=[["starts-with", "$content-type", "image/"]], edit={"Content-Type": "image/x"}) == good
    assert answer_to(conditions=[{"bucket": "others"}]) == denied
    assert answer_to(conditions=[["content-length-range", 0]]) == (400, "InvalidPolicyDocument")
    assert answer_to(ExpiresIn=-1) == denied
    assert answer_to(edit={"x-amz-signature": "0" * 64}) == (403, "SignatureDoesNotMatch")
    assert answer_to(edit={"policy": base64.b64encode(b"{}").decode()}) == (403, "SignatureDoesNotMatch")
    assert answer_to(edit={"x-amz-security-token": "t"}) == (400, "InvalidToken")


def test_what_is_missing(server, s3):
    form = s3.generate_presigned_post(BUCKET, "missing")
    for name, status, code in [
        ("key", 403, "AccessDenied"),
        ("policy", 400, "InvalidArgument"),
        ("x-amz-signature", 400, "InvalidArgument"),
        ("x-amz-credential", 400, "InvalidArgument"),
    ]:
        fields = {key: value for key, value in form["fields"].items() if key != name}
        answer = post({**form, "fields": fields})
        assert (answer.status_code, code_of(answer)) == (status, code), name
    assert code_of(post({**form, "fields": {"key": "missing"}})) == "AccessDenied", "nobody's upload"
    answer = requests.post(form["url"], files={name: (None, value) for name, value in form["fields"].items()}, timeout=60)
    assert (answer.status_code, code_of(answer)) == (400, "InvalidArgument"), "no file"
    answer = requests.post(form["url"], data=form["fields"], timeout=60)
    assert answer.status_code in (403, 412), "another type"
    assert requests.get(f"{server.url}/health", timeout=60).status_code == 200


def test_version_2(s3):
    """The older signature, as forms without boto3 still carry it."""
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)
    policy = {"expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": [{"bUcKeT": BUCKET}, ["StArTs-WiTh", "$KeY", "foo"]]}
    policy = base64.b64encode(json.dumps(policy).encode()).decode()
    signature = base64.b64encode(hmac.new(harness.SECRET.encode(), policy.encode(), hashlib.sha1).digest()).decode()
    fields = {"kEy": "foo.txt", "AWSAccessKeyId": harness.ACCESS_KEY, "signature": signature, "policy": policy}
    url = f"{s3.meta.endpoint_url}/{BUCKET}"
    assert post({"url": url, "fields": fields}).status_code == 204
    assert read(s3, "foo.txt") == b"the file"
    answer = post({"url": url, "fields": {**fields, "signature": signature[::-1]}})
    assert (answer.status_code, code_of(answer)) == (403, "SignatureDoesNotMatch")


def wire(form, body, after="", boundary="xYz", end="--\r\n"):
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in form["fields"].items()]
    head = "".join(parts) + f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + body + f"\r\n--{boundary}{after}{end}".encode()


def send(server, data, more="", pieces=1, host="127.0.0.1", path=f"/{BUCKET}"):
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: multipart/form-data; boundary=xYz\r\ncontent-length: {len(data)}\r\n{more}\r\n"
    with lean.Connection(server.address) as connection:
        whole = head.encode() + data
        step = -(-len(whole) // pieces)
        for at in range(0, len(whole), step):
            connection.send(whole[at : at + step])
        answer = connection.response("POST")
        if answer.header("connection") != "close":
            connection.send(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            assert connection.response().status == 200, "the connection goes on"
        return answer


def test_bytes_of_the_form(server, s3):
    form = s3.generate_presigned_post(BUCKET, "bytes")
    submit = '\r\nContent-Disposition: form-data; name="submit"\r\n\r\nUpload\r\n--xYz'
    tricky = b"\r\n--xY\r\n--\r\n\r\n--xYZ\r\n-"
    for body in (b"", tricky, tricky * 3000):
        for pieces in (1, 7, 60):
            assert send(server, wire(form, body), pieces=pieces).status == 204
            assert read(s3, "bytes") == body
        large = len(body) > 100_000 and len(wire(form, body)) > 262_144
        for after, end in [(submit, "--\r\n"), ("", "--"), (submit, "--")]:
            answer = send(server, wire(form, body, after, end=end))
            assert answer.status == 204 or large and answer.code == "MalformedPOSTRequest", answer
    big = os.urandom(400_000)
    answer = send(server, wire(form, big, submit))
    assert (answer.status, answer.code) == (400, "MalformedPOSTRequest")
    assert read(s3, "bytes") == tricky * 3000, "what is refused changes nothing"
    for data, code in [(wire(form, b"x")[:-8], "IncompleteBody"), (b"--xYz\r\n\r\n", "MalformedPOSTRequest"), (b"junk", "MalformedPOSTRequest")]:
        assert send(server, data).code == code
    long = {**form, "fields": {**form["fields"], "x-ignore-a": "a" * 21_000}}
    assert send(server, wire(long, b"x")).code == "MaxPostPreDataLengthExceeded"


def test_other_ways_to_arrive(server, s3):
    form = s3.generate_presigned_post(BUCKET, "hosted")
    answer = send(server, wire(form, b"by host"), host=f"{BUCKET}.s3.test", path="/")
    assert (answer.status, answer.header("location")) == (204, f"http://{BUCKET}.s3.test/hosted")
    assert read(s3, "hosted") == b"by host"
    data = wire(form, b"x")
    head = f"POST /{BUCKET} HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=xYz\r\n"
    with lean.Connection(server.address) as connection:
        connection.send((head + f"content-length: {len(data)}\r\nexpect: 100-continue\r\n\r\n").encode())
        assert connection.head()[0] == 100
        connection.send(data)
        assert connection.response("POST").status == 204
    with lean.Connection(server.address) as connection:
        connection.send((head + f"transfer-encoding: chunked\r\n\r\n{len(data):x}\r\n").encode() + data + b"\r\n0\r\n\r\n")
        answer = connection.response("POST")
        assert (answer.status, answer.code) == (411, "MissingContentLength")


def test_forms_that_stand_still(place, stack, s3):
    """In the fields, which nobody has signed for yet, and in a small file: the client is told and let go."""
    backend = harness.directory_backend("disk", place / "still", quota_bytes=harness.GIB)
    settings = {"server": {"body_progress_timeout": "2s"}}
    server = stack.enter_context(harness.Server(place / "impatient", [backend], settings))
    data = wire(s3.generate_presigned_post(BUCKET, "still"), b"x" * 1000)
    head = f"POST /{BUCKET} HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=xYz\r\ncontent-length: {len(data)}\r\n\r\n"
    for sent in (data[:200], data[:-500]):
        with lean.Connection(server.address) as connection:
            connection.send(head.encode() + sent)
            answer = connection.response("POST")
            assert (answer.status, answer.code) == (400, "RequestTimeout"), answer
            assert connection.ended()


def test_what_follows_a_form_on_its_connection(server, s3):
    """The buffer that a form was read into is not the next request's, whose body would not fit behind its head."""
    form, body = s3.generate_presigned_post(BUCKET, "before"), os.urandom(150_000)
    for size in (0, 1000, 60_000, 200_000):
        data = wire(form, b"x" * size)
        lines = [f"POST /{BUCKET} HTTP/1.1", "host: a", "content-type: multipart/form-data; boundary=xYz", f"content-length: {len(data)}"]
        first = "\r\n".join(lines).encode() + b"\r\n\r\n" + data
        with server.client() as client, client.connect() as connection:
            second = client.signed("PUT", BUCKET, "after", body=body).head() + body
            for requests_at_once in ([first, second], [first + second]):
                for sent in requests_at_once:
                    connection.send(sent)
                    statuses = [connection.response("PUT").status for _ in range(2 if sent is not first and sent is not second else 1)]
                    assert set(statuses) <= {200, 204}, (size, statuses)
                assert client.get(BUCKET, "after").body == body
