"""The programs under test and around it, as processes: the product, s3s-fs, moto. Each waits until it serves, keeps its
log, and is ended by its own handle.

`Server` is the product with a configuration of the test's making. `stop` demands a clean exit; a test that kills the
process on purpose calls `kill`. Nothing here retries what a test asserts.
"""

import contextlib
import copy
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
import urllib.request

import yaml

import lean

BINARY = pathlib.Path(os.environ.get("S3O_BINARY", "target/testing/s3-orchestrator")).absolute()
TOOLS = pathlib.Path(os.environ.get("S3O_TOOLS", "target/tools/bin")).absolute()
BUCKET, ACCESS_KEY, SECRET = "photos", "photoskey", "photossecret"
GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10
# With the database, of a test that is not about its silence.
PATIENCE = "20s"

_handed_out = set()


def free_port():
    """A port that nobody listens on, below the range that the kernel gives to outgoing connections."""
    # Each xdist worker draws from its own slice.
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0")) or 0) % 8
    while True:
        port = 10_000 + worker * 2_500 + random.randrange(2_500)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                _handed_out.add(port)
                return port


def wait_for(what, predicate, seconds=60.0, every=0.02):
    """Waits until the predicate's value is true and returns it; says what never came otherwise. What takes long is looked at less
    often: a look may be a program that starts."""
    started = time.monotonic()
    deadline = started + seconds
    while True:
        # The last look begins at the end or later, however long the machine stood still before it.
        is_last = time.monotonic() >= deadline
        value = predicate()
        if value:
            return value
        assert not is_last, f"{what}: not within {seconds} s; last value {value!r}"
        time.sleep(max(every, min(0.1, (time.monotonic() - started) / 20)))


class Pulse(threading.Thread):
    """Tells for how long the machine stood still, so that a limit of time can be asked of the product alone: its beats sleep and
    have a few bytes written to the disk, over and over, and what one takes too long nobody else had either.
    """

    BEAT = 0.05
    # What a beat may take beside others' work.
    GRACE = 0.2

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.path = folder / "pulse"
        self.ending = threading.Event()
        self.pauses = []
        self.began = time.monotonic()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.join()

    def run(self):
        with open(self.path, "wb") as file:
            self.began = time.monotonic()
            while not self.ending.wait(self.BEAT):
                file.seek(0)
                file.write(b"beat")
                file.flush()
                os.fdatasync(file.fileno())
                ended = time.monotonic()
                if self.is_late(ended):
                    self.pauses.append((self.began, ended))
                self.began = ended

    def is_late(self, now):
        return now - self.began > self.BEAT + self.GRACE

    def seconds(self, began, ended):
        """From `began` to `ended`, but for the pauses."""
        lasting = [(self.began, ended)] if self.is_late(ended) else []
        pauses = [(max(began, since), min(ended, until)) for since, until in [*self.pauses, *lasting]]
        return ended - began - sum(max(0.0, until - since) for since, until in pauses)


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def big_file(path, size):
    """Writes random bytes, 12 345 more than `size`, so that no part and no buffer divides them, and returns their SHA-256."""
    # Every piece begins elsewhere in one pool: drawing gigabytes takes longer than moving them.
    pool, digest = memoryview(os.urandom(16 * MIB)), hashlib.sha256()
    with open(path, "wb") as file:
        left = size + 12_345
        while left:
            at = random.randrange(12 * MIB)
            piece = pool[at : at + min(left, 4 * MIB)]
            digest.update(piece)
            file.write(piece)
            left -= len(piece)
    return digest.hexdigest()


class Process:
    """A child with its output in a file."""

    def __init__(self, log, command, **options):
        self.log = pathlib.Path(log)
        self.command = [str(part) for part in command]
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **options
            )

    def alive(self):
        return self.child.poll() is None

    def end(self, how=signal.SIGTERM, seconds=60.0):
        """Sends the signal and returns the exit status (negative: the signal that ended it)."""
        if self.alive():
            self.child.send_signal(how)
        return self.child.wait(seconds)

    def tail(self, lines=30):
        return tail(self.log, lines)


def tail(log, lines, but=None):
    """The last lines of a log, those that hold `but` apart."""
    found = pathlib.Path(log).read_text(errors="replace").splitlines()
    return "\n".join([line for line in found if not but or but not in line][-lines:])


