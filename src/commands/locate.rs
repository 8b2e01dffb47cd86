//! `slipring locate KEY…`: which node owns each key.

use std::io::{self, BufRead, BufWriter, IsTerminal as _, Write};

use super::keys::Refused;
use super::{CommandError, counted, keys};
use crate::phrase;
use crate::protocol::is_key;
use crate::routing::{MAX_KEY, Topology};

/// Bytes of output that are gathered.
const OUTPUT: usize = 64 << 10;

/// How keys and their nodes are written.
#[derive(Debug)]
struct Writer<'a, W: Write> {
    topology: &'a Topology,
    json: bool,
    /// What is written of each node, by its index.
    nodes: Vec<String>,
    out: BufWriter<W>,
}

/// Tells the node of each key, or of those on standard input, one a line, when there are none.
///
/// # Errors
/// When there is a key that no client could store, after the others are told; when nothing can be read or written.
pub fn run(topology: &Topology, keys: &[String], json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let mut writer = Writer::new(topology, json, out);
    let mut refused = Refused::default();
    if keys.is_empty() {
        let input = io::stdin();
        if input.is_terminal() {
            return Err(CommandError::NoKeys);
        }
        writer.lines(&mut input.lock(), &mut refused)?;
    } else {
        if !json {
            writer.headline()?;
        }
        let spaced: Vec<&String> = keys.iter().filter(|key| key.len() <= MAX_KEY && !is_key(key.as_bytes())).collect();
        if let Some(first) = spaced.iter().find(|key| !key.is_empty()) {
            keys::warn_of_spaces(spaced.len(), &phrase::quoted(&keys::show(first.as_bytes())));
        }
        for key in keys {
            match keys::check(key.as_bytes()) {
                Ok(()) => writer.write(key.as_bytes())?,
                Err(problem) => refused.add(CommandError::Key(keys::show(key.as_bytes()), problem)),
            }
        }
    }
    writer.out.flush()?;
    refused.end()
}

// === impl Writer ===

impl<'a, W: Write> Writer<'a, W> {
    fn new(topology: &'a Topology, json: bool, out: W) -> Self {
        let nodes = topology.nodes().iter();
        // The address, for programs; the identity, for people.
        let nodes = match json {
            true => nodes.map(|node| serde_json::Value::from(node.address()).to_string()).collect(),
            false => nodes.map(|node| node.name.to_string()).collect(),
        };
        Self { topology, json, nodes, out: BufWriter::with_capacity(OUTPUT, out) }
    }

    fn headline(&mut self) -> io::Result<()> {
        let (name, count) = (self.topology.name(), self.topology.nodes().len());
        write!(self.out, "ring {name} with {}", counted(count, "node"))?;
        if !self.topology.placement().is_by_hash() {
            write!(self.out, ", placement {}", self.topology.placement())?;
        }
        self.out.write_all(b"\n")
    }

    fn lines(&mut self, input: &mut impl BufRead, refused: &mut Refused) -> Result<(), CommandError> {
        let refuse = |error| {
            refused.add(error);
            Ok(())
        };
        keys::each_line(input, |key| Ok(self.write(key)?), refuse)
    }

    fn write(&mut self, key: &[u8]) -> io::Result<()> {
        let node = self.nodes.get(usize::from(self.topology.route(key).0)).map_or("-", |node| node);
        if self.json {
            self.out.write_all(b"{\"key\":")?;
            serde_json::to_writer(&mut self.out, &String::from_utf8_lossy(key))?;
            writeln!(self.out, ",\"node\":{node}}}")
        } else {
            self.out.write_all(key)?;
            writeln!(self.out, "  {node}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::routing::Node;

    fn located(json: bool, input: &str) -> Result<String, String> {
        let nodes = vec![Arc::new(Node::new("10.0.0.2", 11211, 1).named("a"))];
        let topology = Topology::new(1, nodes).unwrap();
        let mut out = Vec::new();
        let mut writer = Writer::new(&topology, json, &mut out);
        let mut refused = Refused::default();
        writer.lines(&mut input.as_bytes(), &mut refused).map_err(|error| error.to_string())?;
        drop(writer);
        let out = String::from_utf8(out).unwrap();
        refused.end().map(|()| out.clone()).map_err(|error| format!("{out}{error}"))
    }

    #[test]
    fn a_line_for_each_line() {
        assert_eq!(located(false, "k\r\nü\nlast").unwrap(), "k  a\nü  a\nlast  a\n");
        let json = located(true, "k\na\"b\n").unwrap();
        assert_eq!(
            json,
            "{\"key\":\"k\",\"node\":\"10.0.0.2:11211\"}\n{\"key\":\"a\\\"b\",\"node\":\"10.0.0.2:11211\"}\n"
        );
    }

    #[test]
    fn what_no_client_can_store_is_an_error_with_its_line() {
        assert_eq!(located(false, "k\n\nx").unwrap(), "k  a\nx  a\n", "an empty line is none");
        assert_eq!(located(false, "k\n \t\nx\n").unwrap_err(), "k  a\nx  a\nline 2: the key is blank");
        let long = "é".repeat(126);
        assert!(located(false, &format!("{long}\n")).unwrap_err().starts_with("line 1: the key has 252 bytes"));
        assert!(located(false, &"é".repeat(125)).is_ok());
    }
}
