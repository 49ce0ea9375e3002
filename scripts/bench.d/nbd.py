"""A small NBD client: one request at a time, for what fio cannot ask exactly."""

import socket
import struct
import time
from urllib.parse import parse_qs, urlsplit

READ, WRITE, DISCONNECT, FLUSH, TRIM = 0, 1, 2, 3, 4
IHAVEOPT = 0x49484156454F5054
OPT_GO, REP_ACK, REP_INFO = 7, 1, 3


class Nbd:
    """A connection to `nbd+unix:///EXPORT?socket=PATH`, with simple replies."""

    def __init__(self, uri):
        parts = urlsplit(uri)
        export = parts.path.lstrip("/").encode()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(parse_qs(parts.query)["socket"][0])
        self.sock.settimeout(120)
        magic, opt, flags = struct.unpack(">8sQH", self._recv(18))
        if magic != b"NBDMAGIC" or opt != IHAVEOPT or not flags & 1:
            raise OSError("not a fixed-newstyle NBD server")
        self.sock.sendall(struct.pack(">I", flags & 3))
        body = struct.pack(">I", len(export)) + export + struct.pack(">H", 0)
        self.sock.sendall(struct.pack(">QII", IHAVEOPT, OPT_GO, len(body)) + body)
        self.size = 0
        while True:
            _, _, reply, n = struct.unpack(">QIII", self._recv(20))
            data = self._recv(n)
            if reply == REP_INFO and data[:2] == b"\0\0":
                self.size = struct.unpack(">Q", data[2:10])[0]
            elif reply == REP_ACK:
                break
            elif reply & 0x80000000:
                raise OSError(f"the server refuses export {export!r}: {data!r}")
        self.cookie = 0

    def _recv(self, n):
        data = bytearray()
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise OSError("the server closed the connection")
            data += part
        return bytes(data)

    def _ask(self, kind, offset, length, data=b""):
        self.cookie += 1
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, self.cookie, offset, length) + data)
        magic, error, cookie = struct.unpack(">IIQ", self._recv(16))
        if magic != 0x67446698 or cookie != self.cookie:
            raise OSError("a reply out of step")
        if error:
            raise OSError(error, "the server answers with an error")
        return self._recv(length) if kind == READ else b""

    def read(self, offset, length):
        return self._ask(READ, offset, length)

    def write(self, offset, data):
        self._ask(WRITE, offset, len(data), data)

    def flush(self):
        self._ask(FLUSH, 0, 0)

    def trim(self, offset, length):
        self._ask(TRIM, offset, length)

    def close(self):
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, DISCONNECT, 0, 0, 0))
        self.sock.close()


def timed(what):
    """Seconds that `what` takes, and its answer."""
    begin = time.monotonic()
    answer = what()
    return time.monotonic() - begin, answer
