//! How a request is said to its node.

use crate::protocol::binary::meta;
use crate::proxy::buffer::OutBuf;
use crate::proxy::shared::Shared;

/// Queues a request: its line, or the packet that says the same.
#[inline]
pub(super) fn say(line: &[u8], is_binary: bool, out: &mut OutBuf, shared: &mut Shared) {
    if is_binary {
        say_in_packet(line, out, shared);
    } else {
        out.append(line, &mut shared.pool);
    }
}

fn say_in_packet(line: &[u8], out: &mut OutBuf, shared: &mut Shared) {
    let asked = meta::Asked::read(line);
    debug_assert!(asked.is_some(), "no packet says {:?}", String::from_utf8_lossy(line));
    let mut packet = shared.pool.take();
    if let Some(asked) = asked {
        asked.write(&mut packet);
    }
    out.append(&packet, &mut shared.pool);
    shared.pool.put(packet);
}
