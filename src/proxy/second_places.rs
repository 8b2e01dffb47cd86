//! Reads of moved keys: one that is missing at its new place is asked of its old one, for the same place of the reply.
//!
//! What also changes something, or makes a number, is asked of the new place once more when the old has nothing, either: it
//! may have been stored there meanwhile. What creates a value that is missing does so only then.

use super::handoff::Plan;
use super::ids::{Places, Stage};
use super::old_places::TWO_PLACES;
use super::upstream::group::Member;
use super::upstream::key_of;
use super::{ClientId, Core, NodeId};
use crate::metrics::Reason;
use crate::protocol::form::Form;
use crate::protocol::meta::reply::say;
use crate::protocol::meta::request::Verb;
use crate::protocol::request::{Keys, ReadVerb};
use crate::protocol::uniques;
use crate::routing::OldNode;

/// Who asks for a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub(super) client: ClientId,
    pub(super) seq: u32,
    pub(super) place: u32,
    pub(super) stage: Stage,
}

/// What became of a key that is missing where it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onward {
    /// It is asked for at its next place.
    Asked,
    /// It is missing.
    Nowhere,
    /// Its next place cannot be asked, and the read has the error of that.
    Failed,
}

impl Member {
    /// Who asks for one of its keys, at a place of its request.
    pub(super) const fn reader(&self, place: u32) -> Reader {
        Reader { client: self.client, seq: self.seq, place, stage: self.stage }
    }
}

impl ReadVerb {
    /// Whether its requests take steps that its client's next one for the key waits for.
    pub(super) const fn takes_steps(self) -> bool {
        self.writes() || self.counts()
    }

    /// Whether it changes something; `text` is the key, with its flags.
    fn changes(self, text: &[u8]) -> bool {
        match self {
            Self::Get | Self::Gets => false,
            Self::Gat(_) | Self::Gats(_) => true,
            Self::Meta { .. } => self.takes_steps() || Keys::new(text).skip(1).any(|flag| flag.first() == Some(&b'T')),
        }
    }
}

/// A meta command without its CRLF; `text` is its key, with its flags.
fn meta_line(verb: Verb, text: &[u8]) -> Vec<u8> {
    [verb.word().as_bytes(), b" ", text].concat()
}

/// A command that is done for a unique of the new place, as the old place is asked it: for a unique that no value has. Where
/// the key is, it is answered that it exists, and nothing is done. None where it names no unique.
fn for_no_unique(verb: ReadVerb, text: &[u8]) -> Option<Vec<u8>> {
    let ReadVerb::Meta { verb, .. } = verb else { return None };
    let line = meta_line(verb, text);
    uniques::asked_for(&line)?;
    let line = uniques::with(&line, u64::MAX);
    Some(line.get(verb.word().len() + 1..)?.strip_suffix(b"\r\n")?.to_vec())
}

impl Core {
    /// Whether a meta command that may be answered by a value has to wait for earlier ones of its client.
    pub(super) fn stalls_on_moved_read(&mut self, id: ClientId, verb: ReadVerb, key: &[u8], hash: u64) -> bool {
        if verb.takes_steps() { self.stalls_on_moves(id, key, hash, true) } else { self.stalls_on_steps(id, hash) }
    }

    /// A meta command that may be answered by a value, given as its `line`: answers one that names a unique that is not of
    /// its key's new place. `tail` as in [`Replies::set_tail`](super::client::replies::Replies::set_tail). Returns whether it
    /// has.
    pub(super) fn is_of_old(
        &mut self,
        id: ClientId,
        verb: ReadVerb,
        hash: u64,
        line: &[u8],
        form: Form,
        tail: &[u8],
    ) -> bool {
        let Some((plan, _)) = uniques::asked_for(line).and_then(|_| self.plan_of(hash, line)) else { return false };
        // One that creates would do so beside what the old place has.
        let creates = uniques::without_creation(line, 2).is_some();
        let text = match plan {
            plan if plan.is_of_new() && !creates => return false,
            Plan::Exists => String::from_utf8_lossy(&say(line, true, b"EX", b"EXISTS")).into_owned(),
            _ => TWO_PLACES.to_owned(),
        };
        self.shared.cells().command(verb.into());
        self.shared.cells().soft(verb.into(), Reason::NodeError, 1, false);
        if let Some(seq) = self.owe_read(id, verb, form, tail) {
            self.read_unasked(id, seq, Some(&text));
        }
        true
    }

