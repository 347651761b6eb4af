"""Users, grants and permissions, by boto3 and the AWS CLI: who sees and may do what, on every core, and how a changed
configuration takes effect."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import boto3
import botocore.config
import pytest
import requests
from botocore.exceptions import ClientError

import harness
import lean

PHOTOS, ARCHIVE, SECRETS = harness.BUCKET, "archive", "secrets"
PERMISSIONS = ["list", "read", "write", "delete", "tags"]


def user(name, permissions=(), **grants):
    """A user of the configuration; its key and secret follow from its name."""
    return {
        "name": name,
        "access_key_id": f"{name}key",
        "secret_access_key": f"{name}secret",
        "permissions": list(permissions),
        "grants": [{"bucket": bucket, "permissions": held} for bucket, held in grants.items()],
    }


AUTH = {
    "root": {"access_key_id": "rootkey", "secret_access_key": "rootsecret"},
    "users": [
        user("both", photos=["all"], archive=["list", "read"]),
        user("editor", photos=["read", "write"]),
        user("nobody"),
        *[user(f"only-{one}", photos=[one]) for one in PERMISSIONS],
        {**user("wild"), "grants": [{"bucket": "*", "permissions": ["list"]}, {"bucket": SECRETS, "permissions": ["write"]}]},
    ],
}


@pytest.fixture(scope="module")
def server(place, stack):
    backend = harness.directory_backend("disk", place / "disk", quota_bytes=harness.GIB)
    own = [
        {"access_key_id": harness.ACCESS_KEY, "secret_access_key": harness.SECRET},
        {"access_key_id": "lookkey", "secret_access_key": "looksecret", "permissions": ["list", "read"]},
    ]
    buckets = [{"name": PHOTOS, "credentials": own}, {"name": ARCHIVE}, {"name": SECRETS}]
    return stack.enter_context(harness.Server(place / "server", [backend], {"auth": AUTH, "buckets": buckets}))


def client_of(server, key, secret, **config):
    """boto3 in its default settings, as one user."""
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=botocore.config.Config(s3={"addressing_style": "path"}, **config),
    )


@pytest.fixture
def s3(server):
    """A client by user."""
    return lambda name, **config: client_of(server, f"{name}key", f"{name}secret", **config)


def code_of(call):
    """The error that a call answers, None for success."""
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def names(client):
    return [one["Name"] for one in client.list_buckets()["Buckets"]]


def test_everybody_sees_their_buckets(s3):
    every = sorted([PHOTOS, ARCHIVE, SECRETS])
    assert names(s3("root")) == names(s3("wild")) == every
    assert names(s3("both")) == [ARCHIVE, PHOTOS]
    assert names(s3("look")) == [PHOTOS]
    assert names(s3("nobody")) == []
    for one in PERMISSIONS:
        assert names(s3(f"only-{one}")) == [PHOTOS], "a grant of any kind shows the bucket"
        assert code_of(lambda one=one: s3(f"only-{one}").head_bucket(Bucket=PHOTOS)) is None


def test_owners_are_users(s3):
    answer = s3("both").list_buckets()["Owner"]
    assert answer["DisplayName"] == "both" and len(answer["ID"]) == 64
    assert s3("nobody").list_buckets()["Owner"]["ID"] != answer["ID"]
    s3("root").put_object(Bucket=PHOTOS, Key="owned", Body=b"x")
    listed = s3("both").list_objects_v2(Bucket=PHOTOS, Prefix="owned", FetchOwner=True)["Contents"][0]
    # A configured bucket's objects are shown as those of its first user.
    assert listed["Owner"]["DisplayName"] == harness.ACCESS_KEY


def test_each_permission_alone(s3):
    root = s3("root")
    root.put_object(Bucket=PHOTOS, Key="kept", Body=b"kept", Tagging="a=b")
    root.put_object(Bucket=ARCHIVE, Key="elsewhere", Body=b"x")
    copy = {"Bucket": PHOTOS, "Key": "kept"}
    tags = {"TagSet": [{"Key": "c", "Value": "d"}]}
    calls = {
        "list": [
            lambda s3: s3.list_objects_v2(Bucket=PHOTOS),
            lambda s3: s3.list_objects(Bucket=PHOTOS),
            lambda s3: s3.list_object_versions(Bucket=PHOTOS),
        ],
        "read": [
            lambda s3: s3.get_object(Bucket=PHOTOS, Key="kept"),
            lambda s3: s3.head_object(Bucket=PHOTOS, Key="kept"),
            lambda s3: s3.get_object_tagging(Bucket=PHOTOS, Key="kept"),
        ],
        "write": [
            lambda s3: s3.put_object(Bucket=PHOTOS, Key="new", Body=b"new"),
            lambda s3: s3.create_multipart_upload(Bucket=PHOTOS, Key="parts"),
        ],
        "delete": [
            lambda s3: s3.delete_object(Bucket=PHOTOS, Key="gone"),
            lambda s3: s3.delete_objects(Bucket=PHOTOS, Delete={"Objects": [{"Key": "gone"}]}),
        ],
        "tags": [
            lambda s3: s3.put_object_tagging(Bucket=PHOTOS, Key="kept", Tagging=tags),
            lambda s3: s3.delete_object_tagging(Bucket=PHOTOS, Key="kept"),
        ],
    }
    for held in PERMISSIONS:
        client = s3(f"only-{held}")
        for needed, asked in calls.items():
            for call in asked:
                # An answer to HEAD has no body to name the code in.
                got = code_of(lambda call=call: call(client))
                assert got in ([None] if needed == held else ["AccessDenied", "403"]), f"{held}: {needed} answered {got}"
        for elsewhere in (ARCHIVE, SECRETS):
            assert code_of(lambda: client.list_objects_v2(Bucket=elsewhere)) == "AccessDenied"
        assert code_of(lambda: client.list_objects_v2(Bucket="no-such-bucket")) == "NoSuchBucket"
    # Two permissions at once are asked for both.
    writer = s3("only-write")
    assert code_of(lambda: writer.put_object(Bucket=PHOTOS, Key="new", Body=b"x", Tagging="a=b")) == "AccessDenied"
    assert code_of(lambda: writer.copy_object(Bucket=PHOTOS, Key="copy", CopySource=copy)) == "AccessDenied"
    both = s3("both")
    assert code_of(lambda: both.copy_object(Bucket=PHOTOS, Key="copy", CopySource=copy)) is None
    from_archive = {"Bucket": ARCHIVE, "Key": "elsewhere"}
    assert code_of(lambda: both.copy_object(Bucket=PHOTOS, Key="copy", CopySource=from_archive)) is None
    assert code_of(lambda: both.copy_object(Bucket=ARCHIVE, Key="copy", CopySource=copy)) == "AccessDenied"
    from_secrets = {"Bucket": SECRETS, "Key": "any"}
    assert code_of(lambda: both.copy_object(Bucket=PHOTOS, Key="copy", CopySource=from_secrets)) == "AccessDenied"
    assert root.get_object(Bucket=PHOTOS, Key="kept")["Body"].read() == b"kept", "nothing was changed by who may not"
    assert code_of(lambda: root.head_object(Bucket=ARCHIVE, Key="copy")) == "404"


def test_tags_that_come_with_a_write_need_their_own_permission(s3):
    """By whichever way they come; those that a copy takes along from its source are not the caller's."""
    at, source = {"Bucket": PHOTOS}, {"Bucket": PHOTOS, "Key": "tagged"}
    s3("root").put_object(**source, Body=b"x", Tagging="a=b")
    document = "<Tagging><TagSet><Tag><Key>c</Key><Value>d</Value></Tag></TagSet></Tagging>"

    def post(client, field, value):
        form = client.generate_presigned_post(PHOTOS, "form", {field: value}, [["starts-with", f"${field}", ""]])
        answer = requests.post(form["url"], data=form["fields"], files={"file": b"x"}, timeout=60)
        return None if answer.status_code == 204 else lean.xml_texts(answer.content, "Code")[0]

    for user_name, want in (("editor", "AccessDenied"), ("both", None)):
        client = s3(user_name, signature_version="s3v4")
        tag, replace = {"Tagging": "c=d"}, {"CopySource": source, "TaggingDirective": "REPLACE"}
        assert code_of(lambda: client.put_object(**at, Key="put", Body=b"x", **tag)) == want
        assert code_of(lambda: client.create_multipart_upload(**at, Key="parts", **tag)) == want
        assert code_of(lambda: client.copy_object(**at, Key="copy", **replace, **tag)) == want
        assert [post(client, "tagging", document), post(client, "x-amz-tagging", "c=d")] == [want, want]
        assert code_of(lambda: client.copy_object(**at, Key="bare", **replace)) is None, "it has no tags"
        assert code_of(lambda: client.copy_object(**at, Key="alike", CopySource=source)) is None
        assert client.get_object_tagging(**at, Key="alike")["TagSet"] == [{"Key": "a", "Value": "b"}]


