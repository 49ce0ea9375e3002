#!/usr/bin/env python3
"""An NBD client that knows what it was promised.

    crash.py load SOCKET EXPORT STATE [--depth N] [--flush-every N] [--seed N]
        writes stamped 4 KiB blocks until the server dies (or SECONDS have passed), then saves to STATE which writes were
        begun, which were completed, and which of those a completed flush covers
    crash.py check SOCKET EXPORT STATE --promise daemon|journal
        reads the volume and says whether the promise was kept
            daemon    only the daemon died: every completed write is there (or a later one of the same block)
            journal   the journal died too: the volume is as after the first n writes, n at least what was flushed.
                      Needs a load of depth 1, where the order of writes is known.

Every block holds its number and the number of the write, repeated to fill it: a torn or misplaced block shows itself.
STATE is carried from load to load, so that many crashes in a row are checked against one history.
"""

import argparse
import json
import os
import random
import socket
import struct
import sys
import time

BLOCK = 4096
MAGIC = 0x25609513
READ, WRITE, FLUSH = 0, 1, 3
FUA = 1


class Gone(Exception):
    """The server is gone."""


class Client:
    """A connection with the export open; no structured replies."""

    def __init__(self, path, export):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        if self.take(16) != b"NBDMAGICIHAVEOPT":
            raise SystemExit("not an NBD server")
        self.take(2)
        # Fixed newstyle, no zeroes; then NBD_OPT_GO without information requests.
        self.sock.sendall(struct.pack(">I", 3))
        name = export.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.sock.sendall(b"IHAVEOPT" + struct.pack(">II", 7, len(body)) + body)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            data = self.take(length)
            if kind == 1:
                break
            if kind & 0x80000000:
                raise SystemExit(f"the export was refused: {kind:#x} {data!r}")
            if kind == 3 and struct.unpack(">H", data[:2])[0] == 0:
                self.size = struct.unpack(">Q", data[2:10])[0]

    def take(self, n):
        parts = []
        while n:
            try:
                part = self.sock.recv(n)
            except OSError as e:
                raise Gone from e
            if not part:
                raise Gone
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def send(self, kind, handle, offset, length, data=b"", flags=0):
        try:
            self.sock.sendall(struct.pack(">IHHQQI", MAGIC, flags, kind, handle, offset, length) + data)
        except OSError as e:
            raise Gone from e

    def reply(self):
        magic, error, handle = struct.unpack(">IIQ", self.take(16))
        if magic != 0x67446698:
            raise SystemExit("a reply without the magic number")
        return handle, error

    def read(self, offset, length):
        self.send(READ, 0, offset, length)
        _, error = self.reply()
        if error:
            raise SystemExit(f"read at {offset}: error {error}")
        return self.take(length)


