//! What a client may see of keys that only it writes, while their node fails and comes back.
//!
//! The rule. A client's requests for a key reach its node in their order, so a `get` gives what the
//! node was told last. Three things make that less sure, and nothing else does:
//!
//! - A write that was answered `SERVER_ERROR proxy` may have been carried out, may be carried out
//!   later, or never. *Later* is real: a node that was stopped, or cut off, first reads what lies in
//!   the sockets of connections the proxy has long given up. So such a write stays *afloat*: from its
//!   answer on it may show at any moment, once, even over a later write that was acknowledged. It is
//!   no longer afloat when the node was restarted, or when load has rested and no socket on the way
//!   holds a byte. A read that finds it is counted as `late` if an acknowledged write came after it.
//! - A `set` with `noreply` is not answered, so on a node that fails it is such a write, too. On the
//!   other nodes it was carried out in its order or not at all.
//! - A node that was restarted holds nothing, whatever it had acknowledged.
//!
//! A miss may always be the proxy's answer for a node it cannot reach. It tells nothing about the node;
//! where the node must have a value it is counted, as `refused`.
//!
//! Everything else is wrong: an older version than the one acknowledged last that is not afloat, one
//! that was never written, a `DELETED` where nothing can have been, a `NOT_FOUND` for a `delete` where
//! something must have been.

/// A write whose outcome is not known.
#[derive(Debug)]
struct Afloat {
    value: Option<u64>,
    /// A later write was acknowledged.
    overtaken: bool,
}

/// A key that one connection alone writes.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) node: usize,
    /// What the node may hold; one thing where that is known for sure.
    may_hold: Vec<Option<u64>>,
    afloat: Vec<Afloat>,
    /// The version written last.
    last: u64,
}

/// What a good answer says.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Finding {
    Right,
    /// A value that had been overtaken by an acknowledged one.
    Late,
    /// A miss where the node must hold a value.
    Refused,
}

impl Key {
    pub(crate) fn new(name: String, node: usize) -> Self {
        Self { name, node, may_hold: vec![None], afloat: Vec::new(), last: 0 }
    }

    pub(crate) fn next_version(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn holds(&mut self, value: Option<u64>) {
        self.may_hold.clear();
        self.may_hold.push(value);
        for afloat in &self.afloat {
            if !self.may_hold.contains(&afloat.value) {
                self.may_hold.push(afloat.value);
            }
        }
    }

    /// The node has acknowledged this value, or that there is none.
    pub(crate) fn acknowledged(&mut self, value: Option<u64>) {
        for afloat in &mut self.afloat {
            afloat.overtaken = true;
        }
        self.holds(value);
    }

    /// It may hold this now, or what it held before.
    pub(crate) fn may_hold(&mut self, value: Option<u64>) {
        if !self.may_hold.contains(&value) {
            self.may_hold.push(value);
        }
    }

    /// This was written, and nobody knows whether.
    pub(crate) fn unknown(&mut self, value: Option<u64>) {
        self.may_hold(value);
        self.afloat.retain(|afloat| afloat.value != value);
        self.afloat.push(Afloat { value, overtaken: false });
    }

    /// A read was answered with this.
    ///
    /// # Panics
    /// When that cannot be.
    pub(crate) fn found(&mut self, value: Option<u64>) -> Finding {
        let known = self.may_hold.contains(&value);
        if value.is_none() {
            return if known { Finding::Right } else { Finding::Refused };
        }
        assert!(known, "wrong value: {} has version {value:?}, but {}", self.name, self.text());
        let at = self.afloat.iter().position(|afloat| afloat.value == value);
        // It has landed, and lands but once.
        let landed = at.map(|at| self.afloat.swap_remove(at));
        self.holds(value);
        if landed.is_some_and(|landed| landed.overtaken) { Finding::Late } else { Finding::Right }
    }

    /// A read that was on its way when the node lost everything: any version ever written may be.
    ///
    /// # Panics
    /// When it was never written.
    pub(crate) fn found_before_wiped(&self, value: Option<u64>) {
        assert!(value <= Some(self.last), "wrong value: {} has version {value:?}, but {}", self.name, self.text());
    }

    /// A `delete` was answered so.
    ///
    /// # Panics
    /// When that cannot be.
    pub(crate) fn deleted(&mut self, existed: bool) {
        let may_be = self.may_hold.iter().any(|held| held.is_some() == existed);
        assert!(may_be, "wrong answer: delete of {} found something: {existed}, but {}", self.name, self.text());
        self.acknowledged(None);
    }

    /// A `touch` was answered so.
    ///
    /// # Panics
    /// When that cannot be.
    pub(crate) fn touched(&self, existed: bool) -> Finding {
        let may_be = self.may_hold.iter().any(|held| held.is_some() == existed);
        assert!(may_be || !existed, "wrong answer: touch of {} found something, but {}", self.name, self.text());
        if may_be { Finding::Right } else { Finding::Refused }
    }

    /// The node was restarted.
    pub(crate) fn wiped(&mut self) {
        self.afloat.clear();
        self.holds(None);
    }

    /// Nothing is on its way any more.
    pub(crate) fn settled(&mut self) {
        self.afloat.clear();
    }

    fn text(&self) -> String {
        format!("it may hold {:?}; afloat are {:?}; version {} is the newest", self.may_hold, self.afloat, self.last)
    }
}

#[test]
fn the_model_itself_sees_what_it_must_not() {
    fn refuses<T>(act: impl FnOnce() -> T) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
    }
    let mut key = Key::new("k".to_owned(), 0);
    key.acknowledged(Some(1));
    key.acknowledged(Some(2));
    assert!(refuses(|| key.found(Some(1))), "an older value");
    assert!(refuses(|| key.found(Some(3))), "one never written");
    assert!(refuses(|| key.deleted(false)), "a delete that found nothing");
    assert_eq!(key.found(Some(2)), Finding::Right);
    assert_eq!(key.found(None), Finding::Refused);
    assert_eq!((key.touched(true), key.touched(false)), (Finding::Right, Finding::Refused));

    key.unknown(Some(3));
    assert_eq!(key.found(Some(2)), Finding::Right);
    assert_eq!(key.found(Some(3)), Finding::Right, "carried out after all");
    assert!(refuses(|| key.found(Some(2))), "and not undone");
    key.unknown(Some(4));
    key.acknowledged(Some(5));
    assert_eq!(key.found(Some(5)), Finding::Right);
    assert_eq!(key.found(Some(4)), Finding::Late);
    assert!(refuses(|| key.found(Some(5))), "it landed once");
    key.unknown(Some(6));
    key.acknowledged(Some(7));
    key.settled();
    assert_eq!(key.found(Some(7)), Finding::Right);
    assert!(refuses(|| key.found(Some(6))), "nothing was afloat any more");

    key.wiped();
    assert!(refuses(|| key.found(Some(7))), "the node forgot it");
    assert!(refuses(|| key.touched(true)), "the node forgot it");
    key.deleted(false);
    assert!(refuses(|| key.deleted(true)), "there was nothing");
    key.last = 8;
    key.may_hold(Some(8));
    assert_eq!((key.found(None), key.found(Some(8))), (Finding::Right, Finding::Right));
    assert!(refuses(|| key.found_before_wiped(Some(9))));
}
