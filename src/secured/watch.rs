//! The files change while we run: a Secret is mounted anew, certificates are renewed. They are read again each second, as
//! the list of nodes is; a change counts when two reads agree. What is missing, half written or does not fit together
//! changes nothing, and is told once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::credentials::{Contents, Credentials};
use super::{Inner, Options, Secured};

/// Between two reads.
const INTERVAL: Duration = Duration::from_secs(1);
/// How much later the second read of a change takes place.
const CONFIRM: Duration = Duration::from_millis(200);

/// Follows the files, and never ends.
pub async fn watch(secured: Secured) {
    let Some(inner) = secured.0.filter(|inner| inner.options.files().next().is_some()) else { return };
    // What was last told to be wrong, and of which contents.
    let mut told: Option<String> = None;
    let mut refused: Option<Contents> = None;
    loop {
        sleep(INTERVAL).await;
        let problem = match look(&inner, &mut refused).await {
            Ok(Look::Same) => continue,
            Ok(Look::Unchanged) => None,
            Ok(Look::Changed) => {
                tracing::info!("credentials for nodes have changed: slipring replaces its connections one by one");
                None
            }
            Err(problem) => Some(problem),
        };
        if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(problem)) {
            tracing::warn!("{problem}; the credentials in use stay in use");
        }
        told = problem;
    }
}

enum Look {
    /// As they are in use.
    Unchanged,
    /// As they were when they were refused.
    Same,
    Changed,
}

async fn look(inner: &Arc<Inner>, refused: &mut Option<Contents>) -> Result<Look, String> {
    let contents = read(&inner.options).await?;
    if contents == inner.current.load().contents {
        *refused = None;
        return Ok(Look::Unchanged);
    }
    if refused.as_ref() == Some(&contents) {
        return Ok(Look::Same);
    }
    sleep(CONFIRM).await;
    if read(&inner.options).await? != contents {
        // Changing while it is read: next time.
        return Ok(Look::Same);
    }
    let (options, read) = (inner.options.clone(), contents.clone());
    let made = spawn_blocking(move || Credentials::of(&options, read)).await;
    match made.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(made) => {
            *refused = None;
            inner.current.store(Arc::new(made));
            inner.changed.send_modify(|changes| *changes += 1);
            Ok(Look::Changed)
        }
        Err(problem) => {
            *refused = Some(contents);
            Err(problem)
        }
    }
}

/// Off the control thread: a file on a network may keep its reader waiting.
async fn read(options: &Options) -> Result<Contents, String> {
    let options = options.clone();
    spawn_blocking(move || Contents::read(&options)).await.unwrap_or_else(|error| Err(error.to_string()))
}
