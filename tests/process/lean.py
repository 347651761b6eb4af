"""An S3 client of our own: SigV4 over a plain socket, so that a test may send exactly the bytes it means, and fast enough
to load the server (boto3 manages some 200 requests a second). test_lean.py compares its signatures with botocore's.

Never follows a redirect, never retries, never hides how a connection ended: a body that is cut short raises `Cut`.
"""

import datetime
import hashlib
import hmac
import socket
import ssl
import zlib
from base64 import b64encode
from urllib.parse import quote, quote_from_bytes

UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class Cut(Exception):
    """The connection ended, or was reset, before the answer was whole. `got` holds the body bytes that did come."""

    def __init__(self, message, got=b""):
        super().__init__(f"{message} after {len(got)} body bytes")
        self.got = got


class Response:
    def __init__(self, status, reason, headers, body):
        self.status, self.reason, self.headers, self.body = status, reason, headers, body

    def header(self, name, default=None):
        """The value of a header that may stand there once; two of a name are an error."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} stands {len(values)} times: {values}"
        return values[0] if values else default

    @property
    def code(self):
        """The S3 error code of the body, or None."""
        start, end = self.body.find(b"<Code>"), self.body.find(b"</Code>")
        return self.body[start + 6 : end].decode() if 0 <= start < end else None

    def __repr__(self):
        return f"<{self.status} {self.code or ''} {self.body[:200]!r}>"


class Connection:
    """One connection, one request at a time unless the test pipelines by hand with `send` and `response`."""

    def __init__(self, address, tls=None, timeout=60.0):
        self.address = address
        self.sock = socket.create_connection(address, timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname=address[0])
        self.buffer = bytearray()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Cut(f"sending: {error}") from error

    def _more(self):
        try:
            data = self.sock.recv(1 << 18)
        except (ConnectionResetError, ssl.SSLEOFError) as error:
            raise Cut(f"receiving: {error}") from error
        self.buffer += data
        return bool(data)

    def ended(self, seconds=30.0):
        """Whether the server closes (or resets) the connection within that time, without sending anything more."""
        if self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except (TimeoutError, socket.timeout):
            return False
        except (ConnectionResetError, ssl.SSLError):
            return True

    def head(self):
        """The next head: (status, reason, headers). Interim answers are heads of their own."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if not self._more():
                raise Cut(f"closed before a head was whole: {bytes(self.buffer[:100])!r}")
        lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        del self.buffer[: end + 4]
        version, status, reason = (lines[0] + " ").split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        headers = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
        return int(status), reason.strip(), headers

    def body(self, length, sink=None):
        """Exactly `length` bytes, given to `sink` piece by piece if there is one."""
        kept, left = bytearray(), length
        while left:
            if not self.buffer and not self._more():
                raise Cut("closed", bytes(kept))
            piece = bytes(self.buffer[:left])
            del self.buffer[: len(piece)]
            left -= len(piece)
            if sink:
                sink(piece)
            else:
                kept += piece
        return bytes(kept)

    def _chunked(self):
        kept = bytearray()
        while True:
            while (end := self.buffer.find(b"\r\n")) < 0:
                if not self._more():
                    raise Cut("closed", bytes(kept))
            size = int(bytes(self.buffer[:end]).split(b";")[0], 16)
            del self.buffer[: end + 2]
            kept += self.body(size)
            assert self.body(2) == b"\r\n"
            if size == 0:
                return bytes(kept)

    def response(self, method="GET", sink=None):
        """The next final answer with its body."""
        status = 100
        while 100 <= status < 200:
            status, reason, headers = self.head()
        found = dict(headers)
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif "chunked" in found.get("transfer-encoding", ""):
            body = self._chunked()
        elif "content-length" in found:
            body = self.body(int(found["content-length"]), sink)
        else:
            raise AssertionError(f"an answer without a length: {status} {headers}")
        return Response(status, reason, headers, body)


def signing_key(secret, day, region, service="s3"):
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def encode_path(bucket, key=None):
    """The wire form of a path: every byte of the key but the unreserved ones and slashes is percent-encoded."""
    if key is None:
        return "/" + bucket if bucket else "/"
    raw = key.encode() if isinstance(key, str) else key
    return "/" + bucket + "/" + quote_from_bytes(raw, safe="/-_.~")


def encode_query(pairs):
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)


