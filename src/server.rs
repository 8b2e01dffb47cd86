//! TEMPORARY: stands in for the real server until it is written; does nothing but say so.

use crate::config::Config;

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no server yet.
    #[error("the server is not written yet")]
    NotWritten,
}

/// Runs until told to stop.
///
/// # Errors
/// Always, for now.
pub fn run(config: Config) -> Result<(), RunError> {
    drop(config);
    Err(RunError::NotWritten)
}
