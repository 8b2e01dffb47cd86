//! The command line: every option, declared once. Names, defaults and help here are the manual page, and deploy/OPERATING.md's
//! table is rendered from them.

mod values;

use std::{path::PathBuf, time::Duration};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, builder::Resettable};
use clap_complete::Shell;

use super::{AnswerDiscovery, ListenAddress, LogFormat, OnNodeDown};
use crate::routing::{NameFormat, Placement};
pub(super) use values::{AdminListen, LogLevel};
use values::{
    BufferLimit, Workers, parse_admin_listen, parse_answer_discovery, parse_buffer_limit, parse_bulk_above,
    parse_discovery_interval, parse_instance, parse_listen, parse_max_value, parse_mode, parse_node_memory,
    parse_patience, parse_share, parse_switch, parse_timeout, parse_whole, parse_workers,
};

/// A memcached sidecar proxy: one local port, a hash ring of nodes behind it.
#[derive(Debug, Parser)]
#[command(
    name = "slipring",
    version,
    propagate_version = true,
    override_usage = "slipring [COMMAND] [OPTIONS]",
    after_help = "\
Examples:
  slipring dev                               Try it: proxy and nodes in one process
  slipring serve --nodes 10.0.0.2,10.0.0.3   Serve real nodes
  MEMCACHED_NODES=10.0.0.2 slipring          The same, set by the environment

Every option is a flag and an environment variable; a flag wins over a variable.
They are listed by: slipring serve --help"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

/// Below the help of `check`.
const CHECK_TIMES: &str = "\
Each step may take 2 s; or --connect-timeout and --request-timeout, where they are given, by variable too";

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Serve clients on a local port in front of memcached nodes (the default command)
    Serve(ServeArgs),
    /// Check every node: resolve, connect, version, set and get; exit 1 when one fails (a node that only the ring before has: a warning)
    #[command(after_help = CHECK_TIMES)]
    Check(ServeArgs),
    /// Show which node owns each key
    Locate(LocateArgs),
    /// List the placements, the clients and versions each matches, and its limits
    Placements,
    /// Find the placement that put the keys where the nodes hold them now; read only
    Detect(DetectArgs),
    /// Show what a change of nodes or of the placement would move
    Plan(PlanArgs),
    /// Tell a running sidecar to read its source of nodes again (sends SIGHUP), and print the outcome
    Reload(ReloadArgs),
    /// Run the same proxy in front of in-memory nodes of its own: a trial that needs nothing installed
    Dev(DevArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page of slipring, or of one of its commands
    Man(ManArgs),
}

