//! The ring before a planned change: where it is declared, and what that says when the process starts.

use std::sync::Arc;

use super::cli::ServeArgs;
use super::source::{refuse_file, refuse_list};
use super::{Exit, FromEnvironment, source};
use crate::discovery::{BeforeSource, Declared, Own};
use crate::routing::Placement;

/// Where the ring before is declared, and the placement of one that names none; what is ignored is added to `warnings`.
pub(super) fn before(
    serve: &ServeArgs,
    placement: &Placement,
    own: &Own,
    from_env: &FromEnvironment,
    warnings: &mut Vec<String>,
) -> Result<(BeforeSource, Arc<Placement>), Exit> {
    let by = |option: &str| source(option, from_env);
    let is_variable = |option: &str| from_env.iter().any(|(long, _)| long == option);
    let placement =
        serve.placement_before.clone().map_or_else(|| placement.clone(), |own| own.with_names_of(placement));
    let placement = Arc::new(placement);
    let file = match (&serve.nodes_before_file, &serve.nodes_file) {
        // Then it says both, in one edit.
        (Some(before), Some(nodes)) if before == nodes => None,
        (Some(_), Some(_)) => {
            let (before, nodes) = (by("nodes-before-file"), by("nodes-file"));
            return Err(Exit::usage(&format!("{before} and {nodes}: write the ring before where the nodes are")));
        }
        (before, _) => before.as_ref(),
    };
    let watched = [("nodes-before-file", file.is_some()), ("nodes-file", serve.nodes_file.is_some())];
    let watched = watched.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option);
    if let Some(list) = &serve.nodes_before {
        let option = by("nodes-before");
        let Some(watched) = watched else {
            refuse_file("nodes-before", list, from_env)?;
            let declared = Declared::parse(list, serve.node_port, &placement).map_err(|error| error.to_string());
            let declared = declared.and_then(|declared| own.refuse(&declared.nodes).map(|()| declared));
            let declared = declared.map_err(|problem| Exit::usage(&format!("{option}: {problem}")))?;
            return Ok((BeforeSource::List(declared), placement));
        };
        // A variable may come from the ConfigMap that is mounted, as it was when the container started.
        if !is_variable("nodes-before") {
            return Err(Exit::usage(&format!(
                "{option} and {}: only one may say what the ring before is",
                by(watched)
            )));
        }
        warnings.push(format!("{option} ignored: the ring before is read from {}", by(watched)));
    }
    let Some(path) = file else {
        if watched.is_none() && serve.placement_before.is_some() && !is_variable("placement-before") {
            let option = by("placement-before");
            return Err(Exit::usage(&format!("{option} has no effect without --nodes-before")));
        }
        return Ok((BeforeSource::WithNodes, placement));
    };
    refuse_list("nodes-before-file", path, from_env)?;
    // What it holds is no option: as with the nodes, who serves waits until it is right.
    Ok((BeforeSource::file(path.clone(), serve.node_port, &placement, own), placement))
}
