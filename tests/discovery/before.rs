//! The ring before a planned change, beside sources of every kind.

use std::sync::Arc;
use std::time::Duration;

use slipring::discovery::{BeforeSource, Declared, Options, Own, Source, View};
use slipring::routing::{Node, Phase};

use crate::dns::{NameServer, Zone, ip};
use crate::files::Scratch;
use crate::{Followed, options, ring, run};

const NAME: &str = "old-0.example";

fn declared(list: &str) -> BeforeSource {
    BeforeSource::List(Declared::parse(list, 11211, &Arc::default()).unwrap())
}

fn list(hosts: &[&str]) -> Source {
    Source::Static(hosts.iter().map(|host| Node::new(host, 11211, 1)).collect())
}

/// Name and host of each of its nodes; nothing without one.
fn before(view: &View) -> String {
    let nodes = view.before.iter().flat_map(|before| &before.nodes);
    nodes.map(|node| format!("{}@{}", node.name, node.host)).collect::<Vec<_>>().join(" ")
}

fn phase(view: &View) -> Option<Phase> {
    view.before.as_ref().map(|before| before.phase)
}

#[test]
fn it_is_there_with_the_first_ring() {
    run(async {
        let with = Options { before: declared("a,b"), ..options() };
        let followed = Followed::start(list(&["a", "c"]), with);
        let view = followed.view();
        assert_eq!((ring(&view).as_str(), view.generation), ("a c", 2));
        assert_eq!((before(&view).as_str(), phase(&view)), ("a:11211@a b:11211@b", Some(Phase::Reading)));
        // Before any ring is known there is nothing to publish it with, and it waits.
        let with = Options { before: declared("ending:a"), ..options() };
        let nowhere = Source::Endpoint { host: "127.9.9.99".to_owned(), port: 1, first: Vec::new() };
        let followed = Followed::start(nowhere, with);
        assert!(followed.view().nodes.is_empty());
    });
}

#[test]
fn its_names_are_resolved_and_lead_to_the_servers_of_the_ring() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options {
            resolve_interval: Duration::from_millis(50),
            before: declared(&format!("{NAME},127.9.9.8")),
            ..server.options()
        };
        // The ring has the same server by its address.
        let mut followed = Followed::start(list(&["127.9.9.1", "127.9.9.9"]), often);
        let same = format!("{NAME}:11211@127.9.9.1 127.9.9.8:11211@127.9.9.8");
        let view = followed.until("the server is known", |view| before(view) == same).await;
        assert_eq!(ring(&view), "127.9.9.1 127.9.9.9");
        assert!(view.alike.is_empty(), "{:?}: one listed in two ways is no mistake here", view.alike);
        server.questions(2).await;
        // The name points elsewhere: that is where the old node is.
        server.now(Zone::Addresses(vec![ip(2)], 0));
        let moved = format!("{NAME}:11211@127.9.9.2 127.9.9.8:11211@127.9.9.8");
        let later = followed.until("it is elsewhere", |view| before(view) == moved).await;
        assert!(later.generation > view.generation && ring(&later) == ring(&view));
    });
}

#[test]
fn as_long_as_its_file_is_wrong_from_the_start_there_is_no_ring() {
    run(async {
        let scratch = Scratch::new("unknown");
        let path = scratch.write("before", "endng:a,b");
        // With a list, and with the list that stands in for an endpoint.
        let nowhere = |first| Source::Endpoint { host: "127.9.9.99".to_owned(), port: 1, first };
        let first = vec![Node::new("a", 11211, 1), Node::new("c", 11211, 1)];
        for source in [list(&["a", "c"]), nowhere(first)] {
            scratch.write("before", "endng:a,b");
            let before_source = BeforeSource::file(path.clone(), 11211, &Arc::default(), &Own::default());
            let mut followed = Followed::start(source, Options { before: before_source, ..options() });
            let view = followed.until_error("the most similar word is ending:").await;
            let error = format!("ring before in {}: \"endng:\" means", path.display());
            assert!(view.source.last_error.as_ref().unwrap().starts_with(&error), "{view:?}");
            assert!(view.nodes.is_empty() && view.before.is_none());
            scratch.write("before", "ending:a,b");
            let view = followed.until_ring("a c").await;
            assert_eq!((before(&view).as_str(), phase(&view)), ("a:11211@a b:11211@b", Some(Phase::Ending)));
            assert_eq!(view.before_error, None);
            // From now on there is one to keep.
            scratch.write("before", "endng:a,b");
            let view = followed.until("it is refused", |view| view.before_error.is_some()).await;
            assert_eq!((ring(&view).as_str(), phase(&view)), ("a c", Some(Phase::Ending)));
        }
    });
}

#[test]
fn a_file_of_its_own_is_watched_and_what_is_wrong_changes_nothing() {
    run(async {
        let scratch = Scratch::new("before");
        let path = scratch.write("before", "");
        let own = Own::new(vec!["127.0.0.1:11211".parse().unwrap()]);
        let watching = Options { before: BeforeSource::File(path, Ok(None)), own, ..options() };
        let mut followed = Followed::start(list(&["a"]), watching);
        assert_eq!(phase(&followed.view()), None);
        scratch.write("before", "a,b");
        let first = followed.until("declared", |view| before(view) == "a:11211@a b:11211@b").await;
        assert_eq!(first.reason, "ring before declared");
        for (text, problem) in
            [("a,a", "listed twice"), ("127.0.0.1:11211", "is this sidecar itself"), ("ending:", "empty")]
        {
            scratch.write("before", text);
            let has = |view: &Arc<View>| view.before_error.as_ref().is_some_and(|error| error.contains(problem));
            let view = followed.until(problem, has).await;
            assert_eq!((before(&view), view.generation), (before(&first), first.generation));
        }
        scratch.write("before", "ending:a,b");
        let view = followed.until("ending", |view| phase(view) == Some(Phase::Ending)).await;
        assert_eq!((view.before_error.as_deref(), view.reason.as_str()), (None, "ring before ends"));
        scratch.write("before", "# none\n");
        let view = followed.until("taken away", |view| view.before.is_none()).await;
        assert_eq!((view.reason.as_str(), ring(&view).as_str()), ("ring before taken away", "a"));
    });
}
