//! The list in a file: every way in which a file changes under its reader.
use crate::support::{Memcached, Slipring, eventually};
use crate::{Directory, Ring, list, reload, replace, serves, try_reload, until, until_nodes};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn start(path: &Path) -> Slipring {
    Slipring::command(&["serve", "--nodes-file", path.to_str().unwrap()], &[])
}

#[test]
fn an_edit_is_noticed_without_a_signal_however_it_is_made() {
    let [a, b, c] = [(); 3].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    fs::write(&path, format!("# today's nodes\n{}\n{} # the second\n", a.address(), b.address())).unwrap();
    let slipring = start(&path);
    until_nodes(&slipring, &[&a, &b]);
    // Written into.
    fs::write(&path, list([&a, &b, &c])).unwrap();
    until_nodes(&slipring, &[&a, &b, &c]);
    serves(&slipring);
    // Renamed over.
    replace(&path, &list([&c, &a]));
    until_nodes(&slipring, &[&a, &c]);
    // Gone for a while, and back with another list.
    fs::remove_file(&path).unwrap();
    let gone = until(&slipring, "the file is missed", |ring| ring.text("last_error").contains("cannot be read: "));
    assert_eq!((gone.text("status"), gone.names().len()), ("degraded".to_owned(), 2));
    serves(&slipring);
    replace(&path, &list([&b]));
    let back = until_nodes(&slipring, &[&b]);
    assert_eq!(back.text("last_error"), "");
    serves(&slipring);
}

#[test]
fn what_makes_no_list_changes_nothing_and_is_shown() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    let good = list([&a, &b]);
    replace(&path, &good);
    let slipring = start(&path);
    let first = until_nodes(&slipring, &[&a, &b]);
    let broken: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b" ,\n # 127.0.0.1:1\n", "empty"),
        (b"127.0.0.1:1,127.0.0.1:1", "line 1, entry 2 is listed twice"),
        (b"127.0.0.1:99999", "line 1, entry 1: the port must be a number"),
        (b"{\"nodes\": [1, 2]}", ""),
        (b"\x00\xff\xfe\x80", "not text"),
        (&[b'x'; 2 << 20], "larger than 1 MiB"),
    ];
    for (content, error) in broken {
        // By itself, and when an operator insists.
        for insist in [false, true] {
            fs::write(&path, content).unwrap();
            if insist {
                let output = try_reload(&slipring);
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.code() == Some(1) && told.contains(error), "{output:?}");
            }
            let ring = until(&slipring, &format!("complains of {error:?}"), |ring| {
                let text = ring.text("last_error");
                !text.is_empty() && text.contains(error)
            });
            assert_eq!(ring.text("status"), "degraded");
            assert_eq!((ring.version(), ring.names()), (first.version(), first.names()), "{error}");
            serves(&slipring);
            replace(&path, &good);
            reload(&slipring);
            let ring = until(&slipring, "it is well again", |ring| ring.text("last_error").is_empty());
            assert_eq!(ring.text("status"), "healthy");
            assert_eq!((ring.version(), ring.text("fingerprint")), (first.version(), first.text("fingerprint")));
        }
    }
}

#[test]
fn a_file_that_never_stands_still_is_not_believed() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let directory = Directory::new();
    let path = directory.path("nodes");
    replace(&path, &list([&a, &b]));
    let slipring = start(&path);
    let first = until_nodes(&slipring, &[&a, &b]);
    // Each time other bytes, each of them a valid list: two reads are never equal.
    let mut number = 0;
    let mut write = || {
        number += 1;
        fs::write(&path, format!("{} # {number}", a.address())).unwrap();
    };
    eventually("it is seen to change", || {
        write();
        let ring = Ring::of(&slipring);
        assert_eq!((ring.version(), ring.names()), (first.version(), first.names()));
        ring.text("last_error").contains("changing")
    });
    replace(&path, &list([&b]));
    until_nodes(&slipring, &[&b]);
    serves(&slipring);
}

/// As kubelet writes a ConfigMap: a new directory, and `..data` renamed onto it.
fn deliver(mount: &Path, generation: u32, keys: &[(&str, &str)]) {
    let name = format!("..generation_{generation}");
    let inside = mount.join(&name);
    fs::create_dir(&inside).unwrap();
    for (key, text) in keys {
        fs::write(inside.join(key), text).unwrap();
        let link = mount.join(key);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(key), &link).unwrap();
        }
    }
    let old = fs::read_link(mount.join("..data")).ok();
    symlink(&name, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(mount.join(old)).unwrap();
    }
}

#[test]
fn a_mounted_config_map_is_followed_by_its_file_and_by_its_directory() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let directory = Directory::new();
    let port = |node: &Memcached| node.address().port().to_string();
    deliver(&directory.0, 1, &[("MEMCACHED_NODES", "127.0.0.1"), ("MEMCACHED_PORT", &port(&a))]);
    let whole = start(&directory.0);
    until_nodes(&whole, &[&a]);
    // The port alone changes.
    deliver(&directory.0, 2, &[("MEMCACHED_NODES", "127.0.0.1"), ("MEMCACHED_PORT", &port(&b))]);
    until_nodes(&whole, &[&b]);
    // Both at once: no ring made of one of them and the other's old one.
    let full = list([&a, &b]);
    deliver(&directory.0, 3, &[("MEMCACHED_NODES", &full), ("MEMCACHED_PORT", "1")]);
    until_nodes(&whole, &[&a, &b]);
    let file = start(&directory.path("MEMCACHED_NODES"));
    until_nodes(&file, &[&a, &b]);
    assert_eq!(Ring::of(&file).text("fingerprint"), Ring::of(&whole).text("fingerprint"));
    // What is no port is refused; the ring stays.
    deliver(&directory.0, 4, &[("MEMCACHED_NODES", &port(&a)), ("MEMCACHED_PORT", "memcached")]);
    let ring = until(&whole, "the port is refused", |ring| ring.text("last_error").contains("MEMCACHED_PORT"));
    assert_eq!(ring.names().len(), 2);
    deliver(&directory.0, 5, &[("MEMCACHED_NODES", &list([&b])), ("MEMCACHED_PORT", "11211")]);
    until_nodes(&whole, &[&b]);
    until_nodes(&file, &[&b]);
    assert!(!whole.output().contains("127.0.0.1:1 "), "a ring of two generations: {}", whole.output());
}

#[test]
fn a_list_that_makes_no_ring_is_not_kept_as_the_last_good_one() {
    let [a, b] = [(); 2].map(|()| Memcached::start());
    let (directory, state) = (Directory::new(), Directory::new());
    let path = directory.path("nodes");
    let arguments = [
        "serve",
        "--nodes-file",
        path.to_str().unwrap(),
        "--state-dir",
        state.0.to_str().unwrap(),
        "--placement",
        "gomemcache",
    ];
    replace(&path, &list([&a, &b]));
    let slipring = Slipring::command(&arguments, &[]);
    let ring = until_nodes(&slipring, &[&a, &b]);
    let kept = state.path("last-good.json");
    eventually("the ring is kept", || kept.exists());
    let before = fs::read(&kept).unwrap();
    // This placement knows no weights.
    replace(&path, &format!("{}=2,{}", a.address(), b.address()));
    assert_eq!(try_reload(&slipring).status.code(), Some(1));
    assert_eq!(fs::read(&kept).unwrap(), before);
    drop(slipring);
    let again = Slipring::command(&arguments, &[]);
    assert_eq!(until_nodes(&again, &[&a, &b]).text("fingerprint"), ring.text("fingerprint"));
    serves(&again);
}