#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub(super) struct ServeArgs {
    /// Nodes to spread the keys over, `host[:port][/name][=weight]`, comma separated; weight 1 to 1000, 1 if not given; a name is hashed in place of the address
    #[arg(long, env = "MEMCACHED_NODES", value_name = "LIST")]
    pub(super) nodes: Option<String>,

    /// File with such a list, `#` begins a comment; or the directory of a mounted ConfigMap with the keys `MEMCACHED_NODES` and `MEMCACHED_PORT`; checked each second
    #[arg(long, env = "MEMCACHED_NODES_FILE", value_name = "PATH")]
    pub(super) nodes_file: Option<PathBuf>,

    /// Discovery endpoint of Memorystore or ElastiCache, `host[:port]`; with a list of nodes beside it, that is the ring until it answers
    #[arg(long, env = "MEMCACHED_DISCOVERY_HOST", value_name = "HOST")]
    pub(super) discovery: Option<String>,

    /// Port of a discovery endpoint named without one
    #[arg(long, env = DISCOVERY_PORT, value_name = "PORT", default_value_t = 11211, value_parser = parse_whole::<u16>(1..=65_535))]
    pub(super) discovery_port: u16,

    /// DNS name whose addresses are the nodes, `name[:port]`; or whose SRV records name them, `srv:name`; a dot at its end skips the search list
    #[arg(long, env = "SLIPRING_DNS", value_name = "NAME")]
    pub(super) dns: Option<String>,

    /// Interval between queries of a discovery endpoint, 1s to 60m; a DNS name is resolved when its TTL ends, but not before half of this and not after three times this
    #[arg(long, env = "SLIPRING_DISCOVERY_INTERVAL", value_name = "DURATION", default_value = "10s", value_parser = parse_discovery_interval)]
    pub(super) discovery_interval: Duration,

    /// Time a node stays in the ring after discovery stops listing it, 0s to 60m; a change of a file takes effect at once
    #[arg(long, env = "SLIPRING_REMOVAL_HOLD", value_name = "DURATION", default_value = "30s", value_parser = parse_patience)]
    pub(super) removal_hold: Duration,

    /// Directory for the last good ring, which is used after a restart until the source answers; not kept if not given; without effect beside a list of `--nodes`
    #[arg(long, env = "SLIPRING_STATE_DIR", value_name = "PATH")]
    pub(super) state_dir: Option<PathBuf>,

    /// Time after which readiness is reported even without a first ring, 0s to 60m
    #[arg(long, env = "SLIPRING_READY_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_patience)]
    pub(super) ready_timeout: Duration,

    /// Longest silence of a removed node that still owes replies, 0s to 60m; then its connections are closed
    #[arg(long, env = "SLIPRING_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_patience)]
    pub(super) drain_timeout: Duration,

    /// Port of nodes named without one
    #[arg(long, env = NODE_PORT, value_name = "PORT", default_value_t = 11211, value_parser = parse_whole::<u16>(1..=65_535))]
    pub(super) node_port: u16,

    /// Order of the nodes, for placements that depend on it: those listed here, `host[:port][/name]`, come first, in this order; the others follow in the order they became known
    #[arg(long, env = "SLIPRING_NODE_ORDER", value_name = "LIST")]
    pub(super) node_order: Option<String>,

    /// Nodes before a planned change, `LIST` as for `--nodes`: keys that the change moves keep their old place; `ending:LIST` before you remove it. With `--nodes-file` write it there: as a line `before: LIST`, or as the key `MEMCACHED_NODES_BEFORE` of the directory
    #[arg(long, env = "MEMCACHED_NODES_BEFORE", value_name = "LIST")]
    pub(super) nodes_before: Option<String>,

    /// File with the nodes before a planned change, or the directory of a mounted ConfigMap with the keys `MEMCACHED_NODES_BEFORE` and `SLIPRING_PLACEMENT_BEFORE`, where the nodes come from elsewhere; it need not exist; checked each second
    #[arg(long, env = "MEMCACHED_NODES_BEFORE_FILE", value_name = "PATH")]
    pub(super) nodes_before_file: Option<PathBuf>,

    /// Placement of the keys before the change, if it is not that of `--placement`
    #[arg(long, env = "SLIPRING_PLACEMENT_BEFORE", value_name = "NAME", value_parser = str::parse::<Placement>)]
    pub(super) placement_before: Option<Placement>,

    /// Send `flush_all` also to nodes that are only in the list before the change; without it slipring reads nothing more from them
    #[arg(long, env = "SLIPRING_FLUSH_BEFORE", value_name = "true|false", default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) flush_before: bool,

    #[command(flatten)]
    pub(super) security: SecurityArgs,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct SecurityArgs {
    /// Speak TLS (1.2 or 1.3) to the nodes, and to the discovery endpoint
    #[arg(long, env = "SLIPRING_NODE_TLS", value_name = "true|false", default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) node_tls: bool,

    /// PEM file with the authorities that sign the certificates of the nodes; if not given, those of the system or, where it has none, of Mozilla; checked each second, as are the files below
    #[arg(long, env = "SLIPRING_NODE_TLS_CA", value_name = "FILE")]
    pub(super) node_tls_ca: Option<PathBuf>,

    /// PEM file with the client certificate for the nodes, and its intermediate certificates
    #[arg(long, env = "SLIPRING_NODE_TLS_CERT", value_name = "FILE")]
    pub(super) node_tls_cert: Option<PathBuf>,

    /// PEM file with the private key of that certificate
    #[arg(long, env = "SLIPRING_NODE_TLS_KEY", value_name = "FILE")]
    pub(super) node_tls_key: Option<PathBuf>,

    /// Host name that the certificate of every node must have, in place of the name in the list
    #[arg(long, env = "SLIPRING_NODE_TLS_NAME", value_name = "NAME")]
    pub(super) node_tls_name: Option<String>,

    /// Accept any certificate: encrypts, but does not verify who answers
    #[arg(long, env = "SLIPRING_NODE_TLS_INSECURE", value_name = "true|false", default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) node_tls_insecure: bool,

    /// File with one line `user:password` to log in to every node with (memcached's `-Y`)
    #[arg(long, env = "SLIPRING_NODE_AUTH_FILE", value_name = "FILE")]
    pub(super) node_auth_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub(super) struct LocateArgs {
    /// Keys; read from standard input, one per line, if none is given
    #[arg(value_name = "KEY")]
    pub(super) keys: Vec<String>,

    /// Print one JSON object per line with `key` and `node`, the address
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub(super) struct DetectArgs {
    /// File with keys, one per line, to ask for where nodes do not list theirs
    #[arg(long, value_name = "FILE")]
    pub(super) keys: Option<PathBuf>,

    /// Exit with 1 unless this placement puts at least `--min` of the keys where they are
    #[arg(long, value_name = "NAME", value_parser = str::parse::<Placement>)]
    pub(super) verify: Option<Placement>,

    /// Share of keys that `--verify` requires, 0 to 1
    #[arg(long, value_name = "SHARE", requires = "verify", default_value_t = 0.99, value_parser = parse_share)]
    pub(super) min: f64,

    /// Maximum number of keys read from each node, 1 to 10000000
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = parse_whole::<u32>(1..=10_000_000))]
    pub(super) limit: u32,

    /// Time limit for reading them, 1s to 60m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_discovery_interval)]
    pub(super) time: Duration,

    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub(super) struct PlanArgs {
    /// Nodes before the change, as for `--nodes`; if not given, those that a sidecar with these options has now
    #[arg(long, value_name = "LIST")]
    pub(super) from: Option<String>,

    /// Nodes after the change; the same if only the placement changes
    #[arg(long, value_name = "LIST")]
    pub(super) to: Option<String>,

    /// File with keys, one per line, to count what moves
    #[arg(long, value_name = "FILE")]
    pub(super) keys: Option<PathBuf>,

    /// Placement after the change, if it is not that of `--placement`
    #[arg(long, value_name = "NAME", value_parser = str::parse::<Placement>)]
    pub(super) to_placement: Option<Placement>,

    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to complete in
    #[arg(value_name = "SHELL")]
    pub(super) shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Command to describe; the program, if none is given
    #[arg(value_name = "COMMAND")]
    pub(super) command: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Process ID of the sidecar; if not given, that of the only one that runs here
    #[arg(long, value_name = "PID", value_parser = parse_whole::<i32>(1..=2_147_483_647))]
    pub(super) pid: Option<i32>,
}

#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub(super) struct DevArgs {
    /// Number of in-memory nodes, 1 to 20
    #[arg(long, env = "SLIPRING_DEV_NODES", value_name = "N", default_value_t = 3, value_parser = parse_whole::<u8>(1..=20))]
    pub(super) nodes: u8,

    /// Memory of each in-memory node, 1MiB to 64GiB; the least recently used values are evicted
    #[arg(long, env = "SLIPRING_DEV_NODE_MEMORY", value_name = "SIZE", default_value = "64MiB", value_parser = parse_node_memory)]
    pub(super) node_memory: u64,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// Placement of the keys: `ring`, the default, or that of another client, `NAME[,option=value…]`; `slipring placements` lists them
    #[arg(long, env = "SLIPRING_PLACEMENT", value_name = "NAME", default_value = "ring", value_parser = str::parse::<Placement>)]
    pub(super) placement: Placement,

    /// Text that the placement hashes for a node in place of what its client hashes: with `{host}`, `{port}`, `{ip}` (the address dialled), `{server}` (host, and port unless 11211)
    #[arg(long, env = "SLIPRING_NODE_NAME_FORMAT", value_name = "TEXT", value_parser = str::parse::<NameFormat>)]
    pub(super) node_name_format: Option<NameFormat>,

    /// Addresses that clients connect to: `IP:port`, `localhost:port` or `unix:/path`, comma separated; `localhost` is `127.0.0.1` and, where there is IPv6, `[::1]`, with port 11211 unless one is given
    #[arg(long, env = "SLIPRING_LISTEN", value_name = "ADDRESS", default_value = "localhost", value_delimiter = ',', value_parser = parse_listen)]
    pub(super) listen: Vec<ListenAddress>,

    /// Name of this sidecar, for the page, `/ring` and the log line `serving`; in a pod its namespace and name
    #[arg(long, env = "SLIPRING_INSTANCE", value_name = "NAME", value_parser = parse_instance)]
    pub(super) instance: Option<String>,

    /// Permissions of Unix sockets, octal, as memcached's `-a`; for clients of another user 0777
    #[arg(long, env = "SLIPRING_UNIX_MODE", value_name = "MODE", default_value = "0700", value_parser = parse_mode)]
    pub(super) unix_mode: u32,

    /// Addresses of the HTTP endpoint for health, readiness, metrics and the page: `IP:port`, comma separated, or `off`; one that the machine does not have is left out; `slipring check` asks the sidecar at the first
    #[arg(long, env = "SLIPRING_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:9150,[::]:9150", value_delimiter = ',', value_parser = parse_admin_listen)]
    pub(super) admin_listen: Vec<AdminListen>,

    /// Worker threads, 1 to 64; `auto` is 2 in a container with a CPU limit of 2 or more, else 1
    #[arg(long, env = "SLIPRING_WORKERS", value_name = "N", default_value = "auto", value_parser = parse_workers)]
    pub(super) workers: Workers,

    /// Connections of each worker to each node, 1 to 16; opened at start, shared by all clients
    #[arg(long, env = "SLIPRING_CONNECTIONS_PER_NODE", value_name = "N", default_value_t = 1, value_parser = parse_whole::<u8>(1..=16))]
    pub(super) connections_per_node: u8,

    /// Longest wait for a connection to a node, 1ms to 60s; after it the node counts as down
    #[arg(long, env = "SLIPRING_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "250ms", value_parser = parse_timeout)]
    pub(super) connect_timeout: Duration,

    /// Longest silence of a node that owes a reply, 1ms to 60s; then the request is answered with a miss or an error
    #[arg(long, env = "SLIPRING_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "500ms", value_parser = parse_timeout)]
    pub(super) request_timeout: Duration,

    /// Longest wait of a request in the queue of its connection, 1ms to 60s; then it is answered with a miss or an error and never sent
    #[arg(long, env = "SLIPRING_QUEUE_TIMEOUT", value_name = "DURATION", default_value = "250ms", value_parser = parse_timeout)]
    pub(super) queue_timeout: Duration,

    /// Memory limit for all waiting data, 8MiB to 64GiB; `auto` is 40 % of the container's memory limit, 64MiB without one
    #[arg(long, env = "SLIPRING_BUFFER_LIMIT", value_name = "SIZE", default_value = "auto", value_parser = parse_buffer_limit)]
    pub(super) buffer_limit: BufferLimit,

    /// Maximum number of clients at a time, 1 to 1000000; one more gets `ERROR Too many open connections` and is closed
    #[arg(long, env = "SLIPRING_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096, value_parser = parse_whole::<u32>(1..=1_000_000))]
    pub(super) max_connections: u32,

    /// Time clients may stay connected after SIGTERM, 0s to 60m; ends earlier when none has been connected for 5 s
    #[arg(long, env = "SLIPRING_DRAIN_TIMEOUT_ON_EXIT", value_name = "DURATION", default_value = "25s", value_parser = parse_patience)]
    pub(super) drain_timeout_on_exit: Duration,

    /// Largest value a client may store, 1KiB to 1GiB; a node may allow less (its `-I`) and says so itself
    #[arg(long, env = "SLIPRING_MAX_VALUE", value_name = "SIZE", default_value = "128MiB", value_parser = parse_max_value)]
    pub(super) max_value: u64,

    /// Size above which values use separate connections to the nodes, 16KiB to 1MiB
    #[arg(long, env = "SLIPRING_BULK_ABOVE", value_name = "SIZE", default_value = "1MiB", value_parser = parse_bulk_above)]
    pub(super) bulk_above: u64,

    /// Send gets that arrive together to their node as one request, which costs the node less: `on` or `off`
    #[arg(long, env = "SLIPRING_MERGE_GETS", value_name = "on|off", default_value = "on", value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) merge_gets: bool,

    /// Answer to reads while their node is down: `miss` or `error`; writes always get an error
    #[arg(
        long,
        env = "SLIPRING_ON_NODE_DOWN",
        value_name = "miss|error",
        default_value = "miss",
        value_enum,
        ignore_case = true,
        hide_possible_values = true
    )]
    pub(super) on_node_down: OnNodeDown,

    /// Answer to `config get cluster` of auto-discovery clients: `on` for this sidecar as the only node, `HOST:PORT` for another address, `off` for `ERROR`
    #[arg(long, env = "SLIPRING_ANSWER_DISCOVERY", value_name = "on|HOST:PORT|off", default_value = "on", value_parser = parse_answer_discovery)]
    pub(super) answer_discovery: AnswerDiscovery,

    /// Refuse `flush_all`, which empties every node
    #[arg(long, env = "SLIPRING_DENY_FLUSH_ALL", value_name = "true|false", default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) deny_flush_all: bool,

    /// Time from which a request to a node counts as slow, 0s to 60m; slipring logs slow requests and those that time out, one per second of each kind; 0s for none
    #[arg(long, env = "SLIPRING_SLOW_REQUEST", value_name = "DURATION", default_value = "100ms", value_parser = parse_patience)]
    pub(super) slow_request: Duration,

    /// Count the most requested keys, from a sample, for `/hotkeys` and the page: `on` or `off`
    #[arg(long, env = "SLIPRING_HOT_KEYS", value_name = "on|off", default_value = "on", value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) hot_keys: bool,

    /// Show keys in logs and among the hot keys; without it a hash of 16 digits
    #[arg(long, env = "SLIPRING_LOG_KEYS", value_name = "true|false", default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub(super) log_keys: bool,

    /// Log level: `off`, `error`, `warn`, `info`, `debug` or `trace`; `RUST_LOG`, if set, wins
    #[arg(
        long,
        env = "SLIPRING_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        value_enum,
        ignore_case = true,
        hide_possible_values = true
    )]
    pub(super) log_level: LogLevel,

    /// Log format: `text`, or `json`, one object per line
    #[arg(
        long,
        env = "SLIPRING_LOG_FORMAT",
        value_name = "text|json",
        default_value = "text",
        value_enum,
        ignore_case = true,
        hide_possible_values = true
    )]
    pub(super) log_format: LogFormat,
}

