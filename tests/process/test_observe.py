"""What an operator sees: health, metrics, the status page, audit lines, the log; and the command line around it."""

import collections
import fcntl
import json
import os
import re
import subprocess
import sys
import threading

import pytest
import yaml

import harness
import lean
from conftest import QUICK_CLEANUP

BUCKET = harness.BUCKET


@pytest.fixture(scope="module")
def server(place, stack):
    backends = [
        harness.directory_backend("near", place / "near", quota_bytes=harness.GIB),
        harness.directory_backend("nas", place / "nas", quota_bytes=2 * harness.GIB),
    ]
    return stack.enter_context(harness.Server(place / "server", backends, {**QUICK_CLEANUP, "routing_strategy": "spread"}))


def test_health(server):
    assert server.health("/health") == (200, '{"status":"ok"}\n')
    assert server.health("/health/ready") == (200, "ready\n")
    # Only these paths, only as they are; everything else wants a signature.
    for path in ("/healthy", "/health/other", "/metrics", "/admin/api/status", "/"):
        assert server.health(path)[0] in (403, 404), path


def test_request_ids_and_audit_lines(server):
    """Every request has one line, with the id that its client got."""
    wanted = {}
    with server.client() as client:
        client.access_key = "photoskey"
        for method, key, body, status in [
            ("PUT", "audit/a b", b"body", 200),
            ("GET", "audit/a b", b"", 200),
            ("HEAD", "audit/a b", b"", 200),
            ("GET", "audit/none", b"", 404),
            ("DELETE", "audit/a b", b"", 204),
            ("DELETE", None, b"", 403),
        ]:
            answer = client.request(method, BUCKET, key, body=body)
            assert answer.status == status, answer
            wanted[answer.header("x-amz-request-id")] = (method, key, status, len(body), len(answer.body))
        client.secret = "wrong"
        denied = client.get(BUCKET, "audit/a b")
        assert denied.status == 403
        with client.connect() as connection:
            connection.send(b"nonsense\r\n\r\n")
            malformed = connection.response()
    ids = {*wanted, denied.header("x-amz-request-id"), malformed.header("x-amz-request-id")}
    assert None not in ids and len(ids) == 8, "every answer has an id of its own"

    def audited():
        lines = {line.get("request_id"): line for line in server.lines() if line.get("audit")}
        return lines if ids <= set(lines) else None

    lines = harness.wait_for("audit lines", audited)
    for request_id, (method, key, status, sent, received) in wanted.items():
        line = lines[request_id]
        assert (line["method"], line.get("key"), line["status"]) == (method, key, status), line
        assert line["bucket"] == BUCKET and line["remote"].startswith("127.0.0.1:") and float(line["duration"]) >= 0
        assert (line["request_size"], line["response_size"]) == (sent, received), line
    assert lines[denied.header("x-amz-request-id")]["error"] == "SignatureDoesNotMatch"
    assert lines[denied.header("x-amz-request-id")]["event"] == "s3.AuthFailure"
    assert lines[malformed.header("x-amz-request-id")]["status"] == 400
    counted = [line for line in server.lines() if line.get("audit")]
    assert len(counted) == len({line["request_id"] for line in counted}), "one line per request"


def test_no_secret_is_logged(server):
    with server.client() as client:
        client.get(BUCKET, "whatever")
    text = server.log.read_text()
    assert harness.SECRET not in text and "Signature=" not in text


