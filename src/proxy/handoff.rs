//! A request for a key that has moved, while its old place is declared: what its steps are, and what follows from each.
//!
//! Nothing here asks anybody; `steps.rs` carries out what is said here, and reads go another way (`second_places.rs`).
//!
//! | kind | steps |
//! |---|---|
//! | `Set` | the request at the new place; whatever came of it, unless it was refused for what it is, a delete at the old |
//! | `Delete` | at both at the same time |
//! | `OfNew` | for a unique of the new place, there; where it is missing there, a look-up at the old: is it there, it exists; where it is missing there, too, at the new once more |
//! | `DoneIf` | the same; if it was done, a delete at the old |
//! | `Add` | a look-up at the old place; if nothing is there, the request at the new |
//! | `Change` | at the new place; where it is missing there at the old; where it is missing there, too, at the new once more |
//! | `OfOld` | for a unique of the old place: a look-up at the new; where nothing is there, at the old; where it is missing there, a look-up at the new once more; nothing there, either, one that creates does it there |
//! | `Invalidate` | a delete at the old place, beside a read that changes something at the new |
//!
//! Where nothing is read at the old place any more, an older value may have stayed there that others still read. So a `Change`
//! that creates a value then, or is done after an invalidation was lost there, is followed by a delete at the old place, too.
//!
//! A step whose outcome is not known ends the request as an error, and nothing is done twice. An old node whose memory is gone
//! has nothing.

use std::borrow::Cow;
use std::sync::Arc;

use super::client::Target;
use super::ids::{ClientId, NodeId, Part, Places};
use super::upstream::key_of;
use crate::metrics::Reason;
use crate::protocol::command::Command;
use crate::protocol::is_key;
use crate::protocol::meta::reply::say;
use crate::protocol::meta::request as meta;
use crate::protocol::reply::Line;
use crate::protocol::request::Change;
use crate::protocol::uniques::{self, From};
use crate::routing::{Before, NodeIndex, OldNode};

/// What a request for a moved key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Set,
    Delete,
    OfNew,
    DoneIf,
    Add,
    Change,
    OfOld,
    Invalidate,
}

/// What is done with a request for a moved key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Steps(Kind),
    /// It names a unique that nothing has any more.
    Exists,
    /// It cannot be done while its key has two places.
    Refused,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The answer, with its CRLF: it is there, or done, or refused for what is there.
    There(Text),
    /// The answer: nothing is there.
    Missing(Text),
    /// An error line of the node.
    Error(Text),
    /// No answer: why, and what its client is told.
    Lost(Reason, Text),
}

/// What follows from that.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another step is under way.
    Wait,
    Ask(Part),
    Answer(Said),
}

/// One request on its way. It goes on when its client has left.
#[derive(Debug)]
pub(super) struct Handoff {
    pub(super) kind: Kind,
    pub(super) client: ClientId,
    /// The slot of its answer; none where nobody waits for it.
    pub(super) seq: Option<u32>,
    pub(super) target: Target,
    /// Which shared lane of each node its client keeps to.
    pub(super) lane: usize,
    pub(super) new: NodeId,
    pub(super) old: NodeId,
    /// Which of the nodes of the ring before that is.
    pub(super) index: NodeIndex,
    pub(super) before: Arc<Before>,
    /// The request as it is sent to a node that does all of it, its CRLF included.
    pub(super) line: Box<[u8]>,
    /// Its value, where that may be needed more than once, or later; with CRLF.
    pub(super) block: Option<Box<[u8]>>,
    /// What was said first, where that is not the end.
    first: Option<Said>,
    /// What had to be done at the old place was not, or nobody knows.
    pub(super) lost: Option<Reason>,
    /// What was lost was an invalidation.
    pub(super) is_stale: bool,
    /// Bytes of memory charged for it.
    pub(super) held: usize,
}

/// An answer, with its CRLF. Those that are told most are not copied.
pub(super) type Text = Cow<'static, [u8]>;

/// What a line that deletes has besides its key, in either form.
const DELETE_BYTES: usize = 16;

// === impl Plan ===

impl Plan {
    /// Whether the new place alone is asked where the request cannot be kept for another step.
    pub(super) const fn is_of_new(self) -> bool {
        matches!(self, Self::Steps(Kind::OfNew))
    }

    /// Whether the value is needed in more than one step, or later than now. Else it goes on its lane as
    /// it came, or nowhere, where it is answered at once.
    pub(super) const fn keeps_block(self) -> bool {
        matches!(self, Self::Steps(kind) if !matches!(kind, Kind::Set))
    }
}

// === impl Said ===

