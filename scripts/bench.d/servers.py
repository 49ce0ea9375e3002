"""The servers that are compared, and the stores below them."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from nbd import Nbd

PASSWORD = "a password for measurements only"


class Failed(Exception):
    """What a server or tool did that ends the measurement."""


class Bench:
    """Directories, binaries and child processes; all are gone at the end."""

    def __init__(self, bins, keep=False):
        self.esker_bin, self.s3d_bin = bins / "esker", bins / "s3d"
        self.keep = keep
        self.children = []
        # Pools, stores and journals all lie in memory where there is enough: then no disk is measured.
        shm = Path("/dev/shm")
        self.on_tmpfs = min(shutil.disk_usage(shm).free, available_memory()) > 14 << 30
        self.work = Path(tempfile.mkdtemp(prefix="esker-bench.", dir=shm if self.on_tmpfs else None))
        self.shm = Path(tempfile.mkdtemp(prefix="esker-bench-j.", dir=shm))
        # A pool on tmpfs under a journal on tmpfs is what the server warns of; here it is meant.
        self.env = dict(os.environ, ESKER_PASSWORD=PASSWORD, RUST_LOG=os.environ.get("RUST_LOG", "warn"))

    def spawn(self, name, args, env=None, stdout=subprocess.DEVNULL):
        with open(self.work / f"{name}.err", "ab") as err:
            child = subprocess.Popen([str(a) for a in args], env=env or self.env, stdin=subprocess.DEVNULL,
                                     stdout=stdout, stderr=err)
        self.children.append(child)
        return child

    def run(self, args, env=None, timeout=600):
        done = subprocess.run([str(a) for a in args], env=env or self.env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise Failed(f"{' '.join(map(str, args))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def end(self, child, sig=signal.SIGTERM, patience=60):
        if child.poll() is None:
            child.send_signal(sig)
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child in self.children:
            self.children.remove(child)
        return child.returncode

    def empty(self, store):
        """Removes all that a store holds; no server may be on it."""
        for path in store.objects.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def close(self):
        for child in reversed(list(self.children)):
            self.end(child, signal.SIGKILL)
        if self.keep:
            print(f"kept: {self.work} {self.shm}")
            return
        for path in (self.work, self.shm):
            shutil.rmtree(path, ignore_errors=True)


def available_memory():
    """Bytes that can be used without swapping."""
    return int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) << 10


def first_lines(child, until, seconds, what):
    """Reads the child's output until a line matches `until`."""
    lines, end, pending = [], time.monotonic() + seconds, b""
    fd = child.stdout.fileno()
    while time.monotonic() < end:
        if not select.select([fd], [], [], 0.5)[0]:
            if child.poll() is not None:
                break
            continue
        data = os.read(fd, 65536)
        if not data:
            break
        *complete, pending = (pending + data).split(b"\n")
        lines += [line.decode() for line in complete]
        if any(re.match(until, line) for line in lines):
            return lines
    raise Failed(f"{what} did not get ready: {' / '.join(lines)}")


class S3:
    """An s3d, with its counters."""

    def __init__(self, bench, name, delay=None):
        self.bench, self.name = bench, name
        args = [bench.s3d_bin, "--dir", bench.work / name, "--admin", "127.0.0.1:0"]
        (bench.work / name).mkdir()
        self.child = bench.spawn(name, args + (["--delay", delay] if delay else []), stdout=subprocess.PIPE)
        lines = first_lines(self.child, "export AWS_ALLOW_HTTP=", 20, name)
        self.admin = next(m[1] for m in (re.match(r"# admin: (\S+)", line) for line in lines) if m)
        exports = (re.match(r"export (\w+)='?([^']*)'?$", line) for line in lines)
        self.env = dict(bench.env, **{m[1]: m[2] for m in exports if m})
        self.url, self.flags = "s3://esker/pool", ["--allow-http"]
        self.objects = bench.work / name / "esker"

    def _call(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(self.admin + path, data, method=method)) as reply:
            return json.loads(reply.read())

    def delay(self, text):
        self._call("PUT", "delay", {"delay": text})

    def forget(self):
        self._call("DELETE", "log")

    def counts(self):
        return self._call("GET", "counts")

    def log(self):
        return self._call("GET", "log?json")