def test_a_grant_by_name_replaces_the_wildcard(s3):
    wild = s3("wild")
    assert code_of(lambda: wild.list_objects_v2(Bucket=ARCHIVE)) is None
    assert code_of(lambda: wild.list_objects_v2(Bucket=SECRETS)) == "AccessDenied"
    assert code_of(lambda: wild.put_object(Bucket=SECRETS, Key="k", Body=b"x")) is None
    assert code_of(lambda: wild.put_object(Bucket=ARCHIVE, Key="k", Body=b"x")) == "AccessDenied"


def test_read_only_keys_of_a_bucket(server, aws):
    keys = {"AWS_ACCESS_KEY_ID": "lookkey", "AWS_SECRET_ACCESS_KEY": "looksecret"}
    environment = harness.clean_environment(AWS_ENDPOINT_URL=server.url, **keys)
    aws(server, "s3", "cp", "-", f"s3://{PHOTOS}/cli", input="from the CLI")

    def look(*arguments, check=True):
        command = [sys.executable, "-m", "awscli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done

    assert look("s3", "cp", f"s3://{PHOTOS}/cli", "-").stdout == "from the CLI"
    assert "cli" in look("s3", "ls", f"s3://{PHOTOS}/").stdout
    for changing in (["rm", f"s3://{PHOTOS}/cli"], ["cp", f"s3://{PHOTOS}/cli", f"s3://{PHOTOS}/other"]):
        done = look("s3", *changing, check=False)
        assert done.returncode != 0 and "AccessDenied" in done.stderr, done


def test_denials_are_counted(server, s3):
    before = server.metric("s3o_access_denied_total")
    assert code_of(lambda: s3("nobody").list_objects_v2(Bucket=PHOTOS)) == "AccessDenied"
    assert server.metric("s3o_access_denied_total") == before + 1


# ---- the configuration read again --------------------------------------------------------------------------------------


@pytest.fixture
def own_server(place, tmp_path):
    backend = harness.directory_backend("disk", tmp_path / "disk", quota_bytes=harness.GIB)
    with harness.Server(tmp_path / "server", [backend], {"auth": {"users": [user("both", photos=["all"])]}}) as server:
        yield server


def hang_up(server, said="buckets and users are in force"):
    """SIGHUP, and what the log says of it."""
    before = len(server.log.read_text())
    server.write_config()
    server.process.child.send_signal(signal.SIGHUP)
    return harness.wait_for("the log tells of SIGHUP", lambda: said in (new := server.log.read_text()[before:]) and new)


def on_every_core(server, key, secret, want):
    """New connections reach both reactors in time; each answers the same."""
    for _ in range(24):
        client = client_of(server, key, secret, retries={"total_max_attempts": 1})
        got = code_of(lambda client=client: client.list_objects_v2(Bucket=PHOTOS))
        assert got == want, f"{got} where {want} was due"
        client.close()


def test_users_and_buckets_change_by_sighup(own_server):
    server = own_server
    on_every_core(server, "bothkey", "bothsecret", None)
    server.config["auth"]["users"] = [user("late", photos=["list"], fresh=["all"])]
    server.config["buckets"].append({"name": "fresh"})
    log = hang_up(server)
    assert "at the next start only" not in log
    on_every_core(server, "bothkey", "bothsecret", "InvalidAccessKeyId")
    on_every_core(server, "latekey", "latesecret", None)
    late = client_of(server, "latekey", "latesecret")
    late.put_object(Bucket="fresh", Key="k", Body=b"x")
    assert names(late) == ["fresh", PHOTOS]
    server.config["buckets"].pop()
    hang_up(server)
    assert code_of(lambda: late.get_object(Bucket="fresh", Key="k")) == "NoSuchBucket"


def test_what_needs_a_restart_is_named(own_server):
    server = own_server
    server.config["server"]["max_connections"] = 77
    server.config["backends"][0]["quota_bytes"] = 5 * harness.GIB
    log = hang_up(server)
    named = [line for line in log.splitlines() if "at the next start only" in line]
    assert len(named) == 1 and "server.max_connections" in named[0], log
    assert server.status()["backends"][0]["bytes_limit"] == 5 * harness.GIB, "a limit does not"


def test_a_bad_file_changes_nothing(own_server):
    server = own_server
    server.config["auth"]["users"][0]["grants"][0]["permissions"] = ["everything"]
    log = hang_up(server, said="is not valid")
    assert "auth.users[0].grants[0].permissions" in log
    on_every_core(server, "bothkey", "bothsecret", None)


def test_a_changed_secret_takes_effect_at_once(own_server):
    """Under load: every request is signed with one of the secrets, and after the change the old one opens nothing."""
    server = own_server
    seen, stop = [], threading.Event()

    def load(secret):
        client = client_of(server, "bothkey", secret, retries={"total_max_attempts": 1})
        while not stop.is_set():
            began = time.monotonic()
            code = code_of(lambda: client.put_object(Bucket=PHOTOS, Key=f"load-{secret}", Body=b"x"))
            seen.append((secret, began, time.monotonic(), code))

    threads = [threading.Thread(target=load, args=[secret]) for secret in ("bothsecret", "changed") for _ in range(2)]
    with contextlib.ExitStack() as ending:
        for thread in threads:
            thread.start()
            ending.callback(thread.join)
        ending.callback(stop.set)
        time.sleep(0.5)
        server.config["auth"]["users"][0]["secret_access_key"] = "changed"
        asked = time.monotonic()
        hang_up(server)
        done = time.monotonic()
        after = lambda: [one for one in list(seen) if one[1] > done]  # noqa: E731
        harness.wait_for(
            "requests with both after it", lambda: len(after()) > 10 and {one[0] for one in after()} == {"bothsecret", "changed"}
        )
    for secret, began, ended, code in seen:
        if ended < asked or began > done:
            good = (secret == "changed") == (began > done)
            assert code == (None if good else "SignatureDoesNotMatch"), (secret, began - done, code)
        else:
            assert code in (None, "SignatureDoesNotMatch")
