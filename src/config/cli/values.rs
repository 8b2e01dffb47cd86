//! The values of options: what each may be, and what is said of one that may not.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::ValueEnum;

use crate::config::{ADMIN_PORT, AnswerDiscovery, ListenAddress, PORT};
use crate::discovery::parse_server;

/// Most bytes of the path of a Unix socket: what the kernel has room for, less the NUL at its end.
const MAX_UNIX_PATH: usize = 107;

/// Most bytes of the name of a sidecar: a namespace has up to 63, a pod's name up to 253.
const MAX_INSTANCE: usize = 512;

/// `None` is `off`. A type of its own, for clap reads an `Option` as "may be left out".
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct AdminListen(pub(in crate::config) Option<SocketAddr>);

/// `None` is `auto`.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct Workers(pub(in crate::config) Option<usize>);

/// In bytes; `None` is `auto`.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct BufferLimit(pub(in crate::config) Option<u64>);

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::config) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

// === impl LogLevel ===

impl LogLevel {
    pub(in crate::config) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

pub(in crate::config) fn parse_listen(text: &str) -> Result<ListenAddress, String> {
    let text = text.trim();
    if text == "localhost" {
        return Ok(ListenAddress::Localhost(PORT));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return parse_localhost(port).map(ListenAddress::Localhost);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let is_path = path.starts_with('/') && !path.ends_with('/') && path.len() <= MAX_UNIX_PATH;
        let expected = || format!("expected unix:/path, at most {MAX_UNIX_PATH} bytes of path");
        return is_path.then(|| ListenAddress::Unix(path.into())).ok_or_else(expected);
    }
    parse_address(text, PORT, "unix:/path").map(ListenAddress::Tcp)
}

/// The port behind `localhost:`. Its two addresses would get two ports, if any would do.
fn parse_localhost(port: &str) -> Result<u16, String> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_number && *port > 0);
    port.ok_or_else(|| {
        format!(
            "the port of localhost must be a number from 1 to 65535, such as {PORT} (127.0.0.1:0 takes any free port)"
        )
    })
}

pub(in crate::config) fn parse_instance(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_INSTANCE).contains(&text.len()) && !text.contains(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| format!("expected 1 to {MAX_INSTANCE} bytes and no control characters"))
}

pub(in crate::config) fn parse_mode(text: &str) -> Result<u32, String> {
    let is_octal = !text.is_empty() && text.len() <= 4 && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| "expected permissions in octal from 0 to 0777, such as 0700".to_owned())
}

pub(in crate::config) fn parse_admin_listen(text: &str) -> Result<AdminListen, String> {
    let text = text.trim();
    if text == "off" {
        return Ok(AdminListen(None));
    }
    parse_address(text, ADMIN_PORT, "off").map(|address| AdminListen(Some(address)))
}

/// An address to listen on; `port` is for examples, and `or` what else the option takes.
fn parse_address(text: &str, port: u16, or: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let alone = text.strip_prefix(':').unwrap_or(text);
    if let Some(port) = alone.parse::<u16>().ok().filter(|_| is_number(alone)) {
        return Err(format!(
            "a port needs an address before it: 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port},[::]:{port} for all addresses"
        ));
    }
    let (host, number) = text.rsplit_once(':').unwrap_or(("", text));
    let is_address = host.parse::<Ipv4Addr>().is_ok()
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    if is_number(number) && (is_address || host.is_empty()) {
        return Err(format!("the port must be a number from 0 to 65535 (0: any free port), such as {port}"));
    }
    Err(format!("expected IP:port such as 127.0.0.1:{port} or [::1]:{port}, or {or}"))
}

pub(in crate::config) fn parse_workers(text: &str) -> Result<Workers, String> {
    if text == "auto" {
        return Ok(Workers(None));
    }
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    number.map(|number| Workers(Some(number))).ok_or_else(|| "expected 1 to 64, or auto".to_owned())
}

/// A whole number within a range, which the complaint names.
pub(in crate::config) fn parse_whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

pub(in crate::config) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, such as 0.99".to_owned())
}

pub(in crate::config) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err("expected on or off (true, false, 1 and 0 do, too)".to_owned()),
    }
}

pub(in crate::config) fn parse_answer_discovery(text: &str) -> Result<AnswerDiscovery, String> {
    match parse_switch(text) {
        Ok(true) => return Ok(AnswerDiscovery::On),
        Ok(false) => return Ok(AnswerDiscovery::Off),
        Err(_) => {}
    }
    // Its port is part of it: there is no default for somebody else's.
    let server = parse_server(text, 0).ok().filter(|(_, port)| *port > 0);
    let (host, port) = server.ok_or_else(|| "expected on, off, or HOST:PORT such as 10.0.0.5:11211".to_owned())?;
    Ok(AnswerDiscovery::At(host.into(), port))
}

pub(in crate::config) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(60);
    parse_duration(text, &range)
        .ok_or_else(|| "expected a duration from 1ms to 60s: a whole number with its unit (ms, s or m)".to_owned())
}

