//! The closed sets that labels are taken from, and the words that show them.

use crate::protocol::command::Command;

/// Why something was answered without its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No ring is known yet.
    NoRing,
    /// The node is down.
    Down,
    /// The connection could not be made.
    Connect,
    /// The connection was lost.
    Lost,
    /// The node did not answer in time.
    Timeout,
    /// The node's connection did not take the request in time; it was not sent.
    Queue,
    /// The node answered out of step.
    Desync,
    /// The node answered an error to a read of several clients or nodes.
    NodeError,
    /// There was no memory for the value.
    Memory,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::NoRing,
        Self::Down,
        Self::Connect,
        Self::Lost,
        Self::Timeout,
        Self::Queue,
        Self::Desync,
        Self::NodeError,
        Self::Memory,
    ];

    /// The label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoRing => "no_ring",
            Self::Down => "down",
            Self::Connect => "connect",
            Self::Lost => "lost",
            Self::Timeout => "timeout",
            Self::Queue => "queue",
            Self::Desync => "desync",
            Self::NodeError => "node_error",
            Self::Memory => "memory",
        }
    }
}

/// How a request of a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A key that was asked for was there.
    Hit,
    /// It was not.
    Miss,
    /// `STORED`
    Stored,
    /// `NOT_STORED`
    NotStored,
    /// `EXISTS`: the value had changed.
    Exists,
    /// `NOT_FOUND`
    NotFound,
    /// Any other success.
    Ok,
    /// `CLIENT_ERROR` or `ERROR`
    ClientError,
    /// A node's `SERVER_ERROR`.
    ServerError,
    /// A miss that is the proxy's answer, for the node could not be asked.
    SoftMiss,
    /// An error that is the proxy's answer.
    SoftError,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Hit,
        Self::Miss,
        Self::Stored,
        Self::NotStored,
        Self::Exists,
        Self::NotFound,
        Self::Ok,
        Self::ClientError,
        Self::ServerError,
        Self::SoftMiss,
        Self::SoftError,
    ];

    /// The label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stored => "stored",
            Self::NotStored => "not_stored",
            Self::Exists => "exists",
            Self::NotFound => "not_found",
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::SoftMiss => "soft_miss",
            Self::SoftError => "soft_error",
        }
    }
}

/// Why a client is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Too much waits for it.
    Output,
    /// A lane it needs is full.
    Lane,
    /// It needs a bulk lane.
    Bulk,
    /// There is no room for its body.
    Memory,
    /// No ring is known yet.
    Ring,
}

impl Wait {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Output, Self::Lane, Self::Bulk, Self::Memory, Self::Ring];

    /// The label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Lane => "lane",
            Self::Bulk => "bulk",
            Self::Memory => "memory",
            Self::Ring => "ring",
        }
    }
}

/// How a request to a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOutcome {
    /// It was answered.
    Ok,
    /// It was answered by an error line.
    Error,
    /// It was not answered in time, or never sent.
    Timeout,
    /// Its connection was lost.
    Lost,
}

impl NodeOutcome {
    /// The labels, in the order of the numbers.
    pub const WORDS: [&'static str; 4] = ["ok", "error", "timeout", "lost"];
}

/// Commands that take alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reads, `mg` among them.
    Get,
    /// The six that store, and `ms`.
    Store,
    /// `delete` and `md`
    Delete,
    /// `incr`, `decr` and `ma`
    Arith,
    /// `touch`
    Touch,
    /// The rest.
    Other,
}

impl Kind {
    /// The labels, in the order of the numbers.
    pub const WORDS: [&'static str; 6] = ["get", "store", "delete", "arith", "touch", "other"];
}

impl From<Command> for Kind {
    fn from(command: Command) -> Self {
        match command {
            Command::Get | Command::Gets | Command::Gat | Command::Gats | Command::MetaGet => Self::Get,
            Command::Set
            | Command::Add
            | Command::Replace
            | Command::Append
            | Command::Prepend
            | Command::Cas
            | Command::MetaSet => Self::Store,
            Command::Delete | Command::MetaDelete => Self::Delete,
            Command::Incr | Command::Decr | Command::MetaArithmetic => Self::Arith,
            Command::Touch => Self::Touch,
            Command::MetaDebug | Command::FlushAll | Command::Stats | Command::Other => Self::Other,
        }
    }
}

/// Why a client connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client was done: it sent its end, or `quit`.
    Done,
    /// The connection broke.
    Reset,
    /// The extent of what the client sent cannot be known, or it speaks another protocol.
    Protocol,
    /// It did not read its replies.
    NotReading,
    /// It began a body and did not go on.
    BodyStalled,
    /// A value that had begun could not be completed.
    ValueLost,
}

impl CloseReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Reset, Self::Protocol, Self::NotReading, Self::BodyStalled, Self::ValueLost];

    /// The label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::NotReading => "not_reading",
            Self::BodyStalled => "body_stalled",
            Self::ValueLost => "value_lost",
        }
    }
}

/// How a worker sees a node. The node's reported state is the worst of the workers'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Answers.
    Up,
    /// Answers, but not on all the connections it should have: some could not be made. Requests go by the others.
    Degraded,
    /// The first connection is on its way; requests wait for it.
    #[default]
    Connecting,
    /// It has answered once since it was down; requests are still answered by the proxy.
    Probing,
    /// Requests are answered by the proxy until it has answered twice.
    Down,
}

impl NodeState {
    /// All of them, from the best to the worst.
    pub const ALL: [Self; 5] = [Self::Up, Self::Degraded, Self::Connecting, Self::Probing, Self::Down];

    /// Whether it has that state because connections to it failed.
    #[must_use]
    pub const fn has_cause(self) -> bool {
        matches!(self, Self::Degraded | Self::Probing | Self::Down)
    }

    /// Whether requests are sent to it that it answers.
    #[must_use]
    pub const fn is_serving(self) -> bool {
        matches!(self, Self::Up | Self::Degraded)
    }

    /// The word shown to people and programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Connecting => "connecting",
            Self::Probing => "probing",
            Self::Down => "down",
        }
    }
}
