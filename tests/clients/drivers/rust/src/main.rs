//! The Rust clients. What a driver is told and answers: `matrix.py`.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};

use async_memcached::{AsciiProtocol, MetaProtocol, Status};
use base64::{engine::general_purpose::STANDARD, Engine};

/// What a client gives back.
enum Found {
    Unsupported,
    Done,
    None,
    Bool(bool),
    Number(u64),
    Value(Vec<u8>),
    Pairs(Vec<(Vec<u8>, Vec<u8>)>),
}

type Answer = Result<Found, Box<dyn Error>>;

/// One call: keys and values as they are, and the number behind them.
struct Call {
    op: String,
    parts: Vec<Vec<u8>>,
    number: u64,
}

impl Call {
    fn parse(line: &str) -> Result<Call, Box<dyn Error>> {
        let mut fields = line.split('\t');
        let op = fields.next().unwrap_or_default().to_owned();
        let texts = match op.as_str() {
            "incr" | "decr" | "touch" | "gat" => 1,
            "set" | "add" | "replace" | "cas" | "quiet_set" => 2,
            _ => usize::MAX,
        };
        let (mut parts, mut number) = (Vec::new(), 0);
        for (index, field) in fields.enumerate() {
            if index < texts {
                parts.push(STANDARD.decode(field)?);
            } else {
                number = field.parse()?;
            }
        }
        Ok(Call { op, parts, number })
    }

    fn key(&self) -> &str {
        std::str::from_utf8(&self.parts[0]).expect("keys are text")
    }

    fn keys(&self) -> Vec<&str> {
        self.parts.iter().map(|key| std::str::from_utf8(key).expect("keys are text")).collect()
    }

    fn value(&self) -> &[u8] {
        &self.parts[1]
    }

    fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        self.parts.chunks(2).map(|pair| (&*pair[0], &*pair[1])).collect()
    }
}

trait Client {
    fn ask(&mut self, call: &Call) -> Answer;
}

/// The crate `memcache`, in either of its protocols.
struct Memcache {
    library: memcache::Client,
    uniques: HashMap<String, u64>,
}

impl Memcache {
    fn new(address: &str, protocol: &str) -> Result<Memcache, Box<dyn Error>> {
        let library = memcache::connect(format!("memcache://{address}?timeout=30&protocol={protocol}"))?;
        Ok(Memcache { library, uniques: HashMap::new() })
    }
}

impl Client for Memcache {
    fn ask(&mut self, call: &Call) -> Answer {
        use memcache::{CommandError, MemcacheError};
        fn yes(done: Result<(), MemcacheError>) -> Answer {
            match done {
                Ok(()) => Ok(Found::Bool(true)),
                Err(MemcacheError::CommandError(CommandError::KeyExists | CommandError::KeyNotFound)) => {
                    Ok(Found::Bool(false))
                }
                Err(error) => Err(error.into()),
            }
        }
        fn count(done: Result<u64, MemcacheError>) -> Answer {
            match done {
                Ok(number) => Ok(Found::Number(number)),
                Err(MemcacheError::CommandError(CommandError::KeyNotFound)) => Ok(Found::None),
                Err(error) => Err(error.into()),
            }
        }
        let seconds = call.number as u32;
        let library = &self.library;
        match call.op.as_str() {
            "set" => yes(library.set(call.key(), call.value(), seconds)),
            "add" => yes(library.add(call.key(), call.value(), seconds)),
            "replace" => yes(library.replace(call.key(), call.value(), seconds)),
            "append" => yes(library.append(call.key(), call.value())),
            "prepend" => yes(library.prepend(call.key(), call.value())),
            "get" => Ok(library.get(call.key())?.map_or(Found::None, Found::Value)),
            "gets" => {
                let found: Option<(Vec<u8>, u32, Option<u64>)> = library.get(call.key())?;
                let Some((value, _, unique)) = found else { return Ok(Found::None) };
                self.uniques.insert(call.key().to_owned(), unique.ok_or("no unique")?);
                Ok(Found::Value(value))
            }
            "cas" => Ok(Found::Bool(library.cas(call.key(), call.value(), seconds, self.uniques[call.key()])?)),
            "incr" => count(library.increment(call.key(), call.number)),
            "decr" => count(library.decrement(call.key(), call.number)),
            "touch" => Ok(Found::Bool(library.touch(call.key(), seconds)?)),
            "delete" => Ok(Found::Bool(library.delete(call.key())?)),
            "multiget" => {
                let found: HashMap<String, Vec<u8>> = library.gets(&call.keys())?;
                Ok(Found::Pairs(found.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect()))
            }
            "stats" => {
                let (_, stats) = library.stats()?.pop().ok_or("no server")?;
                Ok(Found::Pairs(stats.into_iter().map(|(name, stat)| (name.into_bytes(), stat.into_bytes())).collect()))
            }
            "version" => {
                let (_, version) = library.version()?.pop().ok_or("no server")?;
                Ok(Found::Value(version.into_bytes()))
            }
            "flush" => yes(library.flush()),
            _ => Ok(Found::Unsupported),
        }
    }
}