/// The answer that is `raw`.
fn text_of(raw: &[u8]) -> Text {
    const MOST: [&[u8]; 6] = [b"STORED\r\n", b"DELETED\r\n", b"NOT_FOUND\r\n", b"HD\r\n", b"NF\r\n", b"NOT_STORED\r\n"];
    MOST.into_iter().find(|most| *most == raw).map_or_else(|| raw.to_vec().into(), Cow::Borrowed)
}

impl Said {
    /// A line of one of the commands that change something.
    pub(super) fn of(line: &Line<'_>, raw: &[u8]) -> Self {
        match line {
            Line::Error => Self::Error(text_of(raw)),
            Line::NotFound | Line::NotStored | Line::Nf | Line::Ns | Line::En => Self::Missing(text_of(raw)),
            _ => Self::There(text_of(raw)),
        }
    }

    /// Whether it is not known, or not done.
    const fn is_failure(&self) -> bool {
        matches!(self, Self::Error(_) | Self::Lost(..))
    }

    /// Whether it was refused for what it is, and nothing was done.
    fn is_refused(&self) -> bool {
        matches!(self, Self::Error(line) if line.starts_with(b"CLIENT_ERROR"))
    }

    /// Whether it is done: not refused for another unique.
    fn is_done(&self) -> bool {
        matches!(self, Self::There(line) if !line.starts_with(b"EX"))
    }

    /// The answer with its unique marked as one of an old place.
    pub(super) fn marked(self, tag: u8) -> Self {
        match self {
            Self::There(line) => match uniques::marked(&line, tag) {
                Some(marked) => Self::There(marked.into_owned().into()),
                // It is done, but by a unique that nobody can name: as where a node keeps none.
                None => Self::There(line),
            },
            said => said,
        }
    }
}

// === impl Handoff ===

/// The words of a request's line.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.strip_suffix(b"\r\n").unwrap_or(line).split(|byte| *byte == b' ')
}

/// What is done with a request, given as the line that its node would be sent, for a key whose old place is `index`.
pub(super) fn plan(line: &[u8], before: &Before, index: NodeIndex) -> Plan {
    let is_flushed = before.node(index).is_some_and(OldNode::is_flushed);
    let verb = words(line).next().unwrap_or_default();
    let mode = match verb {
        b"ms" => match meta::parse(line.strip_suffix(b"\r\n").unwrap_or(line), usize::MAX) {
            Ok(request) => Some(request.mode),
            // Its key is longer than a line can have: it goes in packets.
            Err(_) => return Plan::Refused,
        },
        _ => None,
    };
    // What adds does so where nothing is there, whatever unique it names; to what appends a 0 is none.
    let names_one = |unique: &u64| mode != Some(b'E') && (*unique != 0 || matches!(mode, None | Some(b'S' | b'R')));
    if let Some(unique) = uniques::asked_for(line).filter(names_one) {
        let leaves = line.starts_with(b"md ") || before.node(index).is_some_and(OldNode::has_reads_ended);
        return match From::of(unique, before.tag()) {
            From::New if leaves => Plan::Steps(Kind::DoneIf),
            From::New => Plan::Steps(Kind::OfNew),
            From::Old(_) if before.may_read(index) => Plan::Steps(Kind::OfOld),
            From::Old(_) | From::Nowhere => Plan::Exists,
        };
    }
    let kind = match (verb, mode) {
        (b"set", _) | (b"ms", Some(b'S')) => Kind::Set,
        (b"delete" | b"md", _) => Kind::Delete,
        (b"add", _) | (b"ms", Some(b'E')) => {
            if is_flushed {
                Kind::Set
            } else {
                Kind::Add
            }
        }
        (b"replace" | b"append" | b"prepend" | b"incr" | b"decr" | b"touch" | b"ma" | b"ms", _) => Kind::Change,
        _ => return Plan::Refused,
    };
    Plan::Steps(kind)
}

impl Handoff {
    #[expect(clippy::too_many_arguments, reason = "who asks for what, and the two places of it")]
    pub(super) fn new(
        kind: Kind,
        client: ClientId,
        seq: Option<u32>,
        target: Target,
        lane: usize,
        Places { new, old, index }: Places,
        before: Arc<Before>,
        line: &[u8],
        block: Option<Box<[u8]>>,
    ) -> Self {
        let line = line.into();
        Self {
            kind,
            client,
            seq,
            target,
            lane,
            new,
            old,
            index,
            before,
            line,
            block,
            first: None,
            lost: None,
            is_stale: false,
            held: 0,
        }
    }

