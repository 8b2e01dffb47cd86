//! The log: one line an event, on standard error, and nobody waits for it.
//!
//! Who reads a container's standard error may stop, for the disk behind it is full or the runtime hangs; then a write to
//! it waits for ever. So lines go into a bounded queue, which never waits, and one thread takes them out. What finds no
//! place is lost and counted.

mod fields;
mod pace;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::config::LogFormat;
use fields::Quoted;
pub use pace::{Onset, Pace};

/// Most lines that wait for the thread that writes them. A reader that is merely slow loses none of a burst; one that
/// has stopped costs some hundred kilobytes.
const QUEUE: usize = 512;
/// Longest wait for lines that are not written yet, when the process ends.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// So often again, while there is room for them: 5 s in all.
const TURNS: u32 = 24;
/// How often it is looked whether they are.
const LOOK: Duration = Duration::from_millis(1);

/// There is one log, as there is one standard error.
static LOG: OnceLock<Queue> = OnceLock::new();

/// Lines on their way to a writer.
#[derive(Debug)]
struct Queue {
    writer: NonBlocking,
    lost: ErrorCounter,
    count: Arc<Count>,
    /// Never dropped: its end waits for a second, and may print.
    _thread: WorkerGuard,
}

/// How many lines were put into the queue, lost ones included, and how many have been taken out of it.
#[derive(Debug, Default)]
struct Count {
    put: AtomicU64,
    taken: AtomicU64,
}

/// Where an event's line is written to.
#[derive(Debug)]
struct Line<'a>(&'a Queue);

/// The end of the queue.
#[derive(Debug)]
struct Counted<W> {
    writer: W,
    count: Arc<Count>,
}

/// Starts the log of the process: events that `filter` lets through, and panics; in colour if it may, on a terminal.
/// Once; the first one counts.
///
/// # Panics
/// When the thread that writes it cannot be started.
pub fn start(filter: &str, format: LogFormat, may_colour: bool) {
    let queue = LOG.get_or_init(|| Queue::new(io::stderr()));
    // The filter was checked with the configuration. Levels by module need no regular expressions,
    // which are a fifth of a megabyte of an idle sidecar.
    let levels: Targets = filter.parse().unwrap_or_default();
    // What goes wrong with the log is not printed: that would wait, too.
    let lines = fmt::layer().with_writer(queue).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.fmt_fields(Quoted).with_ansi(may_colour && io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    if tracing_subscriber::registry().with(lines).with(levels).try_init().is_ok() {
        panic::set_hook(Box::new(panicked));
    }
}

/// Writes a line that is no event: why the process ends. Where there is a log it goes the same way.
pub fn tell(text: &str) {
    // Nothing can be done about an output that is closed.
    let _ = match LOG.get() {
        Some(queue) => Line(queue).write_all(format!("{text}\n").as_bytes()),
        // Nothing that nobody reads keeps a process from ending.
        None if !has_room(io::stderr(), PATIENCE) => return,
        None => writeln!(io::stderr(), "{text}"),
    };
}

/// Waits until every line is written: for at most [`PATIENCE`] where nobody takes it. On a busy machine the thread that
/// writes may not have had its turn by then: while standard error has room it gets more. The process is about to end.
pub fn end() {
    if let Some(queue) = LOG.get() {
        let mut turns = TURNS;
        while !queue.settle(PATIENCE) && turns > 0 && has_room(io::stderr(), Duration::ZERO) {
            turns -= 1;
        }
    }
}

/// Whether a write of a line would not wait, or would not any more within `patience`, of less than a second.
fn has_room(to: impl AsFd, patience: Duration) -> bool {
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    let mut polled = [PollFd::new(&to, PollFlags::OUT)];
    poll(&mut polled, Some(&patience)).is_ok() && polled.iter().all(|polled| polled.revents().contains(PollFlags::OUT))
}

/// Lines lost so far because nobody read the log.
#[must_use]
pub fn lines_dropped() -> u64 {
    LOG.get().map_or(0, |queue| queue.lost.dropped_lines() as u64)
}

/// The default hook writes to standard error, and would wait for who reads it.
fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let text = panic.to_string().replace('\n', " ");
    let trace = Backtrace::capture();
    match trace.status() {
        BacktraceStatus::Captured => tracing::error!(thread = thread.name(), %trace, "{text}"),
        _ => tracing::error!(thread = thread.name(), "{text}"),
    }
    // In a release it is the end of the process.
    end();
}

// === impl Queue ===

impl Queue {
    fn new(writer: impl Write + Send + 'static) -> Self {
        let count = Arc::new(Count::default());
        let counted = Counted { writer, count: Arc::clone(&count) };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log");
        let (writer, thread) = builder.finish(counted);
        Self { lost: writer.error_counter(), writer, count, _thread: thread }
    }

    /// Waits until what has been put in is written, for so long at most. Returns whether it is.
    #[expect(clippy::disallowed_methods, reason = "the end of the process has no other clock")]
    fn settle(&self, patience: Duration) -> bool {
        let put = self.count.put.load(Ordering::Acquire);
        let until = Instant::now() + patience;
        loop {
            // A line that was lost is one less to wait for.
            if self.count.taken.load(Ordering::Acquire) + self.lost.dropped_lines() as u64 >= put {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(LOOK);
        }
    }
}

impl<'a> MakeWriter<'a> for &'static Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self)
    }
}

impl Write for Line<'_> {
    /// Takes all of it, or loses all of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.count.put.fetch_add(1, Ordering::AcqRel);
        self.0.writer.clone().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    /// Each line comes by this way.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.writer.write_all(line);
        self.count.taken.fetch_add(1, Ordering::AcqRel);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _};

    use super::*;

    fn piped() -> (PipeReader, Queue) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Queue::new(writer))
    }

    #[test]
    fn a_log_that_nobody_reads_keeps_nobody_waiting_and_counts_what_it_loses() {
        let (mut reader, queue) = piped();
        // More than any pipe holds, and then more than the queue does.
        let line = [b"x".repeat(8 << 10), b"\n".to_vec()].concat();
        for _ in 0..3 * QUEUE {
            Line(&queue).write_all(&line).unwrap();
        }
        assert!(!queue.settle(Duration::from_millis(1)), "nobody has read it");
        let lost = queue.lost.dropped_lines();
        assert!((QUEUE..3 * QUEUE).contains(&lost), "{lost} lines");
        let mut left = (3 * QUEUE - lost) * line.len();
        let mut piece = vec![0; line.len()];
        while left > 0 {
            left -= reader.read(&mut piece).unwrap();
        }
        while !queue.settle(PATIENCE) {}
        Line(&queue).write_all(b"heard again\n").unwrap();
        let mut heard = [0; 12];
        reader.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"heard again\n");
    }

    #[test]
    fn it_is_known_whether_a_write_would_wait() {
        let (_reader, mut writer) = io::pipe().unwrap();
        assert!(has_room(&writer, Duration::ZERO));
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        assert!(!has_room(&writer, Duration::from_millis(1)));
    }

    #[test]
    fn a_reader_that_has_gone_is_not_waited_for() {
        let (reader, queue) = piped();
        drop(reader);
        Line(&queue).write_all(b"to nobody\n").unwrap();
        while !queue.settle(PATIENCE) {}
    }
}