/// The crate `bmemcached`: binary.
struct Bmemcached(bmemcached::MemcachedClient);

impl Client for Bmemcached {
    fn ask(&mut self, call: &Call) -> Answer {
        use bmemcached::errors::{Error, ErrorKind};
        // Its statuses are private, their names are not.
        fn refused(error: &Error) -> bool {
            matches!(error.kind(), ErrorKind::Status(status)
                if ["KeyNotFound", "KeyExists", "ItemNotStored"].contains(&format!("{status:?}").as_str()))
        }
        fn yes(done: Result<(), Error>) -> Answer {
            match done {
                Ok(()) => Ok(Found::Bool(true)),
                Err(error) if refused(&error) => Ok(Found::Bool(false)),
                Err(error) => Err(error.to_string().into()),
            }
        }
        let seconds = call.number as u32;
        const DO_NOT_CREATE: u32 = u32::MAX;
        let count = |done: Result<u64, Error>| match done {
            Ok(number) => Ok(Found::Number(number)),
            Err(error) if refused(&error) => Ok(Found::None),
            Err(error) => Err(error.to_string().into()),
        };
        match call.op.as_str() {
            "set" => yes(self.0.set(call.key(), call.value(), seconds)),
            "add" => yes(self.0.add(call.key(), call.value(), seconds)),
            "replace" => yes(self.0.replace(call.key(), call.value(), seconds)),
            "get" => match self.0.get::<_, Vec<u8>>(call.key()) {
                Ok(value) => Ok(Found::Value(value)),
                Err(error) if refused(&error) => Ok(Found::None),
                Err(error) => Err(error.to_string().into()),
            },
            "incr" => count(self.0.increment(call.key(), call.number, 0, DO_NOT_CREATE)),
            "decr" => count(self.0.decrement(call.key(), call.number, 0, DO_NOT_CREATE)),
            "delete" => yes(self.0.delete(call.key())),
            _ => Ok(Found::Unsupported),
        }
    }
}

/// The crate `async-memcached`, in either of its protocols.
struct Async {
    runtime: tokio::runtime::Runtime,
    library: async_memcached::Client,
    address: String,
    meta: bool,
    uniques: HashMap<String, u64>,
}

