//! The last good ring.

use slipring::discovery::{Options, Origin, Source};

use crate::dns::cache;
use crate::endpoint::{Endpoint, Script, config};
use crate::files::Scratch;
use crate::{Followed, options, run};

#[test]
fn a_restart_serves_the_last_good_ring_until_the_source_answers() {
    run(async {
        let scratch = Scratch::new("state");
        let kept = Options { state_dir: Some(scratch.0.clone()), ..options() };
        let endpoint = Endpoint::start(Script::Say(config(5, &["a", "b"]))).await;
        let mut followed = Followed::start(endpoint.source(&[]), kept.clone());
        followed.until_ring("a b").await;
        followed.reads(2).await;
        drop(followed);
        endpoint.now(Script::Hang);
        let mut followed = Followed::start(endpoint.source(&["first"]), kept.clone());
        assert_eq!((followed.ring(), followed.view().source.origin), ("a b".to_owned(), Origin::Snapshot));
        // A version lower than the one that was kept is one that lags.
        endpoint.now(Script::Say(config(4, &["a"])));
        followed.until_error("version 4 is lower than 5").await;
        assert_eq!(followed.ring(), "a b");
        endpoint.now(Script::Say(config(6, &["a", "b", "c"])));
        followed.until_ring("a b c").await;
        // By then it is kept: two that write at a time would be two sidecars with one directory.
        followed.reads(2).await;
        drop(followed);
        // Neither is a file that is not there yet a reason to serve nothing.
        let source = Source::File(scratch.write("nodes", "x"));
        let mut followed = Followed::start(source.clone(), kept.clone());
        followed.until_ring("x").await;
        followed.reads(1).await;
        drop(followed);
        std::fs::remove_file(scratch.0.join("nodes")).unwrap();
        let mut followed = Followed::start(source, kept.clone());
        assert_eq!(followed.ring(), "x");
        followed.until_error("cannot be read").await;
        scratch.write("nodes", "y");
        followed.until_ring("y").await;
        drop(followed);
        // Another source's ring is none of ours, and a broken one is no reason not to start.
        let other = Followed::start(cache(), kept.clone());
        assert_eq!(other.ring(), "");
        scratch.write("last-good.json", "{");
        assert_eq!(Followed::start(endpoint.source(&["first"]), kept).ring(), "first");
    });
}
