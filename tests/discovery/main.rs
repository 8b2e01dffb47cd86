//! Discovery against servers that behave, lag, flap, lie and hang: what the view did each time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, also in its helpers"
)]

mod before;
mod dns;
mod endpoint;
mod files;
mod last_good;
mod names;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use slipring::discovery::{self, Options, Source, Triggers, View};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything to happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options {
        interval: Duration::from_millis(40),
        removal_hold: Duration::from_secs(600),
        timeout: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(200),
        file_interval: Duration::from_millis(20),
        file_confirm: Duration::from_millis(20),
        ..Options::default()
    }
}

/// A source that is followed, and what may be asked of it.
struct Followed {
    views: watch::Receiver<Arc<View>>,
    triggers: Triggers,
    _stop: tokio_util::sync::DropGuard,
}

impl Followed {
    fn start(source: Source, options: Options) -> Self {
        let (triggers, stop) = (Triggers::default(), CancellationToken::new());
        let views = discovery::start(source, options, triggers.clone(), stop.clone());
        Self { views, triggers, _stop: stop.drop_guard() }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    fn ring(&self) -> String {
        ring(&self.view())
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let waited = tokio::time::timeout(PATIENCE, self.views.wait_for(condition)).await;
        match waited.map(|view| Arc::clone(&view.unwrap())) {
            Ok(view) => view,
            Err(_) => panic!("never: {what}; {:?}", self.view()),
        }
    }

    async fn until_ring(&mut self, expected: &str) -> Arc<View> {
        self.until(expected, |view| ring(view) == expected).await
    }

    async fn until_error(&mut self, part: &str) -> Arc<View> {
        let has = |view: &Arc<View>| view.source.last_error.as_ref().is_some_and(|error| error.contains(part));
        self.until(part, has).await
    }

    /// So many further reads, whatever they say.
    async fn reads(&mut self, more: u64) -> Arc<View> {
        let reads = self.view().source.reads + more;
        self.until("reads", |view| view.source.reads > reads).await
    }
}

fn ring(view: &View) -> String {
    let names: Vec<&str> = view.nodes.iter().map(|node| node.name.trim_end_matches(":11211")).collect();
    names.join(" ")
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
