//! The meta commands of a node, as memcached 1.6.18 does them.
//!
//! Flags act and are answered in the order given: `t` in front of `T` tells the old time.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use data_encoding::BASE64;

use super::connection::{Connection, Flow};
use super::now;
use super::store::{Counted, Item, Step, Store, deadline};
use crate::protocol::meta::request::{Meta, Verb, parse};
use crate::protocol::request::{Block, Refusal};
use crate::protocol::{MAX_KEY, number};

/// Most bytes of a key in base64.
const MAX_ENCODED: usize = MAX_KEY.div_ceil(3) * 4;

impl Connection {
    /// One meta command; `line` begins with one of their verbs.
    pub(super) async fn meta(&mut self, line: &[u8]) -> io::Result<Flow> {
        let meta = match parse(line, self.max_item()) {
            Ok(meta) if is_newer(&meta) => return self.refuse(unknown_flag(&meta)).await,
            Ok(meta) => meta,
            Err(refusal) => return self.refuse(refusal).await,
        };
        let mut buffer = [0; MAX_KEY];
        let key = meta.routing_key(&mut buffer);
        match meta.verb {
            Verb::Get => {
                let value = {
                    let (mut store, out) = self.parts();
                    get(&mut store, &meta, key, now(), out)
                };
                if let Some(value) = value {
                    self.body(&value).await?;
                }
            }
            Verb::Set => return self.meta_set(&meta, key).await,
            Verb::Delete => {
                let (mut store, out) = self.parts();
                delete(&mut store, &meta, key, now(), out);
            }
            Verb::Arithmetic => {
                let (mut store, out) = self.parts();
                arithmetic(&mut store, &meta, key, now(), out);
            }
            Verb::Debug => {
                let (mut store, out) = self.parts();
                debug(&mut store, &meta, key, now(), out);
            }
        }
        Ok(Flow::Continue)
    }

    async fn meta_set(&mut self, meta: &Meta<'_>, key: &[u8]) -> io::Result<Flow> {
        let fits = self.parts().0.fits(key, client_flags(meta), meta.len);
        if !fits {
            let block = Block::Swallow(meta.len as u64 + 2);
            return self
                .refuse(Refusal {
                    text: "SERVER_ERROR object too large for cache",
                    quiet: false,
                    block,
                    stale: Some(meta.key),
                    stale_is_base64: meta.is_base64,
                })
                .await;
        }
        let Some(block) = self.block(meta.len).await? else {
            return Ok(Flow::Close);
        };
        let (mut store, out) = self.parts();
        store.counters.cmd_set += 1;
        match block {
            Some(data) => set(&mut store, meta, key, data, now(), out),
            // Said in spite of `q`.
            None => out.extend_from_slice(b"CLIENT_ERROR bad data chunk\r\n"),
        }
        Ok(Flow::Continue)
    }
}

/// Whether a flag is one that 1.6.18 does not know yet.
fn is_newer(meta: &Meta<'_>) -> bool {
    meta.token(b'E').or(meta.token(b'x')).is_some() && meta.verb != Verb::Debug
}

fn unknown_flag<'a>(meta: &Meta<'a>) -> Refusal<'a> {
    Refusal {
        text: match meta.verb {
            Verb::Delete | Verb::Arithmetic => "CLIENT_ERROR invalid or duplicate flag",
            _ => "CLIENT_ERROR invalid flag",
        },
        quiet: false,
        block: if meta.verb == Verb::Set { Block::Swallow(meta.len as u64 + 2) } else { Block::None },
        stale: None,
        stale_is_base64: false,
    }
}

