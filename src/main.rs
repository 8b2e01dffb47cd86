//! Arguments → configuration → logging → run → exit code. Nothing else.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use slipring::{
    commands::{self, check},
    config::{self, Config, Exit, LogFormat, Stream},
    server,
};
use tracing_subscriber::{Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

fn main() -> ExitCode {
    // What is not UTF-8 becomes a value that is refused, rather than one that is not there.
    let environment = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let args: Vec<OsString> = env::args_os().collect();
    // In a container the sidecar is process 1; where it is not, or cannot be read, there is none.
    let sidecar = || fs::read("/proc/1/cmdline").unwrap_or_default();
    let own = |exit: Exit| config::parse(check::sidecars_own(&args, &sidecar()).ok_or(exit)?, &environment);
    let config = match config::parse(args.clone(), &environment).or_else(own) {
        Ok(config) => config,
        Err(exit) => return leave(&exit),
    };
    start_logging(&config);
    if let Some(result) = commands::run(&config, &mut io::stdout()) {
        return match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => leave(&Exit { text: format!("slipring: {error}"), stream: Stream::Stderr, code: 1 }),
        };
    }
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => leave(&Exit { text: format!("slipring: {error}"), stream: Stream::Stderr, code: 1 }),
    }
}

fn start_logging(config: &Config) {
    // The filter was checked with the configuration. Levels by module need no regular expressions,
    // which are a fifth of a megabyte of an idle sidecar.
    let levels: Targets = config.log_filter.parse().unwrap_or_default();
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(levels).init();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// Nothing can be done about an output that is closed.
fn leave(exit: &Exit) -> ExitCode {
    let _ = match exit.stream {
        Stream::Stdout => writeln!(io::stdout(), "{}", exit.text),
        Stream::Stderr => writeln!(io::stderr(), "{}", exit.text),
    };
    ExitCode::from(exit.code)
}
