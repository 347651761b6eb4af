"""The main job with clients that people use: the AWS CLI in its default settings, a tree of thousands of real files and a
file of several GiB, over HTTP and HTTPS, over two directories and an S3 server that we did not write.

Every file is compared by SHA-256, and at the end every backend's bytes with what is charged for them.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil

import pytest

import harness
from conftest import QUICK_CLEANUP, three_backends

FILES = 2_500
FILE_BYTES_MAX = 256 * harness.KIB


def real_files():
    """Regular files of this machine: documentation, sources, whatever a system has in quantity."""
    cargo = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    for root in (pathlib.Path("/usr/share"), cargo / "registry/src", pathlib.Path("/usr/lib")):
        for at, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                path = pathlib.Path(at, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= FILE_BYTES_MAX:
                    try:
                        str(path).encode()
                    except UnicodeEncodeError:
                        continue
                    yield root, path


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_in(folder):
    return {str(path.relative_to(folder)): digest_of(path) for path in pathlib.Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(place):
    """A copy of thousands of real files, and some names that a careless client or server trips over."""
    folder = place / "tree"
    for _, (root, path) in zip(range(FILES), real_files()):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name in ["ein Bär.txt", "a+b&c=d;e.txt", "100%.txt", "#hash?.txt", "!!.txt", "[x]{y}.txt", "日本語/ファイル", "empty"]:
        target = folder / "names" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"" if name == "empty" else name.encode() * 100)
    found = digests_in(folder)
    assert len(found) >= FILES, f"this machine has only {len(found)} files to copy"
    return folder, found


@pytest.fixture(scope="module", params=["http", "https"])
def server(request, place, certificates):
    """Each scheme has a deployment of its own, so that the accounts of one do not depend on the other's tests."""
    with contextlib.ExitStack() as stack:
        folder = place / request.param
        folder.mkdir()
        backends, s3s = three_backends(folder, stack)
        settings = {**QUICK_CLEANUP, "routing_strategy": "spread"}
        tls = certificates if request.param == "https" else None
        server = stack.enter_context(harness.Server(folder / "server", backends, settings, tls=tls))
        server.stored = lambda: {
            **{name: harness.stored_in(folder / name) for name in ("near", "nas")},
            "cloud": s3s.stored(),
        }
        yield server


@pytest.mark.timeout(600)
def test_a_tree_of_real_files(server, tree, aws, place):
    folder, digests = tree
    into = ["sync", folder, "s3://photos/tree/"] if not server.tls else ["cp", "--recursive", folder, "s3://photos/tree/"]
    aws(server, "s3", *into, "--only-show-errors")

    listed = aws(server, "s3", "ls", "--recursive", "s3://photos/tree/").stdout.splitlines()
    columns = [line.split(None, 3) for line in listed]
    sizes = {name.removeprefix("tree/"): int(size) for _, _, size, name in columns}
    assert sizes == {name: (folder / name).stat().st_size for name in digests}

    # Nothing has changed, so a second sync has nothing to do: names, sizes and times are as they should be.
    again = aws(server, "s3", "sync", folder, "s3://photos/tree/")
    assert again.stdout == "", again.stdout[:1000]

    out = place / f"out-{server.port}"
    out_of = ["cp", "--recursive"] if server.tls else ["sync"]
    aws(server, "s3", *out_of, "s3://photos/tree/", out, "--only-show-errors")
    assert digests_in(out) == digests
    shutil.rmtree(out)

    used = {one["name"]: one["object_count"] for one in server.status()["backends"]}
    assert all(count > len(digests) // 10 for count in used.values()), f"spread reaches every backend: {used}"
    server.wait_cleaned()
    assert {name: sum(blobs.values()) for name, blobs in server.stored().items()} == {
        one["name"]: one["bytes_used"] for one in server.status()["backends"]
    }


@pytest.mark.timeout(600)
def test_empty_files_between_others(server, aws, place):
    """The CLI sends files with `Expect: 100-continue`, empty ones too, and its botocore misreads every further answer on a
    connection where an answer came without a `100 Continue`: it would wait a minute and try again, and again."""
    folder = place / f"empty-{server.port}"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02}").write_bytes(b"" if i % 2 else b"%d" % i)
    aws(server, "s3", "cp", "--recursive", folder, "s3://photos/empty/", "--only-show-errors")

    def puts():
        return [line for line in server.lines() if line.get("audit") and line["method"] == "PUT" and line["key"].startswith("empty/")]

    harness.wait_for("the last audit line", lambda: len(puts()) >= 60)
    assert len(puts()) == 60, "nothing was tried again"
    listed = aws(server, "s3", "ls", "s3://photos/empty/").stdout.splitlines()
    assert {name: int(size) for _, _, size, name in map(str.split, listed)} == {
        path.name: path.stat().st_size for path in folder.iterdir()
    }


