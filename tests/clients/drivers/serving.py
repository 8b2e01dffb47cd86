"""What the drivers in Python share. What a driver is told and answers: `matrix.py`."""

import base64
import sys

TIMEOUT = 30


class Unsupported(Exception):
    pass


class Client:
    """What a library does not have stays as it is here."""

    def __getattr__(self, op):
        raise Unsupported

    def __init__(self):
        self.uniques = {}

    def multiset(self, *parts):
        raise Unsupported


def pairs(parts):
    return dict(zip(parts[::2], parts[1::2]))


def arguments(op, fields):
    """Keys are text, values bytes, the rest numbers."""
    if op in ("get", "gets", "delete", "multiget", "quiet_delete"):
        kinds = "k" * len(fields)
    elif op == "multiset":
        kinds = "kv" * (len(fields) // 2)
    elif op in ("incr", "decr", "touch", "gat"):
        kinds = "kn"
    else:
        kinds = "kvn"
    parsed = {"k": lambda field: base64.b64decode(field).decode(), "v": base64.b64decode, "n": int}
    return [parsed[kind](field) for kind, field in zip(kinds, fields)]


def answer(found):
    def text(value):
        return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()

    if isinstance(found, bool):
        return "true" if found else "false"
    if found is None:
        return "none"
    if isinstance(found, int):
        return f"number\t{found}"
    if isinstance(found, dict):
        return "\t".join(["pairs", *(text(part) for pair in found.items() for part in pair)])
    return f"value\t{text(found)}"


def serve(clients):
    name, host, port = sys.argv[1:]
    client = None
    for line in sys.stdin:
        op, *fields = line.rstrip("\n").split("\t")
        try:
            client = client or clients[name](host, int(port))
            found = getattr(client, op)(*arguments(op, fields))
            said = "done" if op.startswith("quiet_") else answer(found)
        except Unsupported:
            said = "unsupported"
        except Exception as error:
            said = " ".join(f"error\t{type(error).__name__}: {error}".split("\n"))
            print(said, file=sys.stderr)
        print(said, flush=True)