impl Async {
    fn new(address: &str, meta: bool) -> Result<Async, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let library = runtime.block_on(async_memcached::Client::new(format!("tcp://{address}")))?;
        Ok(Async { runtime, library, address: address.to_owned(), meta, uniques: HashMap::new() })
    }

    fn text(&mut self, call: &Call) -> Answer {
        use async_memcached::Error;
        fn yes(done: Result<(), Error>) -> Answer {
            match done {
                Ok(()) => Ok(Found::Bool(true)),
                Err(Error::Protocol(Status::NotStored | Status::NotFound | Status::Exists)) => Ok(Found::Bool(false)),
                Err(error) => Err(error.into()),
            }
        }
        fn count(done: Result<u64, Error>) -> Answer {
            match done {
                Ok(number) => Ok(Found::Number(number)),
                Err(Error::Protocol(Status::NotFound)) => Ok(Found::None),
                Err(error) => Err(error.into()),
            }
        }
        let (runtime, library) = (&self.runtime, &mut self.library);
        let seconds = Some(call.number as i64);
        match call.op.as_str() {
            "set" => yes(runtime.block_on(library.set(call.key(), call.value(), seconds, None))),
            "add" => yes(runtime.block_on(library.add(call.key(), call.value(), seconds, None))),
            "get" => Ok(runtime
                .block_on(library.get(call.key()))?
                .map_or(Found::None, |item| Found::Value(item.data.unwrap_or_default()))),
            "incr" => count(runtime.block_on(library.increment(call.key(), call.number))),
            "decr" => count(runtime.block_on(library.decrement(call.key(), call.number))),
            "delete" => yes(runtime.block_on(library.delete(call.key()))),
            "quiet_delete" => {
                runtime.block_on(library.delete_no_reply(call.key()))?;
                Ok(Found::Done)
            }
            "multiget" => {
                let items = match runtime.block_on(library.get_multi(call.keys())) {
                    Err(Error::Protocol(Status::NotFound)) => Vec::new(),
                    other => other?,
                };
                Ok(Found::Pairs(items.into_iter().map(|item| (item.key, item.data.unwrap_or_default())).collect()))
            }
            "multiset" => {
                let pairs = call.pairs();
                let stored = runtime.block_on(library.set_multi(&pairs, Some(1000), None))?;
                Ok(Found::Bool(stored.len() == pairs.len() && stored.values().all(|one| one.is_ok())))
            }
            "stats" => {
                let stats = runtime.block_on(library.stats())?;
                Ok(Found::Pairs(stats.into_iter().map(|(name, stat)| (name.into_bytes(), stat.into_bytes())).collect()))
            }
            "version" => {
                let version = runtime.block_on(library.version())?;
                Ok(Found::Value(version.trim_end().as_bytes().to_vec()))
            }
            "flush" => yes(runtime.block_on(library.flush_all())),
            _ => Ok(Found::Unsupported),
        }
    }

    fn meta(&mut self, call: &Call) -> Answer {
        use async_memcached::{Error, MetaValue};
        fn yes(done: Result<Option<MetaValue>, Error>) -> Answer {
            match done {
                Ok(_) => Ok(Found::Bool(true)),
                Err(Error::Protocol(Status::NotStored | Status::NotFound | Status::Exists)) => Ok(Found::Bool(false)),
                Err(error) => Err(error.into()),
            }
        }
        fn value(done: Result<Option<MetaValue>, Error>) -> Answer {
            match done {
                Ok(Some(item)) => Ok(Found::Value(item.data.unwrap_or_default())),
                Ok(None) | Err(Error::Protocol(Status::NotFound)) => Ok(Found::None),
                Err(error) => Err(error.into()),
            }
        }
        let (runtime, library) = (&self.runtime, &mut self.library);
        let expiry = format!("T{}", call.number);
        let store = |library: &mut async_memcached::Client, flags: &[&str]| {
            yes(runtime.block_on(library.meta_set(call.key(), call.value(), false, None, Some(flags))))
        };
        match call.op.as_str() {
            "set" => store(library, &[&expiry]),
            "add" => store(library, &["ME", &expiry]),
            "replace" => store(library, &["MR", &expiry]),
            "append" => store(library, &["MA"]),
            "prepend" => store(library, &["MP"]),
            "get" => value(runtime.block_on(library.meta_get(call.key(), false, None, Some(&["v"])))),
            "gets" => {
                let item = runtime.block_on(library.meta_get(call.key(), false, None, Some(&["v", "c"])))?;
                let Some(item) = item else { return Ok(Found::None) };
                self.uniques.insert(call.key().to_owned(), item.cas.ok_or("no unique")?);
                Ok(Found::Value(item.data.unwrap_or_default()))
            }
            "cas" => store(library, &[&expiry, &format!("C{}", self.uniques[call.key()])]),
            "gat" => value(runtime.block_on(library.meta_get(call.key(), false, None, Some(&["v", &expiry])))),
            "incr" | "decr" => {
                let delta = Some(call.number);
                let flags = Some(["v"].as_slice());
                let done = if call.op == "incr" {
                    runtime.block_on(library.meta_increment(call.key(), false, None, delta, flags))
                } else {
                    runtime.block_on(library.meta_decrement(call.key(), false, None, delta, flags))
                };
                match value(done)? {
                    Found::Value(digits) => Ok(Found::Number(std::str::from_utf8(&digits)?.parse()?)),
                    other => Ok(other),
                }
            }
            "delete" => yes(runtime.block_on(library.meta_delete(call.key(), false, None, None))),
            "quiet_set" => {
                runtime.block_on(library.meta_set(call.key(), call.value(), true, None, Some(&[&expiry])))?;
                Ok(Found::Done)
            }
            "quiet_delete" => {
                runtime.block_on(library.meta_delete(call.key(), true, None, None))?;
                Ok(Found::Done)
            }
            "multiget" => {
                let items = runtime.block_on(library.meta_get_multi(&call.keys(), Some(&["v"])))?;
                let pairs = items.into_iter().map(|item| (item.key.unwrap_or_default(), item.data.unwrap_or_default()));
                Ok(Found::Pairs(pairs.collect()))
            }
            "multiset" => {
                let refused = runtime.block_on(library.meta_set_multi(&call.pairs(), Some(&["T1000"])))?;
                Ok(Found::Bool(refused.is_empty()))
            }
            // It has no meta command of its own.
            "version" | "stats" | "flush" => self.text(call),
            _ => Ok(Found::Unsupported),
        }
    }
}

