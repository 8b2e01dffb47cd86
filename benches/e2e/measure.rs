//! What a run costs, read from outside the processes: CPU time, memory, system calls.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CpuSet;

/// CPU time of processes, all threads, user and system, in nanoseconds. `/proc/PID/stat` counts in
/// ticks of 10 ms; `schedstat` gives the scheduler's own nanoseconds.
pub(crate) fn cpu_ns(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let field = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            sum += field.ok_or_else(|| io::Error::other("schedstat without a run time: is CONFIG_SCHED_INFO set?"))?;
        }
    }
    Ok(sum)
}

/// Time for which CPUs were busy, with whatever it was, and what a hypervisor took of them, in nanoseconds. The kernel tells
/// it in ticks of 10 ms.
pub(crate) fn busy_ns(cpus: &CpuSet) -> io::Result<u64> {
    // In each line: the name, then user, nice, system, idle, iowait, irq, softirq, steal.
    const BUSY: [usize; 6] = [0, 1, 2, 5, 6, 7];
    let text = fs::read_to_string("/proc/stat")?;
    let of = |line: &str| -> Option<u64> {
        let mut fields = line.strip_prefix("cpu")?.split(' ');
        let cpu: usize = fields.next()?.parse().ok()?;
        if !cpus.is_set(cpu) {
            return None;
        }
        let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        Some(BUSY.iter().filter_map(|place| ticks.get(*place)).sum())
    };
    let ticks: u64 = text.lines().filter_map(of).sum();
    Ok(ticks * 10_000_000)
}

/// Resident memory of a process in KiB: now (`VmRSS`) or at its highest (`VmHWM`).
pub(crate) fn memory_kib(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no {field} for process {pid}")))
}

/// How system calls are counted; always in a pass of its own, since it slows what it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// The tracepoint of the kernel: cheap.
    Perf,
    /// Stops the process at every call: the count of batched calls may differ from the undisturbed
    /// one.
    Strace,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf stat -e raw_syscalls:sys_enter",
            Self::Strace => "strace -c -f (slows the process: batches are larger than undisturbed)",
        }
    }

    /// The first way that works here, tried on a child of our own.
    pub(crate) fn find() -> Option<Self> {
        [Self::Perf, Self::Strace].into_iter().find(|method| method.works())
    }

    fn works(self) -> bool {
        let Ok(mut busy) = Command::new("sh")
            .args(["-c", "while read -r line; do echo \"$line\"; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
        else {
            return false;
        };
        let count = Counter::start(self, busy.id()).and_then(|counter| {
            if let Some(input) = &mut busy.stdin {
                io::Write::write_all(input, b"1\n2\n3\n")?;
            }
            sleep(Duration::from_millis(50));
            counter.stop()
        });
        drop(busy.stdin.take());
        let _ = busy.wait();
        count.is_ok_and(|calls| calls > 0)
    }
}

/// A tracer attached to one process.
pub(crate) struct Counter {
    method: Method,
    child: Child,
}

impl Counter {
    /// Returns when every call is counted.
    pub(crate) fn start(method: Method, pid: u32) -> io::Result<Self> {
        let mut command = match method {
            Method::Perf => Command::new("perf"),
            Method::Strace => Command::new("strace"),
        };
        match method {
            Method::Perf => command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"]),
            Method::Strace => command.args(["-c", "-f", "-p"]),
        };
        let child =
            command.arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut counter = Self { method, child };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !counter.attached(pid) {
            if counter.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::other("the tracer does not attach"));
            }
            sleep(Duration::from_millis(5));
        }
        // Perf opens its counters before it enables them.
        sleep(Duration::from_millis(50));
        Ok(counter)
    }

    fn attached(&self, pid: u32) -> bool {
        match self.method {
            Method::Perf => holds_counter(self.child.id()),
            Method::Strace => {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            }
        }
    }

    /// System calls since the start.
    pub(crate) fn stop(mut self) -> io::Result<u64> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            BufReader::new(stderr).read_to_string(&mut text)?;
        }
        self.child.wait()?;
        let count = match self.method {
            Method::Perf => first_field(&text, "raw_syscalls:sys_enter", ',', 0),
            // The last line: percent, seconds, µs per call, calls, errors if any, "total".
            Method::Strace => first_field(&text, "total", ' ', 3),
        };
        count.ok_or_else(|| io::Error::other(format!("the tracer counted nothing: {text:.200}")))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Asked to stop rather than killed: strace must detach. Harmless when it has ended.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
            let _ = self.child.wait();
        }
    }
}

fn holds_counter(pid: u32) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new("anon_inode:[perf_event]")))
}

fn first_field(text: &str, name: &str, separator: char, index: usize) -> Option<u64> {
    let line = text.as_bytes().lines().map_while(Result::ok).find(|line| line.contains(name))?;
    line.split(separator).filter(|field| !field.is_empty()).nth(index)?.parse().ok()
}
