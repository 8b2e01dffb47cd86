//! A program that a bench starts, and where it listens.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A process that does not listen after this long has failed.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(10);

/// A running program; killed and reaped when dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it; what it says goes into a file, if one is named.
    pub(crate) fn spawn(mut command: Command, log: Option<&Path>) -> io::Result<Self> {
        for variable in ["MEMCACHED_NODES", "MEMCACHED_PORT", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let (output, errors) = match log {
            Some(log) => {
                let file = File::create(log)?;
                (file.try_clone()?.into(), file.into())
            }
            None => (Stdio::null(), Stdio::null()),
        };
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display())))?;
        Ok(Self { child })
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(name: &str, command: Command, address: SocketAddr, log: Option<&Path>) -> io::Result<Self> {
        let mut process = Self::spawn(command, log)?;
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            let ended = process.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = log.and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
                let how = ended.map_or("does not listen".to_owned(), |status| format!("ended ({status})"));
                return Err(io::Error::other(format!("{name} {how}: {}", last_line(&said))));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(no output)")
}

/// A free address on the loopback.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
