//! Arguments → configuration → logging → run → exit code. Nothing else.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    process::ExitCode,
};

use slipring::{
    commands::{self, check},
    config::{self, Config, Exit, Stream},
    log, server,
};

fn main() -> ExitCode {
    // What is not UTF-8 becomes a value that is refused, rather than one that is not there.
    let environment = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let args: Vec<OsString> = env::args_os().collect();
    // In a container the sidecar is process 1; where it is not, or cannot be read, there is none.
    let sidecar = || fs::read("/proc/1/cmdline").unwrap_or_default();
    let own = |exit: Exit| config::parse(check::sidecars_own(&args, &sidecar()).ok_or(exit)?, &environment);
    let config = match config::parse(args.clone(), &environment).or_else(own) {
        Ok(config) => config,
        Err(exit) => {
            // A misspelt variable may be why.
            let warnings = if exit.stream == Stream::Stderr { unknown_variables() } else { Vec::new() };
            warnings.iter().for_each(|warning| log::tell(&format!("slipring: {warning}")));
            return leave(&exit);
        }
    };
    start_logging(&config);
    if let Some(result) = commands::run(&config, &mut io::stdout()) {
        return match result {
            Ok(()) => end(0),
            Err(error) => leave(&Exit { text: format!("slipring: {error}"), stream: Stream::Stderr, code: 1 }),
        };
    }
    match server::run(config) {
        Ok(()) => end(0),
        Err(error) => leave(&Exit { text: format!("slipring: {error}"), stream: Stream::Stderr, code: 1 }),
    }
}

fn start_logging(config: &Config) {
    // https://no-color.org
    let may_colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    log::start(&config.log_filter, config.log_format, may_colour);
    for warning in config.warnings.iter().chain(&unknown_variables()) {
        tracing::warn!("{warning}");
    }
}

/// A line for each variable that looks like one of ours and is none.
fn unknown_variables() -> Vec<String> {
    config::unknown_variables(env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()))
}

/// Says why it ends, if there is something to say, and waits for the log.
fn leave(exit: &Exit) -> ExitCode {
    match exit.stream {
        // Nothing can be done about an output that is closed.
        Stream::Stdout => drop(writeln!(io::stdout(), "{}", exit.text)),
        Stream::Stderr => log::tell(&exit.text),
    }
    end(exit.code)
}

fn end(code: u8) -> ExitCode {
    log::end();
    ExitCode::from(code)
}
