"""Buckets that clients make and end, by boto3 and the AWS CLI: who may, what they are called, that every core knows of them at
once, that they outlive a restart, and that nothing is left in one that is gone."""

import concurrent.futures
import subprocess
import sys
import threading

import pytest
from botocore.exceptions import ClientError

import harness
from test_s3_users import client_of, code_of, names, user

AUTH = {
    "root": {"access_key_id": "rootkey", "secret_access_key": "rootsecret"},
    "users": [
        user("ann", ["create-buckets"], photos=["read"]),
        user("bob", ["create-buckets"], shared=["list", "read"]),
        user("plain", photos=["all"]),
    ],
}


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    return stack.enter_context(harness.Server(place / "server", [backend], {"auth": AUTH}))


@pytest.fixture
def s3(server):
    return lambda name, **config: client_of(server, f"{name}key", f"{name}secret", **config)


def error_of(call):
    with pytest.raises(ClientError) as raised:
        call()
    return raised.value.response


def test_a_bucket_lives(s3):
    ann = s3("ann")
    made = ann.create_bucket(Bucket="anns-own")
    assert made["Location"] == "/anns-own" and made["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "anns-own" in names(ann) and "anns-own" not in names(s3("bob")) and "anns-own" in names(s3("root"))
    age = ann.list_buckets()["Buckets"][names(ann).index("anns-own")]["CreationDate"]
    assert age.year >= 2026
    ann.head_bucket(Bucket="anns-own")
    assert ann.get_bucket_location(Bucket="anns-own")["LocationConstraint"] is None
    ann.put_object(Bucket="anns-own", Key="a/b", Body=b"x" * 300_000)
    assert ann.get_object(Bucket="anns-own", Key="a/b")["Body"].read() == b"x" * 300_000
    listed = ann.list_objects_v2(Bucket="anns-own", FetchOwner=True)["Contents"]
    assert [(one["Key"], one["Owner"]["DisplayName"]) for one in listed] == [("a/b", "ann")]
    refused = error_of(lambda: ann.delete_bucket(Bucket="anns-own"))
    assert refused["Error"]["Code"] == "BucketNotEmpty" and refused["ResponseMetadata"]["HTTPStatusCode"] == 409
    ann.delete_object(Bucket="anns-own", Key="a/b")
    gone = ann.delete_bucket(Bucket="anns-own")
    assert gone["ResponseMetadata"]["HTTPStatusCode"] == 204
    for call in (
        lambda: ann.head_bucket(Bucket="anns-own"),
        lambda: ann.list_objects_v2(Bucket="anns-own"),
        lambda: ann.put_object(Bucket="anns-own", Key="k", Body=b"x"),
        lambda: ann.delete_bucket(Bucket="anns-own"),
    ):
        assert code_of(call) in ("NoSuchBucket", "404")
    assert "anns-own" not in names(ann)


def test_open_uploads_do_not_keep_a_bucket(s3, server):
    """As in S3. But they are not lost to an attempt that must fail."""
    ann = s3("ann")
    ann.create_bucket(Bucket="unfinished")
    ann.put_object(Bucket="unfinished", Key="k", Body=b"x")
    uploads = []
    for i in range(3):
        named = {"Bucket": "unfinished", "Key": f"parts/{i}"}
        uploads.append({**named, "UploadId": ann.create_multipart_upload(**named)["UploadId"]})
        ann.upload_part(**uploads[-1], PartNumber=1, Body=b"y" * 100_000)
    assert code_of(lambda: ann.delete_bucket(Bucket="unfinished")) == "BucketNotEmpty"
    assert code_of(lambda: s3("bob").delete_bucket(Bucket="unfinished")) == "AccessDenied"
    assert len(ann.list_multipart_uploads(Bucket="unfinished")["Uploads"]) == 3
    ann.delete_object(Bucket="unfinished", Key="k")
    ann.delete_bucket(Bucket="unfinished")
    assert "unfinished" not in names(ann)
    ann.create_bucket(Bucket="unfinished")
    assert "Uploads" not in ann.list_multipart_uploads(Bucket="unfinished")
    assert code_of(lambda: ann.upload_part(**uploads[0], PartNumber=2, Body=b"z")) == "NoSuchUpload"
    ann.delete_bucket(Bucket="unfinished")


def test_regions(s3):
    ann = s3("ann")
    ann.create_bucket(Bucket="in-europe", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert ann.get_bucket_location(Bucket="in-europe")["LocationConstraint"] == "eu-central-1"
    head = ann.head_bucket(Bucket="in-europe")["ResponseMetadata"]["HTTPHeaders"]
    assert head["x-amz-bucket-region"] == "eu-central-1"
    ann.delete_bucket(Bucket="in-europe")


def test_who_may(s3):
    ann, bob, plain, root = s3("ann"), s3("bob"), s3("plain"), s3("root")
    assert code_of(lambda: plain.create_bucket(Bucket="plains")) == "AccessDenied"
    ann.create_bucket(Bucket="only-anns")
    ann.put_object(Bucket="only-anns", Key="k", Body=b"x")
    for call in (
        lambda: bob.list_objects_v2(Bucket="only-anns"),
        lambda: bob.get_object(Bucket="only-anns", Key="k"),
        lambda: bob.put_object(Bucket="only-anns", Key="k", Body=b"y"),
        lambda: bob.delete_object(Bucket="only-anns", Key="k"),
        lambda: bob.delete_bucket(Bucket="only-anns"),
        lambda: bob.copy_object(Bucket="only-anns", Key="c", CopySource={"Bucket": "only-anns", "Key": "k"}),
    ):
        assert code_of(call) == "AccessDenied"
    assert ann.get_object(Bucket="only-anns", Key="k")["Body"].read() == b"x"
    # Root does everything, in everybody's bucket.
    root.delete_object(Bucket="only-anns", Key="k")
    root.delete_bucket(Bucket="only-anns")
    # Buckets of the configuration stay, whoever asks.
    for client in (root, plain):
        assert code_of(lambda client=client: client.delete_bucket(Bucket=harness.BUCKET)) == "AccessDenied"
    # A grant can name a bucket before somebody makes it.
    ann.create_bucket(Bucket="shared")
    ann.put_object(Bucket="shared", Key="k", Body=b"for bob")
    assert bob.get_object(Bucket="shared", Key="k")["Body"].read() == b"for bob"
    assert code_of(lambda: bob.put_object(Bucket="shared", Key="k", Body=b"y")) == "AccessDenied"
    assert code_of(lambda: bob.delete_bucket(Bucket="shared")) == "AccessDenied"


def test_taken_names(s3):
    ann, bob = s3("ann"), s3("bob")
    ann.create_bucket(Bucket="taken-name")
    own = error_of(lambda: ann.create_bucket(Bucket="taken-name"))
    assert own["Error"]["Code"] == "BucketAlreadyOwnedByYou" and own["ResponseMetadata"]["HTTPStatusCode"] == 409
    others = error_of(lambda: bob.create_bucket(Bucket="taken-name"))
    assert others["Error"]["Code"] == "BucketAlreadyExists" and others["ResponseMetadata"]["HTTPStatusCode"] == 409
    # Names of the configuration are taken as well.
    assert code_of(lambda: ann.create_bucket(Bucket=harness.BUCKET)) == "BucketAlreadyOwnedByYou"
    assert code_of(lambda: bob.create_bucket(Bucket=harness.BUCKET)) == "BucketAlreadyExists"


@pytest.mark.parametrize(
    "name", ["ab", "a" * 64, "Upper", "under_score", "-dash", "dash-", "two..dots", "192.168.5.4", "health", "metrics"]
)
def test_bad_names(server, name):
    with harness.lean.Client(server.address, "annkey", "annsecret") as client:
        made = client.request("PUT", name, None)
        assert (made.status, made.code) == (400, "InvalidBucketName"), made
        asked = client.request("GET", name, None)
        if name not in ("health",):
            assert (asked.status, asked.code) == (400, "InvalidBucketName"), asked


@pytest.mark.parametrize("name", ["dash-.dot", "dot.-dash", "xn--bucket", "sthree-bucket", "bucket-s3alias", "bucket--ol-s3"])
def test_names_that_s3_keeps(s3, name):
    assert code_of(lambda: s3("ann").create_bucket(Bucket=name)) == "InvalidBucketName"
    assert code_of(lambda: s3("ann").list_objects_v2(Bucket=name)) == "NoSuchBucket"


def test_acl_and_ownership_of_a_new_bucket(s3):
    ann = s3("ann")
    ann.create_bucket(Bucket="with-acl", ACL="private", ObjectOwnership="BucketOwnerEnforced")
    assert code_of(lambda: ann.create_bucket(Bucket="public", ACL="public-read")) == "AccessControlListNotSupported"
    assert code_of(lambda: ann.create_bucket(Bucket="writers", ObjectOwnership="ObjectWriter")) == "NotImplemented"
    assert code_of(lambda: ann.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)) == "NotImplemented"
    for name in ("public", "writers", "locked"):
        assert name not in names(ann)


def test_the_cli_makes_and_removes(server, place):
    keys = {"AWS_ACCESS_KEY_ID": "annkey", "AWS_SECRET_ACCESS_KEY": "annsecret", "AWS_ENDPOINT_URL": server.url}
    environment = harness.clean_environment(HOME=str(place), **keys)

    def aws(*arguments):
        command = [sys.executable, "-m", "awscli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout

    assert "make_bucket: cli-bucket" in aws("s3", "mb", "s3://cli-bucket")
    (place / "file.txt").write_text("by the CLI")
    aws("s3", "cp", str(place / "file.txt"), "s3://cli-bucket/in/file.txt")
    assert "cli-bucket" in aws("s3", "ls")
    assert "remove_bucket: cli-bucket" in aws("s3", "rb", "--force", "s3://cli-bucket")
    assert "cli-bucket" not in aws("s3", "ls")
    # The usual region of somebody else: the CLI then sends a LocationConstraint.
    environment["AWS_DEFAULT_REGION"] = "eu-west-3"
    aws("s3", "mb", "s3://cli-europe")
    assert "eu-west-3" in aws("s3api", "get-bucket-location", "--bucket", "cli-europe")
    aws("s3", "rb", "s3://cli-europe")


def test_every_core_knows_at_once(server):
    """A bucket is there, and gone, on whichever core the next connection lands: two reactors serve."""
    for i in range(10):
        name = f"at-once-{i}"
        client_of(server, "annkey", "annsecret").create_bucket(Bucket=name)
        for _ in range(8):
            fresh = client_of(server, "annkey", "annsecret", retries={"total_max_attempts": 1})
            fresh.put_object(Bucket=name, Key="k", Body=b"x")
            fresh.delete_object(Bucket=name, Key="k")
            fresh.close()
        client_of(server, "annkey", "annsecret").delete_bucket(Bucket=name)
        for _ in range(8):
            fresh = client_of(server, "annkey", "annsecret", retries={"total_max_attempts": 1})
            assert code_of(lambda fresh=fresh, name=name: fresh.head_bucket(Bucket=name)) == "404"
            fresh.close()


def test_of_racing_creates_one_wins(server):
    clients = [client_of(server, f"{who}key", f"{who}secret") for who in ("ann", "bob") for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        for i in range(10):
            codes = list(pool.map(lambda client, i=i: code_of(lambda: client.create_bucket(Bucket=f"race-{i}")), clients))
            assert codes.count(None) == 1, codes
            of_winner = codes.index(None) // 4
            for place, code in enumerate(codes):
                want = "BucketAlreadyOwnedByYou" if place // 4 == of_winner else "BucketAlreadyExists"
                assert code in (None, want), codes


def test_nothing_is_left_in_a_bucket_that_is_gone(server):
    """DeleteBucket against writers: it succeeds only when no write was acknowledged, and no later write is."""
    ann = client_of(server, "annkey", "annsecret", max_pool_connections=20)
    ended, refused = 0, 0
    for i in range(30):
        name = f"contested-{i}"
        ann.create_bucket(Bucket=name)
        started = threading.Barrier(5)

        def put(key, name=name, started=started):
            started.wait()
            return code_of(lambda: ann.put_object(Bucket=name, Key=key, Body=b"x" * 2000))

        def delete(name=name, started=started):
            started.wait()
            return code_of(lambda: ann.delete_bucket(Bucket=name))

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            puts = [pool.submit(put, f"k{n}") for n in range(4)]
            deleted = pool.submit(delete).result()
            codes = [one.result() for one in puts]
        if deleted is None:
            ended += 1
            assert set(codes) == {"NoSuchBucket"}, codes
            assert code_of(lambda name=name: ann.list_objects_v2(Bucket=name)) == "NoSuchBucket"
            ann.create_bucket(Bucket=name)
            assert ann.list_objects_v2(Bucket=name)["KeyCount"] == 0, "the next bucket of the name is empty"
            ann.delete_bucket(Bucket=name)
        else:
            refused += 1
            assert deleted == "BucketNotEmpty" and None in codes, (deleted, codes)
            kept = {f"k{n}" for n, code in enumerate(codes) if code is None}
            assert {one["Key"] for one in ann.list_objects_v2(Bucket=name)["Contents"]} == kept
            for key in kept:
                ann.delete_object(Bucket=name, Key=key)
            ann.delete_bucket(Bucket=name)
    assert ended + refused == 30


def test_buckets_outlive_a_restart(tmp_path):
    backend = harness.directory_backend("disk", tmp_path / "disk", quota_bytes=harness.GIB)
    server = harness.Server(tmp_path / "server", [backend], {"auth": AUTH})
    with server:
        ann = client_of(server, "annkey", "annsecret")
        ann.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        ann.create_bucket(Bucket="killed")
        ann.put_object(Bucket="kept", Key="k", Body=b"x")
        before = ann.list_buckets()["Buckets"]
        server.kill()
        server.start()
        ann = client_of(server, "annkey", "annsecret")
        assert ann.list_buckets()["Buckets"] == before
        assert ann.get_object(Bucket="kept", Key="k")["Body"].read() == b"x"
        assert ann.get_bucket_location(Bucket="kept")["LocationConstraint"] == "eu-west-1"
        ann.delete_bucket(Bucket="killed")
        # The configuration takes a name that a user has: it wins, and says so.
        server.stop()
        server.config["buckets"].append({"name": "kept"})
        server.start()
        server.told("has taken the name")
        assert code_of(lambda: client_of(server, "annkey", "annsecret").get_object(Bucket="kept", Key="k")) == "AccessDenied"
        assert client_of(server, "rootkey", "rootsecret").get_object(Bucket="kept", Key="k")["Body"].read() == b"x"


def test_dev_lets_its_user_make_buckets(tmp_path):
    server = harness.Server(tmp_path / "dev", [], start=False)
    command = [harness.BINARY, "dev", "--dir", tmp_path / "dir", "--listen", f"127.0.0.1:{server.port}"]
    server.process = harness.Process(server.log, [*command, "--admin-listen", f"127.0.0.1:{server.admin_port}"])
    with server:
        server.wait_ready()
        client = client_of(server, harness.ACCESS_KEY, harness.SECRET)
        client.create_bucket(Bucket="made")
        assert names(client) == ["made", harness.BUCKET]
