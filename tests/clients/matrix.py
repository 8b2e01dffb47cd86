"""Client libraries, each in a driver: a small program in the library's language that is told what to call, one line
each, and answers with what the library gave, one line each. So what is asked, and what is right, is written once
(`steps.py`) and not once for each of eight languages.

    driver CLIENT HOST PORT

A line has fields with a tab between them; keys and values are in base64. The first field is what to call:

    set add replace KEY VALUE SECONDS · append prepend KEY VALUE · quiet_set KEY VALUE SECONDS · quiet_delete KEY
    get gets delete KEY · cas KEY VALUE SECONDS (with the unique that the last `gets` of the key gave)
    incr decr KEY NUMBER · touch gat KEY SECONDS · multiget KEY… · multiset KEY VALUE… · stats · version · flush

The answer is `true`, `false`, `none`, `done`, `number` N, `value` VALUE, `pairs` KEY VALUE…, `error` TEXT (an exception of
the library), or `unsupported`. The driver ends when its input does."""

import base64
import pathlib
import queue
import subprocess
import tempfile
import threading

from steps import LaterSteps, Refused, Steps, Unsupported, Wrong, names

# Longer than any time-out of a driver's own.
DRIVER_PATIENCE = 60
# So many calls without an answer are enough.
HANGS = 2
DRIVERS = pathlib.Path(__file__).with_name("drivers")


def encoded(argument):
    if isinstance(argument, int):
        return str(argument)
    return base64.b64encode(argument.encode() if isinstance(argument, str) else argument).decode()


def decoded(line):
    kind, *fields = line.split("\t")
    if kind == "unsupported":
        raise Unsupported
    if kind == "error":
        return Refused(" ".join(fields))
    if kind == "number":
        return int(fields[0])
    if kind == "value":
        return base64.b64decode(fields[0], validate=True)
    if kind == "pairs":
        parts = [base64.b64decode(field, validate=True) for field in fields]
        return {
            key.decode(errors="backslashreplace"): value for key, value in zip(parts[::2], parts[1::2], strict=True)
        }
    return {"true": True, "false": False, "none": None, "done": "done"}[kind]


class Driver:
    """A running driver."""

    def __init__(self, command):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.answers = queue.SimpleQueue()
        self.broken = None
        self.hangs = 0
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.answers.put(line.decode(errors="replace").rstrip("\n"))
        self.answers.put(None)

    def call(self, op, *arguments):
        if self.broken:
            raise Wrong(self.broken)
        answer = None
        try:
            line = "\t".join([op, *map(encoded, arguments)]) + "\n"
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
            answer = self.answers.get(timeout=DRIVER_PATIENCE)
        except queue.Empty:
            self.broken = f"no answer to {op} in {DRIVER_PATIENCE} s"
            self.hangs = 1
        except BrokenPipeError:
            pass
        if answer is None:
            self.broken = self.broken or f"the driver ended at {op}: {self.said()[-2000:]}"
            raise Wrong(self.broken)
        return decoded(answer)

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            try:
                stream.close()
            except BrokenPipeError:
                pass


class Run:
    """One client at one place."""

    def __init__(self, client, port, prefix):
        self.command = [*client.command, client.name, "127.0.0.1", str(port)]
        self.driver = None
        self.hangs = 0
        self.prefix = prefix
        self.outcomes = {}

    def call(self, op, *arguments):
        if self.hangs >= HANGS:
            raise Wrong(f"given up: {HANGS} calls before this one had no answer")
        self.driver = self.driver or Driver(self.command)
        return self.driver.call(op, *arguments)

    def close(self):
        """Ends the driver; the next call begins with a new one."""
        if self.driver:
            self.hangs += self.driver.hangs
            self.driver.close()
        self.driver = None

    def take(self, steps, name):
        """The verdict, why, and what was seen; taken once."""
        if name not in self.outcomes:
            asker = steps(self.call, self.prefix)
            verdict, why = "ok", ""
            try:
                getattr(asker, name)()
            except Unsupported:
                verdict = "unsupported"
            except Wrong as wrong:
                verdict, why = "wrong", str(wrong)
            except Exception as error:
                verdict, why = "wrong", f"{type(error).__name__}: {error}"
            if verdict == "wrong":
                # What a library makes of this afterwards is not the next step's.
                self.close()
            self.outcomes[name] = (verdict, why, asker.seen)
        return self.outcomes[name]


def first_difference(one, other):
    for (op, expected), (_, answer) in zip(one, other):
        if expected != answer or type(expected) is not type(answer):
            return f"{op}: {str(answer)[:200]} and not {str(expected)[:200]}"
    return None if len(one) == len(other) else "another number of answers"


def report(client, kind, steps, direct, through, only=None):
    """Takes the steps at both places and says what is not as it should be, a line each."""
    problems = []
    if kind in client.unserved:
        print(f"not asked\t{client.unserved[kind]}")
        return problems
    for step in only or names(steps):
        if step in client.differs:
            print(f"{step}\tnot compared\t{client.differs[step]}")
            continue
        verdict, why, seen = direct.take(steps, step)
        wanted = "wrong" if step in client.fails else "unsupported" if step in client.unsupported else "ok"
        if verdict != wanted:
            problems.append(f"{step}: against memcached itself {verdict} and not {wanted}: {why}")
            print(f"{step}\t{verdict} against memcached itself\t{why}")
            continue
        if verdict == "wrong":
            # It cannot be asked of slipring: the library, or memcached, does not do it.
            print(f"{step}\twrong with memcached, too\t{client.fails[step]} ({why})")
            continue
        verdict, why, seen_through = through.take(steps, step)
        if verdict == wanted:
            difference = first_difference(seen, seen_through)
            if difference:
                verdict, why = "wrong", difference
        print(f"{step}\t{verdict}\t{why}")
        if verdict != wanted:
            problems.append(f"{step}: {why or verdict}")
    return [f"{client.name} on {kind}: {problem}" for problem in problems]


__all__ = ["DRIVERS", "LaterSteps", "Run", "Steps", "report"]