class S3sFs(Process):
    """An S3 server that somebody else wrote and that checks our signatures."""

    access_key, secret, bucket = "upstreamkey", "upstreamsecret", "store"

    def __init__(self, folder):
        self.root = pathlib.Path(folder)
        (self.root / self.bucket).mkdir(parents=True)
        self.port = free_port()
        self.start()

    def start(self):
        super().__init__(
            self.root.parent / f"{self.root.name}.log",
            [TOOLS / "s3s-fs", "--host", "127.0.0.1", "--port", self.port, "--access-key", self.access_key]
            + ["--secret-key", self.secret, self.root],
            env={**os.environ, "RUST_LOG": "warn"},
        )
        wait_for("s3s-fs listens", lambda: accepts(self.port))

    def backend(self, name, **more):
        return {
            "name": name,
            "endpoint": f"http://127.0.0.1:{self.port}",
            "bucket": self.bucket,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret,
            "force_path_style": True,
            # It keeps each segment of a key in a file name.
            "max_key_bytes": 255,
            **more,
        }

    def upload_file(self, upload):
        """Where it remembers that an upload is open."""
        return self.root / f".upload-{upload}.json"

    def stored(self):
        """Sizes by backend key of everything that is an object there and not its own bookkeeping."""
        base, found = self.root / self.bucket, {}
        for at, _, files in os.walk(base):
            for name in files:
                path = os.path.relpath(f"{at}/{name}", base)
                if not name.startswith(".") and not path.startswith(".s3o/"):
                    # It may go while we look.
                    with contextlib.suppress(FileNotFoundError):
                        found[path] = os.path.getsize(f"{at}/{name}")
        return found


