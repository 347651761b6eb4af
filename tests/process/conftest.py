"""Fixtures: certificates, servers by kind, SDK clients. Servers are started per module and stopped with a clean exit."""

import contextlib
import shutil
import subprocess
import sys

import boto3
import botocore.config
import pytest

import harness

# The longest first, so that the workers end together.
ORDER = """
    test_real_data test_crash test_phases test_s3_clients test_matrix test_restore_drill test_boto3 test_failures test_budget_fleet
    test_instances test_s3_operations test_breakers test_operations test_budgets test_outage test_torture test_recovery_guide
    test_postgres test_pooler test_failover test_degraded test_memory test_migrate_store
""".split()


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(ORDER)}
    items.sort(key=lambda item: place.get(item.module.__name__, len(ORDER)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of every running server's log, audit lines apart."""
    report = yield
    for server in harness.Server.launched if report.failed else []:
        if server.log.exists():
            report.sections.append((f"{server.log}", harness.tail(server.log, 12, but='"audit":true')))
    if call.when == "teardown":
        harness.Server.launched = [one for one in harness.Server.launched if one.process and one.process.alive()]
    return report


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return harness.Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """A folder of this module, removed at its end if all went well: the data is big."""
    folder = tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])
    failures = request.session.testsfailed
    yield folder
    if request.session.testsfailed == failures:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def stack():
    """Things to end with the module, last first."""
    with contextlib.ExitStack() as open_things:
        yield open_things


def three_backends(folder, stack, quota=8 * harness.GIB):
    """Two directories and one S3 server that we did not write."""
    s3s = harness.S3sFs(folder / "s3s")
    stack.callback(s3s.end)
    backends = [
        harness.directory_backend("near", folder / "near", quota_bytes=quota),
        harness.directory_backend("nas", folder / "nas", quota_bytes=quota),
        s3s.backend("cloud", quota_bytes=quota),
    ]
    return backends, s3s


# Small enough that a test sees the whole of a blob's life.
QUICK_CLEANUP = {"cleanup_queue": {"interval": "200ms", "grace": "1s", "retry_first": "500ms"}, "write_path": {"settle": "2s"}}


@pytest.fixture
def aws(place):
    """Runs the AWS CLI in its default settings against a server."""

    def run(server, *arguments, check=True, timeout=300, **more):
        environment = harness.clean_environment(HOME=str(place), AWS_ENDPOINT_URL=server.url)
        if server.tls:
            environment["AWS_CA_BUNDLE"] = str(server.tls.ca_file)
        command = [sys.executable, "-m", "awscli", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, **more)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    return run


@pytest.fixture
def boto(monkeypatch):
    """A boto3 client in its default settings (path style apart, which an address without DNS needs)."""
    for name, value in harness.clean_environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)

    def client(server, **config):
        return boto3.client(
            "s3",
            endpoint_url=server.url,
            verify=str(server.tls.ca_file) if server.tls else None,
            config=botocore.config.Config(s3={"addressing_style": "path"}, **config),
        )

    return client
