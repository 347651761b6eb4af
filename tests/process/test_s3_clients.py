"""Clients that others wrote, in their default settings, each doing what people use it for: the AWS SDKs for JavaScript and
Rust over HTTP and HTTPS, rclone, s3cmd and restic. Every byte that comes back is compared."""

import hashlib
import pathlib
import random
import shutil
import subprocess
import urllib.request

import pytest

import harness

BUCKET, ACCESS_KEY, SECRET = harness.BUCKET, harness.ACCESS_KEY, harness.SECRET
HERE = pathlib.Path(__file__).parent
NAMES = ["ein Bär.txt", "a+b&c=d;e.txt", "100%.txt", "#hash.txt", "!!.txt", "[x]{y}.txt", "日本語/ファイル", "empty", "deep/er/and/deeper"]


@pytest.fixture(scope="module", params=["http", "https"])
def server(request, place, stack, certificates):
    folder = place / request.param
    backends = [harness.directory_backend(name, folder / name, quota_bytes=8 * harness.GIB) for name in ("one", "two")]
    tls = certificates if request.param == "https" else None
    return stack.enter_context(harness.Server(folder / "server", backends, {"routing_strategy": "spread"}, tls=tls))


def run(command, timeout=150, check=True, **variables):
    done = subprocess.run(
        [str(part) for part in command],
        env=harness.clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def trust(server, name):
    """The variable by which a client learns of the server's authority, if it has one."""
    return {name: str(server.tls.ca_file)} if server.tls else {}


@pytest.fixture(scope="module")
def tree(place):
    folder, dice = place / "tree", random.Random(4)
    for name in NAMES + [f"many/{i % 7}/{i:03}.bin" for i in range(150)]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else dice.randbytes(dice.choice([1, 700, 9_000, 120_000])))
    return folder


def digests_in(folder):
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_javascript_sdk(server):
    command = ["node", HERE / "js" / "client.mjs", server.url, BUCKET, "js"]
    done = run(command, S3O_TOOLS=str(harness.TOOLS), **trust(server, "NODE_EXTRA_CA_CERTS"))
    assert done.stdout.strip() == "all right", done


def test_the_rust_sdk(server):
    done = run([harness.TOOLS / "s3-rust-client", server.url, BUCKET, "rust"], **trust(server, "SSL_CERT_FILE"))
    link, last = done.stdout.split()[0], done.stdout.strip().splitlines()[-1]
    assert last == "all right", done
    with urllib.request.urlopen(link, context=server.tls and server.tls.context()) as answer:
        assert answer.read() == b"by link"


@pytest.fixture
def rclone(server, place):
    options = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": server.url, "ACCESS_KEY_ID": ACCESS_KEY, "SECRET_ACCESS_KEY": SECRET}
    variables = {f"RCLONE_CONFIG_OURS_{name}": value for name, value in options.items()} | {"RCLONE_CONFIG": "/dev/null"}
    trusted = ["--ca-cert", server.tls.ca_file] if server.tls else []
    # A mistake must fail at once and not be tried again until it goes away.
    return lambda *words, **more: run(["rclone", *words, *trusted, "--retries", "1", "--low-level-retries", "1"], **variables, **more)


def test_rclone_syncs_and_checks(server, rclone, tree, place):
    folder, out = place / f"rclone-{server.port}", place / f"rclone-out-{server.port}"
    shutil.copytree(tree, folder)
    target = f"ours:{BUCKET}/rclone"
    rclone("sync", folder, target)
    rclone("check", folder, target, "--download")
    # Nothing to do, by sizes and by the times that it keeps as metadata.
    assert "There was nothing to transfer" in rclone("sync", folder, target, "-v").stderr
    for path in sorted(folder.glob("many/[0-3]/*")):
        path.unlink()
    (folder / "!!.txt").write_bytes(b"changed")
    rclone("sync", folder, target)
    rclone("copy", target, out)
    assert digests_in(out) == digests_in(folder)
    listed = rclone("lsf", "-R", "--files-only", target).stdout.splitlines()
    assert sorted(listed) == sorted(digests_in(folder))
    with urllib.request.urlopen(rclone("link", f"{target}/!!.txt").stdout.strip(), context=server.tls and server.tls.context()) as answer:
        assert answer.read() == b"changed"
    rclone("moveto", f"{target}/!!.txt", f"{target}/moved to.txt")
    assert rclone("cat", f"{target}/moved to.txt").stdout == "changed"
    rclone("purge", target)
    assert rclone("lsf", f"ours:{BUCKET}/rclone").stdout == ""


