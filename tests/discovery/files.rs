//! Files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use slipring::discovery::{Options, Source};

use crate::{Followed, options, ring, run};

/// A directory of its own, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slipring-discovery-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// As kubelet does: a new directory, and a symlink renamed over the old one.
    fn mount(&self, generation: &str, keys: &[(&str, &str)]) {
        let directory = self.0.join(generation);
        std::fs::create_dir(&directory).unwrap();
        for (key, value) in keys {
            std::fs::write(directory.join(key), value).unwrap();
            let _ = std::os::unix::fs::symlink(Path::new("..data").join(key), self.0.join(key));
        }
        std::os::unix::fs::symlink(generation, self.0.join("..tmp")).unwrap();
        std::fs::rename(self.0.join("..tmp"), self.0.join("..data")).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_is_followed_however_it_changes() {
    run(async {
        let scratch = Scratch::new("file");
        let path = scratch.write("nodes", "# the cache\na\nb # second\n");
        let mut followed = Followed::start(Source::File(path.clone()), options());
        followed.until_ring("a b").await;
        scratch.write("nodes", "a,b,c");
        followed.until_ring("a b c").await;
        let draft = scratch.write("draft", "a;c");
        std::fs::rename(draft, &path).unwrap();
        let view = followed.until_ring("a c").await;
        assert_eq!((view.pending.len(), view.reason.as_str()), (0, "file: b:11211 dropped"), "meant, so at once");
        let generation = view.generation;
        for (text, error) in [("", "empty"), ("a,b:", "port"), ("a c c", "twice"), ("\u{0}", "IPv4")] {
            scratch.write("nodes", text);
            let view = followed.until_error(error).await;
            assert_eq!((ring(&view), view.generation), ("a c".to_owned(), generation), "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ring(&*followed.until_error("cannot be read").await), "a c");
        scratch.write("nodes", "d");
        followed.until_ring("d").await;
    });
}

#[test]
fn the_first_read_of_a_file_counts_at_once_and_a_change_when_it_is_read_twice() {
    run(async {
        let scratch = Scratch::new("first");
        let path = scratch.write("nodes", "a");
        // Nothing is ever confirmed.
        let options = Options { file_confirm: Duration::from_secs(3600), ..options() };
        let mut followed = Followed::start(Source::File(path), options.clone());
        followed.until_ring("a").await;
        scratch.write("nodes", "a,b");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(followed.ring(), "a", "the change is not believed yet");
        // One that is not there at the start is no first read: whoever writes it may be half way through.
        let late = scratch.0.join("late");
        let mut followed = Followed::start(Source::File(late), options);
        followed.until_error("cannot be read").await;
        scratch.write("late", "a");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(followed.ring(), "");
    });
}

#[test]
fn a_pipe_in_the_place_of_the_file_is_not_waited_for() {
    run(async {
        let scratch = Scratch::new("pipe");
        let path = scratch.write("nodes", "a");
        let mut followed = Followed::start(Source::File(path.clone()), options());
        followed.until_ring("a").await;
        std::fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        followed.until_error("no regular file").await;
        assert_eq!(followed.ring(), "a");
    });
}

#[test]
fn a_mounted_config_map_is_followed_as_a_file_and_as_a_directory() {
    run(async {
        let scratch = Scratch::new("mount");
        scratch.mount("..1", &[("MEMCACHED_NODES", "a,b"), ("MEMCACHED_PORT", "11212")]);
        let mut file = Followed::start(Source::File(scratch.0.join("MEMCACHED_NODES")), options());
        let mut directory = Followed::start(Source::File(scratch.0.clone()), options());
        file.until_ring("a b").await;
        directory.until_ring("a:11212 b:11212").await;
        scratch.mount("..2", &[("MEMCACHED_NODES", "a,b,c"), ("MEMCACHED_PORT", "11213")]);
        std::fs::remove_dir_all(scratch.0.join("..1")).unwrap();
        file.until_ring("a b c").await;
        directory.until_ring("a:11213 b:11213 c:11213").await;
    });
}

#[test]
fn a_reload_reads_a_file_at_once_and_unconfirmed() {
    run(async {
        let scratch = Scratch::new("reload");
        let path = scratch.write("nodes", "a");
        let mut followed = Followed::start(Source::File(path), options());
        followed.until_ring("a").await;
        drop(followed);
        let path = scratch.write("nodes", "a");
        let slow = Options { file_interval: Duration::from_secs(600), ..options() };
        let mut followed = Followed::start(Source::File(path), slow);
        followed.until_ring("a").await;
        scratch.write("nodes", "b");
        followed.triggers.reload.notify_one();
        followed.until_ring("b").await;
    });
}
