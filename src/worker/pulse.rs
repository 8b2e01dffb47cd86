//! Whether the workers turn: each is asked, and answers from its own thread. Where nobody asks, nobody is woken.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Longest wait for an answer. A worker that does not come round in so long serves nobody.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the workers.
#[derive(Debug)]
pub struct Pulse {
    asked: watch::Sender<u64>,
    answers: Vec<watch::Receiver<u64>>,
}

/// A worker's side.
#[derive(Debug)]
pub struct Beat {
    asked: watch::Receiver<u64>,
    answer: watch::Sender<u64>,
}

impl Pulse {
    /// For so many workers, and what each of them answers by.
    #[must_use]
    pub fn new(workers: usize) -> (Self, Vec<Beat>) {
        let (asked, question) = watch::channel(0);
        let pair = |_| {
            let (answer, answered) = watch::channel(0);
            (answered, Beat { asked: question.clone(), answer })
        };
        let (answers, beats) = (0..workers).map(pair).unzip();
        (Self { asked, answers }, beats)
    }

    /// Asks each worker, and waits for at most a second.
    ///
    /// # Errors
    /// The numbers, from 0, of the workers that have not answered, or have ended.
    pub async fn feel(&self) -> Result<(), Vec<usize>> {
        let deadline = Instant::now() + PATIENCE;
        let mut question = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            question = *asked;
        });
        let mut stuck = Vec::new();
        for (worker, answers) in self.answers.iter().enumerate() {
            let mut answers = answers.clone();
            let answered = timeout_at(deadline, answers.wait_for(|answer| *answer >= question)).await;
            if !matches!(answered, Ok(Ok(_))) {
                stuck.push(worker);
            }
        }
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }
}

impl Beat {
    /// Answers for as long as somebody may ask; on the worker's own thread.
    pub async fn answer(mut self) {
        while self.asked.changed().await.is_ok() {
            let asked = *self.asked.borrow_and_update();
            self.answer.send_replace(asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::listener::Accepted;
    use crate::metrics::Cells;
    use crate::proxy::{Ends, Settings};
    use crate::routing::{Published, Topology};
    use crate::secured::Secured;
    use crate::worker::{Parts, spawn};

    static GO_ON: AtomicBool = AtomicBool::new(false);

    /// What `stats` asks of its worker: here it takes until the test lets it go on.
    fn stuck() -> (Duration, Duration) {
        while !GO_ON.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        (Duration::ZERO, Duration::ZERO)
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the zero of a real worker's time")]
    async fn a_worker_that_is_stuck_does_not_answer_until_it_goes_on() {
        let parts = Parts {
            ring: Arc::new(Published::new(Topology::unknown())),
            node_failed: Arc::default(),
            settings: Settings { cpu_time: stuck, ..Settings::default() },
            cells: Arc::new(Cells::new(2)),
            itself: Arc::default(),
            secured: Secured::default(),
            started_at: std::time::Instant::now(),
        };
        let (pulse, beats) = Pulse::new(2);
        let workers = beats.into_iter().zip(0..).map(|(beat, index)| spawn(index, parts.clone(), beat).unwrap());
        let workers: Vec<_> = workers.collect();
        assert_eq!(pulse.feel().await, Ok(()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        workers[1].sender.send(Accepted::Tcp(accepted, Ends::Unknown)).await.unwrap();
        client.write_all(b"stats\r\n").unwrap();
        // The request may still be on its way when the first answer comes.
        let mut stuck = Vec::new();
        for _ in 0..1000 {
            stuck = pulse.feel().await.err().unwrap_or_default();
            // The other one may be late on a busy machine.
            if stuck.contains(&1) {
                break;
            }
        }
        assert!(stuck.contains(&1), "{stuck:?}");
        GO_ON.store(true, Ordering::Release);
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"S");
        while let Err(stuck) = pulse.feel().await {
            assert!(!stuck.contains(&1), "it has answered");
        }
    }
}