/// `mg`; the value where a block is to follow.
fn get(store: &mut Store, meta: &Meta<'_>, key: &[u8], now: u64, out: &mut Vec<u8>) -> Option<Bytes> {
    let found = store.live(key, now);
    let is_new = found.is_none();
    let mut item = match found {
        Some(item) => item,
        None if meta.creates => store.item(Bytes::new(), 0, 0, now),
        None => {
            store.counters.cmd_get += 1;
            store.counters.get_misses += 1;
            if !meta.quiet {
                meta.soft_miss(out);
            }
            return None;
        }
    };
    if meta.value {
        out.extend_from_slice(b"VA ");
        number::append(out, item.data.len() as u64);
    } else {
        out.extend_from_slice(b"HD");
    }
    let marks = &item.marks;
    let token_sent = marks.token_sent.load(Ordering::Relaxed);
    let mut wins = false;
    let mut is_touched = false;
    for (letter, token) in meta.flags().filter_map(|flag| flag.split_first()) {
        match letter {
            b'T' => {
                item.deadline = time(token, now);
                is_touched = true;
            }
            b'N' if is_new => {
                item.deadline = time(token, now);
                wins = true;
            }
            b'R' => wins |= !token_sent && !is_new && item.deadline != 0 && item.deadline < time(token, now),
            b's' => figure(out, b's', item.data.len() as u64),
            b't' => left(out, item.deadline, now),
            b'c' => figure(out, b'c', item.unique),
            b'f' => figure(out, b'f', u64::from(item.flags)),
            b'l' => figure(out, b'l', now.saturating_sub(marks.last_access_at.load(Ordering::Relaxed))),
            b'h' => figure(out, b'h', u64::from(marks.is_fetched.load(Ordering::Relaxed))),
            b'O' => opaque(out, token),
            b'k' => {
                out.extend_from_slice(b" k");
                if append_key(out, &item, key) {
                    out.extend_from_slice(b" b");
                }
            }
            _ => {}
        }
    }
    if token_sent {
        out.extend_from_slice(b" Z");
    }
    if marks.is_stale.load(Ordering::Relaxed) {
        out.extend_from_slice(b" X");
        wins |= !token_sent;
    }
    if wins {
        out.extend_from_slice(b" W");
        marks.token_sent.store(true, Ordering::Relaxed);
    }
    out.extend_from_slice(b"\r\n");
    if meta.token(b'u').is_none() {
        item.fetched(now);
    }
    if is_touched {
        store.counters.cmd_touch += 1;
        store.counters.touch_hits += 1;
    } else {
        store.counters.cmd_get += 1;
        store.counters.get_hits += 1;
    }
    let value = meta.value.then(|| item.data.clone());
    if is_new || is_touched {
        store.place(key, item, now);
    }
    value
}

