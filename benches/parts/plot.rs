//! A picture with lines, as SVG: a title, a grid, polylines and a legend, at places that the caller computes.

use std::fmt::{Display, Write as _};

const STYLE: &str = "text{font:12px sans-serif;fill:#333}.t{font-weight:bold;font-size:14px}.g{stroke:#ddd}\
                     .m{stroke:#999;stroke-dasharray:3 3}polyline{fill:none;stroke-width:2;stroke-linejoin:round}";

/// Where the lines are, in units of the picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
}

impl Area {
    /// The place of something that is this share from the left to the right.
    pub(crate) fn x(&self, share: f64) -> f64 {
        self.left + share * (self.width - self.left - self.right)
    }

    /// The place of something that is this share from the top to the bottom.
    pub(crate) fn y(&self, share: f64) -> f64 {
        self.top + share * (self.height - self.top - self.bottom)
    }
}

/// A picture as far as it is drawn. Writing to a string cannot fail.
pub(crate) struct Picture {
    area: Area,
    text: String,
}

impl Picture {
    pub(crate) fn new(area: Area, title: &str) -> Self {
        let Area { width, height, left, .. } = area;
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text class=\"t\" x=\"{left}\" y=\"22\">{title}</text>\n"
        );
        Self { area, text }
    }

    /// A line of the grid at this height, and what it stands for.
    pub(crate) fn level(&mut self, at: f64, label: impl Display) {
        let Area { width, left, right, .. } = self.area;
        let _ = writeln!(
            self.text,
            "<path class=\"g\" d=\"M{left} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            width - right,
            left - 6.0,
            at + 4.0
        );
    }

    /// What a place on the lower edge stands for.
    pub(crate) fn below(&mut self, at: f64, label: impl Display) {
        let y = self.area.height - self.area.bottom + 18.0;
        let _ = writeln!(self.text, "<text x=\"{at:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>");
    }

    pub(crate) fn line(&mut self, colour: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(self.text, "<polyline stroke=\"{colour}\" points=\"{}\"/>", points.join(" "));
    }

    /// An entry of the legend, from this place on.
    pub(crate) fn legend(&mut self, at: f64, colour: &str, label: impl Display) {
        let y = self.area.height - 16.0;
        let _ = writeln!(
            self.text,
            "<path d=\"M{at:.1} {:.1}h24\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{:.1}\" y=\"{y:.1}\">{label}</text>",
            y - 4.0,
            at + 30.0
        );
    }

    /// Anything else.
    #[allow(dead_code, reason = "only one of the benches has more to show than lines")]
    pub(crate) fn add(&mut self, element: &str) {
        self.text += element;
        self.text += "\n";
    }

    pub(crate) fn end(self) -> String {
        self.text + "</svg>\n"
    }
}