def test_status(server):
    with server.client() as client:
        for i in range(6):
            assert client.put(BUCKET, f"status/{i}", bytes(1000)).status == 200
    status = server.status()
    assert status["db_healthy"] is True and re.fullmatch(r"\d{4}-\d{2}", status["usage_period"])
    assert [one["name"] for one in status["backends"]] == ["near", "nas"]
    fields = "name healthy draining bytes_used bytes_reserved orphan_bytes bytes_limit object_count api_requests egress_bytes ingress_bytes"
    for one in status["backends"]:
        assert set(fields.split()) <= set(one), one
        assert one["healthy"] is True and one["draining"] is False
    assert sum(one["bytes_used"] for one in status["backends"]) >= 6000
    assert [one["bytes_limit"] for one in status["backends"]] == [harness.GIB, 2 * harness.GIB]
    assert [one["core"] for one in status["reactors"]] == ["0", "1"] and all("connections" in one for one in status["reactors"])
    assert sum(one["requests"] for one in status["reactors"]) > 0
    harness.wait_for("usage is written", lambda: sum(one["ingress_bytes"] for one in server.status()["backends"]) >= 6000, 120)


def test_metrics(server):
    """The reference's names; every series of a core says which; counters agree with what was done."""
    before = server.metric("s3o_requests_total", method="PUT", status_code="200")
    with server.client() as client:
        for i in range(10):
            assert client.put(BUCKET, f"metrics/{i}", bytes(5000)).status == 200
            assert client.get(BUCKET, f"metrics/{i}").status == 200
    # A request is counted behind its answer.
    done = lambda: server.metric("s3o_requests_total", method="PUT", status_code="200") == before + 10  # noqa: E731
    harness.wait_for("the last one to be counted", done)
    found = server.metrics()
    names = {name for name, _, _ in found}
    for name in [
        "s3o_build_info",
        "s3o_requests_total",
        "s3o_request_duration_seconds_bucket",
        "s3o_request_size_bytes_sum",
        "s3o_response_size_bytes_count",
        "s3o_inflight_requests",
        "s3o_backend_requests_total",
        "s3o_backend_duration_seconds_bucket",
        "s3o_quota_bytes_used",
        "s3o_quota_bytes_limit",
        "s3o_quota_bytes_available",
        "s3o_quota_orphan_bytes",
        "s3o_objects_count",
        "s3o_active_multipart_uploads",
        "s3o_cleanup_queue_depth",
        "s3o_cleanup_dlq_depth",
        "s3o_replication_pending",
        "s3o_relay_bodies_total",
        "s3o_relay_bytes_total",
    ]:
        assert name in names, name

    def both_cores():
        """Which one a connection meets is the kernel's choice."""
        with server.client() as client:
            assert client.get(BUCKET, "metrics/0").status == 200
        return {labels["core"] for name, labels, _ in server.metrics() if name == "s3o_requests_total"} >= {"0", "1"}

    harness.wait_for("requests on both cores", both_cores)
    limits = {labels["backend"]: value for name, labels, value in found if name == "s3o_quota_bytes_limit"}
    assert limits == {"near": harness.GIB, "nas": 2 * harness.GIB}
    doubles = [(name, tuple(sorted(labels.items()))) for name, labels, _ in found]
    assert len(doubles) == len(set(doubles)), "a series stands twice"


def test_background_jobs_run(server):
    jobs = ["cleanup", "replicate", "drain", "over-replication", "stale_uploads", "sweep", "forget", "standing"]
    done = lambda job: server.metric("s3o_worker_ticks_total", service=job, result="success") > 0  # noqa: E731
    harness.wait_for("each job's first pass", lambda: all(map(done, jobs)))


def test_metrics_on_an_address_of_their_own(tmp_path):
    port = harness.free_port()
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    settings = {"telemetry": {"metrics": {"listen": f"127.0.0.1:{port}", "path": "/numbers"}}}
    with harness.Server(tmp_path / "server", backends, settings) as server:
        assert "s3o_build_info" in server.admin("/numbers", port=port)[1]
        assert server.admin("/numbers")[0] == 404 and server.admin("/metrics")[0] == 404
        assert server.admin("/admin/api/status", port=port)[0] == 404


