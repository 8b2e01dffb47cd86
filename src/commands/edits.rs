//! `slipring plan`: what a change costs with the ring before and without, and the edits of the ConfigMap in their order, each
//! with the command that shows when the next one may follow.

use std::fmt::Write as _;

use crate::discovery::Source;
use crate::routing::{Node, Placement, Plan};

/// A change as it is planned.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Where the nodes come from.
    pub source: &'a Source,
    /// The nodes before and after.
    pub nodes: (&'a [Node], &'a [Node]),
    /// Their placements.
    pub placements: (&'a Placement, &'a Placement),
}

/// What each pod is asked, to see what `slipring_before_…` it shows.
fn look(what: &str) -> String {
    format!(
        "     for pod in $(kubectl get pods -l slipring/sidecar=true -o jsonpath='{{.items[*].metadata.name}}'); do\n       \
         kubectl get --raw /api/v1/namespaces/$NAMESPACE/pods/$pod:9150/proxy/metrics | grep -E '^slipring_{what}'\n     \
         done\n"
    )
}

impl Change<'_> {
    /// The costs and the edits, for people.
    #[must_use]
    pub fn report(&self, plan: &Plan) -> String {
        let moved = format!("{:.2} %", 100.0 * plan.moved);
        if plan.moves_nothing() {
            let is_same = sorted(self.nodes.0) == sorted(self.nodes.1)
                && self.placements.0.to_string() == self.placements.1.to_string();
            return match is_same {
                true => "\nNo key moves: the nodes and the placement are the same before and after.\n",
                false => "\nNo key moves: make the change at once; it needs no ring before.\n",
            }
            .to_owned();
        }
        let mut text = format!(
            "\nWithout the ring before: {moved} of the keys miss once; locks and counters among them start anew.\n\
             With it: none of them misses because of the change. Until you remove it, a miss of such a key costs a second request, and so \
             does a write.\n\n\
             Edit the ConfigMap memcached-config in this order; NAMESPACE is that of the pods. Before each edit wait for what the command \
             above it shows.\n"
        );
        for (number, step) in (1..).zip(self.steps()) {
            let _ = write!(text, "\n{number}. {step}");
        }
        text
    }

    fn steps(&self) -> [String; 4] {
        let (old, new) = self.nodes;
        let (before, after) = (list(old), list(new));
        let (placement_before, placement) = self.placements;
        let (from, to) = (placement_before.to_string(), placement.to_string());
        let moves_placement = from != to;
        let state = look("before_state.* 1$");
        let declare = format!(
            "Declare the ring before.\n     MEMCACHED_NODES_BEFORE: \"{before}\"\n{}   Go on when every pod shows \
             state=\"reading\" and a moved share of 0: the list is the one in use.\n{}",
            if moves_placement { format!("     SLIPRING_PLACEMENT_BEFORE: \"{from}\"\n") } else { String::new() },
            look("before_(state.* 1$|moved)"),
        );
        let nodes = match self.source {
            _ if before == after => String::new(),
            Source::Static(_) | Source::File(_) => format!("     MEMCACHED_NODES: \"{after}\"\n"),
            Source::Endpoint { .. } => {
                "     scale the instance, for example with gcloud memcache instances update\n".to_owned()
            }
            Source::Dns { .. } | Source::Srv { .. } => {
                "     scale what the DNS name resolves to, for example with kubectl scale statefulset\n".to_owned()
            }
        };
        let placed = match moves_placement {
            true => {
                let restart = "     kubectl rollout restart deployment # the placement is read when a sidecar starts\n";
                format!("     SLIPRING_PLACEMENT: \"{to}\"\n{restart}")
            }
            false => String::new(),
        };
        let change = format!(
            "Make the change.\n{nodes}{placed}   Go on when reads no longer hit old places: the count \
             does not rise for as long as your keys live.\n{}",
            look("before_reads_total.*hit"),
        );
        let end = format!(
            "End the reads of old places.\n     MEMCACHED_NODES_BEFORE: \"ending:{before}\"\n   Go on when every pod shows \
             state=\"ending\".\n{state}",
        );
        let keys = if moves_placement { " and SLIPRING_PLACEMENT_BEFORE" } else { "" };
        let remove = format!("Remove MEMCACHED_NODES_BEFORE{keys}; each pod then shows state=\"none\".\n");
        [declare, change, end, remove]
    }
}

