//! Every option: flag > environment > default, all checked before anything is bound.
//!
//! The options themselves are declared in `cli.rs`. The environment is handed in, so that the rules can be tested
//! without touching the process: what a flag does not say is looked up under the option's variable and parsed as if
//! it had been given as the flag.

mod before;
mod cgroup;
mod cli;
mod command;
mod exit;
mod given;
mod listen;
mod manual;
mod security;
mod source;
mod variables;

use std::{
    ffi::OsString,
    fmt::{self, Display},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _, ValueEnum};
use serde::Serialize;
use tracing_subscriber::filter::Targets;

use crate::discovery::{self, Source, is_service_link};
use crate::phrase;
use crate::routing::{Placement, Topology};
use crate::secured::Secured;
use before::before;
use cgroup::Limits;
use cli::{
    Cli, CliCommand, CommonArgs, CompletionsArgs, DetectArgs, LocateArgs, LogLevel, ManArgs, PlanArgs, ServeArgs,
};
pub use command::{Command, Detect};
use exit::one_line;
pub use exit::{Exit, Stream};
use given::{given, has_source_flag, unset_options};
pub use listen::ListenAddress;
use listen::{admin_listen, listen};
pub use manual::{completions, manual, option_table};
use source::{node_list, node_order, node_source, own, refuse_itself};
pub use variables::unknown_variables;

/// `--buffer-limit` without a memory limit, and its least, in bytes.
const BUFFERS: usize = 64 << 20;
const LEAST_BUFFERS: usize = 8 << 20;

/// The port that clients know.
pub const PORT: u16 = 11211;

/// The port of the admin endpoint, if none is given.
pub const ADMIN_PORT: u16 = 9150;

/// The default command.
const SERVE: &str = "serve";

/// Everything the user can say, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What to run.
    pub command: Command,
    /// Where keys live.
    pub placement: Placement,
    /// Where clients connect: at least one, all different save for port 0 (any free port).
    pub listen: Vec<ListenAddress>,
    /// What this sidecar is called, to tell it from others.
    pub instance: Option<String>,
    /// Permissions of the Unix sockets among them, 0 to 0o777.
    pub unix_mode: u32,
    /// Where the admin endpoint listens; empty when it is off.
    pub admin_listen: Vec<SocketAddr>,
    /// Worker threads, 1 to 64.
    pub workers: usize,
    /// Shared connections (lanes) of each worker to each node, 1 to 16.
    pub connections_per_node: usize,
    /// Largest value a client may store, in bytes, 1 KiB to 1 GiB.
    pub max_value: usize,
    /// Larger values travel on connections apart from small ones, in bytes, 16 KiB to 1 MiB.
    pub bulk_above: usize,
    /// Whether `flush_all` is refused.
    pub deny_flush_all: bool,
    /// Whether `flush_all` goes to nodes that only the ring before has, too.
    pub flush_before: bool,
    /// Whether gets that meet in one round travel as one request per node.
    pub merge_gets: bool,
    /// What reads get while their node is down.
    pub on_node_down: OnNodeDown,
    /// What auto-discovery clients are told.
    pub answer_discovery: AnswerDiscovery,
    /// Longest time to open a connection to a node, 1 ms to 60 s.
    pub connect_timeout: Duration,
    /// Longest silence of a node that owes a reply, 1 ms to 60 s.
    pub request_timeout: Duration,
    /// Longest wait of a request that its connection does not take, 1 ms to 60 s.
    pub queue_timeout: Duration,
    /// Most bytes for everything that waits, 8 MiB to 64 GiB.
    pub buffer_limit: usize,
    /// Requests to nodes that take at least so long are told of, up to 60 min; 0 for none.
    pub slow_request: Duration,
    /// Whether it is counted which keys are asked for most.
    pub hot_keys: bool,
    /// Whether keys are shown as they are, not by their hash.
    pub log_keys: bool,
    /// How the source of nodes is asked and believed; the defaults for `dev`.
    pub discovery: discovery::Options,
    /// How nodes and the discovery endpoint are secured; plain for `dev`.
    pub secured: Secured,
    /// Longest wait for the first ring before readiness is reported without one, up to 60 min.
    pub ready_timeout: Duration,
    /// How long a removed node may be silent while it owes replies, up to 60 min.
    pub drain_timeout: Duration,
    /// How long clients may stay when the process is told to end, up to 60 min.
    pub drain_timeout_on_exit: Duration,
    /// Client connections at a time, 1 to 1,000,000.
    pub max_connections: usize,
    /// What is logged, levels by module as `tracing_subscriber::filter::Targets` reads them; parses.
    pub log_filter: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// Every option of the command as it was given, for `/config`.
    pub given: Vec<Given>,
    /// What was ignored, one line each, to be logged once.
    pub warnings: Vec<String>,
}

