"""The requests of Ruby's dalli 5, which speaks meta commands and nothing else, byte for byte as it writes them; so that
they are tried where there is no way to install it."""

import base64
import hashlib
import socket

from serving import TIMEOUT, Client, pairs, serve


class Dalli5(Client):
    """It asks for the version first."""

    def __init__(self, host, port):
        super().__init__()
        self.socket = socket.create_connection((host, port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.socket.makefile("rb")
        assert self.version()

    @staticmethod
    def name(key):
        """The key as it is sent, and the flag that says so."""
        if len(key) > 250:
            key = f"{key[:212]}:md5:{hashlib.md5(key.encode()).hexdigest()}"
        raw = key.encode()
        if raw.isascii() and not any(byte in b" \t\n\v\f\r" for byte in raw):
            return raw, b""
        return base64.b64encode(raw), b" b"

    def exchange(self, request):
        self.socket.sendall(request)
        return self.reply()

    def reply(self):
        line = self.replies.readline()
        assert line.endswith(b"\r\n"), line
        words = line.split()
        value = None
        if words[0] == b"VA":
            value = self.replies.read(int(words[1]) + 2)[:-2]
        if words[0].endswith(b"ERROR"):
            raise RuntimeError(line)
        return words, value

    def until_noop(self, request):
        words, value = self.exchange(request)
        while words != [b"MN"]:
            yield words, value
            words, value = self.reply()

    def store(self, key, value, seconds, mode, unique=None):
        name, encoded = self.name(key)
        line = b"ms %b %d" % (name, len(value))
        if mode in (b"A", b"P"):
            line += encoded
        else:
            line += b" c%b F0" % encoded
            line += b" C%d" % unique if unique else b""
            line += b" T%d" % seconds
        words, _ = self.exchange(line + b" M%b\r\n%b\r\n" % (mode, value))
        return words[0] == b"HD"

    def set(self, key, value, seconds):
        return self.store(key, value, seconds, b"S")

    def add(self, key, value, seconds):
        return self.store(key, value, seconds, b"E")

    def replace(self, key, value, seconds):
        return self.store(key, value, seconds, b"R")

    def append(self, key, value):
        return self.store(key, value, 0, b"A")

    def prepend(self, key, value):
        return self.store(key, value, 0, b"P")

    def get(self, key):
        return self.exchange(b"mg %b%b v f\r\n" % self.name(key))[1]

    def gets(self, key):
        words, value = self.exchange(b"mg %b%b v f c\r\n" % self.name(key))
        self.uniques[key] = next(int(word[1:]) for word in words if word.startswith(b"c"))
        return value

    def cas(self, key, value, seconds):
        return self.store(key, value, seconds, b"S", self.uniques[key])

    def gat(self, key, seconds):
        return self.exchange(b"mg %b%b v f T%d\r\n" % (*self.name(key), seconds))[1]

    def touch(self, key, seconds):
        return self.exchange(b"mg %b%b T%d\r\n" % (*self.name(key), seconds))[0][0] == b"HD"

    def count(self, key, number, mode):
        _, value = self.exchange(b"ma %b%b v D%d M%b\r\n" % (*self.name(key), number, mode))
        return None if value is None else int(value)

    def incr(self, key, number):
        return self.count(key, number, b"I")

    def decr(self, key, number):
        return self.count(key, number, b"D")

    def delete(self, key):
        return self.exchange(b"md %b%b\r\n" % self.name(key))[0] == [b"HD"]

    def multiget(self, *keys):
        request = b"".join(b"mg %b%b v f k q s\r\n" % self.name(key) for key in keys)
        found = {}
        for words, value in self.until_noop(request + b"mn\r\n"):
            key = next(word[1:] for word in words if word.startswith(b"k"))
            found[(base64.b64decode(key) if b"b" in words else key).decode()] = value
        return found

    def multiset(self, *parts):
        request = b""
        for key, value in pairs(parts).items():
            name, encoded = self.name(key)
            request += b"ms %b %d c%b F0 T1000 MS q\r\n%b\r\n" % (name, len(value), encoded, value)
        return not list(self.until_noop(request + b"mn\r\n"))

    def quiet_set(self, key, value, seconds):
        """Within `quiet { … }`, whose end is a noop."""
        name, encoded = self.name(key)
        request = b"ms %b %d%b F0 T%d MS q\r\n%b\r\nmn\r\n" % (name, len(value), encoded, seconds, value)
        assert not list(self.until_noop(request))

    def quiet_delete(self, key):
        assert not list(self.until_noop(b"md %b%b q\r\nmn\r\n" % self.name(key)))

    def stats(self):
        words, _ = self.exchange(b"stats\r\n")
        found = {}
        while words != [b"END"]:
            found[words[1].decode()] = b" ".join(words[2:])
            words, _ = self.reply()
        return found

    def version(self):
        words, _ = self.exchange(b"version\r\n")
        assert words[0] == b"VERSION", words
        return words[1]

    def flush(self):
        return self.exchange(b"flush_all 0\r\n")[0] == [b"OK"]


serve({"dalli 5 requests": Dalli5})
