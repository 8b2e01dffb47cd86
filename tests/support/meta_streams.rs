//! Streams of meta requests, with classic ones between them, that a memcached 1.6.18 answers the same way every time.
//!
//! What is left out, since it is answered otherwise somewhere on purpose, is in the deviations of the test that uses this;
//! and what depends on who holds an item at that moment (`ma` on what is read, too).

use std::fmt::Write as _;

/// Takes a number and gives one below it.
pub(crate) type Below<'a> = dyn FnMut(usize) -> usize + 'a;

/// What may be in a stream.
#[derive(Clone, Copy)]
pub(crate) struct Contents {
    /// Uniques are asked for and given, for one node counts them; else none that could be right, and none is asked for.
    pub(crate) uniques: bool,
    /// No proxy is in between: `q` where `ma` may create an item (1.6.18 shows that, newer versions hide it), and values too
    /// large together with uniques (what follows of one key waits for the old value to be gone, other keys do not).
    pub(crate) direct: bool,
}

fn pick<'a>(below: &mut Below<'_>, from: &[&'a str]) -> &'a str {
    from[below(from.len())]
}

/// A key with its `b`, if it has one. `azE=` is `k1`.
fn key(below: &mut Below<'_>) -> (String, bool) {
    match below(30) {
        0 => ("k".repeat(250), false),
        1 => ("tab\tand\rcr".into(), false),
        2 => ("\u{e9}\u{7f}\u{1}".into(), false),
        3..6 => ("azE=".into(), true),
        6 => ("QUFB".repeat(62), true),
        _ => (format!("k{}", below(4)), false),
    }
}

/// A key of numbers alone, never read by its value.
fn counter(below: &mut Below<'_>) -> (String, bool) {
    if below(8) == 0 { ("bjE=".into(), true) } else { (format!("n{}", below(3)), false) }
}

const TIMES: &[&str] = &["0", "0", "100000", "2592000", "-1", "2592001", "4102444800", "99999999999", "+0"];

fn flag(below: &mut Below<'_>, verb: &str, contents: Contents) -> String {
    let opaque = ["1", "abcdef", "", "0123456789012345678901234567890"];
    match below(60) {
        // A number behind the length of `ms` could be the length.
        0 => pick(below, &["W", "X", "noreply", "S1", "\u{7f}", if verb == "ms" { "~" } else { "8" }]).into(),
        // `mg` and `ma` have created and counted before memcached refuses it.
        1 if verb == "ms" || verb == "md" => format!("O{}", "o".repeat(32)),
        2 => format!("{}{}", pick(below, &["T", "N", "R", "D", "J", "F", "C"]), pick(below, &["", "x", "5x", "-"])),
        3 => pick(below, &["M", "MX", "MSS", "Mi"]).into(),
        4 => format!("{}{}", pick(below, &["P", "L"]), pick(below, &["", "hint=1"])),
        5..9 => format!("O{}", pick(below, &opaque)),
        9..15 => "k".into(),
        15..22 => "q".into(),
        22..26 if contents.uniques => "c".into(),
        26..32 if verb == "ma" => format!("N{}", pick(below, TIMES)),
        26..32 if verb == "mg" && below(2) == 0 => format!("N{}", pick(below, &["0", "100000"])),
        26..32 => format!("T{}", pick(below, TIMES)),
        32..35 if verb == "mg" => format!("R{}", pick(below, &["0", "30", "2000000", "-1"])),
        32..35 => "I".into(),
        35..40 if verb != "mg" => {
            if contents.uniques {
                format!("C{}", below(120))
            } else {
                "C18446744073709551615".into()
            }
        }
        40..45 if verb == "ms" => format!("M{}", pick(below, &["S", "E", "A", "P", "R"])),
        40..45 if verb == "ma" => format!("M{}", pick(below, &["I", "+", "D", "-"])),
        45..48 if verb == "ma" => format!("D{}", pick(below, &["0", "1", "95", "18446744073709551615"])),
        48..50 if verb == "ma" => format!("J{}", pick(below, &["7", "100"])),
        45..50 if verb == "ms" => format!("F{}", pick(below, &["0", "5", "4294967295", "+1"])),
        50..56 => "v".into(),
        _ => pick(below, &["f", "s", "t", "h", "l", "u"]).into(),
    }
}

fn line_end(below: &mut Below<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(match below(8) {
        0 => b"\n".as_slice(),
        1 => b"  \r\n",
        _ => b"\r\n",
    });
}

fn meta(below: &mut Below<'_>, contents: Contents, out: &mut Vec<u8>) {
    let verb = pick(below, &["mg", "mg", "mg", "ms", "ms", "ms", "md", "ma", "ma", "me"]);
    let counts = verb == "ma" || (verb != "mg" && below(6) == 0);
    let (key, is_base64) = if counts { counter(below) } else { key(below) };
    if verb == "me" {
        let flag = if is_base64 { " b" } else { "" };
        out.extend_from_slice(format!("me {key}{flag}").as_bytes());
        return line_end(below, out);
    }
    let data: Vec<u8> = match below(30) {
        _ if counts => pick(below, &["0", "9", "99", "100", "18446744073709551616", " 7", "x", ""]).as_bytes().to_vec(),
        0 if contents.direct || !contents.uniques => vec![b'x'; [20_000, 1_048_517, 1_100_000][below(3)]],
        0 => vec![b'x'; 20_000],
        1 => b"\r\nflush_all\r\nmg k1 v".to_vec(),
        _ => (0..below(300)).map(|_| below(256) as u8).collect(),
    };
    let mut line = format!("{verb} {key}");
    if verb == "ms" {
        let _ = write!(line, " {}{}", pick(below, &["", "", "", "+", "0"]), data.len());
    }
    let mut flags: Vec<String> = Vec::new();
    for _ in 0..below(7) {
        let flag = flag(below, verb, contents);
        // Now and then one comes twice.
        if below(12) == 0 || !flags.iter().any(|other| other.as_bytes()[0] == flag.as_bytes()[0]) {
            flags.push(flag);
        }
    }
    if verb == "ma" && !contents.direct && flags.iter().any(|flag| flag.starts_with('N')) {
        flags.retain(|flag| !flag.starts_with('q'));
    }
    if is_base64 {
        flags.insert(below(flags.len() + 1), "b".into());
    }
    for flag in flags {
        line.push_str(if below(15) == 0 { "   " } else { " " });
        line.push_str(&flag);
    }
    out.extend_from_slice(line.as_bytes());
    line_end(below, out);
    if verb == "ms" {
        out.extend_from_slice(&data);
        // A bad data chunk: what is left of it is a command. Of a value too large memcached does not look at its end.
        out.extend_from_slice(if data.len() < 1_000 && below(40) == 0 { b"abc\r\n".as_slice() } else { b"\r\n" });
    }
}

/// One request; never `mn`, which may be how a test knows the end.
pub(crate) fn request(below: &mut Below<'_>, contents: Contents, out: &mut Vec<u8>) {
    let line = match below(24) {
        0 => format!("get k1 k2 {}", key(below).0),
        1 if contents.uniques => "gets k0 k1 k2 k3".into(),
        2 => format!("set k{} 3 0 4\r\nabcd", below(4)),
        3 => format!("append k{} 0 0 1\r\ne", below(4)),
        4 => format!("gat {} k{}", pick(below, TIMES), below(4)),
        5 => format!("touch k{} {}", below(4), pick(below, TIMES)),
        6 => format!("delete k{}", below(4)),
        7 => format!("incr n{} 1", below(3)),
        8 if below(6) == 0 => "flush_all".into(),
        9 | 10 => pick(below, &["mg", "md", "ma ", "me", "mx k1", "MG k1 v", "mgk1"]).into(),
        11 => format!("{} {} v", pick(below, &["mg", "md", "ma", "me"]), "L".repeat(251)),
        12 => format!("mg {} b v", pick(below, &["k1", "!!!!", "Zm9vYg", "====", "Zm-v"])),
        13 => format!("{} k1{}", pick(below, &["mg", "md"]), " O P L c f h k l s t u v I MS J1 D1 F1 q T0"),
        _ => return meta(below, contents, out),
    };
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What depends on the second, on the node or on its slab classes, as `#`: the digits behind ` t`, ` l`, `exp=-`, `la=`,
/// `cas=` and `cls=`. Never is `t-1` and `exp=-1`.
pub(crate) fn masked(bytes: &[u8]) -> Vec<u8> {
    const BEFORE: [&[u8]; 6] = [b" t", b" l", b" exp=-", b" la=", b" cas=", b" cls="];
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let found = BEFORE.iter().find_map(|before| {
            let behind = rest.strip_prefix(*before)?;
            let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let never = *before == b" exp=-" && &behind[..digits] == b"1";
            (digits > 0 && !never).then_some((*before, digits))
        });
        if let Some((before, digits)) = found {
            out.extend_from_slice(before);
            out.push(b'#');
            rest = &rest[before.len() + digits..];
        } else {
            out.push(byte);
            rest = &rest[1..];
        }
    }
    out
}