/// An option and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// The flag, without dashes.
    pub option: String,
    /// As it was written; absent when the option has no default and was not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `flag`, `default`, or the variable's name.
    pub from: String,
}

/// How lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: an object a line.
    Json,
}

/// What reads get while their node is down; writes always get an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnNodeDown {
    /// A miss: the application goes to its database.
    Miss,
    /// `SERVER_ERROR`.
    Error,
}

/// What clients are told that ask who the nodes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerDiscovery {
    /// This sidecar.
    On,
    /// This host (without brackets) and port.
    At(Arc<str>, u16),
    /// Nothing: `ERROR`, as by a memcached.
    Off,
}

/// The variables that took effect, each with its option's long name.
type FromEnvironment = Vec<(String, String)>;

/// Reads the arguments (the first is the program's name) and the environment. A variable that is empty or blank
/// counts as not set.
///
/// # Errors
/// [`Exit`] when an option or a variable is wrong, when there are no nodes, and for `--help` and `--version`.
pub fn parse(args: impl IntoIterator<Item = OsString>, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Exit> {
    parse_within(args, env, cgroup::limits(Path::new("/")))
}

fn parse_within(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<String>,
    limits: Limits,
) -> Result<Config, Exit> {
    let env = |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    // Made anew each time and gone at once: memory that two have taken at the start is not given back while it runs.
    let command = || cli::without_environment(Cli::command());
    let mut args = with_subcommand(args);

    let mut matches = command().try_get_matches_from(&args).map_err(|error| {
        Exit::of_stray_word(&error, &args, &Cli::command()).unwrap_or_else(|| Exit::from_clap(&error, &[]))
    })?;
    let mut warnings = Vec::new();
    let mut from_env = FromEnvironment::new();
    let mut further = Vec::new();
    let silenced = has_source_flag(&matches);
    for (long, name) in unset_options(&Cli::command(), &matches) {
        if silenced && cli::SOURCES.contains(&&*long) {
            continue;
        }
        let Some(value) = env(&name) else { continue };
        if [cli::NODE_PORT, cli::DISCOVERY_PORT].contains(&&*name) && is_service_link(&value) {
            warnings.push(format!(
                "{name}={} ignored: Kubernetes sets it for a Service of that name; give the port as --{long}, or as a number",
                one_line(&value)
            ));
            continue;
        }
        further.push(OsString::from(format!("--{long}={value}")));
        from_env.push((long, name));
    }
    // Behind the program's name and the command.
    if !further.is_empty() {
        args.splice(2..2, further);
        matches = command().try_get_matches_from(&args).map_err(|error| Exit::from_clap(&error, &from_env))?;
    }
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Exit::from_clap(&error, &from_env))?;

    let rust_log = env("RUST_LOG");
    let given = given(&Cli::command(), &matches, &from_env);
    let config = match cli.command {
        CliCommand::Serve(serve) => {
            let command = Command::Serve { source: node_source(&serve, &from_env)? };
            refuse_itself(&command, &serve.common.listen, &from_env)?;
            let config = Config::new(command, &serve.common, rust_log, limits, warnings, &from_env)?;
            config.with_discovery(serve, &from_env)
        }
        CliCommand::Check(serve) => {
            let command = Command::Check { source: node_source(&serve, &from_env)? };
            let config = Config::new(command, &serve.common, rust_log, limits, warnings, &from_env)?;
            config.with_discovery(serve, &from_env)
        }
        CliCommand::Locate(LocateArgs { keys, json, serve }) => {
            let command = Command::Locate { source: node_source(&serve, &from_env)?, keys, json };
            let config = Config::new(command, &serve.common, rust_log, limits, warnings, &from_env)?;
            config.with_discovery(serve, &from_env)
        }
        CliCommand::Detect(DetectArgs { keys, verify, min, limit, time, serve }) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let how = Detect { keys, verify, min, limit, time };
            let command = Command::Detect { source: node_source(&serve, &from_env)?, how };
            let config = Config::new(command, &serve.common, rust_log, limits, warnings, &from_env)?;
            config.with_discovery(serve, &from_env)
        }
        CliCommand::Plan(PlanArgs { from, to, keys, to_placement, serve }) => {
            if to.is_none() && to_placement.is_none() {
                return Err(Exit::usage(
                    "plan: say what is to change: --to LIST, the nodes after the change; --to-placement NAME, the placement after \
                     it; or both",
                ));
            }
            let list = |option: &str, entries: &str| node_list(option, entries, serve.node_port, &from_env);
            let to_placement = to_placement.map(|to| to.with_names(serve.common.node_name_format.clone()));
            let is_source = from.is_none();
            let from = match from {
                None => node_source(&serve, &from_env)?,
                Some(entries) => Source::Static(list("from", &entries)?),
            };
            let to = to.map(|entries| list("to", &entries)).transpose()?;
            let command = Command::Plan { from, is_source, to, to_placement, keys };
            let config = Config::new(command, &serve.common, rust_log, limits, warnings, &from_env)?;
            config.with_discovery(serve, &from_env)
        }
        CliCommand::Placements => Config::plain(Command::Placements, rust_log, limits, warnings, &from_env),
        CliCommand::Completions(CompletionsArgs { shell }) => {
            Config::plain(Command::Completions { shell }, rust_log, limits, warnings, &from_env)
        }
        CliCommand::Man(ManArgs { command }) => {
            let is_known = |name: &String| Cli::command().get_subcommands().any(|known| known.get_name() == name);
            if let Some(name) = command.as_ref().filter(|name| !is_known(name)) {
                return Err(Exit::usage(&format!(
                    "man: there is no command {} (they are listed by: slipring --help)",
                    phrase::quoted(name)
                )));
            }
            Config::plain(Command::Manual { command }, rust_log, limits, warnings, &from_env)
        }
        CliCommand::Reload(reload) => {
            Config::plain(Command::Reload { pid: reload.pid }, rust_log, limits, warnings, &from_env)
        }
        CliCommand::Dev(dev) => {
            let command = Command::Dev { nodes: dev.nodes.into(), node_memory: dev.node_memory };
            Config::new(command, &dev.common, rust_log, limits, warnings, &from_env)
        }
    };
    config.map(|config| Config { given, ..config })
}