class Moto(Process):
    """Another dialect of S3, held in memory: small objects only. It accepts any signature."""

    access_key, secret, bucket = "motokey", "motosecret", "store"

    def __init__(self, log):
        import sys

        self.port = free_port()
        super().__init__(log, [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", self.port])
        wait_for("moto listens", lambda: accepts(self.port), 60)
        with lean.Client(("127.0.0.1", self.port), self.access_key, self.secret) as client:
            assert client.put(self.bucket, None, b"").status == 200

    def backend(self, name, **more):
        return {
            "name": name,
            "endpoint": f"http://127.0.0.1:{self.port}",
            "bucket": self.bucket,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret,
            "force_path_style": True,
            **more,
        }


def directory_backend(name, folder, **more):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {"name": name, "directory": str(folder), **more}


BLOB_LEAF = re.compile(r"(?:.*[^!])?(?:!!)*![0-7][0-9A-HJKMNP-TV-Z]{25}[0-9A-Z]{10}", re.DOTALL)


def stored_in(folder):
    """Sizes by blob name of everything that a directory backend holds; what is no blob (temporary files, lost parts) stands
    under its path. A completed multipart blob is a directory of parts with a manifest, which costs nobody's quota. What goes while
    we look is not there."""
    found = {}
    for at, folders, files in os.walk(folder):
        inside = os.path.relpath(at, folder)
        if BLOB_LEAF.fullmatch(os.path.basename(at)) and "manifest" in files:
            assert not folders, f"{inside} holds {folders}"
            with contextlib.suppress(FileNotFoundError):
                found[inside] = sum(os.path.getsize(f"{at}/{name}") for name in files if name != "manifest")
            continue
        for name in files:
            path = name if inside == "." else f"{inside}/{name}"
            if path.startswith(".s3o/n/") and path.endswith("-"):
                path = bytes.fromhex(path[len(".s3o/n/") : -1].replace("/", "")).decode()
            elif path.startswith(".s3o/"):
                continue
            with contextlib.suppress(FileNotFoundError):
                found[path] = os.path.getsize(f"{at}/{name}")
    return found


def merged(base, changes):
    """`base` with the nested changes laid over it; nothing of either is shared."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        is_nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if is_nested else copy.deepcopy(value)
    return result


class Server:
    """The product: `settings` are laid over a small, complete configuration."""

    # Since the last test ended, for its report.
    launched = []

    def __init__(self, folder, backends, settings=None, tls=None, start=True, environment=None, wrapper=()):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.admin_port = free_port(), free_port()
        self.tls = tls
        self.environment, self.wrapper = environment or {}, list(wrapper)
        self.config = merged(
            {
                "server": {"listen_addr": f"127.0.0.1:{self.port}", "reactors": 2, "log_level": "info"},
                "admin": {"listen_addr": f"127.0.0.1:{self.admin_port}"},
                # A disk that others keep busy can hold an fsync back for seconds.
                "database": {"driver": "sqlite", "path": str(self.folder / "metadata.db"), "call_timeout": PATIENCE},
                "buckets": [{"name": BUCKET, "credentials": [{"access_key_id": ACCESS_KEY, "secret_access_key": SECRET}]}],
                "backends": backends,
            },
            settings or {},
        )
        if tls:
            self.config["server"]["tls"] = {"cert_file": str(tls.cert_file), "key_file": str(tls.key_file)}
        if self.config["database"]["driver"] == "postgres" and self.config["database"]["call_timeout"] == PATIENCE:
            # Nor does the database give up before.
            patient = dict.fromkeys(("connect_timeout", "statement_timeout", "lock_timeout"), PATIENCE)
            self.config["database"] = {**patient, **self.config["database"]}
        # A setting that is laid over as None is none.
        self.config["database"] = {key: value for key, value in self.config["database"].items() if value is not None}
        self.process = None
        if start:
            self.start()

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self):
        return self.folder / "server.log"

    @property
    def database(self):
        return self.folder / "metadata.db"

    def write_config(self):
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        return path

    def launch(self):
        """Starts the process without waiting for it to serve."""
        Server.launched = [one for one in Server.launched if one is not self] + [self]
        self.process = Process(
            self.log,
            [*self.wrapper, BINARY, "serve", "--config", self.write_config()],
            env={**os.environ, **self.environment},
        )

    def start(self, seconds=60.0):
        self.launch()
        self.wait_ready(seconds)
        return self

    def wait_ready(self, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not self.ready():
            assert self.process.alive(), f"ended with {self.process.child.returncode} before it was ready:\n{self.process.tail()}"
            assert time.monotonic() < deadline, f"not ready within {seconds} s:\n{self.process.tail()}"
            time.sleep(0.01)

    def ready(self):
        return self.health("/health/ready")[0] == 200

    def health(self, path="/health"):
        """Status and body of an unsigned request on the main port; (0, "") if nobody answers."""
        try:
            with lean.Connection(self.address, self.tls and self.tls.context(), timeout=30) as connection:
                connection.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
                answer = connection.response()
                return answer.status, answer.body.decode()
        except (OSError, lean.Cut):
            return 0, ""

    def client(self, **more):
        return lean.Client(self.address, ACCESS_KEY, SECRET, tls=self.tls and self.tls.context(), **more)

    def stop(self, seconds=60.0):
        """SIGTERM, and a clean exit."""
        if self.process is None:
            return
        status = self.process.end(seconds=seconds)
        tail, self.process = self.process.tail(), None
        assert status == 0, f"exit status {status} after SIGTERM:\n{tail}"
        self.check_log()

    def kill(self):
        if self.process is not None:
            self.process.end(signal.SIGKILL)
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            # Keep the test's own failure the one that is reported.
            self.kill()

    def admin(self, path, token=None, port=None):
        """Status and body of a GET on the admin port."""
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.admin_port}{path}")
        if token:
            request.add_header("X-Admin-Token", token)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self):
        code, body = self.admin("/admin/api/status")
        assert code == 200, body
        return json.loads(body)

    def backend_status(self, name):
        return next(one for one in self.status()["backends"] if one["name"] == name)

    def metrics(self):
        """[(name, labels, value)] of a scrape."""
        code, body = self.admin("/metrics")
        assert code == 200, body
        return parse_metrics(body)

    def metric(self, name, /, **labels):
        """The sum of the series of that name with at least these labels."""
        return sum(
            value
            for series, found, value in self.metrics()
            if series == name and all(found.get(label) == want for label, want in labels.items())
        )

    def rss_bytes(self):
        pid = self.process.child.pid
        return int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * KIB

    def lines(self):
        """The log's lines as objects; every line must be JSON. The last may not be whole yet."""
        return [json.loads(line) for line in self.log.read_text().rpartition("\n")[0].splitlines() if line.strip()]

    def told(self, *texts):
        """The log, once all of these stand in it: a thread of its own writes it, a moment after what it tells of."""
        told = lambda log: log if all(text in log for text in texts) else None
        return wait_for(f"a log with {texts}", lambda: told(self.log.read_text()))

    def check_log(self):
        """No panic anywhere, every line JSON."""
        text = self.log.read_text(errors="replace")
        assert "panicked" not in text, text[max(0, text.find("panicked") - 300) :][:2000]

    def wait_cleaned(self, seconds=60.0):
        """Until nothing is reserved and nothing waits for its DELETE."""

        def clean():
            rows = self.status()["backends"]
            return all(row["cleanup_queue"] == row["orphan_bytes"] == row["bytes_reserved"] == 0 for row in rows) and rows

        return wait_for("cleanup", clean, seconds, every=0.1)


def parse_metrics(text):
    found = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \S+)?", line)
        assert match, f"not a sample: {line!r}"
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
        found.append((match[1], labels, float(match[3])))
    return found


def rows(database, query, *arguments):
    """A query on the database of a stopped server, read-only."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query, arguments)]


def check_bytes(server, stored, charged):
    """After cleanup, of a stopped server: every backend holds exactly the blobs that the database names, of the sizes that it
    charges, and the status page said so."""
    named = {name: {} for name in stored}
    query = "SELECT backends.name AS backend, blobs.name AS name, state, bytes FROM blobs JOIN backends ON backend = backends.id"
    for row in rows(server.database, query):
        assert row["state"] == "live", f"not cleaned: {row}"
        named[row["backend"]][row["name"].decode()] = row["bytes"]
    for backend, blobs in stored.items():
        strays = {name: size for name, size in blobs.items() if name not in named[backend]}
        missing = {name: size for name, size in named[backend].items() if name not in blobs}
        assert not strays and not missing, f"{backend}: nobody names {strays}, nobody holds {missing}"
        assert blobs == named[backend], f"{backend}: sizes differ"
        assert sum(blobs.values()) == charged[backend], backend


class Certificates:
    """A test CA and a certificate for 127.0.0.1 and localhost."""

    def __init__(self, folder):
        import datetime
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file, self.cert_file, self.key_file = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        now = datetime.datetime.now(datetime.timezone.utc)

        def build(subject, issuer, public, signer, extensions):
            builder = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(issuer)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(days=2))
            )
            for extension, critical in extensions:
                builder = builder.add_extension(extension, critical)
            return builder.sign(signer, hashes.SHA256())

        def name(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        usage = dict.fromkeys(
            "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
            " crl_sign encipher_only decipher_only".split(),
            False,
        )
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = build(
            name("test ca"),
            name("test ca"),
            ca_key.public_key(),
            ca_key,
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (x509.KeyUsage(**{**usage, "key_cert_sign": True, "crl_sign": True}), True),
                (x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False),
            ],
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        leaf = build(
            name("localhost"),
            name("test ca"),
            key.public_key(),
            ca_key,
            [
                (x509.SubjectAlternativeName(names), False),
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (x509.KeyUsage(**{**usage, "digital_signature": True}), True),
                (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False),
            ],
        )
        pem = serialization.Encoding.PEM
        self.ca_file.write_bytes(ca.public_bytes(pem))
        self.cert_file.write_bytes(leaf.public_bytes(pem))
        self.key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def context(self):
        return ssl.create_default_context(cafile=str(self.ca_file))


def clean_environment(**more):
    """For SDKs: nothing of the user's own configuration reaches them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BOTO"))}
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }


class Postgres:
    """A PostgreSQL of its own that ends with this process, however that ends."""

    def __init__(self, log, *settings, standby_of=None, environment=None):
        self.log = pathlib.Path(log)
        script = pathlib.Path(__file__).parent.parent / "postgres.sh"
        standby = ["--standby-of", standby_of.directory, str(standby_of.port)] if standby_of else []
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                [script, *standby, *settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        line = self.child.stdout.readline().split()
        assert len(line) == 2, f"PostgreSQL did not start:\n{tail(self.log, 20)}"
        self.directory, self.port = pathlib.Path(line[0]), int(line[1])
        # The server after a restart.
        self.again = None
        # What `rows` asks by: a program that starts, many times a second, is dear.
        self.session, self.lock = None, threading.Lock()

    def settings(self, **more):
        """The product's `database` section."""
        return {
            "driver": "postgres",
            "path": None,
            "host": "127.0.0.1",
            "port": self.port,
            "database": "s3o",
            "user": "s3o",
            "ssl_mode": "disable",
            **more,
        }

    def pid(self):
        return int((self.directory / "data/postmaster.pid").read_text().split()[0])

    def processes(self):
        """The server's first process, then those that it has made."""
        first, children = self.pid(), []
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                children += [int(stat.parent.name)] if parent == first else []
        return [first, *children]

    def stop(self):
        """Sessions are told that the server shuts down."""
        first = self.pid()
        os.kill(first, signal.SIGINT)
        self.wait_gone(first)

    def freeze(self):
        # The first makes no more once it stands still; of the others some may end by themselves meanwhile.
        os.kill(self.pid(), signal.SIGSTOP)
        self.signal_all(signal.SIGSTOP)

    def thaw(self):
        self.signal_all(signal.SIGCONT)

    def signal_all(self, number):
        processes = self.processes()
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return processes

    def crash(self):
        """SIGKILL to all of it, as if its machine had gone."""
        self.wait_gone(self.signal_all(signal.SIGKILL)[0])

    def wait_gone(self, pid):
        def gone():
            if self.again:
                self.again.poll()
            return not pathlib.Path(f"/proc/{pid}").exists()

        wait_for("PostgreSQL to end", gone, 30)

    def restart(self):
        """After it was stopped or has crashed, with the settings that it had."""
        command = (self.directory / "data/postmaster.opts").read_text()
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"] if os.geteuid() == 0 else []
        with open(self.directory / "server.log", "ab") as output:
            run = [*as_user, "sh", "-c", f"exec {command}"]
            self.again = subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        wait_for("PostgreSQL to start", lambda: accepts(self.port), 30)

    def rows(self, query):
        """A query's rows as objects. What is not text must be made so by the query."""
        with self.lock:
            # A session ends with its server: the next one is asked.
            answer = self.ask(query) or self.ask(query)
        assert answer and answer.startswith("["), answer or "no session"
        return json.loads(answer)

    def ask(self, query):
        """What the session says up to an empty line, errors too; None if it has ended."""
        if self.session is None:
            command = ["psql", "-h", self.directory, "-p", str(self.port), "-U", "s3o", "-d", "s3o", "-XAtq"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            self.session = subprocess.Popen(command, text=True, **pipes)
        with contextlib.suppress(BrokenPipeError):
            self.session.stdin.write(f"SELECT coalesce(json_agg(found), '[]') FROM ({query}) AS found;\n\\echo\n")
            self.session.stdin.flush()
        told = ""
        while (line := self.session.stdout.readline()) != "\n":
            if not line:
                self.end_session()
                return None
            told += line
        return told

    def end_session(self):
        session, self.session = self.session, None
        if session:
            # Closing it writes what could not be written.
            with contextlib.suppress(BrokenPipeError):
                session.stdin.close()
            session.wait(60)
            session.stdout.close()

    def run(self, statement):
        """A statement without rows."""
        command = ["psql", "-h", self.directory, "-p", str(self.port), "-U", "s3o", "-d", "s3o", "-XAqtc", statement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def locked(self, statement):
        """Holds the locks of a statement as another session would, until the block ends or it is let go."""
        command = ["psql", "-h", self.directory, "-p", str(self.port), "-U", "s3o", "-d", "s3o", "-XAqt", "-v", "ON_ERROR_STOP=1"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
            try:
                session.stdin.write(f"BEGIN; {statement}; SELECT 'locked';\n")
                session.stdin.flush()
                found = next((line for line in session.stdout if line.strip() in ("locked", "")), None)
                assert found and found.strip() == "locked", f"{statement}: {found}"
                yield
            finally:
                session.stdin.close()
                session.wait(30)

    def waiting(self):
        """Sessions of the product that wait for a lock."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 's3-orchestrator' AND wait_event_type = 'Lock'"
        return [row["pid"] for row in self.rows(query)]

    def blobs(self):
        """Rows of blobs by backend and name: (state, bytes)."""
        query = "SELECT b.name AS backend, convert_from(blobs.name, 'UTF8') AS name, state, bytes FROM blobs JOIN backends b ON b.id = backend"
        found = {}
        for row in self.rows(query):
            found.setdefault(row["backend"], {})[row["name"]] = (row["state"], row["bytes"])
        return found

    def end(self):
        # What was left frozen by a test that failed cannot be stopped.
        with contextlib.suppress(OSError):
            self.thaw()
        self.end_session()
        self.child.stdin.close()
        self.child.wait(30)

    close = end
