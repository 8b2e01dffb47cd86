//! How a key is written where people read it: in a log, on the page, in `/hotkeys`.

/// The key, with what is not printable escaped; `#` and 16 hexadecimal digits of its hash where keys are not shown.
#[must_use]
pub fn key_name(hash: u64, key: Option<&[u8]>) -> String {
    match key.map(std::str::from_utf8) {
        None => format!("#{hash:016x}"),
        Some(Ok(text)) if !text.contains(char::is_control) => text.to_owned(),
        Some(_) => key.unwrap_or_default().escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_as_text_or_as_what_they_are_made_of() {
        assert_eq!(key_name(0xff, None), "#00000000000000ff");
        assert_eq!(key_name(1, Some("grüße".as_bytes())), "grüße");
        assert_eq!(key_name(1, Some(b"a\x01\xff")), "a\\x01\\xff");
        assert_eq!(key_name(1, Some("a\u{85}".as_bytes())), "a\\xc2\\x85");
    }
}