/// The filter of `RUST_LOG`, unless it is for other programs alone: then nothing would be logged, not even why.
fn filter_for_us(filter: String, level: LogLevel, warnings: &mut Vec<String>) -> Result<Option<String>, Exit> {
    // An empty one would stand for `error` to whatever there is.
    let filter =
        filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect::<Vec<_>>().join(",");
    let targets: Targets = filter.parse().map_err(|error| Exit::usage(&format!("RUST_LOG={filter}: {error}")))?;
    let is_meant = |directive: &str| directive.eq_ignore_ascii_case("off") || directive.starts_with("slipring");
    let says = targets.would_enable("slipring", &tracing::Level::ERROR) || filter.split(',').any(is_meant);
    if says && !filter.is_empty() {
        return Ok(Some(filter));
    }
    let level = level.as_str();
    warnings.push(format!(
        "RUST_LOG={} ignored: it has no level for slipring; --log-level {level} holds",
        one_line(&filter)
    ));
    Ok(None)
}

// === impl Config ===

impl Config {
    fn new(
        command: Command,
        common: &CommonArgs,
        rust_log: Option<String>,
        limits: Limits,
        warnings: Vec<String>,
        from_env: &FromEnvironment,
    ) -> Result<Self, Exit> {
        let mut warnings = warnings;
        let rust_log =
            rust_log.map(|filter| filter_for_us(filter, common.log_level, &mut warnings)).transpose()?.flatten();
        let automatic = if limits.cpus.is_some_and(|limit| limit >= 2.0) { 2 } else { 1 };
        let clients = listen(&common.listen, from_env)?;
        Ok(Self {
            command,
            placement: common.placement.clone().with_names(common.node_name_format.clone()),
            instance: common.instance.clone(),
            unix_mode: common.unix_mode,
            admin_listen: admin_listen(&common.admin_listen, &clients, from_env)?,
            listen: clients,
            workers: common.workers.0.unwrap_or(automatic),
            connections_per_node: common.connections_per_node.into(),
            max_value: bytes(common.max_value),
            bulk_above: bytes(common.bulk_above),
            deny_flush_all: common.deny_flush_all,
            flush_before: false,
            merge_gets: common.merge_gets,
            on_node_down: common.on_node_down,
            answer_discovery: common.answer_discovery.clone(),
            connect_timeout: common.connect_timeout,
            request_timeout: common.request_timeout,
            queue_timeout: common.queue_timeout,
            slow_request: common.slow_request,
            hot_keys: common.hot_keys,
            log_keys: common.log_keys,
            buffer_limit: common.buffer_limit.0.map_or_else(|| automatic_buffers(limits.memory), bytes),
            discovery: discovery::Options::default(),
            secured: Secured::default(),
            ready_timeout: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
            drain_timeout_on_exit: common.drain_timeout_on_exit,
            max_connections: usize::try_from(common.max_connections).unwrap_or(usize::MAX),
            log_filter: rust_log.unwrap_or_else(|| common.log_level.as_str().to_owned()),
            log_format: common.log_format,
            given: Vec::new(),
            warnings,
        })
    }

