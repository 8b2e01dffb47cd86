"""A memcached of today made to look like another one, for lack of the other: a relay between one node and its clients.

    old_node.py LISTEN NODE [as-1.5.16] [discovery]

`as-1.5.16`: the version, in every place that tells it, is 1.5.16, and meta commands are unknown, as before 1.6; so the
value behind an `ms` line is taken for commands. `discovery`: `config get cluster` is answered as ElastiCache does, with
the relay as the one node."""

import asyncio
import contextlib
import struct
import sys

META = {b"mg", b"ms", b"md", b"ma", b"mn", b"me"}
STORAGE = {b"set", b"add", b"replace", b"append", b"prepend", b"cas"}
BINARY_REQUEST, HEADER = b"\x80", 24
BINARY_VERSION, BINARY_STAT = 0x0B, 0x10
# The node's own words for these. Of the same length: no frame changes.
NEW, OLD = b"1.6.18", b"1.5.16"


class Text:
    """Lines, and behind some of them a block that is left as it is. `line` says what a line becomes and how long its
    block is."""

    def __init__(self, line):
        self.line, self.pending, self.block = line, bytearray(), 0

    def feed(self, piece):
        self.pending += piece
        out = bytearray()
        while True:
            out += self.pending[: self.block]
            taken = min(self.block, len(self.pending))
            del self.pending[:taken]
            self.block -= taken
            end = self.pending.find(b"\n")
            if self.block or end < 0:
                return out
            line, self.block = self.line(bytes(self.pending[: end + 1]))
            out += line
            del self.pending[: end + 1]


class BinaryReplies:
    """Packets; `body` says what a body becomes, which must be as long."""

    def __init__(self, body):
        self.body, self.pending = body, bytearray()

    def feed(self, piece):
        self.pending += piece
        out = bytearray()
        while len(self.pending) >= HEADER:
            opcode, key_length, length = struct.unpack(">xBHxxxxI", self.pending[:12])
            packet = bytes(self.pending[: HEADER + length])
            if len(packet) < HEADER + length:
                break
            out += packet[:HEADER] + self.body(opcode, key_length, packet[HEADER:])
            del self.pending[: len(packet)]
        return out


class Relay:
    def __init__(self, listen, node, traits):
        self.listen, self.node = listen, node
        self.old, self.discovery = "as-1.5.16" in traits, "discovery" in traits
        # Nothing else holds them.
        self.tasks = set()

    async def client(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        asyncio.current_task().add_done_callback(self.tasks.discard)
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.node)
        except OSError:
            writer.close()
            return
        first = await reader.read(1 << 16)
        if first[:1] == BINARY_REQUEST:
            requests, replies = bytes, BinaryReplies(self.reply_body).feed
        else:
            requests, replies = Text(self.request_line).feed, Text(self.reply_line).feed
        node_writer.write(requests(first))
        asking = asyncio.create_task(self.pump(reader, requests, node_writer))
        # Who closes first ends both: the node closes when it has answered what was sent.
        await self.pump(node_reader, replies, writer)
        asking.cancel()
        for end in (writer, node_writer):
            end.close()

    @staticmethod
    async def pump(reader, change, writer):
        # Either end may be gone already.
        with contextlib.suppress(OSError, RuntimeError):
            while piece := await reader.read(1 << 16):
                writer.write(change(piece))
                await writer.drain()
            writer.write_eof()

    def request_line(self, line):
        words = line.split()
        command = words[0] if words else b""
        if self.old and command in META:
            # The node answers `ERROR`, in its turn.
            return b"no_meta_before_1.6\r\n", 0
        if self.discovery and words == [b"config", b"get", b"cluster"]:
            # Answered in its turn, too: by its opaque the answer is known.
            return b"mg none Odiscovery\r\n", 0
        has_block = command in STORAGE and len(words) >= 5 and words[4].isdigit()
        return line, int(words[4]) + 2 if has_block else 0

    def reply_line(self, line):
        words = line.split()
        if words and words[0] in (b"VALUE", b"VA"):
            return line, int(words[3 if words[0] == b"VALUE" else 1]) + 2
        if self.old and words and (words[0] == b"VERSION" or words[:2] == [b"STAT", b"version"]):
            line = line.replace(NEW, OLD)
        if self.discovery and line == b"EN Odiscovery\r\n":
            payload = b"1\n127.0.0.1|127.0.0.1|%d\n" % self.listen
            line = b"CONFIG cluster 0 %d\r\n%b\r\nEND\r\n" % (len(payload), payload)
        return line, 0

    def reply_body(self, opcode, key_length, body):
        tells = opcode == BINARY_VERSION or (opcode == BINARY_STAT and body[:key_length] == b"version")
        return body.replace(NEW, OLD) if self.old and tells else body


async def main():
    listen, node, *traits = sys.argv[1:]
    relay = Relay(int(listen), int(node), traits)
    server = await asyncio.start_server(relay.client, "127.0.0.1", relay.listen)
    await server.serve_forever()


asyncio.run(main())
