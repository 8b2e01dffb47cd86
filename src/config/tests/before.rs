//! The ring before a planned change.

use std::path::PathBuf;

use super::*;
use crate::discovery::BeforeSource;

/// As it shows itself: what is declared when the process starts, or that a file may yet say it.
fn before_of(line: &str, env: Env<'_>) -> String {
    match parsed(line, env).discovery.before {
        BeforeSource::WithNodes => "with the nodes".to_owned(),
        BeforeSource::List(declared) => declared.to_string(),
        BeforeSource::File(path, declared) => {
            let declared = declared.map(|declared| declared.map(|declared| declared.to_string()).unwrap_or_default());
            format!("file {}: {}", path.file_name().unwrap().display(), declared.unwrap_or_else(|error| error))
        }
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slipring-before-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn it_is_a_list_or_a_file_beside_any_source() {
    let before = ("MEMCACHED_NODES_BEFORE", "b,c:5=2");
    let scratch = Scratch::new("sources");
    let list = scratch.write("list", "# the old ones\nb\nc");
    let directory = scratch.0.to_str().unwrap().to_owned();
    let by_file = |path: &str| format!("--discovery d --nodes-before-file {path}");
    for (line, env, expected) in [
        ("--nodes a", &[] as Env<'_>, "with the nodes"),
        ("--nodes a --nodes-before b,c", &[], "b:11211,c:11211 by ring"),
        ("--nodes a --nodes-before ending:b", &[], "ending:b:11211 by ring"),
        ("--nodes a", &[before, ("MEMCACHED_PORT", "7")], "b:7,c:5=2 by ring"),
        ("--discovery d", &[before], "b:11211,c:5=2 by ring"),
        ("--dns d", &[before], "b:11211,c:5=2 by ring"),
        ("--nodes a --nodes-before b --placement-before jump", &[], "b:11211 by jump"),
        ("--nodes a --nodes-before b --placement jump", &[], "b:11211 by jump"),
        ("--nodes a --nodes-before b", &[("SLIPRING_PLACEMENT_BEFORE", "dalli")], "b:11211 by dalli"),
        ("--nodes a", &[("SLIPRING_PLACEMENT_BEFORE", "dalli")], "with the nodes"),
        (&by_file(&list), &[], "file list: b:11211,c:11211 by ring"),
        (&by_file(&format!("{directory}/none")), &[], "file none: "),
        ("--nodes-file /n --nodes-before-file /n", &[], "with the nodes"),
    ] {
        assert_eq!(before_of(line, env), expected, "{line} {env:?}");
    }
    let name = scratch.0.file_name().unwrap().display().to_string();
    assert_eq!(before_of(&by_file(&directory), &[]), format!("file {name}: "));
    scratch.write("MEMCACHED_NODES_BEFORE", "ending: x:1\n");
    scratch.write("SLIPRING_PLACEMENT_BEFORE", "jump\n");
    assert_eq!(before_of(&by_file(&directory), &[]), format!("file {name}: ending:x:1 by jump"));
    scratch.write("MEMCACHED_NODES_BEFORE", "x:y");
    // It is no option that is wrong: the sidecar starts, and waits until it is right.
    let wrong = format!("file {name}: ring before in {directory}: node \"x:y\": the port must be");
    assert!(before_of(&by_file(&directory), &[]).starts_with(&wrong), "{wrong}");
    scratch.write("MEMCACHED_NODES_BEFORE", "localhost");
    let itself = format!("file {name}: ring before in {directory}: localhost:11211 is this sidecar itself");
    assert!(before_of(&by_file(&directory), &[]).starts_with(&itself), "{itself}");
}

#[test]
fn what_is_watched_wins_over_a_variable_and_a_flag_is_refused() {
    let before = ("MEMCACHED_NODES_BEFORE", "b");
    let file = ("MEMCACHED_NODES_FILE", "/etc/slipring");
    let config = parsed("", &[before, file]);
    assert_eq!(config.discovery.before, BeforeSource::WithNodes);
    assert_eq!(config.warnings, ["MEMCACHED_NODES_BEFORE ignored: the ring before is read from MEMCACHED_NODES_FILE"]);
    for (line, env, expected) in [
        ("--nodes-before b", &[file] as Env<'_>, "--nodes-before and MEMCACHED_NODES_FILE: only one may say"),
        ("--nodes a --nodes-before b --nodes-before-file /x", &[], "--nodes-before and --nodes-before-file: only one"),
        (
            "--nodes-before-file /x",
            &[file],
            "--nodes-before-file and MEMCACHED_NODES_FILE: write the ring before where",
        ),
        ("--nodes a --placement-before jump", &[], "--placement-before has no effect without --nodes-before"),
        ("--nodes a --nodes-before b:x", &[], "--nodes-before: node \"b:x\": the port must be"),
        ("--nodes a", &[("MEMCACHED_NODES_BEFORE", "ending:")], "MEMCACHED_NODES_BEFORE: the list of nodes is empty"),
        (
            "--nodes a",
            &[("MEMCACHED_NODES_BEFORE", "localhost")],
            "MEMCACHED_NODES_BEFORE: localhost:11211 is this sidecar",
        ),
        (
            "--nodes a --nodes-before b=2",
            &[("SLIPRING_PLACEMENT_BEFORE", "gomemcache")],
            "--nodes-before: placement gomemcache has no weights, but b:11211 has one",
        ),
        ("--nodes a --placement-before rnig", &[], "invalid value 'rnig' for '--placement-before"),
    ] {
        let text = refused(line, env);
        assert!(text.starts_with(expected), "{line} {env:?}: {text}");
    }
}

#[test]
fn a_plan_begins_with_what_is_there() {
    let planned = |line: &str, env: Env<'_>| match parsed(line, env).command {
        Command::Plan { from, to, .. } => {
            let names = |nodes: &[Node]| nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(",");
            let from = if let Source::Static(nodes) = &from { names(nodes) } else { from.to_string() };
            (from, to.map(|to| names(&to)))
        }
        other => panic!("{other:?}"),
    };
    let file = ("MEMCACHED_NODES_FILE", "/etc/slipring");
    let to = |list: &str| Some(list.to_owned());
    assert_eq!(planned("plan --from a --to a,b", &[file]), ("a:11211".to_owned(), to("a:11211,b:11211")));
    assert_eq!(planned("plan --to a,b", &[file]), ("file /etc/slipring".to_owned(), to("a:11211,b:11211")));
    assert_eq!(planned("plan --nodes x --to-placement jump", &[file]), ("x:11211".to_owned(), None));
    let placement = parsed("plan --from a --to b --placement dalli", &[("SLIPRING_PLACEMENT", "jump")]).placement;
    assert_eq!(placement.to_string(), "dalli");
    assert!(refused("plan --to b", &[]).starts_with("no nodes: "));
    for line in ["plan --from a", "plan --nodes a", "plan"] {
        assert!(refused(line, &[]).starts_with("plan: say what is to change: --to LIST, "), "{line}");
    }
    assert_eq!(
        refused("plan --from a:x --to b", &[]),
        "--from: node \"a:x\": the port must be a number from 1 to 65535"
    );
}
