"""What clients ask of buckets and objects beside their bytes: access control lists, settings of a bucket, the version `null`,
the expected owner. By boto3, the AWS CLI and plain requests."""

import json

import pytest

import harness
from test_s3_buckets import error_of
from test_s3_users import client_of, code_of, names, user

BUCKET = harness.BUCKET
AUTH = {"users": [user("ann", ["create-buckets"], photos=["all"]), user("bob", anns=["list", "read"])]}
CORS = [{"allowed_origins": ["https://a.example"], "allowed_methods": ["GET", "PUT"], "allowed_headers": ["*"]}]
CORS[0] |= {"expose_headers": ["ETag"], "max_age": 600}
ANOTHER_VERSION = "0123456789abcdefghijABCDEFGH._-x"


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    own = [{"access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET}]
    settings = {"auth": AUTH, "buckets": [{"name": BUCKET, "credentials": own, "cors": CORS}]}
    server = stack.enter_context(harness.Server(place / "server", [backend], settings))
    client_of(server, "annkey", "annsecret").create_bucket(Bucket="anns")
    return server


@pytest.fixture
def ann(server):
    return client_of(server, "annkey", "annsecret")


def owner_of(client):
    return client.list_buckets()["Owner"]


def test_the_owner_has_full_control(ann, server):
    ann.put_object(Bucket="anns", Key="k", Body=b"x")
    owner = owner_of(ann)
    want = [{"Grantee": {**owner, "Type": "CanonicalUser"}, "Permission": "FULL_CONTROL"}]
    for acl in (ann.get_bucket_acl(Bucket="anns"), ann.get_object_acl(Bucket="anns", Key="k")):
        assert (acl["Owner"], acl["Grants"]) == (owner, want)
    bob = client_of(server, "bobkey", "bobsecret")
    assert bob.get_object_acl(Bucket="anns", Key="k")["Owner"] == owner, "the bucket's owner, not who asks"
    assert code_of(lambda: bob.put_object_acl(Bucket="anns", Key="k", ACL="private")) == "AccessDenied"
    assert code_of(lambda: ann.get_object_acl(Bucket="anns", Key="none")) == "NoSuchKey"
    assert ann.get_bucket_ownership_controls(Bucket="anns")["OwnershipControls"]["Rules"] == [
        {"ObjectOwnership": "BucketOwnerEnforced"}
    ]


def test_what_is_so_anyway_may_be_put(ann):
    ann.put_object(Bucket="anns", Key="k", Body=b"kept")
    policy = {"Owner": owner_of(ann), "Grants": ann.get_bucket_acl(Bucket="anns")["Grants"]}
    for acl in ("private", "bucket-owner-full-control"):
        ann.put_bucket_acl(Bucket="anns", ACL=acl)
        ann.put_object_acl(Bucket="anns", Key="k", ACL=acl)
        ann.put_object(Bucket="anns", Key="k", Body=b"kept", ACL=acl)
        ann.copy_object(Bucket="anns", Key="copy", CopySource={"Bucket": "anns", "Key": "k"}, ACL=acl)
        upload = ann.create_multipart_upload(Bucket="anns", Key="parts", ACL=acl)["UploadId"]
        ann.abort_multipart_upload(Bucket="anns", Key="parts", UploadId=upload)
    ann.put_bucket_acl(Bucket="anns", AccessControlPolicy=policy)
    ann.put_object_acl(Bucket="anns", Key="k", AccessControlPolicy=policy)


def test_everything_else_is_not_supported(ann):
    ann.put_object(Bucket="anns", Key="k", Body=b"kept")
    policy = {"Owner": owner_of(ann), "Grants": ann.get_bucket_acl(Bucket="anns")["Grants"]}
    policy["Grants"].append({"Grantee": {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}, "Permission": "READ"})
    target = {"Bucket": "anns", "Key": "k"}
    for call in (
        lambda: ann.put_bucket_acl(Bucket="anns", ACL="public-read"),
        lambda: ann.put_bucket_acl(Bucket="anns", GrantRead="id=1"),
        lambda: ann.put_bucket_acl(Bucket="anns", AccessControlPolicy=policy),
        lambda: ann.put_object_acl(**target, ACL="public-read-write"),
        lambda: ann.put_object_acl(**target, AccessControlPolicy=policy),
        lambda: ann.put_object(**target, Body=b"changed", ACL="public-read"),
        lambda: ann.put_object(**target, Body=b"changed", GrantFullControl="id=1"),
        lambda: ann.copy_object(**target, CopySource=target, ACL="authenticated-read", MetadataDirective="REPLACE"),
        lambda: ann.create_multipart_upload(**target, ACL="bucket-owner-read"),
    ):
        refused = error_of(call)
        assert refused["Error"]["Code"] == "AccessControlListNotSupported"
        assert refused["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert ann.get_object(**target)["Body"].read() == b"kept"


NEVER_SET = {
    "get_public_access_block": "NoSuchPublicAccessBlockConfiguration",
    "get_bucket_policy": "NoSuchBucketPolicy",
    "get_bucket_policy_status": "NoSuchBucketPolicy",
    "get_bucket_tagging": "NoSuchTagSet",
    "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
    "get_bucket_cors": "NoSuchCORSConfiguration",
    "get_bucket_encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "get_bucket_website": "NoSuchWebsiteConfiguration",
    "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    "get_object_lock_configuration": "ObjectLockConfigurationNotFoundError",
}


@pytest.mark.parametrize("call", NEVER_SET)
def test_what_was_never_set(ann, call):
    answer = error_of(lambda: getattr(ann, call)(Bucket="anns"))
    assert answer["Error"]["Code"] == NEVER_SET[call] and answer["Error"]["BucketName"] == "anns"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_settings_as_they_are(ann):
    assert ann.get_bucket_request_payment(Bucket="anns")["Payer"] == "BucketOwner"
    assert "Status" not in ann.get_bucket_accelerate_configuration(Bucket="anns")
    assert "LoggingEnabled" not in ann.get_bucket_logging(Bucket="anns")
    assert set(ann.get_bucket_notification_configuration(Bucket="anns")) == {"ResponseMetadata"}
    (rule,) = ann.get_bucket_cors(Bucket=BUCKET)["CORSRules"]
    assert rule == {
        "AllowedHeaders": ["*"],
        "AllowedMethods": ["GET", "PUT"],
        "AllowedOrigins": ["https://a.example"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 600,
    }


def test_settings_cannot_be_changed(server, ann):
    """And never reach an object or a listing."""
    ann.put_object(Bucket="anns", Key="k", Body=b"kept")
    subresources = "accelerate cors encryption lifecycle logging notification object-lock ownershipControls policy".split()
    subresources += "publicAccessBlock replication requestPayment tagging versioning website".split()
    with harness.lean.Client(server.address, "annkey", "annsecret") as client:
        for one in subresources:
            for method in ("PUT", "DELETE"):
                answer = client.request(method, "anns", None, query=[(one, "")], body=b"<x/>" if method == "PUT" else b"")
                want = (501, 405) if (method, one) == ("DELETE", "versioning") else (501,)
                assert answer.status in want, (method, one, answer)
        for one in ("retention", "legal-hold", "torrent", "restore", "policy", "cors"):
            for method in ("GET", "PUT"):
                answer = client.request(method, "anns", "k", query=[(one, "")], body=b"x" if method == "PUT" else b"")
                assert (answer.status, answer.code) == (501, "NotImplemented"), (method, one, answer)
    assert ann.get_object(Bucket="anns", Key="k")["Body"].read() == b"kept"
    assert "anns" in names(ann)


def test_the_version_null_is_the_object(ann):
    ann.put_object(Bucket="anns", Key="v", Body=b"the only one", Tagging="a=b")
    target = {"Bucket": "anns", "Key": "v", "VersionId": "null"}
    assert ann.get_object(**target)["Body"].read() == b"the only one"
    assert ann.head_object(**target)["ContentLength"] == 12
    assert ann.get_object_tagging(**target)["TagSet"] == [{"Key": "a", "Value": "b"}]
    ann.put_object_tagging(**target, Tagging={"TagSet": []})
    ann.delete_object_tagging(**target)
    assert ann.get_object_acl(**target)["Owner"]["DisplayName"] == "ann"
    ann.get_object_attributes(**target, ObjectAttributes=["ETag"])
    ann.copy_object(Bucket="anns", Key="copied", CopySource=target)
    ann.delete_object(**target)
    assert code_of(lambda: ann.get_object(**target)) == "NoSuchKey"
    ann.put_object(Bucket="anns", Key="v", Body=b"x")
    for version, want in ((ANOTHER_VERSION, ("NoSuchVersion", "404")), ("abc", ("InvalidArgument", "400"))):
        other = {**target, "VersionId": version}
        for call in (
            lambda: ann.get_object(**other),
            lambda: ann.head_object(**other),
            lambda: ann.delete_object(**other),
            lambda: ann.get_object_tagging(**other),
            lambda: ann.copy_object(Bucket="anns", Key="copied", CopySource=other),
        ):
            assert code_of(call) in want
    assert ann.get_object(Bucket="anns", Key="v")["Body"].read() == b"x"


def test_a_bucket_is_emptied_by_its_versions(server, ann, aws):
    """As consoles and Terraform do it."""
    ann.create_bucket(Bucket="to-empty")
    for i in range(7):
        ann.put_object(Bucket="to-empty", Key=f"k{i}", Body=b"x")
    versions = ann.list_object_versions(Bucket="to-empty")["Versions"]
    doomed = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in versions]
    answer = ann.delete_objects(Bucket="to-empty", Delete={"Objects": [*doomed, {"Key": "k0", "VersionId": ANOTHER_VERSION}]})
    assert answer["Deleted"] == doomed
    assert [(one["Key"], one["Code"]) for one in answer["Errors"]] == [("k0", "NoSuchVersion")]
    ann.delete_bucket(Bucket="to-empty")


def test_the_expected_owner(ann, server):
    ann.put_object(Bucket="anns", Key="k", Body=b"x")
    for right in (owner_of(ann)["ID"], "ann"):
        ann.get_object(Bucket="anns", Key="k", ExpectedBucketOwner=right, RequestPayer="requester")
        ann.list_objects_v2(Bucket="anns", ExpectedBucketOwner=right)
        source = {"Bucket": "anns", "Key": "k"}
        ann.copy_object(Bucket="anns", Key="c", CopySource=source, ExpectedBucketOwner=right, ExpectedSourceBucketOwner=right)
    wrong = "111122223333"
    for call in (
        lambda: ann.get_object(Bucket="anns", Key="k", ExpectedBucketOwner=wrong),
        lambda: ann.put_object(Bucket="anns", Key="k", Body=b"y", ExpectedBucketOwner=wrong),
        lambda: ann.delete_bucket(Bucket="anns", ExpectedBucketOwner=wrong),
        lambda: ann.copy_object(Bucket="anns", Key="c", CopySource=source, ExpectedSourceBucketOwner=wrong),
    ):
        assert code_of(call) == "AccessDenied"
    assert ann.get_object(Bucket="anns", Key="k")["Body"].read() == b"x"


def test_the_cli_asks(server, aws):
    owner = json.loads(aws(server, "s3api", "list-buckets").stdout)["Owner"]
    acl = json.loads(aws(server, "s3api", "get-bucket-acl", "--bucket", BUCKET).stdout)
    assert acl["Owner"] == owner and acl["Grants"][0]["Permission"] == "FULL_CONTROL"
    aws(server, "s3api", "put-bucket-acl", "--bucket", BUCKET, "--acl", "private")
    done = aws(server, "s3api", "put-bucket-acl", "--bucket", BUCKET, "--acl", "public-read", check=False)
    assert done.returncode != 0 and "AccessControlListNotSupported" in done.stderr
    done = aws(server, "s3api", "get-public-access-block", "--bucket", BUCKET, check=False)
    assert "NoSuchPublicAccessBlockConfiguration" in done.stderr


def test_buckets_in_pages(ann):
    for i in range(5):
        ann.create_bucket(Bucket=f"paged-{i}")
    pages = ann.get_paginator("list_buckets").paginate(Prefix="paged-", PaginationConfig={"PageSize": 2})
    sizes, found = [], []
    for page in pages:
        assert page["Prefix"] == "paged-"
        sizes.append(len(page["Buckets"]))
        found += [one["Name"] for one in page["Buckets"]]
    assert (sizes, found) == ([2, 2, 1], [f"paged-{i}" for i in range(5)])
    assert code_of(lambda: ann.list_buckets(ContinuationToken="no token of ours")) == "InvalidArgument"
    for name in found:
        ann.delete_bucket(Bucket=name)


def test_errors_say_what_they_are_about(server):
    with harness.lean.Client(server.address, "annkey", "annsecret") as client:
        for method, bucket, key, want in (
            ("GET", "anns", "none/a&b", (404, "NoSuchKey", "Key", "none/a&amp;b", "/anns/none/a%26b")),
            ("GET", "no-such-bucket", None, (404, "NoSuchBucket", "BucketName", "no-such-bucket", "/no-such-bucket")),
            ("PUT", "anns", None, (409, "BucketAlreadyOwnedByYou", "BucketName", "anns", "/anns")),
        ):
            answer = client.request(method, bucket, key)
            text = answer.body.decode()
            status, code, element, value, resource = want
            assert (answer.status, answer.code) == (status, code), answer
            assert f"<{element}>{value}</{element}>" in text and f"<Resource>{resource}</Resource>" in text, text
            assert f"<RequestId>{answer.header('x-amz-request-id')}</RequestId>" in text
            assert "<Message>" in text and answer.header("content-type") == "application/xml"
        head = client.request("HEAD", "anns", "none")
        assert (head.status, head.body) == (404, b"")
