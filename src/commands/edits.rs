//! `slipring plan`: what a change costs with the ring before and without, and the edits in their order, where the nodes and the
//! ring before are written down, each with the command that shows when the next one may follow.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::config::ADMIN_PORT;
use crate::discovery::{BeforeSource, Declared, Source};
use crate::routing::{Node, Phase, Placement, Plan};

/// A change as it is planned.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Where the nodes and the ring before are written down.
    pub places: &'a Places,
    /// The nodes before and after.
    pub nodes: (&'a [Node], &'a [Node]),
    /// Their placements.
    pub placements: (&'a Placement, &'a Placement),
}

/// Where an operator edits the nodes, and the ring before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    nodes: Place,
    before: Place,
    /// Where the admin endpoints of the sidecars listen.
    admin_port: u16,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Not known, as the nodes were given for the plan alone: told as for a ConfigMap.
    Unknown,
    /// A mounted ConfigMap.
    ConfigMap(PathBuf),
    /// A file that holds the nodes and, as lines, the ring before.
    File(PathBuf),
    /// A file that holds the ring before alone.
    OwnFile(PathBuf),
    /// A flag or a variable, which is read when a sidecar starts.
    Option,
    /// The instance that a discovery endpoint tells of.
    Endpoint,
    /// Whatever a DNS name leads to.
    Dns,
}

// === impl Places ===

impl Places {
    /// Of a sidecar whose nodes come from `source`, which is not known where the nodes were given for the plan alone. Looks
    /// whether a path is a directory.
    #[must_use]
    pub fn new(source: Option<&Source>, before: &BeforeSource) -> Self {
        let mounted = |path: &Path, file: fn(PathBuf) -> Place| match path.is_dir() {
            true => Place::ConfigMap(path.to_owned()),
            false => file(path.to_owned()),
        };
        let nodes = match source {
            None => Place::Unknown,
            Some(Source::Static(_)) => Place::Option,
            Some(Source::File(path)) => mounted(path, Place::File),
            Some(Source::Endpoint { .. }) => Place::Endpoint,
            Some(Source::Dns { .. } | Source::Srv { .. }) => Place::Dns,
        };
        let before = match (before, &nodes) {
            (BeforeSource::File(path, _), _) => mounted(path, Place::OwnFile),
            (_, Place::Unknown | Place::ConfigMap(_) | Place::File(_)) => nodes.clone(),
            _ => Place::Option,
        };
        Self { nodes, before, admin_port: ADMIN_PORT }
    }

    /// With the port where the admin endpoints of the sidecars listen.
    #[must_use]
    pub fn with_admin_port(self, admin_port: u16) -> Self {
        Self { admin_port, ..self }
    }

    /// What stands above the edits.
    fn heading(&self) -> String {
        let how = "Make these edits in this order, each for all sidecars that share the cache. Before each edit wait for what the \
                   command above it shows.";
        let place = match &self.before {
            Place::Unknown => "The edits are written for the ConfigMap memcached-config, which sidecars have mounted. Where the nodes are \
                               flags or variables, set those of the same names and restart all sidecars after each edit; in a nodes \
                               file the ring before is the lines `before: LIST` and `placement-before: NAME`."
                .to_owned(),
            Place::ConfigMap(path) => {
                format!(
                    "The ring before is read from the ConfigMap that is mounted at {}, such as memcached-config.",
                    path.display()
                )
            }
            Place::File(path) | Place::OwnFile(path) => {
                format!("The ring before is read from the file {}.", path.display())
            }
            Place::Option | Place::Endpoint | Place::Dns => {
                "The ring before is an option here, a flag or a variable, which a sidecar reads when it starts: restart all sidecars after \
                 each edit. No restart is needed where it is in a mounted ConfigMap or a file (MEMCACHED_NODES_FILE, or \
                 MEMCACHED_NODES_BEFORE_FILE)."
                    .to_owned()
            }
        };
        let namespace = if self.is_in_cluster() { " NAMESPACE is that of the pods." } else { "" };
        format!("{how}{namespace}\n{place}\n")
    }

