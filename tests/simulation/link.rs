//! A connection as the core's clocks should see it, measured from outside: when it last made
//! progress, and since when it owes an answer.

use std::collections::VecDeque;

/// So many bytes of a reply are progress, as the core counts it.
const PROGRESS: usize = 16 << 10;
/// So many time-outs of silence end a connection, and so many of a drip.
const STRIKES: u64 = 3;
const DRIPS: u64 = 10;

/// A connection the core has asked for and not closed. All times are microseconds.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: usize,
    /// When it was asked for.
    begun: u64,
    connected: bool,
    /// Its first answer has been read.
    welcome: bool,
    /// When bytes last moved.
    moved: u64,
    /// When the core last wrote, and read.
    wrote: u64,
    heard: u64,
    /// When the core last read the end of a reply, or enough of one.
    progress: u64,
    /// Bytes read since then.
    unheeded: usize,
    read: u64,
    written: u64,
    /// Writes that are not answered to their last byte: when, and how much was written then.
    unanswered: VecDeque<(u64, u64)>,
    /// When it was last found late.
    late: Option<u64>,
    /// When its silence was last counted.
    struck: Option<u64>,
    /// Something unasked was said on it: which answer is whose cannot be told from outside.
    spoilt: bool,
}

impl Link {
    pub(crate) const fn new(node: usize, now: u64) -> Self {
        Self {
            node,
            begun: now,
            connected: false,
            welcome: false,
            moved: now,
            wrote: now,
            heard: now,
            progress: now,
            unheeded: 0,
            read: 0,
            written: 0,
            unanswered: VecDeque::new(),
            late: None,
            struck: None,
            spoilt: false,
        }
    }

    pub(crate) const fn connect(&mut self, now: u64) {
        self.connected = true;
        (self.moved, self.wrote, self.heard, self.progress) = (now, now, now, now);
    }

    /// The core has written so many bytes.
    pub(crate) fn write(&mut self, bytes: usize, now: u64) {
        self.written += bytes as u64;
        self.unanswered.push_back((now, self.written));
        (self.moved, self.wrote) = (now, now);
    }

    /// The core has read so many bytes. `answers`: where each request ended in what was written, and
    /// its answer in what was said. Returns whether an answer has ended.
    pub(crate) fn read(&mut self, bytes: usize, answers: &mut VecDeque<(u64, u64)>, now: u64) -> bool {
        self.read += bytes as u64;
        self.unheeded += bytes;
        (self.moved, self.heard) = (now, now);
        let mut ended = false;
        while let Some((asked, _)) = answers.front().copied().filter(|(_, said)| *said <= self.read && !self.spoilt) {
            answers.pop_front();
            ended = true;
            while self.unanswered.front().is_some_and(|(_, end)| *end <= asked) {
                self.unanswered.pop_front();
            }
        }
        self.welcome |= ended;
        if ended || self.unheeded >= PROGRESS {
            self.unheeded = 0;
            self.progress = now;
        }
        ended
    }

    pub(crate) const fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// The core does not want to read it: the silence is the core's own.
    pub(crate) const fn pause(&mut self, now: u64) {
        (self.moved, self.heard, self.progress) = (now, now, now);
    }

    /// Notes whether an answer has been owed, without progress, for so long.
    pub(crate) fn is_late(&mut self, patience: u64, now: u64) -> bool {
        let owed = self.unanswered.front().map(|(at, _)| *at);
        let since = if self.welcome { owed } else { Some(self.progress) };
        let late = self.connected && since.is_some_and(|since| since.max(self.progress) + patience <= now);
        if late {
            self.late = Some(now);
        }
        late
    }

    /// Whether its silence counts once more: once in each time-out.
    pub(crate) fn is_struck(&mut self, patience: u64, now: u64) -> bool {
        let again = self.struck.is_none_or(|struck| struck + patience <= now);
        let struck = again && self.was_late(now) && self.heard + patience <= now;
        if struck {
            self.struck = Some(now);
        }
        struck
    }

    /// Whether it was asked for so long ago, and has answered nothing.
    pub(crate) const fn is_unwelcome(&self, patience: u64, now: u64) -> bool {
        !self.welcome && self.begun + patience <= now
    }

    /// Whether the connection may be given up: it never answered, was silent or dripped for very
    /// long, or took nothing of what it was given in part.
    pub(crate) const fn is_hopeless(&self, patience: u64, left: bool, now: u64) -> bool {
        let silent = self.heard + STRIKES * patience <= now;
        let drips = self.progress + DRIPS * patience <= now;
        !self.welcome || silent || drips || left && self.wrote + patience <= now
    }

    /// Whether it was found late at this very moment.
    pub(crate) fn was_late(&self, now: u64) -> bool {
        self.late == Some(now)
    }

    /// Whether nothing has moved that would let a request wait longer than so long to be sent.
    pub(crate) const fn is_stuck(&self, patience: u64, now: u64) -> bool {
        let moved = if self.wrote > self.progress { self.wrote } else { self.progress };
        self.connected && moved + patience <= now
    }

    /// Whether no byte has moved for so long.
    pub(crate) const fn is_silent(&self, patience: u64, now: u64) -> bool {
        self.moved + patience <= now
    }
}