    /// A read for a key of whose old place nothing is read any more: what it creates or, once an invalidation was lost there,
    /// changes at the new place shall leave nothing older at the old, which other sidecars may still read. `text` is the key,
    /// with its flags.
    #[inline]
    pub(super) fn invalidate_beside<'key>(
        &mut self,
        id: ClientId,
        verb: ReadVerb,
        text: &[u8],
        hash: u64,
        key: impl Fn() -> &'key [u8],
    ) {
        if !self.old_ring.is_empty() && verb.changes(text) {
            self.invalidate_unread(id, verb, text, hash, key());
        }
    }

    #[cold]
    fn invalidate_unread(&mut self, id: ClientId, verb: ReadVerb, text: &[u8], hash: u64, key: &[u8]) {
        let Some(places) = self.places(hash, || key).filter(|places| !self.may_read_old(places.index)) else { return };
        let creates = matches!(verb, ReadVerb::Meta { .. }) && uniques::without_creation(text, 1).is_some();
        let before = self.topology.before();
        let has_lost = before.and_then(|before| before.node(places.index)).is_some_and(OldNode::has_reads_ended);
        if creates || has_lost {
            self.invalidate_old(id, key, hash, places);
        }
    }

    /// A meta command begins at a stage. Returns its text where it is not to create what is missing yet.
    pub(super) fn begin_stages(
        &mut self,
        id: ClientId,
        seq: u32,
        verb: ReadVerb,
        text: &[u8],
        hash: u64,
        stage: Stage,
    ) -> Option<Vec<u8>> {
        let Self { clients, shared, .. } = self;
        let client = clients.get_mut(id.0).filter(|_| stage != Stage::Plain && verb.takes_steps())?;
        client.moves.hold(hash);
        let bare = uniques::without_creation(text, 1);
        // At the old place it is asked in other words.
        if bare.is_some() || for_no_unique(verb, text).is_some() {
            client.moves.keep(seq, text);
        }
        client.recharge(shared);
        bare
    }

    /// One that takes steps ends before its first.
    pub(super) fn end_stages(&mut self, id: ClientId, seq: u32, hash: u64) {
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(id.0) {
            client.moves.take(seq);
            client.steps_over(id, hash, shared);
            client.recharge(shared);
        }
    }

    /// A key was missing at `from`, where a reader asked for it: asks for it at its next place.
    #[cold]
    pub(super) fn ask_on(&mut self, from: NodeId, verb: ReadVerb, text: &[u8], hash: u64, reader: Reader) -> Onward {
        let Reader { client: id, seq, place, stage } = reader;
        if stage == Stage::Old
            && let [_, misses, _] = &self.shared.cells().before_reads
        {
            misses.add(1);
        }
        if stage != Stage::New && (stage != Stage::Old || !verb.changes(text)) {
            return Onward::Nowhere;
        }
        let line;
        let key = match verb {
            ReadVerb::Meta { verb, .. } if self.topology.needs_key() => {
                line = meta_line(verb, text);
                key_of(&line)
            }
            _ => text.into(),
        };
        let owner = self.owner(hash, || &key);
        let places = self.places_beside(owner, hash, || &key).filter(|places| self.may_read_old(places.index));
        let Some(client) = self.clients.get_mut(id.0) else { return Onward::Nowhere };
        let lane = client.lane;
        let (node, stage, kept) = match (stage, places) {
            (Stage::New, Some(Places { old, .. })) if owner == from => (old, Stage::Old, None),
            // Nobody reads there any more: then it is done as if there were no other place.
            (Stage::New, _) => match client.moves.take(seq) {
                Some(kept) => (owner, Stage::Again, Some(kept)),
                None => return Onward::Nowhere,
            },
            _ => (owner, Stage::Again, client.moves.take(seq)),
        };
        let text = kept.as_deref().unwrap_or(text);
        let whether = if stage == Stage::Old { for_no_unique(verb, text) } else { None };
        let text = whether.as_deref().unwrap_or(text);
        let up = match self.lane_that_says(node, lane, verb, text) {
            Ok(up) => up,
            Err(refused) => {
                if stage == Stage::Old
                    && let [.., errors] = &self.shared.cells().before_reads
                {
                    errors.add(1);
                }
                return self.fail_onward(verb, reader, refused);
            }
        };
        self.ask(id, up, seq, place, verb, text, hash, stage);
        Onward::Asked
    }

    /// The next place of a key cannot be asked.
    fn fail_onward(&mut self, verb: ReadVerb, reader: Reader, (reason, text): (Reason, String)) -> Onward {
        if self.shared.may_miss(verb) {
            return Onward::Nowhere;
        }
        self.shared.cells().soft(verb.into(), reason, 1, false);
        let Self { clients, shared, .. } = self;
        if let Some(client) = clients.get_mut(reader.client.0) {
            client.replies.fail(reader.seq, text.as_bytes(), &mut shared.pool);
        }
        Onward::Failed
    }
}