    /// A command that has few options of its own.
    fn plain(
        command: Command,
        rust_log: Option<String>,
        limits: Limits,
        warnings: Vec<String>,
        from_env: &FromEnvironment,
    ) -> Result<Self, Exit> {
        let defaults = CommonArgs::defaults().map_err(|error| Exit::from_clap(&error, &[]))?;
        Self::new(command, &defaults, rust_log, limits, warnings, from_env)
    }

    /// Whether an option (its flag, without dashes) was given, by flag or variable.
    #[must_use]
    pub fn is_given(&self, option: &str) -> bool {
        self.given.iter().any(|given| given.option == option && given.from != "default")
    }

    /// `/config`: every option as it was given, what `auto` came to, and what is logged (`RUST_LOG` wins).
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "options": self.given,
            "workers": self.workers,
            "buffer_limit_bytes": self.buffer_limit,
            "log_filter": self.log_filter,
        })
        .to_string()
    }

    fn with_discovery(mut self, serve: ServeArgs, from_env: &FromEnvironment) -> Result<Self, Exit> {
        let pinned = node_order(&serve, from_env)?;
        let (secured, warnings) = security::secured(&serve, from_env)?;
        self.warnings.extend(warnings);
        // A list does not change: whoever is not in it now is a slip, or has left. (Discovery may yet find it.)
        if let Some(Source::Static(nodes)) = self.command.source()
            && let Some(unlisted) = discovery::unlisted(nodes, &pinned)
        {
            let (order, list) = (source("node-order", from_env), source("nodes", from_env));
            self.warnings.push(format!("{order} names {}, which {list} does not", unlisted.listed()));
        }
        if matches!(self.command, Command::Serve { source: Source::Static(_) }) && serve.state_dir.is_some() {
            let (option, list) = (source("state-dir", from_env), source("nodes", from_env));
            self.warnings.push(format!("{option} has no effect: after a restart the nodes are again those of {list}"));
        }
        let (nodes, option) = match self.command.source() {
            Some(Source::Static(nodes)) => (nodes.as_slice(), "nodes"),
            Some(Source::Endpoint { first, .. }) => (first.as_slice(), "nodes"),
            Some(Source::Dns { .. } | Source::Srv { .. }) if self.placement.counts_order() && pinned.is_empty() => {
                self.warnings.push(format!(
                    "placement {} depends on the order of the nodes, which DNS does not have: pin it with --node-order",
                    self.placement.preset()
                ));
                (&[][..], "")
            }
            _ => (&[][..], ""),
        };
        // Rather now than when the ring is built.
        let members = nodes.iter().cloned().map(Arc::new).collect();
        if let (Some(_), Err(error)) = (nodes.first(), Topology::placed(0, members, &Arc::new(self.placement.clone())))
        {
            return Err(Exit::usage(&format!("{}: {error}", source(option, from_env))));
        }
        let own = own(&self.command, &self.listen);
        let (before, placement_before) = before(&serve, &self.placement, &own, from_env, &mut self.warnings)?;
        let discovery = discovery::Options {
            own,
            before,
            placement_before,
            variables: Arc::new(variables::variables(from_env)),
            keep_order: self.placement.counts_order(),
            placement: Arc::new(self.placement.clone()),
            pinned,
            interval: serve.discovery_interval,
            removal_hold: serve.removal_hold,
            node_port: serve.node_port,
            state_dir: serve.state_dir,
            secured: secured.clone(),
            ..self.discovery
        };
        let (ready_timeout, drain_timeout) = (serve.ready_timeout, serve.drain_timeout);
        let flush_before = serve.flush_before;
        Ok(Self { discovery, secured, ready_timeout, drain_timeout, flush_before, ..self })
    }
}

impl Display for AnswerDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Off => f.write_str("off"),
            Self::At(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::At(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// 40 % of the container's memory; the rest is for the program, its stacks and the kernel's share.
fn automatic_buffers(memory: Option<u64>) -> usize {
    memory.map_or(BUFFERS, |memory| (bytes(memory) / 5 * 2).max(LEAST_BUFFERS))
}

/// More than an address space is as much as it.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Without a command it is `serve`.
fn with_subcommand(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.is_empty() {
        args.push("slipring".into());
    }
    let of_the_program = ["-h", "--help", "-V", "--version"];
    let is_serve = match args.get(1).map(|arg| arg.to_string_lossy()) {
        Some(arg) => arg.starts_with('-') && !of_the_program.contains(&&*arg),
        None => true,
    };
    if is_serve {
        args.insert(1, "serve".into());
    }
    args
}

/// How the user gave an option: the variable's name or the flag.
fn source(long: &str, from_env: &FromEnvironment) -> String {
    match from_env.iter().find(|(option, _)| option == long) {
        Some((_, name)) => name.clone(),
        None => format!("--{long}"),
    }
}

#[cfg(test)]
mod tests;