def test_the_admin_token(tmp_path):
    backends = [harness.directory_backend("near", tmp_path / "near", quota_bytes=harness.GIB)]
    with harness.Server(tmp_path / "server", backends, {"admin": {"token": "let-me-in"}}) as server:
        for token, status in [(None, 401), ("", 401), ("let-me", 401), ("let-me-in ", 200), ("let-me-in", 200)]:
            assert server.admin("/admin/api/status", token=token)[0] == status, repr(token)
            assert json.loads(server.admin("/admin/api/status")[1])["error"].startswith("unauthorized")


def run(*arguments, seconds=60, **more):
    return subprocess.run([harness.BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=seconds, **more)


def good_config(tmp_path):
    return {
        "server": {"listen_addr": f"127.0.0.1:{harness.free_port()}"},
        "admin": {"listen_addr": f"127.0.0.1:{harness.free_port()}"},
        "database": {"path": str(tmp_path / "metadata.db")},
        "buckets": [{"name": "photos", "credentials": [{"access_key_id": "a", "secret_access_key": "${TEST_SECRET}"}]}],
        "backends": [{"name": "disk", "directory": str(tmp_path / "disk"), "quota_bytes": "1GiB"}],
    }


CONFIGS = [
    ("as it is", lambda c: None, None),
    ("an unknown key", lambda c: c["server"].update(listen_adress="x"), ["listen_adress", "listen_addr", "line"]),
    ("a key whose feature is not there", lambda c: c.update(redis={"address": "x"}), ["redis", "not"]),
    ("no backend", lambda c: c.update(backends=[]), ["backends"]),
    ("no bucket", lambda c: c.update(buckets=[]), ["buckets"]),
    ("a reserved bucket", lambda c: c["buckets"][0].update(name="health"), ["health"]),
    ("an open admin port without a token", lambda c: c["admin"].update(listen_addr="0.0.0.0:9001"), ["admin.token"]),
    ("a variable that is not set", lambda c: c["buckets"][0]["credentials"][0].update(access_key_id="${NOT_SET}"), ["NOT_SET"]),
    ("a backend that is both", lambda c: c["backends"][0].update(endpoint="http://x", bucket="y"), ["directory"]),
    ("a negative quota", lambda c: c["backends"][0].update(quota_bytes="-1"), ["quota_bytes"]),
]


@pytest.mark.parametrize("name, change, said", CONFIGS, ids=[row[0] for row in CONFIGS])
def test_validate_and_serve_agree_about_a_configuration(tmp_path, name, change, said):
    config = good_config(tmp_path)
    change(config)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {**os.environ, "TEST_SECRET": "secret"}
    done = run("validate", "--config", path, env=environment)
    assert (done.returncode == 0) == (said is None), done.stdout + done.stderr
    assert "panicked" not in done.stderr
    for word in said or []:
        assert word in done.stdout + done.stderr, done.stdout + done.stderr
    if said:
        served = run("serve", "--config", path, env=environment)
        assert served.returncode != 0 and said[0] in served.stdout + served.stderr


def test_version_and_help():
    assert re.match(r"s3-orchestrator \d+\.\d+\.\d+", run("version").stdout)
    told = run("--help").stdout
    assert all(command in told for command in ("serve", "dev", "validate", "version"))
    wrong = run("serve", "--no-such-flag")
    assert wrong.returncode != 0 and "--no-such-flag" in wrong.stderr


def test_the_example_configuration_is_valid():
    example = harness.pathlib.Path(__file__).parents[2] / "config/example.yaml"
    secrets = {name: "x" * 20 for name in re.findall(r"\$\{(\w+)\}", example.read_text())}
    done = run("validate", "--config", example, env={**os.environ, **secrets})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_dev_is_a_session_to_paste(tmp_path):
    """The first thing a user does: start, paste what was printed, and it works; stop, start again, the data is there."""
    port, admin = harness.free_port(), harness.free_port()
    command = [
        harness.BINARY,
        "dev",
        "--dir",
        tmp_path / "data",
        "--listen",
        f"127.0.0.1:{port}",
        "--admin-listen",
        f"127.0.0.1:{admin}",
    ]
    scripts = os.path.dirname(sys.executable)
    for turn in range(2):
        process = harness.Process(tmp_path / "dev.log", command)
        try:
            harness.wait_for("dev serves", lambda: harness.accepts(port) and "AWS_ACCESS_KEY_ID" in process.log.read_text())
            pasted = [line for line in process.log.read_text().splitlines() if re.match(r"  (export|echo|aws) ", line)]
            assert len(pasted) >= 4 and any(line.startswith("  aws s3 cp") for line in pasted), process.tail()
            exports = [line for line in pasted if line.startswith("  export ")]
            # Turn by turn: the whole session as it stands, with one more object; then only that object.
            script = pasted + ["echo kept | aws s3 cp - s3://photos/kept"] if turn == 0 else exports
            script = "\n".join([*script, "aws s3 cp s3://photos/kept -"])
            environment = {"PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(tmp_path)}
            done = subprocess.run(
                ["bash", "-euc", script], env=environment, capture_output=True, text=True, timeout=250, cwd=tmp_path
            )
            assert done.returncode == 0 and done.stdout.endswith("kept\n"), (script, done.stdout, done.stderr)
            assert turn == 1 or "\nhello\n" in done.stdout, done.stdout
            assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.is_dir())
        finally:
            status = process.end()
        assert status == 0, process.tail()


def test_whoever_reads_the_log_and_stands_still_holds_up_nobody(tmp_path):
    """Reactors log each denial here, to a pipe that nobody reads until the end."""
    auth = {"users": [{"name": "nobody", "access_key_id": "nobody", "secret_access_key": "secret"}]}
    settings = {"auth": auth, "server": {"log_level": "debug"}}
    backends = [harness.directory_backend("disk", tmp_path / "disk", quota_bytes=harness.GIB)]
    server = harness.Server(tmp_path / "server", backends, settings, start=False)
    command = [harness.BINARY, "serve", "--config", server.write_config()]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        harness.wait_for("the server", server.ready)
        for _ in range(4):  # for each reactor
            with lean.Client(server.address, "nobody", "secret") as denied, server.client() as client:
                for _ in range(100):
                    assert denied.get(BUCKET, "key").status == 403
                assert client.put(BUCKET, "key", b"body").status == 200
                assert client.get(BUCKET, "key").body == b"body"
        assert server.metric("s3o_log_dropped_total") == 0, "so few lines wait"
        log = []
        reading = threading.Thread(target=lambda: log.extend(process.stdout))
        process.terminate()
        reading.start()
        assert process.wait(60) == 0
        reading.join()
    finally:
        process.kill()
    events = [json.loads(line) for line in log]
    assert sum(event["msg"] == "access denied" for event in events) == 400 and events[-1]["msg"] == "stopped"
    audited = collections.Counter(event["status"] for event in events if event.get("audit"))
    assert (audited[403], audited[200]) == (400, 8), "each request, to the last one"


def test_the_last_audit_lines_wait_for_whoever_begins_to_read(tmp_path):
    """More lines than may be on their way to the output: the cores hold the rest when they stop."""
    backends = [harness.directory_backend("disk", tmp_path / "disk", quota_bytes=harness.GIB)]
    server = harness.Server(tmp_path / "server", backends, start=False)
    command = [harness.BINARY, "serve", "--config", server.write_config()]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        harness.wait_for("the server", server.ready)
        key, asked = "k" * 1000, 1300
        with server.client() as client:
            for _ in range(asked):
                assert client.get(BUCKET, key).status == 404
        # Where the machine is slow, more smaller buffers are on their way, and the core's own comes to its limit.
        dropped = server.metric("s3o_audit_dropped_total")
        process.terminate()
        harness.wait_for("the end of its listeners", lambda: not harness.accepts(server.port))
        told = [line for line in process.stdout if b'"audit":true' in line and b'"key":"kkk' in line]
        assert process.wait(60) == 0
        assert len(told) == asked - dropped
    finally:
        process.kill()