/// The variable that Kubernetes also sets, to something else.
pub(super) const NODE_PORT: &str = "MEMCACHED_PORT";

/// So does this one, where a Service is called `memcached-discovery`.
pub(super) const DISCOVERY_PORT: &str = "MEMCACHED_DISCOVERY_PORT";

/// The options that say who the nodes are; one of them does.
pub(super) const SOURCES: [&str; 4] = ["nodes", "nodes-file", "discovery", "dns"];

/// What the commands that do not serve use of a sidecar's options; their help leaves the others out.
const USED_BY_ALL: [&str; 24] = [
    "nodes",
    "nodes_file",
    "discovery",
    "discovery_port",
    "dns",
    "node_port",
    "node_order",
    "nodes_before",
    "nodes_before_file",
    "placement_before",
    "node_tls",
    "node_tls_ca",
    "node_tls_cert",
    "node_tls_key",
    "node_tls_name",
    "node_tls_insecure",
    "node_auth_file",
    "placement",
    "to_placement",
    "node_name_format",
    "connect_timeout",
    "request_timeout",
    "log_level",
    "log_format",
];

/// The command as it parses: clap would read the variables from the process itself, before any option is looked at,
/// so their names move into the help and [`super::parse`] reads the values.
pub(super) fn without_environment(command: clap::Command) -> clap::Command {
    with_headings(command).mut_subcommands(|subcommand| {
        // Else `--version` says `slipring-serve`.
        subcommand.display_name("slipring").mut_args(|arg| {
            let Some(name) = arg.get_env().map(|name| name.to_string_lossy().into_owned()) else {
                return arg;
            };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.env(Resettable::Reset).help(format!("{help}\n[env: {name}]"))
        })
    })
}

