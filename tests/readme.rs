//! README's option table is the one the program is declared by.

use std::{env, fs, path::Path};

const BEGIN: &str = "<!-- options: begin -->\n";
const END: &str = "<!-- options: end -->";
const REFRESH: &str = "UPDATE_README=1 cargo test --test readme";

#[test]
fn readme_holds_the_option_table_as_declared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the marker of its begin");
    let (table, after) = rest.split_once(END).expect("the marker of its end");
    let declared = slipring::config::option_table();
    if table == declared {
        return;
    }
    if env::var_os("UPDATE_README").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{declared}{END}{after}")).unwrap();
        return;
    }
    panic!("README.md's option table is not the declared one; refresh it: {REFRESH}");
}
