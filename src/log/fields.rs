//! The fields of a line for people: as tracing-subscriber writes them, but what has blanks is quoted, so that a program finds the
//! end of it, too.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// The fields of a line, `name=value` and `name="value with blanks"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoted;

/// Hands each field to the usual visitor, once its value is in the form that is wanted.
#[derive(Debug)]
struct Quoting<'a>(DefaultVisitor<'a>);

impl<'writer> FormatFields<'writer> for Quoted {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Quoting(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

impl Visit for Quoting<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.record_str(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The text of the line is no field, and a backtrace has lines of its own.
        if ["message", "trace"].contains(&field.name()) {
            return self.0.record_debug(field, value);
        }
        let text = format!("{value:?}");
        let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let is_quoted = inside.is_some_and(|inside| !inside.replace("\\\"", "").contains('"'));
        let is_one_word =
            !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"=".contains(c));
        match is_quoted || is_one_word {
            true => self.0.record_debug(field, &format_args!("{text}")),
            false => self.0.record_debug(field, &text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_value_with_blanks_is_quoted_and_a_word_is_not() {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = fmt::layer().without_time().with_target(false).with_ansi(false).fmt_fields(Quoted);
        let lines = lines.with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::info!(
                moved = %"25.0 %",
                ring = %"1a2b",
                node = "a:1",
                nodes = 3,
                error = %"no \"x\"\nhere",
                of = ?"a b",
                none = %"",
                weight = %"a=2",
                "said as it is"
            );
        });
        let told = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let expected = r#" INFO said as it is moved="25.0 %" ring=1a2b node="a:1" nodes=3 error="no \"x\"\nhere" of="a b" none="" weight="a=2""#;
        assert_eq!(told.trim_end(), expected);
    }
}
