//! The declaration of the ring before while we run: where it is read, and what is in use of it.

use std::sync::Arc;

use tokio::time::Instant;

use super::before::{BeforeSource, Declared, InUse, wrong};
use super::file::{Holds, ListFile};
use super::names::Names;
use super::order::arranged;
use super::{BeforeView, Options};
use crate::routing::Node;

/// The ring before: what is in use, and where it is read.
#[derive(Debug, Default)]
pub(super) struct Declaration {
    in_use: InUse,
    /// Where it has a file of its own.
    file: Option<ListFile>,
    /// What was wrong with that.
    error: Option<String>,
    /// It has been wrong from the start: whether there is a ring before is not known, and without it a ring could undo what
    /// others delete.
    is_unknown: bool,
}

/// A declaration with its nodes in the pinned order.
///
/// # Errors
/// When they are this sidecar itself.
pub(super) fn usable(declared: Declared, options: &Options) -> Result<Declared, String> {
    options.own.refuse(&declared.nodes)?;
    Ok(Declared { nodes: arranged(declared.nodes, &options.pinned), ..declared })
}

// === impl Declaration ===

impl Declaration {
    /// What is known at the start; with the reason of a new ring, as all that follow, if there is one.
    pub(super) fn new(options: &Options) -> (Self, Option<String>) {
        let mut declaration = Self::default();
        let declared = match &options.before {
            BeforeSource::WithNodes => None,
            BeforeSource::List(declared) => Some(declared.clone()),
            BeforeSource::File(path, declared) => {
                declaration.file = Some(ListFile::new(path, Holds::Before, options));
                declared.clone().unwrap_or_else(|error| {
                    (declaration.error, declaration.is_unknown) = (Some(error), true);
                    None
                })
            }
        };
        let told = match declared.map(|declared| usable(declared, options)).transpose() {
            Ok(declared) => declaration.take(declared.as_ref()),
            Err(error) => declaration.fail(error),
        };
        (declaration, told)
    }

    /// What is wrong, as long as it is not known whether there is a ring before.
    pub(super) fn unknown(&self) -> Option<&str> {
        self.error.as_deref().filter(|_| self.is_unknown)
    }

    /// Takes what stands beside the nodes, where that is the place for it.
    pub(super) fn with_nodes(&mut self, declared: Option<&Declared>, options: &Options) -> Option<String> {
        (options.before == BeforeSource::WithNodes).then(|| self.take(declared)).flatten()
    }

    /// Reads its file, if it has one of its own.
    pub(super) async fn read(&mut self, operator: bool, options: &Options) -> Option<String> {
        let file = self.file.as_mut()?;
        let read = file.read(operator).await;
        match read.and_then(|listed| listed.before.map(|declared| usable(declared, options)).transpose()) {
            Ok(declared) => {
                (self.error, self.is_unknown) = (None, false);
                self.take(declared.as_ref())
            }
            Err(problem) => {
                let error = wrong(&file.path, &problem);
                self.fail(error)
            }
        }
    }

    fn take(&mut self, declared: Option<&Declared>) -> Option<String> {
        let told = self.in_use.observe(declared, Instant::now())?;
        Some(told.tell(self.in_use.declared()))
    }

    fn fail(&mut self, error: String) -> Option<String> {
        // Once per trouble, not once per read. While there is no node for it, that is told.
        if self.error.as_ref() != Some(&error) && !self.is_unknown {
            match self.in_use.declared() {
                Some(_) => tracing::warn!(%error, "slipring refused the new ring before; the one in use stays"),
                None => tracing::warn!(%error, "slipring refused the ring before; none is in use"),
            }
        }
        self.error = Some(error);
        None
    }

    /// Whether it has a file of its own.
    pub(super) const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// What was wrong when its file was last read.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The nodes as they were listed.
    pub(super) fn nodes(&self) -> &[Node] {
        self.in_use.declared().map_or(&[], |declared| &declared.nodes)
    }

    /// When [`tick`](Self::tick) makes a difference.
    pub(super) fn due(&self) -> Option<Instant> {
        self.in_use.due()
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Option<String> {
        let told = self.in_use.tick(now)?;
        Some(told.tell(None))
    }

    /// The ring before as it is to be used beside this ring, each node dialled where it is.
    pub(super) fn view(&self, names: &Names, ring: &[Node]) -> Option<BeforeView> {
        let declared = self.in_use.declared()?;
        Some(BeforeView {
            nodes: names.dialled_before(ring),
            placement: Arc::clone(&declared.placement),
            phase: declared.phase,
            has_vanished: self.in_use.has_vanished(),
        })
    }
}
