//! The hit rates of two runs as a picture, one line each; the times are those since the ring first changed.

use crate::picture::{Area, Picture};
use crate::record::{Outcome, Run, Second};

/// With room for the names of what is done.
const AREA: Area = Area { width: 860.0, height: 390.0, left: 52.0, right: 90.0, top: 126.0, bottom: 66.0 };
const WITH: &str = "#0b62c4";
const WITHOUT: &str = "#d1421f";

fn x_s(run: &Run, at_s: f64) -> f64 {
    at_s - run.changed_at_s()
}

/// As SVG.
pub(crate) fn svg(outcome: &Outcome) -> String {
    let ends = outcome.runs.iter().map(|run| [x_s(run, 0.0), x_s(run, run.seconds.len() as f64)]);
    let [from, to] = ends.fold([0.0_f64, 1.0_f64], |all, ends| [all[0].min(ends[0]), all[1].max(ends[1])]);
    let x = |at_s: f64| AREA.x((at_s - from) / (to - from));
    let y = |rate: f64| AREA.y((100.0 - rate) / 100.0);
    let mut picture = Picture::new(AREA, &format!("{}: hit rate per second", outcome.title));
    for rate in [0.0, 25.0, 50.0, 75.0, 100.0] {
        picture.level(y(rate), format_args!("{rate} %"));
    }
    let step =
        [5.0, 10.0, 20.0, 30.0, 60.0, 120.0].into_iter().find(|step| (to - from) / step <= 12.0).unwrap_or(300.0);
    let mut at_s = (from / step).ceil() * step;
    while at_s <= to {
        picture.below(x(at_s), format_args!("{at_s:.0} s"));
        at_s += step;
    }
    // What is done with the ring before has all the marks that are there without.
    if let Some(run) = outcome.run(true).or_else(|| outcome.run(false)) {
        let top = AREA.top;
        let mut free = 0.0_f64;
        for mark in &run.marks {
            let at = x(x_s(run, mark.at_s));
            // The names do not lie on each other where the marks are near.
            let name_at = at.max(free);
            free = name_at + 20.0;
            picture.add(&format!(
                "<path class=\"m\" d=\"M{at:.1} {:.1}V{top}L{name_at:.1} {:.1}\" fill=\"none\"/>\
                 <text transform=\"translate({:.1} {:.1}) rotate(-40)\">{}</text>",
                AREA.height - AREA.bottom,
                top - 12.0,
                name_at + 3.0,
                top - 15.0,
                mark.what
            ));
        }
    }
    for (with, colour) in [(false, WITHOUT), (true, WITH)] {
        let Some(run) = outcome.run(with) else { continue };
        let points = run.seconds.iter().enumerate().filter_map(|(second, counts)| {
            let middle_s = second as f64 + 0.5;
            Some((x(x_s(run, middle_s)), y(Second::hit_rate(counts)?)))
        });
        picture.line(colour, points);
    }
    let mut at = AREA.left;
    for (with, colour, name) in [(true, WITH, "ring before declared"), (false, WITHOUT, "none")] {
        let Some(run) = outcome.run(with) else { continue };
        let [_, lowest] = run.lowest();
        let before = run.rate_before();
        picture.legend(at, colour, format_args!("{name}: {before:.1} % before, lowest second {lowest:.1} %"));
        at += 400.0;
    }
    picture.end()
}