impl Client for Async {
    fn ask(&mut self, call: &Call) -> Answer {
        if self.library.is_closed() {
            self.library = self.runtime.block_on(async_memcached::Client::new(format!("tcp://{}", self.address)))?;
        }
        if self.meta {
            self.meta(call)
        } else {
            self.text(call)
        }
    }
}

fn answer(found: Found) -> String {
    match found {
        Found::Unsupported => "unsupported".to_owned(),
        Found::Done => "done".to_owned(),
        Found::None => "none".to_owned(),
        Found::Bool(yes) => yes.to_string(),
        Found::Number(number) => format!("number\t{number}"),
        Found::Value(value) => format!("value\t{}", STANDARD.encode(value)),
        Found::Pairs(pairs) => {
            let mut said = "pairs".to_owned();
            for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
                said += "\t";
                said += &STANDARD.encode(part);
            }
            said
        }
    }
}

fn client(name: &str, address: &str) -> Result<Box<dyn Client>, Box<dyn Error>> {
    Ok(match name {
        "memcache-rs" => Box::new(Memcache::new(address, "ascii")?),
        "memcache-rs binary" => Box::new(Memcache::new(address, "binary")?),
        "bmemcached-rs" => {
            Box::new(Bmemcached(bmemcached::MemcachedClient::new(vec![address], 1).map_err(|error| error.to_string())?))
        }
        "async-memcached" => Box::new(Async::new(address, false)?),
        "async-memcached meta" => Box::new(Async::new(address, true)?),
        _ => return Err(format!("no client {name:?}").into()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, host, port] = arguments.as_slice() else { return Err("driver CLIENT HOST PORT".into()) };
    let mut client = client(name, &format!("{host}:{port}"))?;
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let said = match Call::parse(&line?).and_then(|call| client.ask(&call)) {
            Ok(found) => answer(found),
            Err(error) => {
                let said = format!("error\t{}", error.to_string().replace(['\n', '\t'], " "));
                eprintln!("{said}");
                said
            }
        };
        writeln!(output, "{said}")?;
        output.flush()?;
    }
    Ok(())
}
