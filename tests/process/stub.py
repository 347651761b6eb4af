"""A scripted S3 backend: one thread per connection, plain sockets, faults by attribute.

Keeps objects up to `KEEP_BYTES_MAX`; of bigger ones only the size, and sends made-up bytes of that length back, so that it is
never the bottleneck. Verifies a declared SHA-256 of what it keeps, answers MD5s as ETags, lists objects but no uploads and no
versions. Signatures are s3s-fs's business. As a program (`python stub.py PORT`) it serves without faults until it is killed.
"""

import contextlib
import hashlib
import re
import socket
import sys
import threading
import time
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

KEEP_BYTES_MAX = 1 << 20
BLOCK = bytes(range(256)) * 4096


BUCKET = "store"


def backend_at(port, name, **more):
    """The configuration of a stub as a backend."""
    return {
        "name": name,
        "endpoint": f"http://127.0.0.1:{port}",
        "bucket": BUCKET,
        "access_key_id": "stubkey",
        "secret_access_key": "stubsecret",
        "force_path_style": True,
        **more,
    }


class Times:
    """How often a fault may still happen; stubs may share one."""

    def __init__(self, left):
        self.left, self.lock = left, threading.Lock()

    def take(self):
        with self.lock:
            self.left -= 1
            return self.left >= 0