@pytest.mark.timeout(400)
def test_rclone_moves_a_file_of_gigabytes(server, rclone, place):
    """In hundreds of parts; over HTTPS a smaller one, since what differs is not the size."""
    size = 1_200 * harness.MIB if not server.tls else 220 * harness.MIB
    source, back = place / f"rclone-big-{server.port}", place / f"rclone-back-{server.port}"
    digest = harness.big_file(source, size)
    rclone("copyto", source, f"ours:{BUCKET}/rclone big", timeout=300)
    source.unlink()
    rclone("copyto", f"ours:{BUCKET}/rclone big", back, timeout=300)
    assert digest_of(back) == digest
    back.unlink()


@pytest.fixture
def s3cmd(server, place):
    config = place / f"s3cmd-{server.port}"
    config.write_text(
        f"[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET}\nhost_base = 127.0.0.1:{server.port}\n"
        f"host_bucket = 127.0.0.1:{server.port}\nuse_https = {bool(server.tls)}\n"
        + (f"ca_certs_file = {server.tls.ca_file}\n" if server.tls else "")
    )
    return lambda *words: run(["s3cmd", "--config", config, *words], LC_ALL="C.UTF-8").stdout


def test_s3cmd(server, s3cmd, tree, place):
    folder, out = place / f"s3cmd-tree-{server.port}", place / f"s3cmd-out-{server.port}"
    shutil.copytree(tree, folder)
    shutil.rmtree(folder / "many")
    target = f"s3://{BUCKET}/s3cmd"
    assert f"s3://{BUCKET}" in s3cmd("ls")
    s3cmd("sync", f"{folder}/", f"{target}/")
    (folder / "#hash.txt").unlink()
    (folder / "!!.txt").write_bytes(b"changed")
    s3cmd("sync", "--delete-removed", f"{folder}/", f"{target}/")
    assert s3cmd("sync", f"{folder}/", f"{target}/").strip() == ""
    out.mkdir()
    s3cmd("sync", f"{target}/", f"{out}/")
    assert digests_in(out) == digests_in(folder)
    # In parts of 15 MiB, with its own MD5 of each.
    big = place / f"s3cmd-big-{server.port}"
    digest = harness.big_file(big, 32 * harness.MIB)
    s3cmd("put", big, f"{target}/big", "--add-header=x-amz-meta-a:b", "--mime-type=text/x")
    told = s3cmd("info", f"{target}/big")
    assert "text/x" in told and str(big.stat().st_size) in told and "x-amz-meta-a" in told, told
    s3cmd("cp", f"{target}/big", f"{target}/copied")
    s3cmd("mv", f"{target}/copied", f"{target}/moved")
    s3cmd("get", f"{target}/moved", out / "big")
    assert digest_of(out / "big") == digest
    assert "Owner" in told or "ACL" in told, told
    s3cmd("del", "--recursive", "--force", f"{target}/")
    assert s3cmd("ls", "--recursive", f"{target}/") == ""
    big.unlink()


def test_restic_backs_up_and_restores(server, tree, place):
    folder, out = place / f"restic-tree-{server.port}", place / f"restic-out-{server.port}"
    shutil.copytree(tree, folder)
    trusted = ["--cacert", server.tls.ca_file] if server.tls else []
    options = ["--repo", f"s3:{server.url}/{BUCKET}/restic", "--no-cache", *trusted]
    restic = lambda *words: run(["restic", *options, *words], RESTIC_PASSWORD="secret").stdout
    restic("init")
    restic("backup", folder)
    before = digests_in(folder)
    (folder / "100%.txt").write_bytes(b"changed")
    restic("backup", folder)
    assert "no errors were found" in restic("check", "--read-data")
    snapshots = [line.split()[0] for line in restic("snapshots").splitlines() if str(folder) in line]
    assert len(snapshots) == 2
    restic("restore", snapshots[0], "--target", out, "--verify")
    assert digests_in(f"{out}{folder}") == before
    restic("forget", snapshots[0], "--prune")
    assert "no errors were found" in restic("check", "--read-data")