pub(in crate::config) fn parse_discovery_interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    parse_duration(text, &range)
        .ok_or_else(|| "expected a duration from 1s to 60m: a whole number with its unit (ms, s or m)".to_owned())
}

pub(in crate::config) fn parse_patience(text: &str) -> Result<Duration, String> {
    let range = Duration::ZERO..=Duration::from_secs(3600);
    parse_duration(text, &range)
        .ok_or_else(|| "expected a duration from 0s to 60m: a whole number with its unit (ms, s or m)".to_owned())
}

fn parse_duration(text: &str, range: &RangeInclusive<Duration>) -> Option<Duration> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    with_unit(text, &units).map(Duration::from_millis).filter(|duration| range.contains(duration))
}

pub(in crate::config) fn parse_max_value(text: &str) -> Result<u64, String> {
    let range = 1 << 10..=1 << 30;
    let size = parse_size(text).filter(|size| range.contains(size));
    size.ok_or_else(|| "expected a size from 1KiB to 1GiB, such as 128MiB, 128m or 134217728".to_owned())
}

pub(in crate::config) fn parse_bulk_above(text: &str) -> Result<u64, String> {
    let range = 16 << 10..=1 << 20;
    let size = parse_size(text).filter(|size| range.contains(size));
    size.ok_or_else(|| "expected a size from 16KiB to 1MiB, such as 256KiB, 256k or 262144".to_owned())
}

pub(in crate::config) fn parse_buffer_limit(text: &str) -> Result<BufferLimit, String> {
    if text == "auto" {
        return Ok(BufferLimit(None));
    }
    let range = 8 << 20..=64 << 30;
    let size = parse_size(text).filter(|size| range.contains(size));
    size.map(|size| BufferLimit(Some(size)))
        .ok_or_else(|| "expected a size from 8MiB to 64GiB, such as 64MiB, 64m or 67108864, or auto".to_owned())
}

pub(in crate::config) fn parse_node_memory(text: &str) -> Result<u64, String> {
    let range = 1 << 20..=64 << 30;
    let size = parse_size(text).filter(|size| range.contains(size));
    size.ok_or_else(|| "expected a size from 1MiB to 64GiB, such as 64MiB, 64m or 67108864".to_owned())
}

/// Bytes, or a number with a binary unit: `KiB`, `Ki` (as Kubernetes writes it) and `k` (as memcached does) are 1024.
/// `KB` is refused: half the world means 1000 by it.
fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 10] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("ki", 1 << 10),
        ("mi", 1 << 20),
        ("gi", 1 << 30),
        ("k", 1 << 10),
        ("m", 1 << 20),
        ("g", 1 << 30),
        ("", 1),
    ];
    with_unit(&text.to_ascii_lowercase(), &UNITS)
}

/// A whole number directly followed by one of the units, in units of one.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_gets_what_is_missing() {
        for (text, problem) in [
            ("127.0.0.1:99999", "the port must be a number from 0 to 65535 (0: any free port), such as 9150"),
            ("[::1]:65536", "the port must be a number from 0 to 65535"),
            ("99999", "the port must be a number from 0 to 65535"),
            (
                "9150",
                "a port needs an address before it: 127.0.0.1:9150 for this machine alone, 0.0.0.0:9150,[::]:9150 for all",
            ),
            (":9150", "a port needs an address before it: 127.0.0.1:9150"),
            ("localhost:9150", "expected IP:port such as 127.0.0.1:9150 or [::1]:9150, or off"),
            ("::1:9150:x", "expected IP:port"),
            ("", "expected IP:port"),
        ] {
            let error = parse_admin_listen(text).unwrap_err();
            assert!(error.starts_with(problem), "{text:?}: {error}");
        }
        assert!(parse_listen("11311").unwrap_err().contains(" 127.0.0.1:11311 for this machine"));
        assert_eq!(parse_listen("localhost:11311"), Ok(ListenAddress::Localhost(11311)));
        for text in ["localhost:", "localhost:0", "localhost:+1", "localhost:65536", "localhost:http"] {
            assert!(parse_listen(text).unwrap_err().starts_with("the port of localhost must be a number"), "{text}");
        }
        assert!(parse_listen("x").unwrap_err().ends_with("[::1]:11211, or unix:/path"));
        assert_eq!(parse_admin_listen(" 127.0.0.1:0 ").unwrap().0.map(|address| address.port()), Some(0));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("134217728", Some(128 << 20)),
            ("128MiB", Some(128 << 20)),
            ("128mib", Some(128 << 20)),
            ("128Mi", Some(128 << 20)),
            ("128m", Some(128 << 20)),
            ("128M", Some(128 << 20)),
            ("1g", Some(1 << 30)),
            ("64KiB", Some(64 << 10)),
            ("128MB", None),
            ("128 MiB", None),
            ("1.5m", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("m", None),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
            ("1ä", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("250ms", Some(250)),
            ("5s", Some(5000)),
            ("1m", Some(60_000)),
            ("60s", Some(60_000)),
            ("0ms", None),
            ("61s", None),
            ("5", None),
            ("1.5s", None),
            ("", None),
            ("s", None),
        ] {
            assert_eq!(parse_timeout(text).ok(), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
