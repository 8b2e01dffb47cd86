//! What an error of the operating system says, for people: the one place that makes text of it.

use std::fmt;

/// A name has no address.
pub const NAME_NOT_FOUND: &str = "name not found";

/// Nobody answered who knows.
pub const NAME_UNANSWERED: &str = "name servers do not answer";

/// What stands before a number that nobody looks up: std and rustix put it behind their text.
const NUMBER: &str = " (os error ";

/// What std says before the resolver's own text.
const LOOKUP: &str = "failed to lookup address information";

/// An error as people say it: without the system's number, and with one phrase for what the system's resolver says in
/// several ways.
#[must_use]
pub fn of(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    match lookup(&text) {
        Some(phrase) => phrase.to_owned(),
        None => without_numbers(&text),
    }
}

/// The phrase for a failed lookup of a name, if the text is of one. Its kinds have no numbers in std; the texts are those of
/// glibc, and of musl.
#[must_use]
pub fn lookup(text: &str) -> Option<&'static str> {
    let (_, reason) = text.split_once(LOOKUP)?;
    let is_unanswered = ["Temporary failure", "Try again"].iter().any(|part| reason.contains(part));
    Some(if is_unanswered { NAME_UNANSWERED } else { NAME_NOT_FOUND })
}

/// A text in quotes that it does not hold itself, as it was written: what programs escape in theirs was not. Control
/// characters are.
#[must_use]
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('"') && !text.contains('\'') { '\'' } else { '"' };
    let mut shown = String::from(quote);
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

fn without_numbers(text: &str) -> String {
    let mut parts = text.split(NUMBER);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(part.len());
        match part.get(digits..).and_then(|rest| rest.strip_prefix(')')) {
            Some(rest) => plain.push_str(rest),
            None => {
                plain.push_str(NUMBER);
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_has_no_number_however_it_was_made() {
        let refused = io::Error::from_raw_os_error(111);
        assert!(refused.to_string().contains("(os error 111)"), "that is what it would be: {refused}");
        assert_eq!(of(&refused), "Connection refused");
        assert_eq!(of(&format!("cannot say: {refused}; nor {refused}: no")), {
            "cannot say: Connection refused; nor Connection refused: no"
        });
        assert_eq!(of(&rustix::io::Errno::SRCH), "No such process");
        assert_eq!(of(&"what (os error is this"), "what (os error is this");
        assert_eq!(of(&io::Error::other("of our own")), "of our own");
    }

    #[test]
    fn a_name_without_an_address_has_one_phrase_for_each_cause() {
        for (reason, phrase) in [
            ("Name or service not known", NAME_NOT_FOUND),
            ("No address associated with hostname", NAME_NOT_FOUND),
            ("Name does not resolve", NAME_NOT_FOUND),
            ("Temporary failure in name resolution", NAME_UNANSWERED),
            ("Try again", NAME_UNANSWERED),
        ] {
            assert_eq!(of(&format!("{LOOKUP}: {reason}")), phrase);
        }
    }

    #[test]
    fn quotes_are_shown_as_they_were_written() {
        for (text, shown) in
            [("a", "\"a\""), ("\"a\"", "'\"a\"'"), ("'a'", "\"'a'\""), ("'\"", "\"'\"\""), ("a\nb\\", "\"a\\nb\\\"")]
        {
            assert_eq!(quoted(text), shown);
        }
    }
}