@pytest.mark.timeout(600)
def test_a_file_of_three_gib(server, aws, place):
    """Over HTTPS a smaller one: what differs is the client's upload form (aws-chunked with a trailer), not the size."""
    size = 3 * harness.GIB if not server.tls else 300 * harness.MIB
    source = place / f"big-{server.port}"
    digest = harness.big_file(source, size)
    aws(server, "s3", "cp", source, "s3://photos/big/file.bin", "--only-show-errors", timeout=400)
    source.unlink()

    described = aws(server, "s3api", "head-object", "--bucket", "photos", "--key", "big/file.bin", "--output", "text").stdout
    assert str(size + 12_345) in described, described
    aws(server, "s3", "cp", "s3://photos/big/file.bin", source, "--only-show-errors", timeout=400)
    assert source.stat().st_size == size + 12_345
    assert digest_of(source) == digest
    source.unlink()


def test_boto3_and_the_cli_read_each_other(server, tree, boto, aws, place):
    folder, digests = tree
    s3 = boto(server)
    names = [*sorted(digests)[:: len(digests) // 40], *(name for name in digests if name.startswith("names/"))]
    for name in names:
        found = s3.get_object(Bucket=harness.BUCKET, Key=f"tree/{name}")["Body"].read()
        assert hashlib.sha256(found).hexdigest() == digests[name], name
    source, target = place / f"from-boto3-{server.port}", place / f"to-the-cli-{server.port}"
    source.write_bytes(os.urandom(30 * harness.MIB + 17))
    s3.upload_file(str(source), harness.BUCKET, "boto3/many parts")
    s3.put_object(Bucket=harness.BUCKET, Key="boto3/one piece", Body=source.read_bytes()[:1_000_000])
    aws(server, "s3", "cp", "s3://photos/boto3/many parts", target, "--only-show-errors")
    assert digest_of(target) == digest_of(source)
    aws(server, "s3", "cp", "s3://photos/boto3/one piece", target, "--only-show-errors")
    assert target.read_bytes() == source.read_bytes()[:1_000_000]
    source.unlink()
    target.unlink()


@pytest.mark.timeout(600)
def test_z_what_is_left_is_what_is_charged(server, aws):
    """Overwrites, deletes, and then the accounts: the last test of the module, over everything the others did."""
    aws(server, "s3", "rm", "--recursive", "s3://photos/tree/", "--exclude", "*/a*", "--only-show-errors")
    with server.client() as client:
        for i in range(200):
            assert client.put(harness.BUCKET, f"over/{i % 10}", os.urandom(1000 + i)).status == 200
        kept = client.list_keys(harness.BUCKET)
        assert "big/file.bin" in kept and len(kept) > 20
    server.wait_cleaned()
    charged = {one["name"]: one["bytes_used"] for one in server.status()["backends"]}
    server.stop()
    harness.check_bytes(server, server.stored(), charged)
    server.start()
