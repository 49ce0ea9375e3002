"""The loads whose space is measured. Each writes to a volume and has it watched; all data is random, so nothing shrinks."""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from load import Background, fio, fio_args
from nbd import Nbd

MIB = 1 << 20
CHUNK = 1 << 30  # A TRIM of at most this much, as a kernel would send


def fill(bench, server, volume, size):
    """Writes the first `size` bytes in order."""
    fio(bench, server.uri(volume), "write", "128k", 8, extra=[f"--size={size}", "--refill_buffers=1"])
    server.settle(volume)


class FioLoad:
    """Overwrites the filled part with fio, `passes` times its size."""

    def __init__(self, rw, bs, depth, passes, volume, *extra, flushed=False, rate=None):
        self.rw, self.bs, self.depth, self.passes, self.volume = rw, bs, depth, passes, volume
        self.extra, self.flushed, self.rate = list(extra), flushed, rate

    def run(self, bench, server, volume, p, watch):
        size = int(self.volume * p.fill)
        fill(bench, server, volume, size)
        watch.live = size
        watch.begin()
        total = int(size * self.passes)
        rate = [] if self.flushed else [f"--rate={self.rate or p.rate}"]
        args = fio_args(server.uri(volume), self.rw, self.bs, self.depth, 1,
                        [f"--size={size}", f"--io_size={total}", "--refill_buffers=1", *rate, *self.extra])
        if self.flushed:
            args += ["--time_based", f"--runtime={p.flushed_seconds}"]
        load = Background(bench, f"load-{volume}", args)
        next_line = time.monotonic() + p.every
        while load.running():
            time.sleep(0.5)
            show = time.monotonic() >= next_line
            if show:
                next_line = time.monotonic() + p.every
            watch.sample(load.written(), show)
        written = load.result().write["io_bytes"]
        server.settle(volume, 300)
        watch.sample(written)
        return written


class FilesByNbd:
    """The requests of mkfs, of files that come and go, and of fstrim, without a filesystem: where the kernel lends us none."""

    def __init__(self, volume):
        self.volume = volume

    def run(self, bench, server, volume, p, watch):
        client, draw = Nbd(server.uri(volume)), random.Random(5)
        for at in range(0, client.size, CHUNK):
            client.trim(at, min(CHUNK, client.size - at))
        watch.begin()
        unit, files, free, written = MIB, [], list(range(int(self.volume * p.fill) >> 20)), 0
        for _ in range(p.fs_rounds):
            draw.shuffle(free)
            new, free = free[len(free) // 8:], free[:len(free) // 8]
            for at in new:
                client.write(at * unit, os.urandom(unit))
                written += unit
            files += new
            client.flush()
            draw.shuffle(files)
            gone, files = files[len(files) // 2:], files[:len(files) // 2]
            for at in sorted(gone):
                client.trim(at * unit, unit)
            free += gone
            client.flush()
            watch.live = len(files) * unit
            watch.sample(written)
        client.close()
        return written


class FilesOnExt4:
    """ext4 of this machine's kernel on the volume (nbdfuse makes it a file, a loop device makes that a disk): mkfs, files
    that come and go, fstrim."""

    def __init__(self, volume):
        self.volume = volume

    @staticmethod
    def missing():
        """Why this cannot be done here; None if it can."""
        if os.geteuid():
            return "not root"
        tools = [t for t in ("nbdfuse", "losetup", "fusermount3", "mkfs.ext4", "fstrim") if not shutil.which(t)]
        if tools:
            return f"no {', '.join(tools)}"
        devices = [d for d in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(d)]
        return f"no {', '.join(devices)}" if devices else None

    def run(self, bench, server, volume, p, watch):
        with Mounted(bench, server.uri(volume)) as root:
            watch.begin()
            draw, files, before = random.Random(5), [], self.device_writes(root)
            room = int(self.volume * p.fill)
            for n in range(p.fs_rounds):
                files += self.create(root, n, draw, room - sum(f.stat().st_size for f in files))
                os.sync()
                watch.live = sum(f.stat().st_size for f in files)
                watch.sample(self.device_writes(root) - before)
                draw.shuffle(files)
                gone, files = files[len(files) // 2:], files[:len(files) // 2]
                for path in gone:
                    path.unlink()
                os.sync()
                bench.run(["fstrim", root.where])
                watch.live = sum(f.stat().st_size for f in files)
                watch.sample(self.device_writes(root) - before)
            written = self.device_writes(root) - before
        return written

    @staticmethod
    def create(root, n, draw, room):
        """Files of 16 KiB to 8 MiB, as many as have room."""
        files = []
        while room > 0:
            size = min(int(2 ** draw.uniform(14, 23)), max(room, 4096))
            path = root.where / f"{n}-{len(files)}"
            path.write_bytes(os.urandom(size))
            files.append(path)
            room -= size
        return files

    @staticmethod
    def device_writes(root):
        """Bytes that the kernel has written to the disk."""
        return int(Path(f"/sys/block/{Path(root.loop).name}/stat").read_text().split()[6]) * 512


class Mounted:
    """A volume with a new ext4, mounted; gone at the end, whatever happened."""

    def __init__(self, bench, uri):
        self.bench, self.uri = bench, uri
        self.disk, self.where = bench.work / "disk", bench.work / "mnt"
        self.loop, self.fuse, self.mounted = None, None, False

    def __enter__(self):
        try:
            self.disk.touch()
            self.where.mkdir(exist_ok=True)
            self.fuse = self.bench.spawn("nbdfuse", ["nbdfuse", self.disk, self.uri])
            end = time.monotonic() + 20
            while not self.disk.stat().st_size:
                if time.monotonic() > end or self.fuse.poll() is not None:
                    raise OSError("nbdfuse did not get ready")
                time.sleep(0.05)
            self.loop = self.bench.run(["losetup", "--find", "--show", self.disk]).strip()
            self.bench.run(["mkfs.ext4", "-q", self.loop])
            self.bench.run(["mount", "-t", "ext4", self.loop, self.where])
            self.mounted = True
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        if self.mounted:
            self.attempt("umount", self.where) or self.attempt("umount", "-l", self.where)
            self.mounted = False
        if self.loop:
            self.attempt("losetup", "--detach", self.loop)
        if self.fuse:
            self.attempt("fusermount3", "-u", self.disk) or self.attempt("fusermount3", "-uz", self.disk)
            self.bench.end(self.fuse)

    @staticmethod
    def attempt(*command):
        return subprocess.run([str(c) for c in command], capture_output=True, timeout=120).returncode == 0
