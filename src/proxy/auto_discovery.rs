//! Requests that ask who the nodes are (`discovery_answer`: what they are told).

use super::{ClientId, Core};
use crate::metrics::{Kind, Outcome};
use crate::protocol::request::{ReadVerb, Refusal, Request};

/// The key that clients ask for where `config` is not known (ElastiCache before 1.4.14).
const KEY: &[u8] = b"AmazonElastiCache:cluster";

impl Core {
    /// The list of nodes that a client is told, whatever its dialect. Nothing where it is told none.
    pub(super) fn discovery_payload(&self, id: ClientId) -> Option<String> {
        self.shared.settings.discovery_answer.payload(&self.clients.get(id.0)?.ends)
    }

    /// Answers a request that asks who the nodes are. Returns whether it was one.
    #[inline]
    pub(super) fn answers_discovery(&mut self, id: ClientId, request: &Result<Request<'_>, Refusal<'_>>) -> bool {
        match request {
            Ok(Request::Discovery) => {
                self.answer_config(id);
                true
            }
            Ok(Request::Read { verb: ReadVerb::Get, keys })
                if keys.rest().len() >= KEY.len() && keys.rest().trim_ascii() == KEY && keys.into_iter().eq([KEY]) =>
            {
                self.answer_config_key(id)
            }
            _ => false,
        }
    }

    fn answer_config(&mut self, id: ClientId) {
        match self.discovery_payload(id) {
            Some(list) => self.answer_list(id, "CONFIG cluster", &list),
            None => {
                self.count_here(Outcome::ClientError);
                self.answer(id, Kind::Other, b"ERROR\r\n", false);
            }
        }
    }

    /// Returns `false` where the key is one like any other.
    #[cold]
    fn answer_config_key(&mut self, id: ClientId) -> bool {
        let Some(list) = self.discovery_payload(id) else { return false };
        self.answer_list(id, "VALUE AmazonElastiCache:cluster", &list);
        true
    }

    fn answer_list(&mut self, id: ClientId, word: &str, list: &str) {
        let text = format!("{word} 0 {}\r\n{list}\r\nEND\r\n", list.len());
        self.count_here(Outcome::Ok);
        self.answer(id, Kind::Other, text.as_bytes(), false);
    }
}
