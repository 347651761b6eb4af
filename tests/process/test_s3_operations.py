"""Every operation by two clients in their default settings, boto3 and the AWS CLI, driven by one script. That it is every one
is read from the server's audit log and from the list of operations in the source."""

import json
import pathlib
import re
import subprocess
import sys

import botocore.exceptions
import pytest
import requests

import harness
from test_s3_users import user

SOURCE = pathlib.Path(__file__).parents[2]
NAMES = set(re.findall(r'Self::(\w+) => "\1"', (SOURCE / "src/proto/operation.rs").read_text()))
MIB = harness.MIB
FIRST, LAST = b"1" * 5 * MIB, b"the end"
OWNED = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
# The method that asks for a setting which nobody has made, and what is answered: a code, or some of the document.
SETTINGS = {
    "get_bucket_accelerate_configuration": {},
    "get_bucket_cors": "NoSuchCORSConfiguration",
    "get_bucket_encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
    "get_bucket_logging": {},
    "get_bucket_notification_configuration": {},
    "get_bucket_ownership_controls": {"OwnershipControls": OWNED},
    "get_bucket_policy": "NoSuchBucketPolicy",
    "get_bucket_policy_status": "NoSuchBucketPolicy",
    "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    "get_bucket_request_payment": {"Payer": "BucketOwner"},
    "get_bucket_tagging": "NoSuchTagSet",
    "get_bucket_website": "NoSuchWebsiteConfiguration",
    "get_object_lock_configuration": "ObjectLockConfigurationNotFoundError",
    "get_public_access_block": "NoSuchPublicAccessBlockConfiguration",
}


