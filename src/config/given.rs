//! Which options were given, and by what.

use std::ffi::OsStr;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::{FromEnvironment, Given, SERVE, cli};

/// Options of the chosen command that no flag has set: long name and variable.
pub(super) fn unset_options(declared: &clap::Command, matches: &ArgMatches) -> Vec<(String, String)> {
    let Some((name, matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let Some(command) = declared.find_subcommand(name) else {
        return Vec::new();
    };
    let options = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?, arg.get_env()?)));
    options
        .filter(|(arg, ..)| matches.value_source(arg.get_id().as_str()) != Some(ValueSource::CommandLine))
        .map(|(_, long, env)| (long.to_owned(), env.to_string_lossy().into_owned()))
        .collect()
}

/// Every option of the chosen command, as it is in force.
pub(super) fn given(declared: &clap::Command, matches: &ArgMatches, from_env: &FromEnvironment) -> Vec<Given> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let command = declared.find_subcommand(name);
    let options = command.into_iter().flat_map(clap::Command::get_arguments).filter(|arg| arg.get_env().is_some());
    let given = |arg: &clap::Arg| {
        let option = arg.get_long()?.to_owned();
        let written = matches.get_raw(arg.get_id().as_str());
        let value =
            written.map(|values| values.collect::<Vec<_>>().join(OsStr::new(",")).to_string_lossy().into_owned());
        let variable = from_env.iter().find(|(long, _)| *long == option).map(|(_, variable)| variable.clone());
        let is_flag = matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let from = variable.unwrap_or_else(|| if is_flag { "flag" } else { "default" }.to_owned());
        Some(Given { option, value, from })
    };
    options.filter_map(given).collect()
}

/// Whether a flag names a source: it silences those from the environment.
pub(super) fn has_source_flag(matches: &ArgMatches) -> bool {
    let Some((SERVE | "check" | "locate" | "detect" | "plan", matches)) = matches.subcommand() else { return false };
    let given = |long: &str| matches.value_source(&long.replace('-', "_")) == Some(ValueSource::CommandLine);
    cli::SOURCES.iter().any(|long| given(long))
}
