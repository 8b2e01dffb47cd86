//! What clients send and take.

use super::super::client::Client;
use super::super::{cut, show};
use super::{SCRATCH, World};

impl World<'_> {
    pub(super) fn connect_client(&mut self) {
        let how = self.schedule.byte();
        let room = [SCRATCH, 1 << 20, 5000, 50][usize::from(how) % 4];
        let mut client = Client::new(self.core.client_connected(), room);
        client.in_packets = how >= 160;
        self.clients.push(client);
    }

    pub(super) fn send(&mut self, i: usize, bytes: &[u8]) {
        let client = &mut self.clients[i];
        client.send(bytes, &self.settings, &mut self.truth);
        let id = client.id;
        self.say(|| format!("{id:?} sends {}", show(bytes)));
    }

    /// Sends whatever the schedule holds.
    pub(super) fn babble(&mut self, i: usize) {
        let len = self.schedule.below(48).min(self.schedule.0.len());
        let mut bytes = self.schedule.0.bytes(len).unwrap_or_default().to_vec();
        if self.schedule.below(2) == 0 {
            bytes.extend_from_slice(b"\r\n");
        }
        self.send(i, &bytes);
    }

    pub(super) fn key(&mut self) -> Vec<u8> {
        let n = self.schedule.below(16);
        match self.keys.get(n) {
            Some(key) => key.clone(),
            None if n >= 14 && self.large > 0 => {
                self.large -= 1;
                [b"large".as_slice(), b"larger"][n - 14].to_vec()
            }
            None => self.keys[0].clone(),
        }
    }

    /// Sends one request, most of the time a good one.
    pub(super) fn ask(&mut self, i: usize) {
        if self.clients[i].in_packets {
            return self.ask_packets(i);
        }
        let kind = self.schedule.byte();
        let line = match kind % 32 {
            0..10 => [b"get ", &*self.key()].concat(),
            10..14 => {
                let verb: &[u8] = self.schedule.pick(&[b"get", b"gets", b"gat 0", b"gats -1"]);
                let count = self.schedule.pick(&[2, 3, 5, 40, 200]);
                let first = self.schedule.below(self.keys.len());
                let all = (first..first + count).map(|n| &*self.keys[n % self.keys.len()]);
                std::iter::once(verb).chain(all).collect::<Vec<_>>().join(&b' ')
            }
            14..24 => return self.ask_store(i),
            24 => [b"delete ", &*self.key()].concat(),
            25 => [b"incr ", &*self.key(), b" 5"].concat(),
            26 => [b"touch ", &*self.key(), b" 0"].concat(),
            27 => b"flush_all".to_vec(),
            28 => self.schedule.pick(&[b"stats".as_slice(), b"stats nodes", b"stats reset", b"stats sum"]).to_vec(),
            29 => self.schedule.pick(&[b"version".as_slice(), b"verbosity 1", b"nonsense", b"get"]).to_vec(),
            30 => b"mn".to_vec(),
            _ => self.schedule.pick(&[b"mn".as_slice(), b"quit", b"set k 0 0", b"GET / HTTP/1.1"]).to_vec(),
        };
        let quiet = kind >= 224 && (24..28).contains(&(kind % 32));
        self.send(i, &[&*line, if quiet { b" noreply\r\n" } else { b"\r\n" }].concat());
    }

    fn ask_store(&mut self, i: usize) {
        let verb = self.schedule.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"]);
        let key = self.key();
        let how = self.schedule.byte();
        let mut len = self.schedule.pick(&[1, 10, 100, 1400, 5000, 30_000, 1 << 20, (1 << 20) + 1]);
        if len >= 1 << 20 && !key.starts_with(b"large") {
            // Multigets repeat the others: a run would take seconds.
            len = 50;
        }
        let flags = self.schedule.pick(&["0", "4294967295"]);
        let exptime = self.schedule.pick(&["0", "0", "0", "-1"]);
        let unique = if verb == "cas" { " 3" } else { "" };
        let quiet = if how & 3 == 3 { " noreply" } else { "" };
        let mut bytes = format!("{verb} ").into_bytes();
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(format!(" {flags} {exptime} {len}{unique}{quiet}\r\n").as_bytes());
        // The block looks like requests, which are done only where a block before it did not end. Of a
        // large one there would be too many.
        let filling: &[u8] =
            if len < 1 << 20 { b"delete a\r\nset a 0 0 1\r\nx\r\nflush_all\r\n" } else { b"set a 0 0 1 " };
        let skip = usize::from(how) % filling.len();
        bytes.extend_from_slice(&filling.repeat(len / filling.len() + 2)[skip..skip + len]);
        match how % 16 {
            // It does not end as it must, or it does not end.
            5 => bytes.extend_from_slice(b"xy"),
            6 => {}
            _ => bytes.extend_from_slice(b"\r\n"),
        }
        self.send(i, &bytes);
    }

    /// Sends one meta request, most of the time a good one.
    pub(super) fn ask_meta(&mut self, i: usize) {
        if self.clients[i].in_packets {
            return self.ask_packets(i);
        }
        let verb = self.schedule.pick(&["mg", "mg", "mg", "mg", "ms", "ms", "ms", "md", "ma", "ma", "me", "mn"]);
        let mut key = self.key();
        let (how, what) = (self.schedule.byte(), self.schedule.byte());
        let mut line = verb.as_bytes().to_vec();
        let mut flags: Vec<Vec<u8>> = Vec::new();
        if how & 7 == 7 {
            if how & 8 == 8 {
                // A key that text cannot carry.
                key = b"\0 x\r\nflush_all\r\n".to_vec();
            }
            if key.len() <= 180 {
                key = data_encoding::BASE64.encode(&key).into_bytes();
                flags.push(b"b".to_vec());
            }
        }
        line.extend([b" ", &*key].concat());
        let mut len = 0;
        if verb == "ms" {
            len = self.schedule.pick(&[1, 10, 100, 1400, 5000, 30_000, 1 << 20, (1 << 20) + 1]);
            if len >= 1 << 20 && !key.starts_with(b"large") {
                len = 50;
            }
            line.extend_from_slice(format!(" {len}").as_bytes());
        }
        self.opaques += 1;
        let own: [&str; 4] = match verb {
            "mg" => ["v", "T0", "N30", "T-1"],
            "ms" => ["ME", "MA", "C3", "T-1"],
            "md" => ["C3", "I", "T30", "C1"],
            _ => ["v", "N0", "D5", "J7"],
        };
        let opaque = format!("O{}", self.opaques);
        let asked: [&str; 8] =
            [own[0], own[1], own[2], own[3], "k", &opaque, "q", ["c", "s", "f", "E9"][usize::from(how >> 6)]];
        for (bit, flag) in asked.iter().enumerate() {
            let twice = flags.iter().any(|other| other[0] == flag.as_bytes()[0]);
            if what >> bit & 1 == 1 && !twice {
                flags.push(flag.as_bytes().to_vec());
            }
        }
        for flag in flags {
            line.extend([b" ", &*flag].concat());
        }
        line.extend_from_slice(b"\r\n");
        if verb == "ms" {
            let filling: &[u8] = b"mg a v\r\nms a 1\r\nx\r\nflush_all\r\n";
            line.extend_from_slice(&filling.repeat(len / filling.len() + 1)[..len]);
            line.extend_from_slice(if how & 0x38 == 0x30 { b"xy" } else { b"\r\n" });
        }
        self.send(i, &line);
    }

    pub(super) fn read_client(&mut self, i: usize, piece: usize) {
        let now = self.now();
        let client = &mut self.clients[i];
        if client.parked {
            return;
        }
        if !self.core.client_may_read(client.id) {
            client.parked = !self.core.client_turn(client.id, now);
        } else if piece > 0 {
            let bytes = cut(&mut client.outbox, piece);
            self.moved += 1;
            self.core.client_input(client.id, &bytes, now);
        } else if client.outbox.is_empty() && client.fin && !client.ended {
            client.ended = true;
            self.core.client_ended(client.id);
        }
        self.carry_out();
    }

    pub(super) fn client_takes(&mut self, i: usize, bytes: usize) {
        self.moved += bytes as u64;
        self.clients[i].take(bytes, &mut self.truth);
    }
}