/// Every option under its heading, and what a command does not use out of sight.
pub(super) fn with_headings(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|subcommand| {
        let is_serving = ["serve", "dev"].contains(&subcommand.get_name());
        let names_sidecar = ["check", "plan"].contains(&subcommand.get_name());
        subcommand.mut_args(|arg| {
            // Taken, for a sidecar's own arguments may be given to them, and without effect there.
            let id = arg.get_id().as_str();
            let is_used = is_serving || arg.get_env().is_none() || USED_BY_ALL.contains(&id);
            let (heading, is_used) = (heading(id), is_used || names_sidecar && id == "admin_listen");
            arg.hide(!is_used).help_heading(heading)
        })
    })
}

/// The part of the help that an option stands in; the first part for those of a command itself.
fn heading(id: &str) -> Option<&'static str> {
    Some(match id {
        "nodes" | "node_memory" | "discovery" | "discovery_port" | "dns" | "discovery_interval" | "removal_hold"
        | "state_dir" | "nodes_file" | "node_port" | "node_order" | "nodes_before" | "nodes_before_file" => "Nodes",
        "node_tls" | "node_tls_ca" | "node_tls_cert" | "node_tls_key" | "node_tls_name" | "node_tls_insecure"
        | "node_auth_file" => "Secured nodes",
        "placement" | "node_name_format" | "to_placement" | "placement_before" => "Placement",
        "listen" | "unix_mode" | "max_connections" | "answer_discovery" | "deny_flush_all" | "flush_before"
        | "max_value" => "Clients",
        "workers" | "connections_per_node" | "bulk_above" | "merge_gets" | "buffer_limit" => "Data path",
        "connect_timeout" | "request_timeout" | "queue_timeout" | "on_node_down" => "Failures",
        "drain_timeout" | "drain_timeout_on_exit" | "ready_timeout" => "Start and end",
        "instance" | "admin_listen" | "slow_request" | "hot_keys" | "log_keys" | "log_level" | "log_format" => {
            "Observing"
        }
        _ => return None,
    })
}

impl CommonArgs {
    /// What they are when nobody says anything.
    pub(super) fn defaults() -> Result<Self, clap::Error> {
        let matches = without_environment(Cli::command()).try_get_matches_from(["slipring", "dev"])?;
        match Cli::from_arg_matches(&matches)?.command {
            CliCommand::Dev(dev) => Ok(dev.common),
            _ => Err(clap::Error::new(ErrorKind::InvalidSubcommand)),
        }
    }
}
