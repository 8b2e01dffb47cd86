//! The hit rates of two runs as a picture, one line each; the times are those since the ring first changed.

use std::fmt::Write;

use crate::record::{Outcome, Run, Second};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 390.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 90.0;
/// Room for the names of what is done.
const TOP: f64 = 126.0;
const BOTTOM: f64 = 66.0;
const STYLE: &str = "text{font:12px sans-serif;fill:#333}.t{font-weight:bold;font-size:14px}.g{stroke:#ddd}\
                     .m{stroke:#999;stroke-dasharray:3 3}polyline{fill:none;stroke-width:2;stroke-linejoin:round}";
const WITH: &str = "#0b62c4";
const WITHOUT: &str = "#d1421f";

fn x_s(run: &Run, at_s: f64) -> f64 {
    at_s - run.changed_at_s()
}

/// As SVG.
pub(crate) fn svg(outcome: &Outcome) -> String {
    let ends = outcome.runs.iter().map(|run| [x_s(run, 0.0), x_s(run, run.seconds.len() as f64)]);
    let [from, to] = ends.fold([0.0_f64, 1.0_f64], |all, ends| [all[0].min(ends[0]), all[1].max(ends[1])]);
    let x = |at_s: f64| LEFT + (at_s - from) / (to - from) * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| TOP + (100.0 - rate) / 100.0 * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <title>{title}: hit rate per second</title>\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text class=\"t\" x=\"{LEFT}\" y=\"22\">{title}: hit rate per second</text>\n",
        title = outcome.title,
    );
    // Writing to a string cannot fail.
    for rate in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let at = y(rate);
        let _ = writeln!(
            text,
            "<path class=\"g\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{rate} %</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    let step =
        [5.0, 10.0, 20.0, 30.0, 60.0, 120.0].into_iter().find(|step| (to - from) / step <= 12.0).unwrap_or(300.0);
    let mut at_s = (from / step).ceil() * step;
    while at_s <= to {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at_s:.0} s</text>",
            x(at_s),
            HEIGHT - BOTTOM + 18.0
        );
        at_s += step;
    }
    // What is done with the ring before has all the marks that are there without.
    if let Some(run) = outcome.run(true).or_else(|| outcome.run(false)) {
        let mut free = 0.0_f64;
        for mark in &run.marks {
            let at = x(x_s(run, mark.at_s));
            // The names do not lie on each other where the marks are near.
            let name_at = at.max(free);
            free = name_at + 20.0;
            let _ = writeln!(
                text,
                "<path class=\"m\" d=\"M{at:.1} {:.1}V{TOP}L{name_at:.1} {:.1}\" fill=\"none\"/>\
                 <text transform=\"translate({:.1} {:.1}) rotate(-40)\">{}</text>",
                HEIGHT - BOTTOM,
                TOP - 12.0,
                name_at + 3.0,
                TOP - 15.0,
                mark.what
            );
        }
    }
    for (with, colour) in [(false, WITHOUT), (true, WITH)] {
        let Some(run) = outcome.run(with) else { continue };
        let points = run.seconds.iter().enumerate().filter_map(|(second, counts)| {
            let middle_s = second as f64 + 0.5;
            Some(format!("{:.1},{:.1}", x(x_s(run, middle_s)), y(Second::hit_rate(counts)?)))
        });
        let points: Vec<String> = points.collect();
        let _ = writeln!(text, "<polyline stroke=\"{colour}\" points=\"{}\"/>", points.join(" "));
    }
    let legend_y = HEIGHT - 16.0;
    let mut at = LEFT;
    for (with, colour, name) in [(true, WITH, "ring before declared"), (false, WITHOUT, "none")] {
        let Some(run) = outcome.run(with) else { continue };
        let [_, lowest] = run.lowest();
        let _ = writeln!(
            text,
            "<path d=\"M{at:.1} {:.1}h24\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{:.1}\" y=\"{legend_y:.1}\">\
             {name}: {:.1} % before, lowest second {lowest:.1} %</text>",
            legend_y - 4.0,
            at + 30.0,
            run.rate_before()
        );
        at += 400.0;
    }
    text + "</svg>\n"
}
