//! The answer to `stats conns`: the clients of this worker, in memcached's words.

use std::time::Duration;

use super::client::{self, Client, Reading, Stall};
use super::stats::{append_end, append_stat};
use super::{ClientId, Core};

/// Most connections that are listed: an answer of so many is 150 KB.
const MOST: usize = 1000;

impl Core {
    /// The clients of this worker, the one that asks included.
    pub(super) fn conns_lines(&self, asks: ClientId) -> Vec<u8> {
        let mut out = Vec::new();
        let asking = self.clients.get(asks.0).map(|client| (asks, client));
        let others = self.clients.iter().map(|(key, client)| (ClientId(key), client)).filter(|(id, _)| *id != asks);
        for (id, client) in asking.into_iter().chain(others).take(MOST) {
            let mut line = |field: &str, value: &str| {
                let name = format!("{}:{field}", id.index());
                append_stat(&mut out, name.as_bytes(), value.as_bytes());
            };
            let silent_for = Duration::from_micros(self.shared.now.0.saturating_sub(client.last_read_at.0));
            line("addr", &client.ends.shown_peer().to_string());
            line("listen_addr", &client.ends.shown_local().to_string());
            line("state", if id == asks { "conn_parse_cmd" } else { state(client) });
            line("secs_since_last_cmd", &silent_for.as_secs().to_string());
        }
        append_end(&mut out);
        out
    }
}

/// What memcached calls the state of such a connection.
fn state(client: &Client) -> &'static str {
    match client.reading {
        _ if client.blocked => "conn_mwrite",
        _ if client.input != client::Input::Open => "conn_closing",
        Reading::Opening => "conn_new_cmd",
        Reading::Body(_) | Reading::AwaitLane(_) | Reading::Stream { .. } => "conn_nread",
        Reading::Swallow(_) => "conn_swallow",
        Reading::Line | Reading::Keys(_) if client.stall != Stall::None || client.in_flight > 0 => "conn_io_queue",
        Reading::Line | Reading::Keys(_) => "conn_read",
    }
}