    const fn is_in_cluster(&self) -> bool {
        matches!(self.before, Place::Unknown | Place::ConfigMap(_))
    }

    /// What each sidecar is asked, to see what `slipring_before_…` it shows.
    fn look(&self, what: &str) -> String {
        let port = self.admin_port;
        if self.is_in_cluster() {
            return format!(
                "     for pod in $(kubectl get pods -l slipring/sidecar=true -o jsonpath='{{.items[*].metadata.name}}'); do\n       \
                 kubectl get --raw /api/v1/namespaces/$NAMESPACE/pods/$pod:{port}/proxy/metrics | grep -E '^slipring_{what}'\n     \
                 done\n"
            );
        }
        format!(
            "     curl -s http://localhost:{port}/metrics | grep -E '^slipring_{what}'   # beside each sidecar; the port is that of its --admin-listen\n"
        )
    }

    /// The edit that declares the ring before, or ends it.
    fn declared(&self, list: &str, placement: Option<&str>) -> String {
        let mut text = match &self.before {
            Place::File(_) => format!("     before: {list}\n"),
            Place::OwnFile(_) => format!("     {list}\n"),
            Place::Option | Place::Endpoint | Place::Dns => {
                format!("     MEMCACHED_NODES_BEFORE={list}   # or --nodes-before\n")
            }
            Place::Unknown | Place::ConfigMap(_) => format!("     MEMCACHED_NODES_BEFORE: \"{list}\"\n"),
        };
        let Some(name) = placement else { return text };
        let _ = match &self.before {
            Place::File(_) => writeln!(text, "     placement-before: {name}"),
            Place::Unknown | Place::ConfigMap(_) => writeln!(text, "     SLIPRING_PLACEMENT_BEFORE: \"{name}\""),
            Place::OwnFile(_) => writeln!(
                text,
                "     SLIPRING_PLACEMENT_BEFORE={name}   # or --placement-before; before the edit of the file, with a restart"
            ),
            Place::Option | Place::Endpoint | Place::Dns => {
                writeln!(text, "     SLIPRING_PLACEMENT_BEFORE={name}   # or --placement-before")
            }
        };
        text
    }

    /// The edit that makes the change.
    fn changed(&self, nodes: &str) -> String {
        match &self.nodes {
            Place::Unknown | Place::ConfigMap(_) => format!("     MEMCACHED_NODES: \"{nodes}\"\n"),
            Place::File(path) | Place::OwnFile(path) => format!("     {nodes}   # the list in {}\n", path.display()),
            Place::Option => format!("     MEMCACHED_NODES={nodes}   # or --nodes; restart all sidecars\n"),
            Place::Endpoint => {
                "     scale the instance, for example with gcloud memcache instances update\n".to_owned()
            }
            Place::Dns => {
                "     scale what the DNS name resolves to, for example with kubectl scale statefulset\n".to_owned()
            }
        }
    }

    /// The edit that changes the placement.
    fn placed(&self, placement: &str) -> String {
        match &self.nodes {
            Place::Unknown | Place::ConfigMap(_) => format!(
                "     SLIPRING_PLACEMENT: \"{placement}\"\n     kubectl rollout restart deployment # the placement is read when a \
                 sidecar starts\n"
            ),
            _ => format!("     SLIPRING_PLACEMENT={placement}   # or --placement; restart all sidecars\n"),
        }
    }

    /// What to wait for before the reads of old places end.
    fn wait_for_no_hits(&self) -> String {
        format!(
            "   Go on when reads no longer hit old places: the count does not rise for as long as your keys live.\n{}",
            self.look("before_reads_total.*hit")
        )
    }

    /// The edit that ends the reads of old places.
    fn ended(&self, before: &str) -> String {
        let edit = self.declared(&format!("ending:{before}"), None);
        format!("End the reads of old places.\n{edit}{}", self.wait_for_ending())
    }

