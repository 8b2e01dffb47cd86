//! The meta commands of the model.

use data_encoding::BASE64;

use super::{Node, Sight, text};

/// A meta line, read.
struct Line<'a> {
    words: &'a [Vec<u8>],
    flags: &'a [Vec<u8>],
    key: Vec<u8>,
}

impl<'a> Line<'a> {
    fn read(words: &'a [Vec<u8>]) -> Self {
        let flags = &words[if words[0] == b"ms" { 3 } else { 2 }..];
        assert!(flags.iter().all(|flag| flag[0] != b'q'), "q was forwarded");
        let encoded = flags.iter().any(|flag| flag == b"b");
        let key = if encoded { BASE64.decode(&words[1]).unwrap() } else { words[1].clone() };
        Self { words, flags, key }
    }

    fn token(&self, letter: u8) -> Option<&[u8]> {
        self.flags.iter().find(|flag| flag[0] == letter).map(|flag| &flag[1..])
    }

    fn has(&self, letter: u8) -> bool {
        self.token(letter).is_some()
    }

    /// Whether it expires at once.
    fn drops(&self) -> bool {
        self.token(b'T').is_some_and(|ttl| ttl.starts_with(b"-"))
    }

    /// A reply line, with what is told of the item, if there is one.
    fn say(&self, status: &str, item: Option<(u32, usize, u64)>, out: &mut Vec<u8>) {
        out.extend_from_slice(status.as_bytes());
        for flag in self.flags {
            let told = match (flag[0], item) {
                (b'O', _) => text(flag).to_owned(),
                (b'k', _) => format!("k{}{}", text(&self.words[1]), if self.has(b'b') { " b" } else { "" }),
                (b'f', Some((flags, ..))) => format!("f{flags}"),
                (b's', Some((_, len, _))) => format!("s{len}"),
                (b'c', Some((.., unique))) => format!("c{unique}"),
                (b't', Some(_)) => "t-1".to_owned(),
                _ => continue,
            };
            out.push(b' ');
            out.extend_from_slice(told.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Node {
    /// Whether it knows no meta commands.
    pub(crate) fn is_old(&self) -> bool {
        self.version.starts_with("1.5")
    }

    /// All but `ms`.
    pub(super) fn meta(&mut self, words: &[Vec<u8>], out: &mut Vec<u8>) {
        let line = Line::read(words);
        match &*words[0] {
            b"mg" => self.meta_get(&line, out),
            b"me" => match self.items.contains_key(&line.key) {
                true => out.extend_from_slice(format!("ME {} exp=-1 la=0\r\n", text(&words[1])).as_bytes()),
                false => out.extend_from_slice(b"EN\r\n"),
            },
            b"md" => {
                self.ledger.seen.push(Sight::Change("delete", line.key.clone()));
                if self.items.remove(&line.key).is_some() {
                    self.note("DELETED", &line.key);
                    line.say("HD", None, out);
                } else {
                    line.say("NF", None, out);
                }
            }
            _ => {
                let told = self.count(line.token(b'M') != Some(b"D"), &line.key, line.token(b'D').unwrap());
                match &*told {
                    b"NOT_FOUND" => line.say("NF", None, out),
                    told if !told[0].is_ascii_digit() => {
                        out.extend_from_slice(told);
                        out.extend_from_slice(b"\r\n");
                    }
                    told if line.has(b'v') => {
                        line.say(&format!("VA {}", told.len()), None, out);
                        out.extend_from_slice(told);
                        out.extend_from_slice(b"\r\n");
                    }
                    _ => line.say("HD", None, out),
                }
            }
        }
    }

    fn meta_get(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if line.key.starts_with(b"once.") {
            self.ledger.seen.push(Sight::Once(line.key.clone()));
        }
        let touches = line.has(b'T') && !line.has(b'v');
        if touches {
            self.ledger.seen.push(Sight::Change("touch", line.key.clone()));
        }
        if self.hiccups() {
            return out.extend_from_slice(b"SERVER_ERROR out of memory writing get response\r\n");
        }
        if line.has(b'N') && !self.items.contains_key(&line.key) {
            self.unique += 1;
            let unique = self.unique;
            self.items.entry(line.key.clone()).or_default().unique = unique;
        }
        let Some(item) = self.items.get(&line.key) else { return line.say("EN", None, out) };
        let about = Some((item.flags, item.data.len(), item.unique));
        if line.has(b'v') {
            line.say(&format!("VA {}", item.data.len()), about, out);
            out.extend_from_slice(&item.data);
            out.extend_from_slice(b"\r\n");
        } else {
            line.say("HD", about, out);
        }
        if touches {
            self.note("TOUCHED", &line.key);
        }
        if line.drops() {
            self.items.remove(&line.key);
        }
    }

    /// An `ms` with its block.
    pub(super) fn meta_store(&mut self, words: &[Vec<u8>], data: &[u8], out: &mut Vec<u8>) {
        let line = Line::read(words);
        let unique = line.token(b'C');
        let verb: &[u8] = match (unique, line.token(b'M')) {
            (Some(_), _) => b"cas",
            (_, None | Some(b"S")) => b"set",
            (_, Some(b"E")) => b"add",
            (_, Some(b"R")) => b"replace",
            (_, Some(b"A")) => b"append",
            (_, mode) => {
                assert_eq!(mode, Some(&b"P"[..]));
                b"prepend"
            }
        };
        let flags = line.token(b'F').map_or(0, |flags| text(flags).parse().unwrap());
        let status = match self.keep(verb, &line.key, flags, line.drops(), unique, data) {
            b"STORED\r\n" => "HD",
            b"NOT_STORED\r\n" => "NS",
            b"EXISTS\r\n" => "EX",
            _ => "NF",
        };
        line.say(status, None, out);
    }

    /// An `ms` that is too large takes the old value with it, whatever its mode.
    pub(super) fn refuse_large(&mut self, words: &[Vec<u8>]) {
        self.items.remove(&Line::read(words).key);
    }
}
