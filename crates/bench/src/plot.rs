//! Plots as SVG, drawn by hand: lines over a logarithmic or linear axis, a legend, nothing else.

use std::fmt::Write as _;

use crate::stats::figure;

/// One line of a plot.
pub(crate) struct Series {
    pub(crate) name: String,
    /// In the order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// One plot.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
    /// Words in place of the numbers on the x axis, where x is 0, 1, 2 ...
    pub(crate) x_names: Vec<String>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 55.0;
/// Told apart by people who see few colours too.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// An axis: value to place.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// Fits the values; logarithmic when they span more than a factor of 20.
    fn fit(values: &[f64], from: f64, to: f64) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log = low > 0.0 && high / low > 20.0;
        if log {
            let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
            Self { low, high, log, from, to }
        } else {
            let step = step(high);
            Self { low: low.min(0.0), high: (high / step).ceil().max(1.0) * step, log, from, to }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let decades = (self.high / self.low).log10().round() as i32;
            (0..=decades).map(|n| self.low * 10f64.powi(n)).collect()
        } else {
            let step = step(self.high);
            (0..=((self.high - self.low) / step).round() as usize)
                .map(|n| self.low + n as f64 * step)
                .collect()
        }
    }
}

/// A round step that cuts 0 to `high` in four to eight.
fn step(high: f64) -> f64 {
    let rough = (high / 5.0).max(f64::MIN_POSITIVE);
    let decade = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|s| *s >= rough).unwrap_or(decade * 10.0)
}

/// The drawing; none when there is nothing to draw.
pub(crate) fn svg(chart: &Chart) -> Option<String> {
    let all: Vec<(f64, f64)> = chart.series.iter().flat_map(|s| s.points.iter().copied()).collect();
    if all.is_empty() {
        return None;
    }
    let xs: Vec<f64> = all.iter().map(|p| p.0).collect();
    let ys: Vec<f64> = all.iter().map(|p| p.1).collect();
    let x = if chart.x_names.is_empty() {
        Axis::fit(&xs, LEFT, WIDTH - RIGHT)
    } else {
        let high = (chart.x_names.len() - 1).max(1) as f64;
        Axis { low: 0.0, high, log: false, from: LEFT, to: WIDTH - RIGHT }
    };
    let y = Axis::fit(&ys, HEIGHT - BOTTOM, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(&chart.title)
    );
    axes(&mut out, chart, &x, &y);
    for (n, series) in chart.series.iter().enumerate() {
        line(&mut out, n, series, &x, &y);
    }
    out.push_str("</svg>\n");
    Some(out)
}

// Writing to a String cannot fail.
fn axes(out: &mut String, chart: &Chart, x: &Axis, y: &Axis) {
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            figure(tick)
        );
    }
    let ticks: Vec<(f64, String)> = if chart.x_names.is_empty() {
        x.ticks().into_iter().map(|tick| (tick, figure(tick))).collect()
    } else {
        chart.x_names.iter().enumerate().map(|(n, name)| (n as f64, name.clone())).collect()
    };
    for (tick, name) in ticks {
        let (at, floor) = (x.place(tick), HEIGHT - BOTTOM);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{floor}\" stroke=\"#eee\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            floor + 16.0,
            escape(&name)
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(16 {}) rotate(-90)\" \
         text-anchor=\"middle\">{}</text>",
        HEIGHT - 14.0,
        escape(&chart.x_label),
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escape(&chart.y_label)
    );
}

fn line(out: &mut String, n: usize, series: &Series, x: &Axis, y: &Axis) {
    let colour = COLOURS[n % COLOURS.len()];
    let mut path = String::new();
    for (at, point) in series.points.iter().enumerate() {
        let _ = write!(
            path,
            "{}{:.1} {:.1}",
            if at == 0 { 'M' } else { 'L' },
            x.place(point.0),
            y.place(point.1)
        );
    }
    let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    for point in &series.points {
        let (cx, cy) = (x.place(point.0), y.place(point.1));
        let _ = writeln!(out, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    let (left, top) = (WIDTH - RIGHT + 14.0, TOP + 12.0 + n as f64 * 20.0);
    let _ = writeln!(
        out,
        "<path d=\"M{left} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{top}\">{}</text>",
        top - 4.0,
        left + 24.0,
        escape(&series.name)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_range_is_drawn_by_decades_and_a_narrow_one_from_zero() {
        let wide = Axis::fit(&[3.0, 900.0], 0.0, 300.0);
        assert_eq!((wide.ticks(), wide.place(10.0)), (vec![1.0, 10.0, 100.0, 1000.0], 100.0));
        let narrow = Axis::fit(&[3.0, 9.0], 0.0, 100.0);
        assert_eq!((narrow.low, narrow.high), (0.0, 10.0));
    }

    #[test]
    fn names_are_escaped_and_nothing_is_no_drawing() {
        let series = Series { name: "a<b".to_owned(), points: vec![(1.0, 2.0)] };
        let mut chart = Chart {
            title: "t".to_owned(),
            x_label: String::new(),
            y_label: String::new(),
            series: vec![series],
            x_names: Vec::new(),
        };
        assert!(svg(&chart).is_some_and(|text| text.contains("a&lt;b")));
        chart.series.clear();
        assert!(svg(&chart).is_none());
    }
}
