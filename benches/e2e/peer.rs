//! A contestant of one's own, started as `--peer` says: another proxy, or another slipring.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contestants::Contestant;
use crate::process::free_address;

/// `NAME=PATH:ARGS`. It lives as long as the bench does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Peer {
    /// What is said of it on the command line.
    pub(crate) fn parse(text: &str) -> Result<&'static Self, String> {
        let (name, rest) = text.split_once('=').ok_or("NAME=PATH:ARGS is expected")?;
        let (program, arguments) = rest.split_once(':').unwrap_or((rest, ""));
        if name.is_empty() || program.is_empty() {
            return Err("NAME=PATH:ARGS is expected".to_owned());
        }
        if Contestant::ALL.iter().any(|contestant| contestant.name() == name) {
            return Err(format!("{name} is the name of another contestant"));
        }
        if !["{listen}", "{port}", "{file:"].iter().any(|part| arguments.contains(part)) {
            return Err(
                "ARGS do not say where to listen: {listen}, {port}, or {file:PATH} of a file that does".to_owned()
            );
        }
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Ok(Box::leak(Box::new(Self { name: name.to_owned(), program: program.into(), arguments })))
    }

    /// Its command, with what stands for addresses filled in; its files go to that directory.
    pub(crate) fn command(&self, address: SocketAddr, nodes: &[SocketAddr], scratch: &Path) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        for (argument, number) in self.arguments.iter().zip(0..) {
            let Some((before, (path, after))) = file_of(argument) else {
                command.arg(filled(argument, address, nodes)?);
                continue;
            };
            let template = fs::read_to_string(path)
                .map_err(|error| io::Error::new(error.kind(), format!("--peer {}: {path}: {error}", self.name)))?;
            // With the same ending, which tells some programs what it is.
            let ending = Path::new(path).extension().unwrap_or_default().display().to_string();
            let copy = scratch.join(format!("{}-{number}.{ending}", self.name));
            fs::write(&copy, filled(&template, address, nodes)?)?;
            command.arg(format!("{before}{}{after}", copy.display()));
        }
        Ok(command)
    }

    /// For the head of the report.
    pub(crate) fn shown(&self) -> String {
        let arguments = self.arguments.iter().map(|argument| match file_of(argument) {
            Some((before, (path, rest))) => format!("{before}{{file:{}}}{rest}", crate::shown(Path::new(path))),
            None => argument.clone(),
        });
        format!("{}: {} {}", self.name, crate::shown(&self.program), arguments.collect::<Vec<_>>().join(" "))
    }
}

/// What stands before `{file:PATH}` in an argument, the path, and what follows.
fn file_of(argument: &str) -> Option<(&str, (&str, &str))> {
    let (before, rest) = argument.split_once("{file:")?;
    Some((before, rest.split_once('}')?))
}

fn filled(text: &str, address: SocketAddr, nodes: &[SocketAddr]) -> io::Result<String> {
    let list: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let mut text = text
        .replace("{listen}", &address.to_string())
        .replace("{host}", &address.ip().to_string())
        .replace("{port}", &address.port().to_string())
        .replace("{nodes}", &list.join(","));
    for (node, number) in list.iter().zip(1..) {
        text = text.replace(&format!("{{node{number}}}"), node);
    }
    while text.contains("{free}") {
        text = text.replacen("{free}", &free_address()?.to_string(), 1);
    }
    Ok(text)
}