def stamp(block, number):
    return struct.pack(">QQ", block, number) * (BLOCK // 16)


class History:
    """Writes are numbered from 1; block_of[i] is the block of write i + 1."""

    def __init__(self, path):
        self.path = path
        self.block_of, self.done, self.flushed = [], set(), 0
        # Per load: (first write, last write, whether its writes were one after another)
        self.sequential = True
        # By block: the number that the last check found there; older writes are history.
        self.base = {}
        if os.path.exists(path):
            with open(path) as f:
                saved = json.load(f)
            self.block_of, self.flushed = saved["block_of"], saved["flushed"]
            self.done, self.sequential = set(saved["done"]), saved["sequential"]
            self.base = {int(k): v for k, v in saved["base"].items()}

    def save(self):
        with open(self.path + ".new", "w") as f:
            state = {"block_of": self.block_of, "done": sorted(self.done), "flushed": self.flushed}
            json.dump({**state, "sequential": self.sequential, "base": self.base}, f)
        os.rename(self.path + ".new", self.path)


def load(args):
    rng = random.Random(args.seed)
    history = History(args.state)
    history.sequential = args.depth == 1
    client = Client(args.socket, args.export)
    # Whoever is to kill the server waits for this.
    open(args.state + ".begun", "w").close()
    # A small part of the volume: blocks are overwritten often.
    blocks = min(client.size // BLOCK, args.blocks)
    in_flight, flushes, next_handle = {}, {}, 1 << 40
    end = time.monotonic() + args.seconds
    since_flush = 0
    try:
        while time.monotonic() < end:
            while len(in_flight) + len(flushes) < args.depth:
                if since_flush >= args.flush_every:
                    # It covers the writes that are complete now.
                    flushes[next_handle] = set(history.done)
                    client.send(FLUSH, next_handle, 0, 0)
                    next_handle += 1
                    since_flush = 0
                    continue
                # Two writes of one block under way at once have no order: avoided.
                busy = set(in_flight.values())
                block = rng.randrange(blocks)
                while block in busy:
                    block = rng.randrange(blocks)
                history.block_of.append(block)
                number = len(history.block_of)
                in_flight[number] = block
                client.send(WRITE, number, block * BLOCK, BLOCK, stamp(block, number))
                since_flush += 1
            handle, error = client.reply()
            if error:
                raise SystemExit(f"a write or flush failed with error {error}")
            if handle in flushes:
                covered = flushes.pop(handle)
                if history.sequential and covered:
                    history.flushed = max(history.flushed, max(covered))
            else:
                in_flight.pop(handle)
                history.done.add(handle)
        print("the server lived on", end="; ")
    except Gone:
        pass
    history.save()
    print(f"{len(history.block_of)} writes begun, {len(history.done)} completed, flushed up to {history.flushed}")


def found(client, blocks):
    """The number of the write that each block holds; 0 where there is none."""
    numbers = []
    chunk = 64
    for first in range(0, blocks, chunk):
        n = min(chunk, blocks - first)
        data = client.read(first * BLOCK, n * BLOCK)
        for i in range(n):
            body = data[i * BLOCK:(i + 1) * BLOCK]
            block, number = struct.unpack(">QQ", body[:16])
            if body == bytes(BLOCK):
                number = 0
            elif body != stamp(first + i, number):
                raise SystemExit(f"VIOLATION: block {first + i} is torn or misplaced (it says {block}, {number})")
            numbers.append(number)
    return numbers


def check(args):
    history = History(args.state)
    client = Client(args.socket, args.export)
    blocks = min(client.size // BLOCK, args.blocks)
    numbers = found(client, blocks)
    writes_of = {}
    for i, block in enumerate(history.block_of):
        writes_of.setdefault(block, []).append(i + 1)
    if args.promise == "daemon":
        for block in range(blocks):
            # Of a block's writes no two were under way at once, so the last completed one or a later one is right.
            allowed = {history.base.get(block, 0)}
            for number in writes_of.get(block, []):
                allowed = {number} if number in history.done else allowed | {number}
            if numbers[block] not in allowed:
                raise SystemExit(f"VIOLATION: block {block} holds write {numbers[block]}, allowed are {sorted(allowed)}")
        print(f"every one of {len(history.done)} completed writes is there")
    else:
        if not history.sequential:
            raise SystemExit("this promise needs a load of depth 1")
        # Some n must explain every block: n is at least what a block holds, and less than the block's next write.
        low, high = history.flushed, len(history.block_of)
        for block in range(blocks):
            low = max(low, numbers[block])
            later = [n for n in writes_of.get(block, []) if n > numbers[block]]
            if later:
                high = min(high, later[0] - 1)
        if low > high:
            raise SystemExit(f"VIOLATION: no prefix explains the volume: at least {low}, at most {high} writes")
        print(f"a prefix: {low} to {high} of {len(history.block_of)} writes, {history.flushed} were flushed")
    # What is there now is the beginning of the next round; nothing before it can come back.
    history.base = {b: n for b, n in enumerate(numbers) if n}
    kept = set(n for n in numbers if n)
    history.done &= kept
    history.done |= kept
    history.block_of = [b if i + 1 in kept else -1 for i, b in enumerate(history.block_of)]
    history.flushed = max(kept, default=0) if args.promise == "daemon" else low
    history.save()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "check"])
    parser.add_argument("socket")
    parser.add_argument("export")
    parser.add_argument("state")
    parser.add_argument("--blocks", type=int, default=2048)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--flush-every", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--promise", choices=["daemon", "journal"], default="daemon")
    args = parser.parse_args()
    {"load": load, "check": check}[args.what](args)


if __name__ == "__main__":
    main()
