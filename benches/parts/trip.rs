//! Whole trips through the core, without a socket: what a client asks, what each node gets and answers, what comes back.
//! Every byte is compared.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use slipring::metrics::Cells;
use slipring::proxy::{ClientId, Core, Effect, MAX_SLICES, OutBuf, Settings, UpstreamId};
use slipring::routing::{Node, Topology};
use slipring::time::Tick;

pub(crate) const NOW: Tick = Tick(1);

pub(crate) fn topology(nodes: usize) -> Arc<Topology> {
    ring((1..=nodes).collect())
}

pub(crate) fn ring(hosts: Vec<usize>) -> Arc<Topology> {
    let node = |i| Arc::new(Node::new(&format!("10.0.0.{i}"), 11211, 1));
    Arc::new(Topology::new(1, hosts.into_iter().map(node).collect()).unwrap())
}

/// A core whose connections are made and proven.
pub(crate) struct Proxy {
    pub(crate) core: Core,
    pub(crate) lanes: Vec<UpstreamId>,
    pub(crate) client: ClientId,
    pub(crate) topology: Arc<Topology>,
}

impl Proxy {
    pub(crate) fn new(nodes: usize) -> Self {
        let topology = topology(nodes);
        let cells = Arc::new(Cells::new(1));
        let mut core = Core::new(Arc::clone(&topology), Settings::default(), cells, 0);
        let (lanes, _) = connect(&mut core);
        let client = core.client_connected();
        Self { core, lanes, client, topology }
    }

    /// The whole way, and then the lists of who had something to be written, as the flusher takes them.
    pub(crate) fn round(&mut self, trip: &Trip) {
        self.exchange(trip);
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        self.core.take_dirty(&mut clients, &mut upstreams);
        self.core.reuse_dirty(clients, upstreams);
    }

    /// The client's bytes, what each node gets, what each answers, what comes back.
    pub(crate) fn exchange(&mut self, trip: &Trip) {
        self.core.client_input(self.client, black_box(&trip.request), NOW);
        for (lane, (sent, _)) in self.lanes.iter().zip(&trip.nodes) {
            write_upstream(&mut self.core, *lane, sent);
        }
        for (lane, (_, reply)) in self.lanes.iter().zip(&trip.nodes) {
            self.core.upstream_input(*lane, reply, NOW);
        }
        let mut left = &*trip.answer;
        while let Some(out) = self.core.client_out(self.client).filter(|o| !o.is_empty()) {
            let len = compare(out, &mut left);
            self.core.client_written(self.client, len, NOW);
        }
        assert!(left.is_empty(), "the answer is not whole");
    }
}

/// Makes the connections that are asked for, each proven at once. Gives them, and how many are closed.
pub(crate) fn connect(core: &mut Core) -> (Vec<UpstreamId>, usize) {
    let mut effects = Vec::new();
    core.take_effects(&mut effects);
    let mut lanes = Vec::new();
    let mut closed = 0;
    for effect in effects {
        match effect {
            Effect::Connect(id, _) => {
                core.upstream_connected(id, NOW);
                write_upstream(core, id, b"version\r\n");
                core.upstream_input(id, b"VERSION 1.6.18\r\n", NOW);
                lanes.push(id);
            }
            Effect::CloseUpstream(_) | Effect::ResetUpstream(_) => closed += 1,
            _ => {}
        }
    }
    core.take_dirty(&mut Vec::new(), &mut Vec::new());
    (lanes, closed)
}

pub(crate) fn write_upstream(core: &mut Core, id: UpstreamId, mut expected: &[u8]) {
    while let Some(out) = core.upstream_out(id).filter(|out| !out.is_empty()) {
        let len = compare(out, &mut expected);
        core.upstream_written(id, len, NOW);
    }
    assert!(expected.is_empty(), "the node's request is not whole");
}

/// Takes from `expected` what one write carries; gives its length.
pub(crate) fn compare(out: &OutBuf, expected: &mut &[u8]) -> usize {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let filled = out.slices(&mut slices);
    let mut len = 0;
    for slice in &slices[..filled] {
        let (here, rest) = expected.split_at(slice.len());
        assert!(**slice == *here, "other bytes than expected");
        *expected = rest;
        len += slice.len();
    }
    len
}

/// One exchange, byte for byte.
pub(crate) struct Trip {
    pub(crate) request: Vec<u8>,
    /// What each node gets, and what it answers.
    pub(crate) nodes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) answer: Vec<u8>,
}

pub(crate) fn value(key: &str, len: usize) -> Vec<u8> {
    let head = format!("VALUE {key} 0 {len}\r\n");
    [head.as_bytes(), &vec![b'v'; len], b"\r\n"].concat()
}

pub(crate) fn gets(depth: usize, len: usize) -> Trip {
    let keys: Vec<String> = (0..depth).map(|i| format!("key:{i:08}")).collect();
    let values: Vec<Vec<u8>> = keys.iter().map(|key| value(key, len)).collect();
    let end = b"END\r\n".as_slice();
    Trip {
        request: keys.iter().flat_map(|key| format!("get {key}\r\n").into_bytes()).collect(),
        nodes: vec![(format!("get {}\r\n", keys.join(" ")).into_bytes(), [&values.concat(), end].concat())],
        answer: values.iter().flat_map(|v| [v, end].concat()).collect(),
    }
}

pub(crate) fn set(len: usize) -> Trip {
    let head = format!("set key:00000001 5 60 {len}\r\n");
    let request = [head.as_bytes(), &vec![b'v'; len], b"\r\n"].concat();
    Trip { nodes: vec![(request.clone(), b"STORED\r\n".to_vec())], request, answer: b"STORED\r\n".to_vec() }
}

pub(crate) fn multiget(keys: usize, topology: &Topology) -> Trip {
    let keys: Vec<String> = (0..keys).map(|i| format!("key:{i:08}")).collect();
    let mut nodes = vec![(b"get".to_vec(), Vec::new()); topology.nodes().len()];
    let mut order = Vec::new();
    for key in &keys {
        let node = usize::from(topology.route(key.as_bytes()).0);
        if !order.contains(&node) {
            order.push(node);
        }
        nodes[node].0.extend(format!(" {key}").bytes());
        nodes[node].1.extend(value(key, 100));
    }
    assert_eq!(order.len(), nodes.len(), "each node has a part");
    // In the order of the keys.
    let values: Vec<u8> = keys.iter().flat_map(|key| value(key, 100)).collect();
    for (request, reply) in &mut nodes {
        request.extend_from_slice(b"\r\n");
        reply.extend_from_slice(b"END\r\n");
    }
    Trip { request: format!("get {}\r\n", keys.join(" ")).into_bytes(), nodes, answer: [&*values, b"END\r\n"].concat() }
}

/// A small value from the first node.
pub(crate) fn gets_of_one(proxy: &Proxy) -> Trip {
    let key = (0..).map(|i| format!("warm{i}")).find(|key| proxy.topology.route(key.as_bytes()).0 == 0).unwrap();
    let (request, value) = (format!("get {key}\r\n").into_bytes(), value(&key, 100));
    let reply = [&*value, b"END\r\n"].concat();
    Trip { nodes: vec![(request.clone(), reply.clone())], request, answer: reply }
}