/// `ms`, its block being whole.
fn set(store: &mut Store, meta: &Meta<'_>, key: &[u8], data: Bytes, now: u64, out: &mut Vec<u8>) {
    let asked = unique(meta);
    let answer = change(store, meta, key, data, asked, now);
    let is_stored = answer == b"HD";
    if is_stored && meta.quiet {
        return;
    }
    out.extend_from_slice(answer);
    for flag in meta.flags() {
        match flag.split_first() {
            Some((b'O', token)) => opaque(out, token),
            Some((b'k', _)) => meta.echo_key(out),
            Some((b'c', _)) => figure(out, b'c', if is_stored { store.last_unique() } else { 0 }),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What `ms` does; the answer's code.
fn change(store: &mut Store, meta: &Meta<'_>, key: &[u8], data: Bytes, asked: Option<u64>, now: u64) -> &'static [u8] {
    let old = store.live(key, now);
    let mut kept = None;
    match (meta.mode, &old) {
        (b'E', Some(_)) | (b'A' | b'P', None) => return b"NS",
        (b'E', None) => {}
        (mode @ (b'A' | b'P'), Some(old)) => {
            // A unique of 0 asks for nothing here.
            if asked.is_some_and(|asked| asked != 0 && asked != old.unique) {
                return b"EX";
            }
            let (head, tail) = if mode == b'A' { (&old.data, &data) } else { (&data, &old.data) };
            return if store.join(key, old, head, tail, now) { b"HD" } else { b"NS" };
        }
        (_, None) if asked.is_some() => {
            store.counters.cas_misses += 1;
            return b"NF";
        }
        (_, Some(old)) if asked.is_some_and(|asked| asked != old.unique) => {
            // An older unique may replace what `md I` has made stale; it stays stale.
            if !meta.invalidates || asked.is_none_or(|asked| asked == 0 || asked > old.unique) {
                store.counters.cas_badval += 1;
                return b"EX";
            }
            store.counters.cas_hits += 1;
            kept = Some(old);
        }
        (b'R', None) => return b"NS",
        (_, Some(_)) if asked.is_some() => store.counters.cas_hits += 1,
        _ => {}
    }
    let ends_at = kept.map_or_else(|| meta.token(b'T').map_or(0, |token| time(token, now)), |old| old.deadline);
    let item = store.item(data, client_flags(meta), ends_at, now);
    item.marks.is_base64.store(meta.is_base64, Ordering::Relaxed);
    if let Some(old) = kept {
        item.marks.is_stale.store(true, Ordering::Relaxed);
        item.marks.token_sent.store(old.marks.token_sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    store.place(key, item, now);
    b"HD"
}

/// `md`
fn delete(store: &mut Store, meta: &Meta<'_>, key: &[u8], now: u64, out: &mut Vec<u8>) {
    let answer: &[u8] = match store.live(key, now) {
        None => {
            store.counters.delete_misses += 1;
            b"NF"
        }
        Some(item) if unique(meta).is_some_and(|asked| asked != item.unique) => {
            store.counters.delete_misses += 1;
            b"EX"
        }
        Some(mut item) => {
            if meta.invalidates {
                if let Some(token) = meta.token(b'T') {
                    item.deadline = time(token, now);
                }
                item.unique = store.next_unique();
                item.marks.is_stale.store(true, Ordering::Relaxed);
                item.marks.token_sent.store(false, Ordering::Relaxed);
                store.place(key, item, now);
            } else {
                store.counters.delete_hits += 1;
                store.remove(key);
            }
            if meta.quiet {
                return;
            }
            b"HD"
        }
    };
    out.extend_from_slice(answer);
    meta.identify(out);
    out.extend_from_slice(b"\r\n");
}

/// `ma`
fn arithmetic(store: &mut Store, meta: &Meta<'_>, key: &[u8], now: u64, out: &mut Vec<u8>) {
    let amount = |flag, default| meta.token(flag).and_then(number::unsigned).unwrap_or(default);
    let delta = amount(b'D', 1);
    let step = if matches!(meta.mode, b'D' | b'-') { Step::Down(delta) } else { Step::Up(delta) };
    let found = store.live(key, now);
    let is_new = found.is_none();
    let mut ends_at = found.as_ref().map_or(0, |item| item.deadline);
    let counted = match found {
        Some(item) => store.count_item(key, item, step, unique(meta).filter(|asked| *asked != 0), now),
        None if meta.creates => {
            let value = amount(b'J', 0);
            let mut text = Vec::new();
            number::append(&mut text, value);
            let item = store.item(Bytes::from(text), 0, 0, now);
            store.place(key, item, now);
            Counted::Value { value, in_place: true }
        }
        None => {
            store.count_missed(step);
            Counted::NotFound
        }
    };
    let (value, in_place) = match counted {
        Counted::Value { value, in_place } => (value, in_place),
        Counted::NonNumeric => {
            return out.extend_from_slice(b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
        }
        Counted::NotFound | Counted::Exists => {
            out.extend_from_slice(if counted == Counted::NotFound { b"NF" } else { b"EX" });
            meta.identify(out);
            return out.extend_from_slice(b"\r\n");
        }
    };
    let mut text = Vec::new();
    number::append(&mut text, value);
    // What creates an item is answered in spite of `q`.
    let start = out.len();
    if meta.value {
        out.extend_from_slice(b"VA ");
        number::append(out, text.len() as u64);
    } else {
        out.extend_from_slice(b"HD");
    }
    let is_set = meta.token(b'T').is_some() || is_new;
    for (letter, token) in meta.flags().filter_map(|flag| flag.split_first()) {
        match letter {
            b'c' => figure(out, b'c', store.last_unique()),
            b't' => left(out, ends_at, now),
            b'T' => ends_at = time(token, now),
            b'N' if is_new => ends_at = time(token, now),
            b'O' => opaque(out, token),
            b'k' => meta.echo_key(out),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    if meta.value {
        out.extend_from_slice(&text);
        out.extend_from_slice(b"\r\n");
    }
    if meta.quiet && !is_new {
        out.truncate(start);
    }
    // A longer number is a new item, and memcached sets the time of the old one.
    if is_set
        && in_place
        && let Some(mut item) = store.live(key, now)
    {
        item.deadline = ends_at;
        store.place(key, item, now);
    }
}

/// `me`. All items are of one class.
fn debug(store: &mut Store, meta: &Meta<'_>, key: &[u8], now: u64, out: &mut Vec<u8>) {
    store.counters.cmd_meta += 1;
    let Some(item) = store.live(key, now) else { return meta.soft_miss(out) };
    out.extend_from_slice(b"ME ");
    append_key(out, &item, key);
    out.extend_from_slice(b" exp=-");
    number::append(out, if item.deadline == 0 { 1 } else { item.deadline.saturating_sub(now) });
    out.extend_from_slice(b" la=");
    number::append(out, now.saturating_sub(item.marks.last_access_at.load(Ordering::Relaxed)));
    out.extend_from_slice(b" cas=");
    number::append(out, item.unique);
    let is_fetched = item.marks.is_fetched.load(Ordering::Relaxed);
    out.extend_from_slice(if is_fetched { b" fetch=yes cls=1 size=" } else { b" fetch=no cls=1 size=" });
    number::append(out, item.size(key) as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends the key as it was stored; whether in base64. memcached forgets that of items it has made itself; a key with a
/// line end is encoded here all the same.
fn append_key(out: &mut Vec<u8>, item: &Item, key: &[u8]) -> bool {
    let mut text = [0; MAX_ENCODED];
    let encoded = (item.marks.is_base64.load(Ordering::Relaxed) || key.contains(&b'\n'))
        .then(|| text.get_mut(..BASE64.encode_len(key.len())))
        .flatten();
    match encoded {
        Some(text) => {
            BASE64.encode_mut(key, text);
            out.extend_from_slice(text);
            true
        }
        None => {
            out.extend_from_slice(key);
            false
        }
    }
}

/// The Unix second that a token of T, N or R stands for: 0 never, 1 any in the past.
fn time(token: &[u8], now: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "memcached assigns strtol's long to an int32_t")]
    let seconds = number::signed(token).unwrap_or_default() as i32;
    let at = deadline(seconds, now);
    if at != 0 && at <= now { 1 } else { at }
}

/// The token of C.
fn unique(meta: &Meta<'_>) -> Option<u64> {
    meta.token(b'C').and_then(number::unsigned)
}

/// The token of F, of which 1.6.18 keeps the low 32 bits.
fn client_flags(meta: &Meta<'_>) -> u32 {
    let flags = meta.token(b'F').and_then(number::unsigned).unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "as said")]
    let flags = flags as u32;
    flags
}

fn figure(out: &mut Vec<u8>, letter: u8, value: u64) {
    out.extend_from_slice(&[b' ', letter]);
    number::append(out, value);
}

/// `t`: the seconds left.
fn left(out: &mut Vec<u8>, ends_at: u64, now: u64) {
    if ends_at == 0 {
        out.extend_from_slice(b" t-1");
    } else {
        figure(out, b't', ends_at.saturating_sub(now));
    }
}

fn opaque(out: &mut Vec<u8>, token: &[u8]) {
    out.extend_from_slice(b" O");
    out.extend_from_slice(token);
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
