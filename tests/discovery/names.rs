//! Host names in a list.

use std::time::Duration;

use slipring::discovery::{Options, Source, View};
use slipring::routing::Node;
use tokio::net::TcpListener;

use crate::dns::{NameServer, Rings, Zone, ip};
use crate::endpoint::{Endpoint, Script};
use crate::files::Scratch;
use crate::{Followed, PATIENCE, ring, run};

const NAME: &str = "cache-0.example";

fn hosts(view: &View) -> String {
    view.nodes.iter().map(|node| &*node.host).collect::<Vec<_>>().join(" ")
}

fn named(port: u16) -> Source {
    Source::Static(vec![Node::new(NAME, port, 1), Node::new("127.9.9.99", 11211, 1)])
}

#[test]
fn two_names_of_one_server_are_told_of() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(50), ..server.options() };
        let nodes = [(NAME, 11211), ("other.example", 11211), ("other.example", 11212), ("127.9.9.99", 11211)];
        let nodes = nodes.into_iter().map(|(host, port)| Node::new(host, port, 1)).collect();
        let mut followed = Followed::start(Source::Static(nodes), often);
        let view = followed.until("two are one", |view| !view.alike.is_empty()).await;
        assert_eq!(view.alike, [format!("{NAME}:11211 and other.example:11211 are one server, 127.9.9.1:11211")]);
        assert_eq!(view.nodes.len(), 4, "it is only said");
    });
}

#[test]
fn a_listed_name_that_points_elsewhere_is_dialled_there() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(50), ..server.options() };
        let mut followed = Followed::start(named(11211), often);
        let rings = Rings::of(&followed);
        server.questions(3).await;
        let first = followed.view();
        assert_eq!((hosts(&first), first.generation), (format!("{NAME} 127.9.9.99"), 1), "it is still there");
        server.now(Zone::Addresses(vec![ip(2)], 0));
        let view = followed.until("moved", |view| hosts(view) == "127.9.9.2 127.9.9.99").await;
        assert_eq!((ring(&view), view.generation), (ring(&first), 2));
        assert_eq!(view.reason, format!("host names: {NAME}:11211 moved from {NAME}:11211 to 127.9.9.2:11211"));
        for zone in [
            Zone::Code(3),
            Zone::Code(2),
            Zone::Silent,
            Zone::Garbage,
            Zone::Addresses(Vec::new(), 0),
            // The address that is dialled is among these.
            Zone::Addresses(vec![ip(1), ip(2)], 3600),
        ] {
            server.now(zone.clone());
            server.questions(5).await;
            assert_eq!(followed.view().generation, 2, "{zone:?}");
        }
        server.now(Zone::Addresses(vec![ip(3), ip(1)], 0));
        followed.until("another that was known", |view| hosts(view) == "127.9.9.1 127.9.9.99").await;
        followed.triggers.reload.notify_one();
        followed.reads(0).await;
        assert_eq!((followed.view().generation, rings.seen()), (3, 1), "no key moved");
    });
}

#[test]
fn a_failed_connection_resolves_a_listed_name_soon() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        // Without the failed connection it would take longer than anybody waits here.
        let slow = Options { resolve_interval: PATIENCE * 2, ..server.options() };
        let mut followed = Followed::start(named(11211), slow);
        server.questions(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.now(Zone::Addresses(vec![ip(2)], 0));
        for _ in 0..20 {
            followed.triggers.resolve.notify_one();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        followed.until("moved", |view| hosts(view) == "127.9.9.2 127.9.9.99").await;
        assert!(*server.asked.borrow() <= 4, "{} questions", *server.asked.borrow());
    });
}

#[test]
fn of_several_addresses_one_that_answers_is_dialled() {
    run(async {
        let script = || Script::Say(b"VERSION 1.6.15\r\n".to_vec());
        let first = Endpoint::start_at("127.9.9.51:0", script()).await;
        let port = first.address.port();
        let Ok(listener) = TcpListener::bind(("127.9.9.50", port)).await else { panic!("port {port} is taken") };
        drop(listener);
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(50), ..server.options() };
        let mut followed = Followed::start(named(port), often);
        server.questions(2).await;
        server.now(Zone::Addresses(vec![ip(50), ip(51)], 0));
        followed.until("the one that answers", |view| hosts(view) == "127.9.9.51 127.9.9.99").await;
        first.now(Script::Hang);
        let _second = Endpoint::start_at(&format!("127.9.9.50:{port}"), script()).await;
        server.questions(3).await;
        assert_eq!(followed.view().generation, 2, "nobody complained");
        followed.triggers.resolve.notify_one();
        followed.until("the other", |view| hosts(view) == "127.9.9.50 127.9.9.99").await;
    });
}

#[test]
fn addresses_in_a_list_are_not_asked_for() {
    run(async {
        let server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let often = Options { resolve_interval: Duration::from_millis(10), ..server.options() };
        let nodes = vec![Node::new("127.9.9.1", 11211, 1), Node::new("::1", 11211, 1)];
        let followed = Followed::start(Source::Static(nodes), often);
        followed.triggers.resolve.notify_one();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((*server.asked.borrow(), followed.view().generation), (0, 1));
    });
}

#[test]
fn names_in_a_file_are_followed_and_kept_as_names() {
    run(async {
        let mut server = NameServer::start(Zone::Addresses(vec![ip(1)], 0)).await;
        let scratch = Scratch::new("names");
        let path = scratch.write("nodes", NAME);
        let often = Options {
            resolve_interval: Duration::from_millis(50),
            state_dir: Some(scratch.0.clone()),
            ..server.options()
        };
        let mut followed = Followed::start(Source::File(path), often.clone());
        followed.until_ring(NAME).await;
        server.questions(2).await;
        server.now(Zone::Addresses(vec![ip(2)], 0));
        followed.until("moved", |view| hosts(view) == "127.9.9.2").await;
        scratch.write("nodes", &format!("{NAME},127.9.9.7"));
        let view = followed.until_ring(&format!("{NAME} 127.9.9.7")).await;
        assert_eq!(hosts(&view), "127.9.9.2 127.9.9.7", "another list, the same place");
        followed.reads(2).await;
        let kept = std::fs::read_to_string(scratch.0.join("last-good.json")).unwrap();
        assert!(!kept.contains("127.9.9.2"), "{kept}");
        // A name server that does not answer keeps no file from being read.
        server.now(Zone::Silent);
        server.questions(1).await;
        scratch.write("nodes", "127.9.9.8");
        followed.until_ring("127.9.9.8").await;
    });
}
