//! What the operator runs beside the sidecar: `check`, `locate`, `reload`. Each prints and ends.

pub mod check;
pub mod locate;
pub mod reload;
