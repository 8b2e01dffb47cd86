//! Pauses that a fleet of sidecars does not share.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// The same, give or take a fifth: a thousand sidecars that started together must not ask together.
pub(super) fn jitter(duration: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 401;
    duration.mul_f64(0.8 + random as f64 / 1000.0)
}
