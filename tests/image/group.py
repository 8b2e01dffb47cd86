"""What a control group has: its memory limit, and what counts against it."""

import pathlib
import re
import threading

MOUNTS = pathlib.Path("/sys/fs/cgroup")


class Group:
    """The memory group of a process, cgroup v1 or v2.

    Version 1 counts sockets apart from the limit, and only if asked to; version 2 counts them against it. What is
    `charged` here is what version 2 would charge.
    """

    def __init__(self, pid):
        membership = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        old = re.search(r"^\d+:[^:]*\bmemory\b[^:]*:/(.+)$", membership, re.M)
        self.old = bool(old)
        own = old or re.search(r"^0::/(.+)$", membership, re.M)
        assert own, f"no memory group of its own:\n{membership}"
        self.path = MOUNTS / "memory" / own[1] if self.old else MOUNTS / own[1]

    def number(self, old, new):
        return int((self.path / (old if self.old else new)).read_text())

    def line(self, file, name):
        return int(re.search(rf"^{name} (\d+)$", (self.path / file).read_text(), re.M)[1])

    def count_sockets(self):
        """Version 1 counts those that are opened from its first limit on."""
        if self.old:
            (self.path / "memory.kmem.tcp.limit_in_bytes").write_text(str(64 << 30))

    def limit(self):
        return self.number("memory.limit_in_bytes", "memory.max")

    def sockets(self):
        return self.number("memory.kmem.tcp.usage_in_bytes", "") if self.old else self.line("memory.stat", "sock")

    def charged(self):
        return self.number("memory.usage_in_bytes", "memory.current") + (self.sockets() if self.old else 0)

    def peak(self):
        """The most that it was charged since its start; without sockets in version 1."""
        return self.number("memory.max_usage_in_bytes", "memory.peak")

    def failures(self):
        """How often something had to be reclaimed before it could go on."""
        return self.number("memory.failcnt", "") if self.old else self.line("memory.events", "max")

    def kills(self):
        file = "memory.oom_control" if self.old else "memory.events"
        return self.line(file, "oom_kill")


class Watch(threading.Thread):
    """Looks at a group every few milliseconds, for the most that is charged at one time."""

    def __init__(self, group):
        super().__init__(daemon=True)
        self.group, self.over, self.charged, self.sockets = group, threading.Event(), 0, 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.002):
            self.charged = max(self.charged, self.group.charged())
            self.sockets = max(self.sockets, self.group.sockets())
