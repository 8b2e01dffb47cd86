"""A client of the text protocol that believes nothing."""

import socket

PATIENCE = 60


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.reader = self.socket.makefile("rb", 1 << 16)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def expect(self, wanted):
        line = self.reader.readline()
        assert line == wanted, f"{line[:200]} instead of {wanted}"

    def stored(self, key, value):
        self.socket.sendall(f"set {key} 0 0 {len(value)}\r\n".encode() + value + b"\r\n")
        self.expect(b"STORED\r\n")

    def get(self, key):
        """The value, or None."""
        self.socket.sendall(f"get {key}\r\n".encode())
        line = self.reader.readline()
        if line == b"END\r\n":
            return None
        head, length = line.rsplit(b" ", 1)
        assert head == f"VALUE {key} 0".encode(), line[:200]
        value = self.reader.read(int(length))
        self.expect(b"\r\n")
        self.expect(b"END\r\n")
        return value

    def stats(self):
        self.socket.sendall(b"stats\r\n")
        lines = iter(self.reader.readline, b"END\r\n")
        return {name: value for _, name, value in (line.decode().split() for line in lines)}
