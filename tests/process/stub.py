"""A scripted S3 backend: one thread per connection, plain sockets, faults by attribute.

Keeps objects up to `KEEP_BYTES_MAX`; of bigger ones only the size, and sends made-up bytes of that length back, so that it is
never the bottleneck. Verifies a declared SHA-256 of what it keeps, answers MD5s as ETags, puts uploads of small parts together,
copies within itself, lists objects and uploads but no versions. Signatures are s3s-fs's business. As a program
(`python stub.py PORT`) it serves without faults until it is killed.
"""

import contextlib
import functools
import hashlib
import re
import socket
import sys
import threading
import time
import uuid
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


class Hold:
    """One request that is held where it is until the test lets it go. The place: `half` (of its body was read; of a GET, sent),
    `body` (all of it was read, without an effect yet), `done` (only the answer is missing; of a GET, its body)."""

    def __init__(self, method, name, place):
        self.method, self.name, self.place = method, name, place
        self.reached, self.gone_on = threading.Event(), threading.Event()

    def wait(self, seconds=60):
        assert self.reached.wait(seconds), f"{self.method} of {self.name} never came to {self.place}"

    def let_go(self):
        self.gone_on.set()


class Stub:
    """Faults: each is consulted per request and changed by the test while the server runs."""

    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()
        self.objects = {}
        self.page_max = 1000
        # By id: the name, and parts by number.
        self.uploads = {}
        self.holds = []
        self.mend()
        self.requests = []
        # The header fields of each, by lower-case name.
        self.fields = []
        # What it can do, faults apart: copy an object within itself.
        self.copies = True
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

    def hold(self, method, name, place):
        """The next request of that method for an object whose name holds `name` is held."""
        hold = Hold(method, name, place)
        with self.lock:
            self.holds.append(hold)
        return hold

    def pass_by(self, place, method, name):
        with self.lock:
            found = next((one for one in self.holds if one.place == place and one.method == method and one.name in name), None)
            if found:
                self.holds.remove(found)
        if found:
            found.reached.set()
            found.gone_on.wait()

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
        with self.lock:
            # Both at the same place.
            self.requests.append((method, name))
            self.fields.append(headers)
        length = int(headers.get("content-length", 0))
        if headers.get("expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        at_half = functools.partial(self.pass_by, "half", method, name)
        body, rest = self.take_body(connection, rest, length, length <= KEEP_BYTES_MAX, at_half)
        self.pass_by("body", method, name)
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
        elif "uploads" in query and method == "POST" or "uploadId" in query:
            self.multipart(connection, method, name, query, headers, body)
        elif method == "PUT" and self.copies and "x-amz-copy-source" in headers:
            self.copy(connection, name, headers)
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
            self.pass_by("done", method, name)
            send(connection, 204, [], b"")
        else:
            send(connection, 501, [], b"<Error><Code>NotImplemented</Code></Error>")
        return rest

    def multipart(self, connection, method, name, query, headers, body):
        """Parts are small: each is kept."""
        with self.lock:
            found = self.uploads.get(query.get("uploadId"))
            status, fields, answer = 200, [], b""
            if "uploads" in query:
                upload = f"upload-{uuid.uuid4().hex}"
                self.uploads[upload] = (name, {})
                answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode()
            elif found is None:
                status, answer = 404, b"<Error><Code>NoSuchUpload</Code></Error>"
            elif method == "PUT":
                if "x-amz-copy-source" in headers:
                    span = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("x-amz-copy-source-range", "bytes=0-999999999"))
                    body = self.source_of(headers)[int(span[1]) : int(span[2]) + 1]
                etag = f'"{hashlib.md5(body).hexdigest()}"'
                found[1][int(query["partNumber"])] = body
                fields, answer = [("etag", etag)], f"<CopyPartResult><ETag>{etag}</ETag></CopyPartResult>".encode()
            elif method == "DELETE":
                del self.uploads[query["uploadId"]]
                status = 204
            else:
                parts = [found[1][int(number)] for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
                digests = b"".join(hashlib.md5(part).digest() for part in parts)
                etag = f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"
                whole = b"".join(parts)
                self.objects[name] = (whole, len(whole), etag, {})
                del self.uploads[query["uploadId"]]
                answer = f'<CompleteMultipartUploadResult><ETag>"{etag}"</ETag></CompleteMultipartUploadResult>'.encode()
        self.pass_by("done", method, name)
        send(connection, status, fields, answer)

    def source_of(self, headers):
        return self.objects[unquote(headers["x-amz-copy-source"]).lstrip("/").removeprefix(f"{BUCKET}/")][0]

    def copy(self, connection, name, headers):
        with self.lock:
            body = self.source_of(headers)
            etag = hashlib.md5(body).hexdigest()
            self.objects[name] = (body, len(body), etag, {})
        self.pass_by("done", "PUT", name)
        send(connection, 200, [], f'<CopyObjectResult><ETag>"{etag}"</ETag></CopyObjectResult>'.encode())

    def listing(self, query):
        """One page of objects, or of uploads; versions are never listed."""
        if "uploads" in query:
            with self.lock:
                found = {one: name for one, (name, _) in self.uploads.items() if name.startswith(query.get("prefix", ""))}
            entries = "".join(f"<Upload><Key>{escape(name)}</Key><UploadId>{one}</UploadId></Upload>" for one, name in found.items())
            return f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{entries}</ListMultipartUploadsResult>".encode()
        if "list-type" not in query:
            return b"<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>"
        with self.lock:
            names = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))
            sizes = {name: self.objects[name][1] for name in names}
        names = [name for name in names if name > query.get("start-after", "")]
        page = names[: min(int(query.get("max-keys", 1000)), self.page_max)]
        entries = "".join(f"<Contents><Key>{escape(name)}</Key><Size>{sizes[name]}</Size></Contents>" for name in page)
        truncated = str(len(page) < len(names)).lower()
        return (
            f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated><KeyCount>{len(page)}</KeyCount>{entries}"
            f"<NextContinuationToken>{len(page)}</NextContinuationToken></ListBucketResult>"
        ).encode()

    def take_body(self, connection, rest, length, keep, at_half):
        kept, left = bytearray(rest[:length]) if keep else None, length - len(rest[:length])
        rest = rest[length:]
        buffer = bytearray(1 << 20)
        half = length // 2
        while left:
            if left <= half:
                at_half()
            got = connection.recv_into(buffer, min(left - half if left > half else left, len(buffer)))
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
        self.pass_by("done", "PUT", name)
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
        if self.holds:
            self.pass_by("done", method, name)
            send_bytes(connection, body, first, size // 2)
            self.pass_by("half", method, name)
            first, size = first + size // 2, size - size // 2
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
