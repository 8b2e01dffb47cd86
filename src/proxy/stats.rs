//! placeholder until merged
#![allow(missing_docs)]
#[derive(Debug)]
pub struct NodeReport<'a> {
    pub name: &'a str,
    pub state: &'static str,
    pub stats: &'a [u8],
}
#[derive(Debug, Default)]
pub struct Sidecar {
    pub pid: u64,
    pub uptime_seconds: u64,
    pub unix_time: u64,
    pub version: String,
    pub curr_connections: u64,
    pub total_connections: u64,
    pub rejected_connections: u64,
    pub cmd_get: u64,
    pub cmd_set: u64,
    pub cmd_touch: u64,
    pub cmd_flush: u64,
    pub get_hits: u64,
    pub get_misses: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub threads: u64,
    pub max_connections: u64,
}
pub fn general(out: &mut Vec<u8>, _: &Sidecar, _: &[NodeReport<'_>]) {
    out.extend_from_slice(b"END\r\n");
}
pub fn nodes(out: &mut Vec<u8>, _: &[NodeReport<'_>]) {
    out.extend_from_slice(b"END\r\n");
}
pub fn sum(out: &mut Vec<u8>, _: &[NodeReport<'_>]) {
    out.extend_from_slice(b"END\r\n");
}
pub fn items(out: &mut Vec<u8>, _: &[NodeReport<'_>]) {
    out.extend_from_slice(b"END\r\n");
}
pub fn slabs(out: &mut Vec<u8>, _: &[NodeReport<'_>]) {
    out.extend_from_slice(b"END\r\n");
}
pub fn settings(out: &mut Vec<u8>, _: &Sidecar, _: &[NodeReport<'_>]) {
    out.extend_from_slice(b"END\r\n");
}