class Signed:
    """A request with its signature; `chunk` goes on with the signatures of a streaming body."""

    def __init__(self, client, method, path, query, headers, payload_hash, now=None, signed_names=None, region=None):
        now = now or datetime.datetime.now(datetime.timezone.utc) + client.ahead
        self.stamp = now.strftime("%Y%m%dT%H%M%SZ")
        day, region = self.stamp[:8], region or client.region
        self.scope = f"{day}/{region}/s3/aws4_request"
        self.key = signing_key(client.secret, day, region)
        fields = {name.lower(): value for name, value in headers}
        fields.setdefault("host", client.host_header)
        fields.setdefault("x-amz-date", self.stamp)
        if payload_hash is not None:
            fields.setdefault("x-amz-content-sha256", payload_hash)
        names = sorted(fields if signed_names is None else signed_names)
        canonical = "\n".join(
            [
                method,
                path,
                "&".join(sorted(encode_query([pair]) for pair in query)),
                *(f"{name}:{' '.join(fields[name].split())}" for name in names),
                "",
                ";".join(names),
                fields.get("x-amz-content-sha256", UNSIGNED),
            ]
        )
        self.signature = self._sign("AWS4-HMAC-SHA256", hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest())
        fields["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={client.access_key}/{self.scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={self.signature}"
        )
        self.fields = fields
        target = path + ("?" + encode_query(query) if query else "")
        self.start_line = f"{method} {target} HTTP/1.1"

    def _sign(self, algorithm, *rest):
        text = "\n".join((algorithm, self.stamp, self.scope, *rest))
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def head(self):
        lines = [self.start_line] + [f"{name}: {value}" for name, value in self.fields.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    def chunk(self, data):
        """One signed chunk of STREAMING-AWS4-HMAC-SHA256-PAYLOAD, header and all."""
        self.signature = self._sign("AWS4-HMAC-SHA256-PAYLOAD", self.signature, EMPTY_SHA256, hashlib.sha256(data).hexdigest())
        # The last chunk has no data and, before trailers, no line end of its own.
        return f"{len(data):x};chunk-signature={self.signature}\r\n".encode() + data + (b"\r\n" if data else b"")

    def trailer_signature(self, lines):
        text = "".join(line + "\n" for line in lines)
        return self._sign("AWS4-HMAC-SHA256-TRAILER", self.signature, hashlib.sha256(text.encode()).hexdigest())


def crc32_base64(data):
    return b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


class Client:
    """Where to send to and as whom; holds one kept-alive connection and opens another when that one ended."""

    def __init__(self, address, access_key="photoskey", secret="photossecret", region="us-east-1", tls=None, timeout=60.0):
        self.address, self.access_key, self.secret, self.region = address, access_key, secret, region
        self.tls, self.timeout = tls, timeout
        self.host_header = f"{address[0]}:{address[1]}"
        self.connection = None
        # Of the server's clock before ours.
        self.ahead = datetime.timedelta()

    def connect(self):
        return Connection(self.address, self.tls, self.timeout)

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def signed(self, method, bucket, key=None, query=(), headers=(), body=b"", payload_hash=None, **more):
        """A signed request and its body. `payload_hash` defaults to the body's own SHA-256."""
        headers = list(headers)
        if (body or method in ("PUT", "POST")) and not any(name == "content-length" for name, _ in headers):
            headers.append(("content-length", str(len(body))))
        if payload_hash is None:
            payload_hash = hashlib.sha256(body).hexdigest()
        return Signed(self, method, encode_path(bucket, key), list(query), headers, payload_hash, **more)

    def request(self, method, bucket, key=None, query=(), headers=(), body=b"", sink=None, **more):
        """Sends and waits for the answer on the kept connection. A `Cut` closes it."""
        signed = self.signed(method, bucket, key, query, headers, body, **more)
        self.connection = self.connection or self.connect()
        try:
            self.connection.send(signed.head() + body)
            answer = self.connection.response(method, sink)
        except BaseException:
            self.close()
            raise
        if answer.header("connection", "").lower() == "close":
            self.close()
        return answer

    def put(self, bucket, key, body, **more):
        return self.request("PUT", bucket, key, body=body, **more)

    def get(self, bucket, key, **more):
        return self.request("GET", bucket, key, **more)

    def delete(self, bucket, key, **more):
        return self.request("DELETE", bucket, key, **more)

    def list_keys(self, bucket, **query):
        """Every key of the bucket, page by page, undecoded except for XML."""
        import xml.etree.ElementTree as tree

        found, token = [], None
        while True:
            pairs = [("list-type", "2"), *((name.replace("_", "-"), value) for name, value in query.items())]
            if token:
                pairs.append(("continuation-token", token))
            answer = self.request("GET", bucket, query=pairs)
            assert answer.status == 200, answer
            root = tree.fromstring(answer.body)
            space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
            found += [one.findtext(f"{space}Key") for one in root.iter(f"{space}Contents")]
            token = root.findtext(f"{space}NextContinuationToken")
            if root.findtext(f"{space}IsTruncated") != "true":
                return found
            assert token, answer.body


def xml_texts(body, name):
    """The texts of every element of that name, namespaces aside."""
    import xml.etree.ElementTree as tree

    return [one.text or "" for one in tree.fromstring(body).iter() if one.tag.rpartition("}")[2] == name]
