//! Connecting to a host by its name, as the system resolves it.
//!
//! The system's resolver blocks a thread for as long as it likes, and cannot be told to stop: a name server that does
//! not answer holds it for many seconds, while a connection is given up after a fraction of one and tried again. So
//! there is one lookup of a name at a time in the process, whoever waits for it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// Addresses of a name, in the order they are to be tried; an error is one line.
type Answer = Result<Vec<IpAddr>, (io::ErrorKind, String)>;
type Answers = watch::Receiver<Option<Answer>>;

/// Asks for the addresses of a name, and may take its time.
type Ask = fn(&str) -> io::Result<Vec<IpAddr>>;

/// There is one resolver of the system.
static SYSTEM: LazyLock<Arc<Lookups>> = LazyLock::new(|| Lookups::new(ask_system));

/// The lookups under way.
#[derive(Debug)]
struct Lookups {
    ask: Ask,
    names: Mutex<HashMap<Arc<str>, Answers>>,
}

/// The lookup of a name is under way until this is dropped, also where its thread never comes to run.
struct UnderWay {
    lookups: Arc<Lookups>,
    name: Arc<str>,
}

/// Connects to an address, or to the first address of a name that answers.
///
/// # Errors
/// Those of the lookup, or of the last address.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return TcpStream::connect(SocketAddr::new(address, port)).await;
    }
    let mut last = io::Error::other("the name has no address");
    for address in Arc::clone(&SYSTEM).resolve(host).await? {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask_system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

// === impl Lookups ===

impl Lookups {
    fn new(ask: Ask) -> Arc<Self> {
        Arc::new(Self { ask, names: Mutex::default() })
    }

    fn names(&self) -> MutexGuard<'_, HashMap<Arc<str>, Answers>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn resolve(self: Arc<Self>, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.under_way(name);
        let answer = answers.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(Ok(addresses))) => Ok(addresses),
            Ok(Some(Err((kind, text)))) => Err(io::Error::new(kind, text)),
            // Its runtime has ended before it was begun.
            Ok(None) | Err(_) => Err(io::Error::other("the lookup was given up")),
        }
    }

    /// The lookup of a name that is under way, or a new one.
    fn under_way(self: Arc<Self>, name: &str) -> Answers {
        let mut names = self.names();
        if let Some(answers) = names.get(name) {
            return answers.clone();
        }
        let name: Arc<str> = name.into();
        let (answer, answers) = watch::channel(None);
        names.insert(Arc::clone(&name), answers.clone());
        drop(names);
        let under_way = UnderWay { lookups: self, name };
        spawn_blocking(move || {
            let found = (under_way.lookups.ask)(&under_way.name);
            // Who comes now asks anew.
            drop(under_way);
            answer.send_replace(Some(found.map_err(|error| (error.kind(), error.to_string()))));
        });
        answers
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.lookups.names().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    static ASKED: AtomicU32 = AtomicU32::new(0);
    static ANSWERS: AtomicBool = AtomicBool::new(false);

    /// Hangs until it is told to answer.
    fn hangs(name: &str) -> io::Result<Vec<IpAddr>> {
        ASKED.fetch_add(1, Ordering::AcqRel);
        while !ANSWERS.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if name == "gone" { Err(io::ErrorKind::NotFound.into()) } else { Ok(vec![Ipv4Addr::LOCALHOST.into()]) }
    }

    #[tokio::test]
    async fn however_often_it_is_given_up_a_name_is_asked_for_once_at_a_time() {
        let lookups = Lookups::new(hangs);
        let resolve = |name: &'static str| Arc::clone(&lookups).resolve(name);
        for _ in 0..50 {
            for name in ["slow", "gone"] {
                let attempt = tokio::time::timeout(Duration::from_millis(1), resolve(name)).await;
                assert!(attempt.is_err(), "nobody has answered");
            }
        }
        let (slow, gone) = (resolve("slow"), resolve("gone"));
        ANSWERS.store(true, Ordering::Release);
        assert_eq!(slow.await.unwrap(), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(gone.await.unwrap_err().kind(), io::ErrorKind::NotFound);
        // The two futures may have come just after the answer, and asked anew.
        assert!(ASKED.load(Ordering::Acquire) <= 4, "{ASKED:?}");
        assert!(lookups.names().is_empty(), "nothing is kept");
    }

    #[test]
    fn a_lookup_that_never_began_is_not_waited_for() {
        fn never(_: &str) -> io::Result<Vec<IpAddr>> {
            Ok(Vec::new())
        }
        let lookups = Lookups::new(never);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        let first = runtime().unwrap();
        first.block_on(async {
            // The only thread is busy until the runtime has ended.
            spawn_blocking(|| std::thread::sleep(Duration::from_millis(50)));
            let attempt = Arc::clone(&lookups).resolve("a");
            assert!(tokio::time::timeout(Duration::from_millis(1), attempt).await.is_err());
        });
        first.shutdown_background();
        let answer = runtime().unwrap().block_on(async {
            loop {
                // The first thread may still hold it for a moment.
                if let Ok(addresses) = Arc::clone(&lookups).resolve("a").await {
                    return addresses;
                }
            }
        });
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn addresses_and_names_are_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for host in ["127.0.0.1", "localhost"] {
            assert_eq!(connect(host, address.port()).await.unwrap().peer_addr().unwrap(), address);
        }
    }
}