class Stub:
    """Faults: each is consulted per request and changed by the test while the server runs."""

    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()
        self.objects = {}
        self.mend()
        self.requests = []
        # The header fields of each, by lower-case name.
        self.fields = []
        self.connections = set()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self.accept, daemon=True).start()

    def mend(self):
        """No faults, or none any more."""
        # GET bodies end by a reset after so many bytes, or before their last one; as often as `cuts` says.
        self.cut_after, self.cuts = None, Times(0)
        # They stand still there in place of the reset.
        self.stands_still = False
        # Everything is answered with this status, our own marker included.
        self.down_with = None
        # Everything is read whole and never answered, likewise.
        self.hangs = False
        # Seconds before each answer.
        self.delay = 0
        # Requests for objects that are read whole and never answered.
        self.silences = Times(0)
        # Connections are closed without a word after each answer.
        self.hang_up = False
        # Statuses for methods: {"DELETE": 500}; for objects only, so that the backend stays itself.
        self.refuse = {}
        # PUTs of at least so many bytes are refused by closing after so many of them.
        self.put_cut_after = None
        # The answer to a PUT never comes, though the object is stored.
        self.swallow_answers = False
        # Bytes added to the Content-Length and body of a GET.
        self.extra_bytes = 0
        # Seconds before the answer to the PUT of an object.
        self.put_delay = 0
        # ETags that are no MD5, as some providers have them.
        self.odd_etags = False
        # Requests for objects are answered with 307 to this address.
        self.redirects_to = None

    def backend(self, name, **more):
        return backend_at(self.port, name, **more)

    def close(self):
        """Stops listening and resets every connection."""
        # A thread in accept() keeps the listener alive unless it is woken.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in list(self.connections):
                reset(connection)

    def blobs(self):
        """Names of the objects that are no marker of the product's own."""
        with self.lock:
            return {name for name in self.objects if not name.startswith(".s3o/")}

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            rest = b""
            while (found := read_head(connection, rest)) is not None:
                head, rest = found
                rest = self.answer(connection, head, rest)
                if self.hang_up or rest is None:
                    break
        except OSError:
            pass
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def answer(self, connection, head, rest):
        """Handles one request; returns what came behind its body, or None to hang up."""
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        path, _, query = target.partition("?")
        name = unquote(path).removeprefix(f"/{BUCKET}").removeprefix("/")
        query = dict(parse_qsl(query, keep_blank_values=True))
        self.requests.append((method, name))
        self.fields.append(headers)
        length = int(headers.get("content-length", 0))
        if headers.get("expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, rest = self.take_body(connection, rest, length, keep=length <= KEEP_BYTES_MAX)
        refused = self.refuse.get(method) if not name.startswith(".s3o/") else None
        if self.hangs or not name.startswith(".s3o/") and self.silences.take():
            wait_until_closed(connection)
            return None
        if self.delay:
            time.sleep(self.delay)
        refused = self.down_with or refused
        if self.redirects_to and not name.startswith(".s3o/"):
            send(connection, 307, [("location", f"{self.redirects_to}{target}")], b"", method)
        elif refused:
            send(connection, refused, [], b"<Error><Code>InternalError</Code></Error>")
        elif method == "PUT":
            if not self.put(connection, name, headers, body, length):
                return None
        elif method in ("GET", "HEAD"):
            if name == "":
                send(connection, 200, [], self.listing(query), method)
            elif not self.get(connection, method, name, headers):
                return None
        elif method == "DELETE":
            with self.lock:
                self.objects.pop(name, None)
            send(connection, 204, [], b"")
        else:
            send(connection, 501, [], b"<Error><Code>NotImplemented</Code></Error>")
        return rest

    def listing(self, query):
        """One page of objects; uploads and versions are never listed."""
        if "list-type" not in query:
            return empty_list(query)
        with self.lock:
            names = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))
            sizes = {name: self.objects[name][1] for name in names}
        names = [name for name in names if name > query.get("start-after", "")]
        page = names[: int(query.get("max-keys", 1000))]
        entries = "".join(f"<Contents><Key>{escape(name)}</Key><Size>{sizes[name]}</Size></Contents>" for name in page)
        truncated = str(len(page) < len(names)).lower()
        return (
            f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated><KeyCount>{len(page)}</KeyCount>{entries}"
            f"<NextContinuationToken>{len(page)}</NextContinuationToken></ListBucketResult>"
        ).encode()

    def take_body(self, connection, rest, length, keep):
        kept, left = bytearray(rest[:length]) if keep else None, length - len(rest[:length])
        rest = rest[length:]
        buffer = bytearray(1 << 20)
        while left:
            got = connection.recv_into(buffer, min(left, len(buffer)))
            if not got:
                raise OSError("closed within a body")
            left -= got
            if keep:
                kept += buffer[:got]
            if self.put_cut_after is not None and length - left >= self.put_cut_after:
                reset(connection)
                raise OSError("cut on purpose")
        return (bytes(kept) if keep else None), rest

    def put(self, connection, name, headers, body, length):
        declared = headers.get("x-amz-content-sha256", "")
        if body is not None and re.fullmatch("[0-9a-f]{64}", declared) and hashlib.sha256(body).hexdigest() != declared:
            send(connection, 400, [], b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
            return True
        etag = hashlib.md5(body if body is not None else str(length).encode()).hexdigest()
        if self.odd_etags and not name.startswith(".s3o/"):
            etag = f"0x8D{len(self.requests):012X}"
        kept = {
            n: v for n, v in headers.items() if n.startswith("x-amz-meta-") or n.startswith("content-") and n != "content-length"
        }
        with self.lock:
            self.objects[name] = (body, length, etag, kept)
        if self.put_delay and not name.startswith(".s3o/"):
            time.sleep(self.put_delay)
        if self.swallow_answers and not name.startswith(".s3o/"):
            return False
        send(connection, 200, [("etag", f'"{etag}"')], b"")
        return True

    def get(self, connection, method, name, headers):
        with self.lock:
            found = self.objects.get(name)
        if found is None:
            send(connection, 404, [], b"<Error><Code>NoSuchKey</Code></Error>", method)
            return True
        body, length, etag, kept = found
        first, last, status, fields = 0, length - 1, 200, [("etag", f'"{etag}"'), *kept.items()]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked:
            first, last, status = int(asked[1]), min(int(asked[2] or length), length - 1), 206
            fields.append(("content-range", f"bytes {first}-{last}/{length}"))
        size = last - first + 1 + self.extra_bytes
        lines = [f"HTTP/1.1 {status} x", f"content-length: {size}", *(f"{n}: {v}" for n, v in fields)]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if method == "HEAD":
            return True
        limit = None
        if self.cut_after is not None and self.cuts.take():
            limit = max(0, min(self.cut_after, size - 1))
        send_bytes(connection, body, first, size if limit is None else limit)
        if limit is not None:
            (wait_until_closed if self.stands_still else reset)(connection)
            return False
        return True


def pattern(first, size):
    """The bytes that stand in for a discarded body."""
    start = first % 256
    return (BLOCK * (size // len(BLOCK) + 2))[start : start + size]


def empty_list(query):
    kinds = {"uploads": "ListMultipartUploadsResult", "versions": "ListVersionsResult"}
    root = next((root for name, root in kinds.items() if name in query), "ListBucketResult")
    return f"<{root}><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></{root}>".encode()


def send_bytes(connection, body, first, size):
    if body is not None:
        connection.sendall((body + b"?" * size)[first : first + size])
        return
    view, at = memoryview(BLOCK), first % 256
    while size:
        piece = view[at : at + min(size, len(BLOCK) - at)]
        connection.sendall(piece)
        size -= len(piece)
        at = 0


def read_head(connection, rest):
    """The next head without its empty line, and what came behind it; None at the end."""
    while (end := rest.find(b"\r\n\r\n")) < 0:
        data = connection.recv(65536)
        if not data:
            return None
        rest += data
    return rest[:end], rest[end + 4 :]


def send(connection, status, headers, body, method="GET"):
    fields = [("content-length", len(body))] if status != 204 else []
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in fields + list(headers))]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (body if method != "HEAD" else b""))


def wait_until_closed(connection):
    while connection.recv(65536):
        pass


def reset(connection):
    """Ends a connection by RST, as a crashed machine's kernel would."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


if __name__ == "__main__":
    Stub(int(sys.argv[1]))
    threading.Event().wait()
