//! A node's reply line: what is recognised is exactly that.

use slipring::protocol::reply::Line;

use slipring::protocol::text::reply;

use super::{check_key, first_line, show};

pub fn reply(data: &[u8]) {
    // A line of which a CR is part, too: the core cuts one CR and one LF.
    let line = first_line(data);
    let Some(found) = reply::parse(line) else { return };
    let exact: &[u8] = match found {
        Line::Value { key, len } => return value(line, key, len),
        Line::Number => {
            assert!((1..=20).contains(&line.len()) && line.iter().all(u8::is_ascii_digit));
            assert!(std::str::from_utf8(line).unwrap().parse::<u64>().is_ok(), "{:?}", show(line));
            return;
        }
        Line::Version(text) => return assert_eq!([b"VERSION ", text].concat(), line),
        Line::Stat { name, value } => {
            assert!(!name.contains(&b' '));
            let whole = [b"STAT ", name, b" ", value].concat();
            assert!(whole == line || value.is_empty() && whole.strip_suffix(b" ") == Some(line), "{:?}", show(line));
            return;
        }
        Line::Error => {
            let starts: [&[u8]; 3] = [b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR"];
            return assert!(starts.iter().any(|start| line.starts_with(start)));
        }
        Line::Va { len } => {
            let words: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
            assert!(words[0] == b"VA" && std::str::from_utf8(words[1]).unwrap().parse() == Ok(len));
            return assert!(len <= u64::from(u32::MAX));
        }
        Line::Me => return assert!(line.starts_with(b"ME ")),
        Line::Hd | Line::Ns | Line::Ex | Line::Nf | Line::En => {
            let status = match found {
                Line::Hd => b"HD",
                Line::Ns => b"NS",
                Line::Ex => b"EX",
                Line::Nf => b"NF",
                _ => b"EN",
            };
            return assert!(line.starts_with(status) && matches!(line.get(2), None | Some(b' ')));
        }
        Line::Mn => b"MN",
        Line::End => b"END",
        Line::Stored => b"STORED",
        Line::NotStored => b"NOT_STORED",
        Line::Exists => b"EXISTS",
        Line::NotFound => b"NOT_FOUND",
        Line::Deleted => b"DELETED",
        Line::Touched => b"TOUCHED",
        Line::Ok => b"OK",
        Line::Reset => b"RESET",
    };
    assert_eq!(line, exact);
}

/// The plain form of the same line says the same; nothing but numbers stands behind the key.
fn value(line: &[u8], key: &[u8], len: u64) {
    if !key.contains(&0) {
        check_key(key);
    }
    assert!(len <= u64::from(u32::MAX));
    let rest = line.strip_prefix(b"VALUE ").and_then(|rest| rest.strip_prefix(key)).expect("the key follows");
    let numbers: Vec<&[u8]> = rest.split(|&b| b == b' ').skip(1).collect();
    assert!(matches!(numbers.len(), 2 | 3), "{:?}", show(line));
    assert!(numbers.iter().all(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit)));
    assert_eq!(std::str::from_utf8(numbers[1]).unwrap().parse(), Ok(len));
    let plain = [b"VALUE ", key, format!(" 0 {len}").as_bytes()].concat();
    assert_eq!(reply::parse(&plain), Some(Line::Value { key, len }));
}
