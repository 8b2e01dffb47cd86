//! Arguments → configuration → logging → run → exit code. Nothing else.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::ExitCode,
};

use slipring::{
    commands,
    config::{self, Config, Exit, Stream},
    server,
};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

fn main() -> ExitCode {
    // What is not UTF-8 becomes a value that is refused, rather than one that is not there.
    let environment = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let args: Vec<OsString> = env::args_os().collect();
    let own = |exit: Exit| config::parse(sidecars_own(&args).ok_or(exit)?, &environment);
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

/// `slipring check` without a word more, beside a sidecar that was told its nodes by flags: its
/// arguments, for in a container it is process 1. Its environment we share anyway.
fn sidecars_own(args: &[OsString]) -> Option<Vec<OsString>> {
    let [program, command] = args else { return None };
    let sidecar = fs::read("/proc/1/cmdline").ok()?;
    let mut words = sidecar.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned());
    let is_slipring = Path::new(&words.next()?).file_name()? == "slipring";
    let options = words.filter(|word| word != "serve" && !word.is_empty());
    (command == "check" && is_slipring).then(|| [program.clone(), command.clone()].into_iter().chain(options).collect())
}

fn start_logging(config: &Config) {
    // The filter was checked with the configuration. Levels by module need no regular expressions,
    // which are a fifth of a megabyte of an idle sidecar.
    let levels: Targets = config.log_filter.parse().unwrap_or_default();
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
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