    /// What to wait for before the ring before is taken away.
    fn wait_for_ending(&self) -> String {
        let look = self.look("before_state.* 1$");
        format!("   Go on when every sidecar shows state=\"ending\".\n{look}")
    }

    /// The edit that takes the ring before away.
    fn removed(&self, has_placement: bool) -> String {
        let (list, placement) = match &self.before {
            Place::File(_) => ("the line before:", " and the line placement-before:"),
            Place::OwnFile(_) => ("the list, or the file", "; then SLIPRING_PLACEMENT_BEFORE, with a restart"),
            _ => ("MEMCACHED_NODES_BEFORE", " and SLIPRING_PLACEMENT_BEFORE"),
        };
        let placement = if has_placement { placement } else { "" };
        format!("Remove {list}{placement}; each sidecar then shows state=\"none\".\n")
    }
}

// === impl Change ===

impl Change<'_> {
    /// The costs and the edits, for people.
    #[must_use]
    pub fn report(&self, plan: &Plan) -> String {
        let moved = format!("{:.2} %", 100.0 * plan.moved);
        if plan.moves_nothing() {
            return match self.is_none() {
                true => "\nNo key moves: the nodes and the placement are the same before and after.\n",
                false => "\nNo key moves: make the change at once; it needs no ring before.\n",
            }
            .to_owned();
        }
        let mut text = format!(
            "\nWithout the ring before: {moved} of the keys miss once; locks and counters among them start anew.\n\
             With it: none of them misses because of the change. Until you remove it, a miss of such a key costs a second request, and so \
             does a write.\n\n{}",
            self.places.heading()
        );
        for (number, step) in (1..).zip(self.steps()) {
            let _ = write!(text, "\n{number}. {step}");
        }
        text
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        sorted(self.nodes.0) == sorted(self.nodes.1) && self.placements.0.to_string() == self.placements.1.to_string()
    }

    /// For a change that another one is in the way of, which a ring before was declared for: what is left of that one.
    #[must_use]
    pub fn after(&self, before: &Declared, is_in_use: bool) -> String {
        format!(
            "\nwarning: a ring before is declared already, and two changes cannot be under way at once: end that one first, and then \
             make this one.\n{}\nThen `slipring plan` prints the edits of this change.\n",
            self.left(before, is_in_use)
        )
    }

    /// What is left of the change that a ring before was declared for, which is made unless that is the ring in use.
    #[must_use]
    pub fn left(&self, before: &Declared, is_in_use: bool) -> String {
        let Self { places, placements: (_, placement), .. } = self;
        let done = match (before.phase, is_in_use) {
            (Phase::Ending, _) => {
                format!("Edit 3 of a change is made already: the ring before is {before}. What is left:")
            }
            (Phase::Reading, false) => {
                format!(
                    "A change is under way already: the ring before is {before}. What is left, if these nodes are those of after it:"
                )
            }
            (Phase::Reading, true) => format!(
                "Edit 1 of a change is made already: the ring before, {before}, is the ring in use. `slipring plan` with the nodes \
                 or the placement of after the change prints edit 2. Without a change, what is left:"
            ),
        };
        let wait = match (before.phase, is_in_use) {
            (Phase::Ending, _) => format!("\n3. Done already.\n{}", places.wait_for_ending()),
            (Phase::Reading, false) => format!("\n2. Done already.\n{}", places.wait_for_no_hits()),
            (Phase::Reading, true) => String::new(),
        };
        let mut text = format!("\n{done}\n\n{}{wait}", places.heading());
        if before.phase == Phase::Reading {
            let _ = write!(text, "\n3. {}", places.ended(&before.listed()));
        }
        let has_placement = before.placement.to_string() != placement.to_string();
        let _ = write!(text, "\n4. {}", places.removed(has_placement));
        text
    }

    fn steps(&self) -> [String; 4] {
        let (old, new) = self.nodes;
        let (before, after) = (list(old), list(new));
        let (placement_before, placement) = self.placements;
        let (from, to) = (placement_before.to_string(), placement.to_string());
        let moves_placement = from != to;
        let places = self.places;
        let declare = format!(
            "Declare the ring before.\n{}   Go on when every sidecar shows state=\"reading\" and a moved share of 0: the list is the one \
             in use.\n{}",
            places.declared(&before, moves_placement.then_some(&from)),
            places.look("before_(state.* 1$|moved)"),
        );
        let nodes = if before == after { String::new() } else { places.changed(&after) };
        let placed = if moves_placement { places.placed(&to) } else { String::new() };
        let change = format!("Make the change.\n{nodes}{placed}{}", places.wait_for_no_hits());
        [declare, change, places.ended(&before), places.removed(moves_placement)]
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

    fn report(places: &Places, lists: (&str, &str), placements: (&str, &str)) -> String {
        let nodes = |list: &str| parse_nodes(list, 11211).unwrap();
        let (old, new) = (nodes(lists.0), nodes(lists.1));
        let (from, to): (Placement, Placement) = (placements.0.parse().unwrap(), placements.1.parse().unwrap());
        let built = |nodes: &[Node], placement: &Placement| {
            Topology::placed(1, nodes.iter().cloned().map(Arc::new).collect(), &Arc::new(placement.clone())).unwrap()
        };
        let plan = Plan::between(&built(&old, &from), &built(&new, &to), 1000);
        Change { places, nodes: (&old, &new), placements: (&from, &to) }.report(&plan)
    }

    /// In this order.
    fn assert_steps(text: &str, steps: &[&str]) {
        let mut rest = text;
        for step in steps {
            let at = rest.find(step).unwrap_or_else(|| panic!("{step} is not in the rest of {text}"));
            rest = &rest[at + step.len()..];
        }
    }

    fn of(source: &Source) -> Places {
        Places::new(Some(source), &BeforeSource::WithNodes)
    }

    fn endpoint() -> Source {
        Source::Endpoint { host: "x".to_owned(), port: 1, first: Vec::new() }
    }

    #[test]
    fn a_change_of_the_nodes_is_four_edits() {
        let directory = std::env::temp_dir();
        let text = report(&of(&Source::File(directory.clone())), ("a,b", "a,b,c=2"), ("ring", "ring"));
        assert_steps(
            &text,
            &[
                "Without the ring before: ",
                "With it: none",
                "ConfigMap that is mounted at ",
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
        let own = BeforeSource::File(directory, Ok(None));
        let text = report(&Places::new(Some(&endpoint()), &own), ("a,b", "a,b,c"), ("ring", "ring"));
        assert!(text.contains("gcloud") && !text.contains("MEMCACHED_NODES:"), "{text}");
        assert!(text.contains("MEMCACHED_NODES_BEFORE: \"a:11211,b:11211\"") && !text.contains("restart"), "{text}");
    }

    #[test]
    fn the_edits_are_those_of_the_place_where_the_nodes_are() {
        let file = of(&Source::File("/nonexistent/nodes".into()));
        let text = report(&file, ("a,b", "a,b,c"), ("ring", "jump"));
        assert_steps(
            &text,
            &[
                "read from the file /nonexistent/nodes.",
                "     before: a:11211,b:11211\n     placement-before: ring\n",
                "curl -s http://localhost:9150/metrics",
                "     a:11211,b:11211,c:11211   # the list in /nonexistent/nodes\n     SLIPRING_PLACEMENT=jump",
                "     before: ending:a:11211,b:11211\n",
                "4. Remove the line before: and the line placement-before:;",
            ],
        );
        assert!(!text.contains("kubectl") && !text.contains("ConfigMap"), "{text}");
        let list = report(&of(&Source::Static(Vec::new())), ("a,b", "a,b,c"), ("ring", "ring"));
        assert_steps(
            &list,
            &[
                "restart all sidecars after each edit",
                "     MEMCACHED_NODES_BEFORE=a:11211,b:11211   # or --nodes-before\n",
                "     MEMCACHED_NODES=a:11211,b:11211,c:11211   # or --nodes; restart all sidecars\n",
                "     MEMCACHED_NODES_BEFORE=ending:a:11211,b:11211 ",
                "4. Remove MEMCACHED_NODES_BEFORE;",
            ],
        );
        assert!(!list.contains("kubectl") && !list.contains("memcached-config"), "{list}");
        let own = BeforeSource::File("/nonexistent/before".into(), Ok(None));
        let text = report(&Places::new(Some(&endpoint()), &own), ("a,b", "a,b,c"), ("ring", "ring"));
        assert_steps(
            &text,
            &["file /nonexistent/before.", "\n     a:11211,b:11211\n", "gcloud", "\n     ending:a:11211"],
        );
        let text = report(&file.with_admin_port(9151), ("a,b", "a,b,c"), ("ring", "ring"));
        assert!(text.contains("curl -s http://localhost:9151/metrics") && !text.contains("9150"), "{text}");
        let elsewhere = of(&Source::File(std::env::temp_dir())).with_admin_port(9151);
        let text = report(&elsewhere, ("a,b", "a,b,c"), ("ring", "ring"));
        assert!(text.contains("/pods/$pod:9151/proxy/metrics") && !text.contains("9150"), "{text}");
        let unknown = report(&Places::new(None, &BeforeSource::WithNodes), ("a,b", "a,b,c"), ("ring", "ring"));
        assert_steps(
            &unknown,
            &["written for the ConfigMap", "flags or variables", "restart", "     MEMCACHED_NODES: \""],
        );
    }

    #[test]
    fn of_a_change_that_is_made_the_last_edits_are_left() {
        let places = of(&Source::File(std::env::temp_dir()));
        let nodes = parse_nodes("a,b", 11211).unwrap();
        let left = |before: &str, placement: &str, is_in_use: bool| {
            let before = Declared::parse(before, 11211, &Arc::new(placement.parse().unwrap())).unwrap();
            let placements = (&Placement::default(), &Placement::default());
            let change = Change { places: &places, nodes: (&nodes, &nodes), placements };
            assert!(change.is_none());
            change.left(&before, is_in_use)
        };
        let text = left("a", "jump", false);
        assert_steps(
            &text,
            &[
                "A change is under way already: the ring before is a:11211 by jump.",
                "before_reads_total.*hit",
                "\n3. End the reads",
                "MEMCACHED_NODES_BEFORE: \"ending:a:11211\"",
                "before_state.* 1$",
                "\n4. Remove MEMCACHED_NODES_BEFORE and SLIPRING_PLACEMENT_BEFORE;",
            ],
        );
        let text = left("ending:a", "ring", false);
        assert_steps(
            &text,
            &["Edit 3 of a change is made already", "before_state.* 1$", "\n4. Remove MEMCACHED_NODES_BEFORE;"],
        );
        assert!(text.contains("3. Done already.") && !text.contains("3. End") && !text.contains("_total"), "{text}");
        let text = left("a,b", "ring", true);
        assert_steps(&text, &["Edit 1 of a change is made already", "\n3. End the reads", "\n4. Remove"]);
        assert!(!text.contains("_total"), "nothing reads old places: {text}");
    }

    #[test]
    fn a_change_of_the_placement_needs_a_restart_and_no_change_needs_nothing() {
        let mounted = of(&Source::File(std::env::temp_dir()));
        let text = report(&mounted, ("a,b", "a,b"), ("pymemcache", "ring"));
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
        let none = report(&mounted, ("a,b", "b,a"), ("ring", "ring"));
        assert!(none.contains("No key moves: the nodes and the placement are"), "{none}");
        let alike = report(&mounted, ("a,b", "a,b"), ("gomemcache", "modula"));
        assert!(alike.contains("No key moves: make the change at once"), "{alike}");
    }
}
