#!/usr/bin/env python3
"""Does random things to a file and to a model of it in memory, and compares: writes, reads, truncation, holes, zeroed
ranges, maps, synced and not. For what fsx is known for; prints its seed and where the two differ."""

import argparse
import ctypes
import mmap
import os
import random
import sys
import time

LARGEST = 512 << 10
LONGEST_OPERATION = 80 << 10
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


class Twins:
    """The file and its model."""

    def __init__(self, path, rng):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.model = bytearray()
        self.rng = rng

    def span(self, end):
        start = self.rng.randrange(max(end, 1))
        return start, min(self.rng.randrange(1, LONGEST_OPERATION), end - start)

    def write(self):
        start, size = self.span(LARGEST)
        data = self.rng.randbytes(size)
        os.pwrite(self.fd, data, start)
        if start > len(self.model):
            self.model.extend(bytes(start - len(self.model)))
        self.model[start:start + size] = data

    def read(self):
        start, size = self.span(len(self.model))
        self.compare(start, os.pread(self.fd, size, start), self.model[start:start + size])

    def truncate(self):
        size = self.rng.randrange(LARGEST)
        os.ftruncate(self.fd, size)
        if size > len(self.model):
            self.model.extend(bytes(size - len(self.model)))
        del self.model[size:]

    def clear(self):
        start, size = self.span(len(self.model))
        if size == 0:
            return
        mode = KEEP_SIZE | self.rng.choice([PUNCH_HOLE, ZERO_RANGE])
        if LIBC.fallocate(self.fd, mode, start, size) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        self.model[start:start + size] = bytes(size)

    def map(self):
        if not self.model:
            return
        with mmap.mmap(self.fd, len(self.model)) as view:
            start, size = self.span(len(self.model))
            self.compare(start, view[start:start + size], self.model[start:start + size])
            data = self.rng.randbytes(size)
            view[start:start + size] = data
            self.model[start:start + size] = data

    def sync(self):
        os.fdatasync(self.fd)

    def forget(self):
        """What was cached is read again."""
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self.compare(0, os.pread(self.fd, LARGEST, 0), self.model)

    def compare(self, start, found, expected):
        if bytes(found) != bytes(expected):
            at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            sys.exit(f"differs at {start + at}: {len(found)} bytes found, {len(expected)} expected")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 100000)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    twins = Twins(args.path, random.Random(args.seed))
    usual = [twins.write] * 6 + [twins.read] * 4 + [twins.map] * 2 + [twins.truncate, twins.clear, twins.clear]
    end, count = time.monotonic() + args.seconds, 0
    while time.monotonic() < end:
        for _ in range(50):
            twins.rng.choice(usual)()
        twins.rng.choice([twins.sync, twins.forget])()
        count += 50
    twins.forget()
    print(f"{count} operations, seed {args.seed}: no difference")


if __name__ == "__main__":
    main()
