//! A request on a lane: what waits for its reply.

use super::Asked;
use super::group::{Group, Member};
use crate::protocol::command::Command;
use crate::protocol::reply::End;
use crate::proxy::ids::{ClientId, HandoffId, Part};

/// A step of a request for a moved key.
#[derive(Debug)]
pub(in crate::proxy) struct Step {
    /// Whose request it is, and its slot.
    pub(in crate::proxy) client: ClientId,
    pub(in crate::proxy) seq: Option<u32>,
    pub(in crate::proxy) handoff: HandoffId,
    pub(in crate::proxy) part: Part,
    pub(in crate::proxy) command: Command,
    pub(in crate::proxy) asked: Asked,
    pub(in crate::proxy) expired: bool,
    /// It is made by a meta command.
    pub(in crate::proxy) meta: bool,
}

/// A request whose reply has not come. One that `expired` was answered here.
#[derive(Debug)]
pub(in crate::proxy) enum Entry {
    /// Our own first request on every connection.
    Version,
    /// A read, perhaps of several clients.
    Group(Box<Group>),
    /// A request with a reply of one line; `seq` is `None` for `noreply`; `meta`: it was made by a meta command.
    Single { client: ClientId, seq: Option<u32>, command: Command, asked: Asked, expired: bool, meta: bool },
    /// A step of a request for a moved key. In a box: there are few, and the others stay small.
    Step(Box<Step>),
    /// A node's part of a fan-out; `seq` is `None` for `noreply`.
    Gather { client: ClientId, seq: Option<u32>, part: usize, end: End, command: Command, expired: bool },
}

impl Entry {
    /// The line of the meta command that was asked by a packet.
    pub(in crate::proxy) fn line(&self) -> Option<&[u8]> {
        match self {
            Self::Group(group) => Some(group.line()),
            Self::Single { asked: Asked::Line { line, .. }, .. } => Some(line),
            Self::Step(step) => match &step.asked {
                Asked::Line { line, .. } => Some(line),
                _ => None,
            },
            _ => None,
        }
    }

    /// Every client that waits for this entry, as often as it counts in `in_flight`.
    pub(in crate::proxy) fn clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        let (single, members) = self.parties();
        single.into_iter().chain(members.iter().map(|member| member.client)).filter(|client| *client != ClientId::NONE)
    }

    /// Whether it was answered here, and only its reply is awaited, to be eaten.
    pub(in crate::proxy) fn is_expired(&self) -> bool {
        match self {
            Self::Version => false,
            Self::Group(group) => group.expired,
            Self::Single { expired, .. } | Self::Gather { expired, .. } => *expired,
            Self::Step(step) => step.expired,
        }
    }

    /// Whether it may change what a node holds.
    pub(in crate::proxy) fn writes(&self) -> bool {
        match self {
            Self::Version => false,
            Self::Group(group) => group.verb.writes(),
            Self::Single { .. } | Self::Gather { .. } | Self::Step(_) => true,
        }
    }

    /// Whether somebody waits for the answer.
    pub(in crate::proxy) fn is_awaited(&self) -> bool {
        match self {
            Self::Version => false,
            Self::Group(group) => group.members.iter().any(|member| !member.done),
            Self::Single { seq, expired, .. } | Self::Gather { seq, expired, .. } => seq.is_some() && !expired,
            // What follows from it waits, if nobody else does.
            Self::Step(step) => !step.expired,
        }
    }

    fn parties(&self) -> (Option<ClientId>, &[Member]) {
        match self {
            Self::Version => (None, &[]),
            Self::Group(group) => (None, &group.members),
            Self::Single { client, .. } | Self::Gather { client, .. } => (Some(*client), &[]),
            Self::Step(step) => (Some(step.client), &[]),
        }
    }
}