@pytest.fixture(scope="module")
def server(place, stack):
    backends = [harness.directory_backend(name, place / name, quota_bytes=harness.GIB) for name in ("near", "nas")]
    ann = {**user("ann", ["create-buckets"]), "access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET}
    return stack.enter_context(harness.Server(place / "server", backends, {"auth": {"users": [ann]}, "buckets": []}))


class Boto3:
    """Bodies are bytes; a refusal is the code alone."""

    def __init__(self, s3):
        self.s3 = s3

    def call(self, method, **parameters):
        try:
            answer = getattr(self.s3, method)(**parameters)
        except botocore.exceptions.ClientError as error:
            return error.response["Error"]["Code"]
        if "Body" in answer:
            answer["Body"] = answer["Body"].read()
        return answer

    def end(self):
        self.s3.close()

    def post(self, form, body):
        answer = requests.post(form["url"], data=form["fields"], files={"file": ("name", body)}, timeout=60)
        return answer.status_code


class Cli:
    """`aws s3api`, whose parameters and answers are named as boto3's are; and curl for forms, which it does not send. One
    process runs all commands: most of what one costs is the start of its interpreter."""

    COMMANDS = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver
for line in sys.stdin:
    told, failed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(failed):
        status = create_clidriver().main(json.loads(line))
    print(json.dumps([status, told.getvalue(), failed.getvalue()]), flush=True)
"""

    def __init__(self, server, folder):
        self.sent, self.got = folder / "sent", folder / "got"
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.COMMANDS],
            env=harness.clean_environment(HOME=str(folder), AWS_ENDPOINT_URL=server.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0

    def call(self, method, **parameters):
        command = ["s3api", method.replace("_", "-")]
        for name, value in parameters.items():
            if name == "Body":
                self.sent.write_bytes(value)
                value = self.sent
            flag = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
            command += [f"--{flag}", str(value) if isinstance(value, (str, int, pathlib.Path)) else json.dumps(value)]
        command += [str(self.got)] if method == "get_object" else []
        print(json.dumps(command), file=self.process.stdin, flush=True)
        status, told, failed = json.loads(self.process.stdout.readline())
        if status:
            refused = re.search(r"An error occurred \((\w+)\)", failed)
            assert refused, (command, failed)
            return refused[1]
        answer = json.loads(told or "{}")
        return {**answer, "Body": self.got.read_bytes()} if method == "get_object" else answer

    def post(self, form, body):
        self.sent.write_bytes(body)
        fields = [word for name, value in form["fields"].items() for word in ("--form-string", f"{name}={value}")]
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *fields, "-F", f"file=@{self.sent}", form["url"]]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def buckets(call, bucket):
    assert call("create_bucket", Bucket=bucket)["Location"] == f"/{bucket}"
    assert call("create_bucket", Bucket=bucket) == "BucketAlreadyOwnedByYou"
    assert bucket in [one["Name"] for one in call("list_buckets")["Buckets"]]
    assert call("head_bucket", Bucket=bucket) != "404"
    assert call("get_bucket_location", Bucket=bucket)["LocationConstraint"] is None
    assert "Status" not in call("get_bucket_versioning", Bucket=bucket)
    call("put_bucket_acl", Bucket=bucket, ACL="private")
    assert [one["Permission"] for one in call("get_bucket_acl", Bucket=bucket)["Grants"]] == ["FULL_CONTROL"]
    for method, want in SETTINGS.items():
        answer = call(method, Bucket=bucket)
        assert answer == want if isinstance(want, str) else {name: answer[name] for name in want} == want, method


def objects(call, bucket):
    at = {"Bucket": bucket, "Key": "a/one"}
    put = call("put_object", **at, Body=b"the body", ContentType="text/x", Metadata={"a": "b"})
    assert call("put_object", **at, Body=b"another", IfNoneMatch="*") == "PreconditionFailed"
    got, head = call("get_object", **at), call("head_object", **at)
    assert got["Body"] == b"the body" and got["ETag"] == head["ETag"] == put["ETag"]
    assert (head["ContentType"], head["Metadata"], head["ContentLength"]) == ("text/x", {"a": "b"}, 8)
    told = call("get_object_attributes", **at, ObjectAttributes=["ETag", "ObjectSize", "Checksum"])
    assert (told["ObjectSize"], f'"{told["ETag"]}"') == (8, put["ETag"])
    call("put_object_acl", **at, ACL="bucket-owner-full-control")
    assert call("get_object_acl", **at)["Grants"][0]["Permission"] == "FULL_CONTROL"
    tags = [{"Key": "k", "Value": "v"}]
    call("put_object_tagging", **at, Tagging={"TagSet": tags})
    assert call("get_object_tagging", **at)["TagSet"] == tags
    call("delete_object_tagging", **at)
    assert call("get_object_tagging", **at)["TagSet"] == []
    call("copy_object", Bucket=bucket, Key="a/two", CopySource=f"{bucket}/a/one")
    assert call("get_object", Bucket=bucket, Key="a/two", Range="bytes=4-")["Body"] == b"body"


def listings(call, bucket):
    for method, list_of in [("list_objects", "Contents"), ("list_objects_v2", "Contents"), ("list_object_versions", "Versions")]:
        found = call(method, Bucket=bucket, Prefix="a/")
        assert [one["Key"] for one in found[list_of]] == ["a/one", "a/two"], method
        assert [one["Prefix"] for one in call(method, Bucket=bucket, Delimiter="/")["CommonPrefixes"]] == ["a/"]


def multipart(call, bucket):
    at = {"Bucket": bucket, "Key": "parts"}
    upload = call("create_multipart_upload", **at)["UploadId"]
    assert [one["UploadId"] for one in call("list_multipart_uploads", Bucket=bucket)["Uploads"]] == [upload]
    of = {**at, "UploadId": upload}
    first = call("upload_part", **of, PartNumber=1, Body=FIRST)["ETag"]
    call("put_object", Bucket=bucket, Key="source", Body=b"before " + LAST)
    copied = call("upload_part_copy", **of, PartNumber=2, CopySource=f"{bucket}/source", CopySourceRange=f"bytes=7-{6 + len(LAST)}")
    assert [(one["PartNumber"], one["Size"]) for one in call("list_parts", **of)["Parts"]] == [(1, len(FIRST)), (2, len(LAST))]
    parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": copied["CopyPartResult"]["ETag"]}]
    assert call("complete_multipart_upload", **of, MultipartUpload={"Parts": parts})["ETag"].endswith('-2"')
    assert call("get_object", **at)["Body"] == FIRST + LAST
    assert call("get_object", **at, PartNumber=2)["Body"] == LAST
    upload = call("create_multipart_upload", **at)["UploadId"]
    call("abort_multipart_upload", **at, UploadId=upload)
    assert call("list_parts", **at, UploadId=upload) == "NoSuchUpload"


def ends(call, bucket):
    assert call("delete_bucket", Bucket=bucket) == "BucketNotEmpty"
    assert call("delete_object", Bucket=bucket, Key="a/one") != "AccessDenied"
    assert call("get_object", Bucket=bucket, Key="a/one") == "NoSuchKey"
    rest = [{"Key": one["Key"]} for one in call("list_objects_v2", Bucket=bucket)["Contents"]]
    assert len(call("delete_objects", Bucket=bucket, Delete={"Objects": rest})["Deleted"]) == len(rest) == 4
    call("delete_bucket", Bucket=bucket)
    assert call("head_bucket", Bucket=bucket) == "404"


@pytest.mark.parametrize("name", ["boto3", "cli"])
def test_every_operation(server, boto, place, stack, name):
    s3 = boto(server)
    client = Boto3(s3) if name == "boto3" else Cli(server, place)
    stack.callback(client.end)
    bucket, before = f"by-{name}", len(server.lines())
    buckets(client.call, bucket)
    objects(client.call, bucket)
    listings(client.call, bucket)
    multipart(client.call, bucket)
    assert client.post(s3.generate_presigned_post(bucket, "posted"), b"by form") == 204
    assert client.call("get_object", Bucket=bucket, Key="posted")["Body"] == b"by form"
    ends(client.call, bucket)

    def answered():
        """What was asked for and given."""
        return {line["operation"] for line in server.lines()[before:] if line.get("audit") and line["status"] < 300}

    assert len(NAMES) > 30, "the source's list is read"
    harness.wait_for(f"all of {NAMES}", lambda: NAMES <= answered())


def test_every_operation_is_described():
    page = (SOURCE / "docs/s3-api.md").read_text()
    # What is one operation to us are fifteen to AWS, named by their sub-resources.
    named = {name for name in NAMES - {"GetBucketConfiguration"} if re.search(rf"\b{name}\b", page)}
    assert named == NAMES - {"GetBucketConfiguration"}
    known = re.search(r"CONFIGURATIONS: \[&str; \d+\] = \[(.*?)\]", (SOURCE / "src/proto/operation.rs").read_text(), re.DOTALL)[1]
    settings = re.findall(r'"(\w[\w-]*)"', known)
    assert len(settings) == len(SETTINGS) and [name for name in settings if f"`?{name}`" not in page] == []
