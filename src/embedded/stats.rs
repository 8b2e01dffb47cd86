//! The `stats` of a node, in memcached's names and order; what has no counterpart here is left out
//! or 0.

use std::fmt::Display;
use std::net::SocketAddr;

use super::store::Store;
use super::{MAX_CONNECTIONS, VERSION};

/// The bytes of the one page memcached cuts its memory into.
const PAGE: u64 = 1 << 20;

/// `stats`
pub(super) fn general(out: &mut Vec<u8>, store: &mut Store, now: u64) {
    let sizes = store.sizes();
    let c = store.counters;
    stat(out, "pid", std::process::id());
    stat(out, "uptime", now.saturating_sub(store.started()));
    stat(out, "time", now);
    stat(out, "version", VERSION);
    stat(out, "pointer_size", usize::BITS);
    for (name, value) in [
        ("max_connections", MAX_CONNECTIONS as u64),
        ("curr_connections", c.curr_connections),
        ("total_connections", c.total_connections),
        ("rejected_connections", c.rejected_connections),
        ("connection_structures", c.curr_connections),
        ("cmd_get", c.cmd_get),
        ("cmd_set", c.cmd_set),
        ("cmd_flush", c.cmd_flush),
        ("cmd_touch", c.cmd_touch),
        ("cmd_meta", c.cmd_meta),
        ("get_hits", c.get_hits),
        ("get_misses", c.get_misses),
        ("get_expired", c.get_expired),
        ("get_flushed", c.get_flushed),
        ("delete_misses", c.delete_misses),
        ("delete_hits", c.delete_hits),
        ("incr_misses", c.incr_misses),
        ("incr_hits", c.incr_hits),
        ("decr_misses", c.decr_misses),
        ("decr_hits", c.decr_hits),
        ("cas_misses", c.cas_misses),
        ("cas_hits", c.cas_hits),
        ("cas_badval", c.cas_badval),
        ("touch_hits", c.touch_hits),
        ("touch_misses", c.touch_misses),
        ("store_too_large", c.store_too_large),
        ("store_no_memory", 0),
        ("auth_cmds", 0),
        ("auth_errors", 0),
        ("bytes_read", c.bytes_read),
        ("bytes_written", c.bytes_written),
        ("limit_maxbytes", sizes.memory_bytes),
        ("accepting_conns", 1),
        ("listen_disabled_num", 0),
        ("time_in_listen_disabled_us", 0),
        ("threads", 1),
        ("conn_yields", 0),
        ("malloc_fails", 0),
        ("bytes", sizes.bytes),
        ("curr_items", sizes.items),
        ("total_items", c.total_items),
        ("expired_unfetched", 0),
        ("evicted_unfetched", 0),
        ("evictions", sizes.evictions),
        ("reclaimed", sizes.reclaimed),
    ] {
        stat(out, name, value);
    }
    end(out);
}

/// `stats items`: all items are of one class.
pub(super) fn items(out: &mut Vec<u8>, store: &mut Store) {
    let sizes = store.sizes();
    if sizes.items > 0 {
        for (name, value) in [
            ("number", sizes.items),
            ("number_hot", 0),
            ("number_warm", 0),
            ("number_cold", sizes.items),
            ("age_hot", 0),
            ("age_warm", 0),
            ("age", 0),
            ("mem_requested", sizes.bytes),
            ("evicted", sizes.evictions),
            ("evicted_nonzero", 0),
            ("evicted_time", 0),
            ("outofmemory", 0),
            ("tailrepairs", 0),
            ("reclaimed", sizes.reclaimed),
            ("expired_unfetched", 0),
            ("evicted_unfetched", 0),
        ] {
            stat(out, &format!("items:1:{name}"), value);
        }
    }
    end(out);
}

/// `stats slabs`: one class whose chunks are single bytes, so that chunks × size is the memory.
pub(super) fn slabs(out: &mut Vec<u8>, store: &mut Store) {
    let sizes = store.sizes();
    let c = store.counters;
    let pages = sizes.bytes.div_ceil(PAGE);
    if sizes.items > 0 {
        for (name, value) in [
            ("chunk_size", 1),
            ("chunks_per_page", PAGE),
            ("total_pages", pages),
            ("total_chunks", pages * PAGE),
            ("used_chunks", sizes.bytes),
            ("free_chunks", pages * PAGE - sizes.bytes),
            ("free_chunks_end", 0),
            ("get_hits", c.get_hits),
            ("cmd_set", c.cmd_set),
            ("delete_hits", c.delete_hits),
            ("incr_hits", c.incr_hits),
            ("decr_hits", c.decr_hits),
            ("cas_hits", c.cas_hits),
            ("cas_badval", c.cas_badval),
            ("touch_hits", c.touch_hits),
        ] {
            stat(out, &format!("1:{name}"), value);
        }
    }
    stat(out, "active_slabs", u8::from(sizes.items > 0));
    stat(out, "total_malloced", pages * PAGE);
    end(out);
}

/// `stats settings`
pub(super) fn settings(out: &mut Vec<u8>, store: &Store, local: SocketAddr) {
    stat(out, "maxbytes", store.memory_bytes());
    stat(out, "maxconns", MAX_CONNECTIONS);
    stat(out, "tcpport", local.port());
    stat(out, "udpport", 0);
    stat(out, "inter", local.ip());
    for (name, value) in [
        ("verbosity", "0"),
        ("oldest", "0"),
        ("evictions", "on"),
        ("domain_socket", "NULL"),
        ("shutdown_command", "no"),
        ("num_threads", "1"),
        ("stat_key_prefix", ":"),
        ("detail_enabled", "no"),
        ("cas_enabled", "yes"),
        ("binding_protocol", "ascii"),
        ("auth_enabled_sasl", "no"),
        ("auth_enabled_ascii", "no"),
    ] {
        stat(out, name, value);
    }
    stat(out, "item_size_max", store.max_item());
    for (name, value) in [
        ("maxconns_fast", "yes"),
        ("lru_crawler", "no"),
        ("flush_enabled", "yes"),
        ("dump_enabled", "no"),
        ("lru_maintainer_thread", "no"),
        ("lru_segmented", "no"),
        ("idle_timeout", "0"),
        ("track_sizes", "no"),
        ("ssl_enabled", "no"),
    ] {
        stat(out, name, value);
    }
    end(out);
}

/// `stats conns`: the client that asks.
pub(super) fn conns(out: &mut Vec<u8>, peer: SocketAddr, local: SocketAddr) {
    stat(out, "1:addr", format_args!("tcp:{peer}"));
    stat(out, "1:listen_addr", format_args!("tcp:{local}"));
    stat(out, "1:state", "conn_parse_cmd");
    stat(out, "1:secs_since_last_cmd", 0);
    end(out);
}

fn stat(out: &mut Vec<u8>, name: &str, value: impl Display) {
    out.extend_from_slice(format!("STAT {name} {value}\r\n").as_bytes());
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"END\r\n");
}