fn sorted(nodes: &[Node]) -> Vec<String> {
    let mut entries: Vec<String> = nodes.iter().map(Node::entry).collect();
    entries.sort_unstable();
    entries
}

fn list(nodes: &[Node]) -> String {
    nodes.iter().map(Node::entry).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::discovery::parse_nodes;
    use crate::routing::Topology;

    fn report(source: &Source, lists: (&str, &str), placements: (&str, &str)) -> String {
        let nodes = |list: &str| parse_nodes(list, 11211).unwrap();
        let (old, new) = (nodes(lists.0), nodes(lists.1));
        let (from, to): (Placement, Placement) = (placements.0.parse().unwrap(), placements.1.parse().unwrap());
        let built = |nodes: &[Node], placement: &Placement| {
            Topology::placed(1, nodes.iter().cloned().map(Arc::new).collect(), &Arc::new(placement.clone())).unwrap()
        };
        let plan = Plan::between(&built(&old, &from), &built(&new, &to), 1000);
        Change { source, nodes: (&old, &new), placements: (&from, &to) }.report(&plan)
    }

    /// In this order.
    fn assert_steps(text: &str, steps: &[&str]) {
        let mut rest = text;
        for step in steps {
            let at = rest.find(step).unwrap_or_else(|| panic!("{step} is not in the rest of {text}"));
            rest = &rest[at + step.len()..];
        }
    }

    #[test]
    fn a_change_of_the_nodes_is_four_edits() {
        let file = Source::File("/etc/slipring".into());
        let text = report(&file, ("a,b", "a,b,c=2"), ("ring", "ring"));
        assert_steps(
            &text,
            &[
                "Without the ring before: ",
                "With it: none",
                "1. ",
                "MEMCACHED_NODES_BEFORE: \"a:11211,b:11211\"",
                "before_(state.* 1$|moved)",
                "2. ",
                "MEMCACHED_NODES: \"a:11211,b:11211,c:11211=2\"",
                "before_reads_total.*hit",
                "3. ",
                "MEMCACHED_NODES_BEFORE: \"ending:a:11211,b:11211\"",
                "before_state.* 1$",
                "4. Remove MEMCACHED_NODES_BEFORE;",
            ],
        );
        assert!(!text.contains("PLACEMENT") && !text.contains("restart"), "{text}");
        let endpoint = Source::Endpoint { host: "x".to_owned(), port: 1, first: Vec::new() };
        let text = report(&endpoint, ("a,b", "a,b,c"), ("ring", "ring"));
        assert!(text.contains("gcloud") && !text.contains("MEMCACHED_NODES:"), "{text}");
    }

    #[test]
    fn a_change_of_the_placement_needs_a_restart_and_no_change_needs_nothing() {
        let list = Source::Static(Vec::new());
        let text = report(&list, ("a,b", "a,b"), ("pymemcache", "ring"));
        assert_steps(
            &text,
            &[
                "SLIPRING_PLACEMENT_BEFORE: \"pymemcache\"",
                "2. ",
                "SLIPRING_PLACEMENT: \"ring\"",
                "rollout restart",
                "3. ",
                "4. Remove MEMCACHED_NODES_BEFORE and SLIPRING_PLACEMENT_BEFORE;",
            ],
        );
        assert!(!text.contains("MEMCACHED_NODES:"), "{text}");
        assert!(
            report(&list, ("a,b", "b,a"), ("ring", "ring")).contains("No key moves: the nodes and the placement are")
        );
        let alike = report(&list, ("a,b", "a,b"), ("gomemcache", "modula"));
        assert!(alike.contains("No key moves: make the change at once"), "{alike}");
    }
}