    /// Bytes of memory held.
    pub(super) fn weight(&self) -> usize {
        let said = match &self.first {
            Some(Said::There(text) | Said::Missing(text) | Said::Error(text) | Said::Lost(_, text)) => text.len(),
            None => 0,
        };
        size_of::<Self>() + self.line.len() + self.block.as_ref().map_or(0, |block| block.len()) + said
    }

    /// The parts that it begins with.
    pub(super) const fn begins_with(kind: Kind) -> &'static [Part] {
        match kind {
            Kind::Set | Kind::OfNew | Kind::DoneIf | Kind::Change => &[Part::New],
            Kind::Invalidate => &[Part::Invalidate],
            Kind::Delete => &[Part::New, Part::Old],
            Kind::Add | Kind::OfOld => &[Part::LookUp],
        }
    }

    /// Where a part is asked.
    pub(super) fn place(&self, part: Part) -> NodeId {
        match (part, self.kind) {
            (Part::New | Part::Again, _) | (Part::LookUp, Kind::OfOld) => self.new,
            (Part::Old | Part::Invalidate | Part::LookUp, _) => self.old,
        }
    }

    /// The line by which a part is asked, but for a look-up; with CRLF.
    pub(super) fn line_of(&self, part: Part) -> Cow<'_, [u8]> {
        let whole = || Cow::Borrowed(&*self.line);
        match (part, self.kind) {
            (Part::New | Part::Old, Kind::Change) | (Part::New, Kind::OfNew | Kind::DoneIf) => {
                self.bare().map_or_else(whole, Cow::Owned)
            }
            // What it makes where nothing is would be at the wrong place.
            (Part::Old, Kind::OfOld) => match uniques::asked_for(&self.line).map(|u| From::of(u, self.before.tag())) {
                Some(From::Old(unique)) => uniques::with(&self.bare().map_or_else(whole, Cow::Owned), unique).into(),
                _ => whole(),
            },
            (Part::Invalidate, _) => {
                let key = key_of(&self.line);
                let mut line = Vec::with_capacity(self.line.len() + DELETE_BYTES);
                if is_key(&key) {
                    Change::Delete.write(&key, &mut line);
                } else {
                    meta::write_delete(&key, &mut line);
                }
                line.into()
            }
            _ => whole(),
        }
    }

    /// What a part is counted as, but for a look-up.
    pub(super) const fn command_of(&self, part: Part) -> Command {
        match part {
            Part::Invalidate => Command::Delete,
            _ => self.target.command,
        }
    }

    /// Whether a part is asked by a meta command that only a node with those knows.
    pub(super) fn is_meta(&self, part: Part) -> bool {
        match part {
            // Both commands of a look-up say as much.
            Part::LookUp => false,
            // A key that a line cannot have is deleted by its encoded form.
            Part::Invalidate => !is_key(&key_of(&self.line)),
            _ => self.target.meta,
        }
    }

    /// What follows from what came of a part. `may_read`: the old place may be read now.
    pub(super) fn next(&mut self, part: Part, said: Said, may_read: bool) -> Next {
        let old = self.before.node(self.index);
        let (is_gone, has_lost) = (old.is_some_and(OldNode::is_gone), old.is_some_and(OldNode::has_reads_ended));
        let is_old = self.place(part) == self.old;
        let said = match said {
            Said::Lost(reason, _) if is_old && is_gone && !matches!(reason, Reason::Timeout | Reason::Queue) => {
                Said::Missing(Text::default())
            }
            said => said,
        };
        match &said {
            // Refused for what it is, nothing was to be done.
            Said::Error(_) if is_old && said.is_refused() && part != Part::Invalidate && self.kind != Kind::Delete => {}
            Said::Error(_) if is_old => self.lost = Some(Reason::NodeError),
            Said::Lost(reason, _) if is_old => self.lost = Some(*reason),
            _ => {}
        }
        match (self.kind, part) {
            // Refused for what it is: as at a node alone, what was there stays.
            (Kind::Set, Part::New) if said.is_refused() => Next::Answer(said),
            (Kind::Set, Part::New) => {
                self.first = Some(said);
                Next::Ask(Part::Invalidate)
            }
            (Kind::OfNew | Kind::DoneIf, Part::New) if may_read && matches!(said, Said::Missing(_)) => {
                Next::Ask(Part::LookUp)
            }
            (Kind::OfNew | Kind::DoneIf, Part::New) if matches!(said, Said::Missing(_)) && self.creates() => {
                Next::Ask(Part::Again)
            }
            (Kind::OfNew | Kind::DoneIf, Part::New | Part::Again) => {
                // What is not known may have been done; and what is made new leaves nothing older.
                let is_stale = match self.kind {
                    Kind::DoneIf => said.is_done() || matches!(said, Said::Lost(..)),
                    _ => said.is_done() && (has_lost || part == Part::Again && !may_read),
                };
                if is_stale {
                    self.first = Some(said);
                    return Next::Ask(Part::Invalidate);
                }
                Next::Answer(said)
            }
            (Kind::OfNew | Kind::DoneIf, Part::LookUp) => match said {
                // Where its readers find it, with another unique.
                Said::There(_) => Next::Answer(self.exists()),
                Said::Missing(_) => Next::Ask(Part::Again),
                failed => Next::Answer(failed),
            },
            (_, Part::Invalidate) => {
                self.is_stale = said.is_failure();
                let first = self.first.take();
                match (first, said) {
                    (Some(first), _) if first.is_failure() => Next::Answer(first),
                    (_, said) if said.is_failure() => Next::Answer(said),
                    (Some(first), _) => Next::Answer(first),
                    (None, said) => Next::Answer(said),
                }
            }
            (Kind::Delete, _) => {
                let Some(first) = self.first.take() else {
                    self.first = Some(said);
                    return Next::Wait;
                };
                let (one, other) = (first, said);
                if let (Said::Error(_), Said::Error(_)) = (&one, &other) {
                    // Refused for what it is: nothing was done at either.
                    self.lost = None;
                }
                self.is_stale = self.lost.is_some();
                Next::Answer(match (one.is_failure(), other.is_failure()) {
                    (true, _) => one,
                    (false, true) => other,
                    _ if matches!(one, Said::There(_)) => one,
                    // Of one that is gone there is no line.
                    _ if matches!(&one, Said::Missing(line) if !line.is_empty())
                        && !matches!(other, Said::There(_)) =>
                    {
                        one
                    }
                    _ => other,
                })
            }
            (Kind::Add, Part::LookUp) => match said {
                Said::There(_) => {
                    Next::Answer(Said::There(say(&self.line, self.target.meta, b"NS", b"NOT_STORED").into()))
                }
                Said::Missing(_) => Next::Ask(Part::New),
                failed => Next::Answer(failed),
            },
            (Kind::Change, Part::New) => match said {
                Said::Missing(line) if may_read => {
                    self.first = Some(Said::Missing(line));
                    Next::Ask(Part::Old)
                }
                Said::Missing(_) if self.creates() => Next::Ask(Part::Again),
                said if said.is_done() && has_lost => {
                    self.first = Some(said);
                    Next::Ask(Part::Invalidate)
                }
                said => Next::Answer(said),
            },
            (Kind::Change, Part::Again) if said.is_done() && !may_read => {
                self.first = Some(said);
                Next::Ask(Part::Invalidate)
            }
            (Kind::Change, Part::Old) => match said {
                Said::Missing(_) => Next::Ask(Part::Again),
                said => Next::Answer(said.marked(self.before.tag())),
            },
            (Kind::OfOld, Part::Old) => match said {
                Said::Missing(_) => {
                    self.first = Some(said);
                    Next::Ask(Part::LookUp)
                }
                said => Next::Answer(said.marked(self.before.tag())),
            },
            (Kind::OfOld, Part::LookUp) => match said {
                // Also before the old place is asked: what one who has not seen the new ring has stored there since would be
                // changed, and nobody would read it.
                Said::There(_) => Next::Answer(self.exists()),
                Said::Missing(_) => match self.first.take() {
                    None => Next::Ask(Part::Old),
                    Some(_) if self.creates() => Next::Ask(Part::Again),
                    // As the old place said it: not all say so alike.
                    Some(Said::Missing(line)) if !line.is_empty() => Next::Answer(Said::Missing(line)),
                    Some(_) => {
                        Next::Answer(Said::Missing(say(&self.line, self.target.meta, b"NF", b"NOT_FOUND").into()))
                    }
                },
                failed => Next::Answer(failed),
            },
            (_, _) => Next::Answer(said),
        }
    }

    /// The answer: it is there, with another unique.
    fn exists(&self) -> Said {
        Said::There(say(&self.line, self.target.meta, b"EX", b"EXISTS").into())
    }

    /// Its line without what makes it create what is missing. None where it creates nothing.
    fn bare(&self) -> Option<Vec<u8>> {
        uniques::without_creation(&self.line, if self.line.starts_with(b"ms ") { 3 } else { 2 })
    }

    /// Whether it makes what is missing.
    fn creates(&self) -> bool {
        self.bare().is_some()
    }
}
