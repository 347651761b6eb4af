"""TLS to PostgreSQL: every `database.ssl_mode` against servers with and without a certificate, and a SCRAM password. What cannot
be connected to is said clearly, by a server that goes on trying."""

import os
import shutil

import pytest

import harness

PASSWORD = "geheim, with a blank"
# Not in the certificate, which names localhost and 127.0.0.1.
OTHER_NAME = "127.0.0.2"


@pytest.fixture(scope="module")
def postgres(place, stack):
    """Whoever connects by TCP as `app` needs a password."""
    server = harness.Postgres(place / "postgres.log", f"listen_addresses=127.0.0.1,{OTHER_NAME}")
    stack.callback(server.end)
    server.run(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
    server.run("ALTER DATABASE s3o OWNER TO app")
    rules = server.directory / "data/pg_hba.conf"
    rules.write_text("local all all trust\nhost all all all scram-sha-256\n")
    server.run("SELECT pg_reload_conf()")
    return server


@pytest.fixture(scope="module")
def authorities(place):
    return [harness.Certificates(place / name) for name in ("right", "wrong")]


def offer_tls(postgres, certificates):
    """From now on; None: no more."""
    data = postgres.directory / "data"
    if certificates:
        owner = data.stat()
        for source, name in [(certificates.cert_file, "server.crt"), (certificates.key_file, "server.key")]:
            shutil.copy(source, data / name)
            os.chown(data / name, owner.st_uid, owner.st_gid)
            os.chmod(data / name, 0o600)
    postgres.run(f"ALTER SYSTEM SET ssl = {'on' if certificates else 'off'}")
    postgres.run("SELECT pg_reload_conf()")
    harness.wait_for("its setting", lambda: postgres.rows("SELECT current_setting('ssl') AS ssl") == [{"ssl": "on" if certificates else "off"}])


def server_with(place, postgres, **database):
    backends = [harness.directory_backend("near", place / "near", quota_bytes=harness.GIB)]
    settings = {"database": postgres.settings(**{"user": "app", "password": PASSWORD, **database})}
    server = harness.Server(place / "server", backends, settings, start=False)
    server.log.unlink(missing_ok=True)
    server.launch()
    return server


def connects(place, postgres, **database):
    """Whether its sessions are under TLS."""
    with server_with(place, postgres, **database) as server:
        server.wait_ready()
        with server.client() as client:
            harness.wait_for("writes", lambda: client.put(harness.BUCKET, "key", b"body").status == 200)
        query = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'app'"
        (row,) = postgres.rows(query)
        return row["ssl"]


def complaint(place, postgres, **database):
    server = server_with(place, postgres, **database)
    try:
        lines = harness.wait_for("a complaint", lambda: [line for line in server.lines() if "failure" in line])
        return lines[0]["failure"]
    finally:
        server.kill()


def test_a_server_with_a_certificate(place, postgres, authorities):
    offer_tls(postgres, authorities[0])
    right, wrong = ({"ssl_root_cert": str(one.ca_file)} for one in authorities)
    for mode, more in [
        ("prefer", {}),
        ("require", {}),
        ("require", {**right, "host": OTHER_NAME}),
        ("verify-ca", right),
        ("verify-ca", {**right, "host": OTHER_NAME}),
        ("verify-full", right),
        ("verify-full", {**right, "host": "localhost"}),
    ]:
        assert connects(place, postgres, ssl_mode=mode, **more), f"{mode}: {more}"
    assert not connects(place, postgres, ssl_mode="disable")
    for mode, more, said in [
        ("require", wrong, "invalid peer certificate"),
        ("verify-ca", wrong, "invalid peer certificate"),
        ("verify-full", wrong, "invalid peer certificate"),
        ("verify-full", {}, "invalid peer certificate: UnknownIssuer"),
        ("verify-full", {**right, "host": OTHER_NAME}, f'certificate not valid for name "{OTHER_NAME}"'),
        ("verify-full", {**right, "password": "x"}, 'password authentication failed for user "app"'),
    ]:
        failure = complaint(place, postgres, ssl_mode=mode, **more)
        assert said in failure, f"{mode}: {more}: {failure}"


def test_a_server_without_tls(place, postgres, authorities):
    offer_tls(postgres, None)
    for mode in ("disable", "prefer"):
        assert not connects(place, postgres, ssl_mode=mode)
    for mode in ("require", "verify-full"):
        failure = complaint(place, postgres, ssl_mode=mode, ssl_root_cert=str(authorities[0].ca_file))
        assert "server does not support TLS" in failure, failure
    assert "password authentication failed" in complaint(place, postgres, ssl_mode="prefer", password="x")


def test_roots_that_are_none(place, postgres):
    empty = place / "empty.pem"
    empty.write_text("no certificate\n")
    for file, said in [(empty, "no certificate is in it"), (place / "missing.pem", "No such file")]:
        server = server_with(place, postgres, ssl_mode="verify-full", ssl_root_cert=str(file))
        assert server.process.child.wait(60) != 0
        assert f"database.ssl_root_cert: {file}" in server.process.tail() and said in server.process.tail(), server.process.tail()
