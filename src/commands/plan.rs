//! `slipring plan`: what a change of nodes or of the placement would move.

use std::fmt::Write as _;

use super::counted;
use crate::routing::{Basis, Placement, Plan};

/// Keys that are generated where placements cannot be written down.
pub(super) const SAMPLES: u32 = 200_000;

/// What a plan says, for people.
#[must_use]
pub fn report(plan: &Plan, before: &Placement, after: &Placement) -> String {
    let basis = match plan.basis {
        Basis::Exact => "exactly, from the placement".to_owned(),
        Basis::Samples(count) => format!("from {} generated keys", grouped(count.into())),
        Basis::Keys(count) => format!("of {}", counted(usize::try_from(count).unwrap_or(usize::MAX), "key")),
    };
    let placement = match before.to_string() == after.to_string() {
        true => format!("placement {before}"),
        false => format!("from placement {before} to {after}"),
    };
    let mut text = match plan.moves_nothing() {
        true => format!("no key moves ({basis}; {placement})\n\n"),
        false => format!("{} of the keys move ({basis}; {placement})\n\n", percent(plan.moved)),
    };
    let width = plan.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(4);
    let _ = writeln!(text, "{:width$}  {:>8}  {:>8}", "NODE", "BEFORE", "AFTER");
    for row in &plan.rows {
        let cell = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        let _ = writeln!(text, "{:width$}  {:>8}  {:>8}", row.name, cell(row.before), cell(row.after));
    }
    let hottest = |of: fn(&crate::routing::Row) -> Option<f64>| plan.rows.iter().filter_map(of).fold(0.0, f64::max);
    let (was, is) = (hottest(|row| row.before), hottest(|row| row.after));
    let _ = writeln!(text, "{:width$}  {:>8}  {:>8}", "hottest", percent(was), percent(is));
    if let Some(warning) = warning(plan, before, after) {
        let _ = write!(text, "\nwarning: {warning}\n");
    }
    text
}

/// What the user may not expect.
fn warning(plan: &Plan, before: &Placement, after: &Placement) -> Option<String> {
    let least = plan.least();
    let far_more = plan.moved > 0.4 && plan.moved > 1.5 * least;
    let same_placement = before.to_string() == after.to_string();
    if plan.is_reordered() && same_placement && before.counts_order() {
        return Some(format!(
            "the nodes are the same in another order, and placement {before} depends on it: keep the order of the list, or \
             pin it with --node-order, and no key moves"
        ));
    }
    let more = format!(
        "{} of the keys move, though {} would be enough to give each node its share after the change",
        percent(plan.moved),
        percent(least)
    );
    match (far_more, before.moves_everything() || after.moves_everything(), same_placement) {
        (false, ..) => None,
        (true, true, true) => Some(format!(
            "{more}: placement {before} takes a remainder by the number of nodes. Move to a consistent one \
             (--to-placement ring) while the nodes stay, or expect a cold cache without the ring before"
        )),
        (true, _, false) => Some(format!(
            "{more}: the two placements have nothing in common; expect a cold cache without the ring before"
        )),
        (true, false, true) => Some(more),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// A number with commas between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::routing::{Node, Topology};

    fn planned(from: (&str, &[&str]), to: (&str, &[&str])) -> String {
        let topology = |(placement, hosts): (&str, &[&str])| {
            let nodes = hosts.iter().map(|host| Arc::new(Node::new(host, 11211, 1))).collect();
            Topology::placed(1, nodes, &Arc::new(placement.parse().unwrap())).unwrap()
        };
        let (before, after) = (topology(from), topology(to));
        report(&Plan::between(&before, &after, 20_000), before.placement(), after.placement())
    }

    #[test]
    fn a_consistent_change_is_told_without_a_warning() {
        let text = planned(("ring", &["a", "b", "c"]), ("ring", &["a", "b", "c", "d"]));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("of the keys move (exactly, from the placement; placement ring)"), "{text}");
        assert!(lines[2].starts_with("NODE") && lines[6].starts_with("d:11211") && lines[6].contains("-"), "{text}");
        assert!(lines[7].starts_with("hottest"), "{text}");
        assert!(!text.contains("warning"), "{text}");
    }

    #[test]
    fn what_moves_far_more_than_it_must_is_warned_of() {
        let text = planned(("gomemcache", &["a", "b", "c"]), ("gomemcache", &["a", "b", "c", "d"]));
        assert!(text.starts_with("75.00 % of the keys move"), "{text}");
        assert!(
            text.contains("warning: 75.00 % of the keys move, though 25.00 % would be enough to give each node its share after the ")
                && text.contains("change: placement gomemcache takes"),
            "{text}"
        );
        let text = planned(("pymemcache", &["a", "b", "c"]), ("ring", &["a", "b", "c"]));
        assert!(text.contains("from 20,000 generated keys; from placement pymemcache to ring"), "{text}");
        assert!(text.contains("nothing in common"), "{text}");
    }

    #[test]
    fn what_moves_nothing_is_told_so_and_another_order_is_named() {
        let (one, other): (&[&str], &[&str]) = (&["a", "b", "c"], &["c", "a", "b"]);
        for placement in ["ring", "pymemcache", "gomemcache"] {
            let text = planned((placement, one), (placement, one));
            assert!(text.starts_with("no key moves (") && !text.contains("warning"), "{text}");
        }
        let text = planned(("ring", one), ("ring", other));
        assert!(text.starts_with("no key moves (") && !text.contains("warning"), "{text}");
        let text = planned(("gomemcache", one), ("gomemcache", other));
        assert!(
            text.contains("\nwarning: the nodes are the same in another order, and placement gomemcache"),
            "{text}"
        );
        let text = planned(("gomemcache", one), ("ring", other));
        assert!(!text.contains("another order"), "{text}");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 20_114, 1_000_000].map(grouped), ["0", "999", "1,000", "20,114", "1,000,000"]);
    }
}
