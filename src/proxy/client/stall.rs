//! What a client waits for, what it may hold meanwhile, and which clock ends it.

/// Why a client's bytes are not looked at: it waits. Who waits holds nothing that others wait for, and each wait has a
/// clock (`waits.rs`, and where said). A request that is not carried out is a miss for a read, and `SERVER_ERROR` for
/// what else has an answer.
///
/// | state | waits for | may hold | what ends it, and what the client is told |
/// |---|---|---|---|
/// | `Output`, `FewReplies` | its own replies: to come, and to be taken | its replies | to come: the clocks of their lanes (`clocks.rs`). To be taken: it is its own time, until the memory is tight; then it is closed after 1 s without a byte (`memory.rs`) |
/// | `AllLanes` | memory for a request to every node, or that nothing of it is on lanes | its replies | the clocks of the lanes |
/// | `Keys` | replies to keys of its long line | the line, and replies to earlier keys of it | as `Output` |
/// | `Turn` | nothing: others have their turn first | what it held before | the next round of the worker |
/// | `Ring` | the first ring | nothing | it has come; or the queue time-out, once for each client: goes on, and is answered as where a node is down |
/// | `Lane` | room on a lane; for a meta command also that the lane has said its version | nothing; in the middle of a streamed body its own lane | the lane's clocks. While the lane moves nothing for the queue time-out: the request is not carried out, unless nobody waits for its answer. A streamed body: see below |
/// | `LaneChange` | replies to what it asked for the same key on another lane | nothing, or the body that is to be sent | that lane's clocks. While that lane moves nothing for the request and the queue time-out: the request is not carried out, unless nobody waits for its answer |
/// | `Moves` | steps of its earlier requests for the key, or reads of moved keys, while a ring before is declared (`client/moves.rs`) | nothing, or the body that is to be sent | the clocks of their lanes; there are at most five steps of each |
/// | `LostWrite` | the time in which a write of it that was lost on a lane we gave up may still be carried out | nothing, or the body that is to be sent | the connect time-out; then it goes on (`routes.rs`) |
/// | `OwnLane` | a lane of its own for a large body | nothing | the queue time-out, while no lane is given to anybody and no holder moves 16 KiB: not carried out (`own_lanes.rs`) |
/// | `Retry` | values that found no room, each by a lane of its own | values behind them in order | the same: the value is a miss |
/// | `Memory`, a body | room for it | nothing | 5 s in which nobody got room: not carried out, unless nobody waits for its answer (`memory.rs`) |
/// | `Memory`, a read | room for its values | nothing | the queue time-out in which nobody got room: goes on, and asks for each by a lane of its own |
///
/// A client that has sent its end waits no longer than the queue time-out for what others have: then its request is not
/// carried out, nor what lies behind it, and it is closed when it has been answered. It cannot be told from one that has
/// closed, so it is closed, too, when it takes nothing of its last replies for 5 s, or for the queue time-out if that is
/// longer. One that has said `quit` and has not sent its end has a minute for that.
///
/// What others wait for is held by clients that move: who holds a lane of its own, or room for a body, that others wait
/// for is closed when it moves less than 64 KiB in 5 s, reading or writing (`memory.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Stall {
    None,
    /// It has too many replies, or too large ones, waiting.
    Output,
    /// Until few replies wait: its next request costs more than others.
    FewReplies,
    /// Until there is room for a request to every node.
    AllLanes,
    /// Until enough keys of its long line are answered.
    Keys,
    /// Until others had their turn: what it asks for is too much work for one step.
    Turn,
    /// No ring is known yet.
    Ring,
    /// A lane it needs is full.
    Lane,
    /// Something of it for the same key is under way on another lane of the node.
    LaneChange,
    /// An earlier request of it for a key that has moved takes further steps.
    Moves,
    /// A write of it on a connection that was given up may still be carried out.
    LostWrite,
    /// Until it gets a lane of its own for a body.
    OwnLane,
    /// Until its values that found no room have been asked for again.
    Retry,
    /// Until there is room for so many bytes: of a body, or of large values it asks for.
    Memory {
        bytes: usize,
        body: bool,
    },
    /// It has got what it waited for, and goes on in its turn.
    Granted,
}
