"""HTTPS on the main port: versions, client certificates, and a certificate that is replaced while connections are open."""

import os
import shutil
import signal
import ssl

import pytest

import harness
import lean

BUCKET = harness.BUCKET


@pytest.fixture
def serve(place, stack, request):
    """A server with certificates of its own, whose `server.tls` may say more."""

    def start(**tls):
        folder = place / request.node.name
        certificates = harness.Certificates(folder / "certificates")
        backend = harness.directory_backend("disk", folder / "disk", quota_bytes=harness.GIB)
        server = harness.Server(folder / "server", [backend], tls=certificates, start=False)
        server.config["server"]["tls"] |= tls
        stack.callback(server.stop)
        return server

    return start


def versions(server, least, most):
    context = server.tls.context()
    context.minimum_version, context.maximum_version = least, most
    with lean.Connection(server.address, context) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.response().status == 200
        return connection.sock.version()


V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def test_both_versions_by_default(serve):
    server = serve().start()
    assert (versions(server, V12, V12), versions(server, V12, V13)) == ("TLSv1.2", "TLSv1.3")


def test_only_the_newer_version(serve):
    server = serve(min_version="1.3").start()
    assert versions(server, V12, V13) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError, lean.Cut)):
        versions(server, V12, V12)


def test_client_certificates(serve, place):
    """Only clients with a certificate of the authority get as far as a request."""
    server = serve()
    server.config["server"]["tls"]["client_ca_file"] = str(server.tls.ca_file)
    server.launch()
    context = server.tls.context()
    context.load_cert_chain(server.tls.cert_file, server.tls.key_file)

    def ready():
        try:
            with lean.Connection(server.address, context) as connection:
                connection.send(b"GET /health/ready HTTP/1.1\r\nhost: a\r\n\r\n")
                return connection.response().status == 200
        except (OSError, lean.Cut):
            return False

    harness.wait_for("ready", ready)
    with lean.Client(server.address, tls=context) as client:
        assert client.put(BUCKET, "known", b"x").status == 200
    stranger = harness.Certificates(place / "strangers")
    wrong = server.tls.context()
    wrong.load_cert_chain(stranger.cert_file, stranger.key_file)
    for nobody in (server.tls.context(), wrong):
        with pytest.raises((ssl.SSLError, ConnectionError, lean.Cut)):
            with lean.Connection(server.address, nobody) as connection:
                connection.send(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
                connection.response()


def serial(server, authority):
    """The serial number of the certificate that a new connection sees."""
    from cryptography import x509

    with lean.Connection(server.address, ssl.create_default_context(cafile=str(authority.ca_file))) as connection:
        return x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True)).serial_number


def replace(server, other):
    for name in ("cert_file", "key_file"):
        # As careful administrators do: written beside, then renamed.
        target = getattr(server.tls, name)
        shutil.copy(getattr(other, name), f"{target}.new")
        os.replace(f"{target}.new", target)


@pytest.mark.parametrize("how", ["signal", "change"])
def test_a_new_certificate_without_a_restart(serve, place, how):
    server = serve().start()
    first = serial(server, server.tls)
    # The harness makes certificates of two days.
    server.told("expires soon")
    warnings = [line for line in server.lines() if "expires soon" in line.get("msg", "")]
    assert len(warnings) == 1 and warnings[0]["days_left"] in (1, 2), warnings
    body = os.urandom(3 * harness.MIB)
    with server.client() as client:
        assert client.put(BUCKET, "open", body).status == 200
        other = harness.Certificates(place / f"other-{how}")
        kept = client.connection
        replace(server, other)
        if how == "signal":
            server.process.child.send_signal(signal.SIGHUP)
        harness.wait_for("the new certificate", lambda: newer(server, other, first), every=0.2)
        assert client.get(BUCKET, "open").body == body
        assert client.connection is kept, "the open connection went on"
        # Files that are no pair: the former one stays in force.
        server.tls.key_file.write_text("nothing")
        server.process.child.send_signal(signal.SIGHUP)
        harness.wait_for("the complaint", lambda: any("stays in force" in line.get("msg", "") for line in server.lines()))
        assert newer(server, other, first)
        assert client.get(BUCKET, "open").body == body


def newer(server, authority, first):
    try:
        return serial(server, authority) != first
    except (ssl.SSLError, OSError):
        return False


def test_hangup_without_tls_is_no_end(place, stack):
    backend = harness.directory_backend("disk", place / "plain", quota_bytes=harness.GIB)
    server = stack.enter_context(harness.Server(place / "plain-server", [backend]))
    server.process.child.send_signal(signal.SIGHUP)
    harness.wait_for("heard", lambda: any(line.get("signal") == "SIGHUP" for line in server.lines()))
    assert server.ready() and server.process.alive()