class Directory:
    """A `file://` store."""

    def __init__(self, bench, name):
        self.env, self.name = bench.env, name
        self.objects = bench.work / name
        self.url, self.flags = f"file://{self.objects}", []
        self.objects.mkdir()


class Esker:
    """A pool with volumes on a store, and the server of it."""

    def __init__(self, bench, store, volumes, journal, name=None, cache=256 << 20, serve_flags=(), pool="pool"):
        self.bench, self.store, self.journal, self.cache = bench, store, journal, cache
        self.name = name or store.name
        self.volumes, self.serve_flags = volumes, list(serve_flags)
        self.url = store.url if store.url.startswith("file:") else f"s3://esker/{pool}"
        self.child, self.control = None, bench.shm / self.name / "control"
        self._run("format", self.url)
        for volume, size in volumes.items():
            self._run("volume", "create", self.url, volume, "--size", str(size))
        self.start()

    def _run(self, *args):
        return self.bench.run([self.bench.esker_bin, *args, *self.store.flags], env=self.store.env)

    def start(self, **changes):
        base = self.bench.shm / self.name
        (base / "journal").mkdir(parents=True, exist_ok=True)
        sock = base / "nbd"
        sock.unlink(missing_ok=True)
        args = [self.bench.esker_bin, "serve", self.url, *self.volumes, "--unix", sock, "--control", self.control,
                "--journal-dir", base / "journal", "--state-dir", base / "state", "--journal-size", self.journal,
                "--cache-size", changes.get("cache", self.cache), *self.store.flags, *self.serve_flags]
        self.child = self.bench.spawn(self.name, args, env=self.store.env, stdout=subprocess.PIPE)
        first_lines(self.child, "ready: ", 120, self.name)

    def uri(self, volume):
        return f"nbd+unix:///{volume}?socket={self.bench.shm / self.name / 'nbd'}"

    def stop(self):
        if self.bench.end(self.child, patience=300) != 0:
            raise Failed(f"{self.name} ended badly: {(self.bench.work / (self.name + '.err')).read_text()[-2000:]}")

    def kill(self):
        self.bench.end(self.child, signal.SIGKILL)

    def restart(self, **changes):
        self.stop()
        self.start(**changes)

    def volume_status(self, volume):
        out = self.status()
        return next(v for v in out["volumes"] if v["name"] == volume)

    def status(self):
        """All that the server tells of itself."""
        args = [self.bench.esker_bin, "status", "--json", self.control]
        return json.loads(self.bench.run(args))[0]

    def settle(self, volume, seconds=120):
        """Waits until all that was written is in the store and in the map."""
        client = Nbd(self.uri(volume))
        client.flush()
        client.close()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.volume_status(volume)
            if status["unflushed_bytes"] == 0 and status["index_extents"] == 0:
                return
            time.sleep(0.05)
        raise Failed(f"{self.name}: {volume} does not come to rest: {status}")

    def resident(self):
        """Resident memory in bytes."""
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) << 10


class Nbdkit:
    """nbdkit with one of its plugins: what we are compared with."""

    def __init__(self, bench, plugin, size):
        self.bench, self.name = bench, f"nbdkit-{plugin}"
        self.sock = bench.shm / f"{self.name}.sock"
        args = ["nbdkit", "-f", "-U", self.sock, plugin]
        if plugin == "memory":
            args.append(str(size))
        else:
            with open(bench.work / "nbdkit.img", "wb") as image:
                image.truncate(size)
            args.append(f"file={bench.work / 'nbdkit.img'}")
        self.child = bench.spawn(self.name, args)
        end = time.monotonic() + 20
        while not self.sock.exists():
            if time.monotonic() > end or self.child.poll() is not None:
                raise Failed(f"{self.name} did not get ready")
            time.sleep(0.02)

    def uri(self, _volume):
        return f"nbd+unix:///?socket={self.sock}"

    def settle(self, _volume):
        pass
