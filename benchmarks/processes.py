"""The benchmarks' processes: started, pinned, read in /proc, and ended whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """What the benchmark cannot go on without; the message is for whoever runs it."""


def build() -> tuple[Path, Path]:
    """Compile what is older than its source; return fake backend and load generator."""
    cc = shutil.which(os.environ.get("CC", "cc"))
    if cc is None:
        raise BenchError("a C compiler is needed: apt-get install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    made = []
    for name in ("fakebackend", "loadgen"):
        source, binary = HERE / f"{name}.c", BUILD / name
        newest = max(source.stat().st_mtime, (HERE / "http.h").stat().st_mtime)
        if not binary.exists() or binary.stat().st_mtime < newest:
            flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
            subprocess.run([cc, *flags, "-o", str(binary), str(source)], check=True, timeout=120)
        made.append(binary)
    return made[0], made[1]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Two benchmarks at once would measure each other: the second one is refused."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError("another benchmark is running from this checkout") from None
        yield


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


# --- what /proc says ---


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, so that [0] is the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def start_time(pid: int) -> str | None:
    """What tells a process from a later one of the same pid; None when there is none."""
    try:
        return _stat(pid)[19]
    except (OSError, IndexError):
        return None


def executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def descendants(root: int) -> list[int]:
    """Every process below `root`, `root` left out."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far, of all threads."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def core_busy_seconds(core: int) -> float:
    """How long a core has been at work for anybody, interrupts and stolen time included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / TICKS
    return 0.0


def reset_peak(pids: Iterable[int]) -> None:
    """Let VmHWM begin anew (best effort: without it the peak is that of the whole life)."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pids: Iterable[int]) -> float:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total / 1024


def pin(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Bind every thread of the processes to the cores."""
    cores = list(cores)
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cores)


# --- processes of our own ---


def _end_with_parent() -> None:
    """In the child: SIGTERM when the benchmark is gone, even killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Processes(contextlib.AbstractContextManager["Processes"]):
    """All that the benchmark starts, and a temporary folder; leaving the context ends it all."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llamagw-bench-"))
        self.folder.chmod(0o755)  # nginx's worker may be another user
        self._running: list[subprocess.Popen[bytes]] = []

    def __exit__(self, *exc_info: object) -> None:
        while self._running:
            self.stop(self._running[-1])
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        cores: Iterable[int] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, its output in a log file."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # safe: there is one thread
            )
        self._running.append(process)
        if cores is not None:
            pin([process.pid], cores)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM, then SIGKILL, also for what the process had started and left behind."""
        below = {pid: start_time(pid) for pid in descendants(process.pid)}
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._running.remove(process)
        for pid, began in below.items():
            if began is not None and start_time(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def wait_until(
        self,
        ready: Callable[[], bool],
        what: str,
        process: subprocess.Popen[bytes] | None = None,
        name: str = "",
        seconds: float = 30,
        pause: float = 0.05,
    ) -> None:
        """Wait for `ready`; a process that ends or takes too long fails, with its last words."""
        deadline = time.monotonic() + seconds
        while not ready():
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline:
                why = "ended" if ended else "was not ready in time"
                raise BenchError(f"{what} {why}{self._last_words(name)}")
            time.sleep(pause)

    def _last_words(self, name: str) -> str:
        if not name or not self.log(name).exists():
            return ""
        lines = self.log(name).read_text(errors="replace").splitlines()[-15:]
        return ":\n  " + "\n  ".join(lines)


def healthy(port: int, path: str = "/health") -> bool:
    """Whether http://127.0.0.1:port answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def python_command(program: str) -> list[str]:
    """A program of the virtual environment that runs the benchmark."""
    beside = Path(sys.executable).parent / program
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise BenchError(f"{program} is not installed beside {sys.executable}")
    return [found]
