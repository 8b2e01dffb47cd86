//! README's tables of options and of metrics are the ones the program is declared by.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::{env, fs, path::Path};

const REFRESH: &str = "UPDATE_README=1 cargo test --test readme -- --test-threads 1";

/// Compares what README holds between two markers with what is declared, or puts it there.
fn holds(name: &str, declared: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = readme.split_once(&begin).expect("the marker of its begin");
    let (table, after) = rest.split_once(&end).expect("the marker of its end");
    if table == declared {
        return;
    }
    if env::var_os("UPDATE_README").is_some() {
        fs::write(&path, format!("{before}{begin}{declared}{end}{after}")).unwrap();
        return;
    }
    panic!("README.md's table of {name} is not the declared one; refresh it: {REFRESH}");
}

#[test]
fn readme_holds_the_option_table_as_declared() {
    holds("options", &slipring::config::option_table());
}

#[test]
fn readme_holds_the_placements_as_declared() {
    holds("placements", &slipring::commands::placements::markdown());
}

#[test]
fn readme_holds_the_metric_table_as_declared() {
    holds("metrics", &slipring::metrics::metric_table());
}
