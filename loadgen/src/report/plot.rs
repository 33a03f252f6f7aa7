//! Plots as inline SVG: bars with whiskers, and curves. They load no external resources.

use std::fmt::Write;

use super::Spread;

/// Width of every plot in SVG units; the page scales it.
const WIDTH: f64 = 560.0;

/// Height of a line chart, and the widths of its margins, which hold the labels.
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// Height of one bar including its gap.
const ROW: f64 = 24.0;

/// Width of the column for the names of bars.
const NAMES: f64 = 150.0;

/// Width of the column for the numbers next to bars.
const NUMBERS: f64 = 180.0;

/// Whiskers are cut off beyond this multiple of the longest bar.
const WHISKER_MAX: f64 = 1.35;

/// A horizontal bar.
#[derive(Debug)]
pub(super) struct Bar {
    /// Name shown next to the bar.
    pub(super) name: String,
    pub(super) colour: &'static str,
    /// Length of the bar (median) and ends of its whisker (min, max).
    pub(super) spread: Spread,
}

/// A curve of a line chart.
#[derive(Debug)]
pub(super) struct Curve {
    /// Name shown in the legend.
    pub(super) name: String,
    pub(super) colour: &'static str,
    /// SVG dash pattern; empty for a solid line.
    pub(super) dashes: &'static str,
    /// Points of the curve, in the units of the axes.
    pub(super) points: Vec<(f64, f64)>,
    /// Smallest and largest value at each point; points get a dot and a line if there are ranges.
    pub(super) ranges: Vec<(f64, f64)>,
}

/// An axis of a line chart.
#[derive(Debug)]
pub(super) struct Axis {
    /// Quantity with its unit.
    pub(super) title: String,
    /// Maps a value to a position: the logarithm for a logarithmic axis.
    pub(super) scale: fn(f64) -> f64,
    /// Labelled values.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Draws horizontal bars with a whisker from the smallest to the largest value.
pub(super) fn bars(title: &str, bars: &[Bar], digits: usize) -> String {
    let height = ROW * bars.len() as f64 + 6.0;
    let longest = bars.iter().map(|bar| bar.spread.median).fold(0.0, f64::max);
    let reach = bars
        .iter()
        .map(|bar| bar.spread.max)
        .fold(longest, f64::max);
    let full = reach.min(longest * WHISKER_MAX).max(f64::MIN_POSITIVE);
    let room = WIDTH - NAMES - NUMBERS;
    let x = |value: f64| NAMES + room * (value / full).clamp(0.0, 1.0);
    let mut out = open(title, height);
    for (row, bar) in bars.iter().enumerate() {
        let y = ROW * row as f64 + 4.0;
        let middle = y + (ROW - 6.0) / 2.0;
        let Spread { median, min, max } = bar.spread;
        let colour = bar.colour;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"name\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            NAMES - 8.0,
            middle + 4.0,
            escape(&bar.name),
            (x(median) - NAMES).max(1.0),
            ROW - 6.0,
        );
        if max > min {
            let (from, to) = (x(min), x(max));
            let _ = write!(
                out,
                "<path class=\"whisker\" d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {:.1}v8\"/>",
                middle - 4.0
            );
            // An arrow marks a whisker that continues beyond the plot.
            let end = if max > full * 1.001 {
                format!("M{:.1} {:.1}l4 4l-4 4", to - 4.0, middle - 4.0)
            } else {
                format!("M{to:.1} {:.1}v8", middle - 4.0)
            };
            let _ = write!(out, "<path class=\"whisker\" d=\"{end}\"/>");
        }
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"value\">{}<tspan class=\"range\"> {}</tspan></text>",
            WIDTH - NUMBERS + 8.0,
            middle + 4.0,
            grouped(median, digits),
            if max > min {
                format!("{}..{}", grouped(min, digits), grouped(max, digits))
            } else {
                String::new()
            },
        );
    }
    out.push_str("</svg>");
    out
}

/// Draws curves over two axes; the caller adds the legend with the names.
pub(super) fn curves(title: &str, curves: &[Curve], x_axis: &Axis, y_axis: &Axis) -> String {
    let chart = Chart { x_axis, y_axis };
    let mut out = open(title, HEIGHT);
    chart.draw_axes(&mut out);
    for curve in curves {
        chart.draw(curve, &mut out);
    }
    out.push_str("</svg>");
    out
}

/// A line chart without its curves.
struct Chart<'a> {
    x_axis: &'a Axis,
    y_axis: &'a Axis,
}

impl Chart<'_> {
    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * self.x_axis.place(value)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self.y_axis.place(value)
    }

    /// Draws a line with its label for each tick, and the titles of the axes.
    fn draw_axes(&self, out: &mut String) {
        for (value, label) in &self.x_axis.ticks {
            let at = self.x(*value);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{:.1}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"tick\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0,
                escape(label)
            );
        }
        for (value, label) in &self.y_axis.ticks {
            let at = self.y(*value);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"tick\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                escape(label)
            );
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"axis\">{}</text>\
             <text x=\"14\" y=\"{middle:.1}\" text-anchor=\"middle\" class=\"axis\" \
             transform=\"rotate(-90 14 {middle:.1})\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(&self.x_axis.title),
            escape(&self.y_axis.title)
        );
    }

    /// Draws a curve, and its ranges if it has any.
    fn draw(&self, curve: &Curve, out: &mut String) {
        let mut path = String::new();
        for (index, (at, value)) in curve.points.iter().enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.x(*at), self.y(*value));
        }
        let _ = write!(
            out,
            "<path class=\"curve\" stroke=\"{}\" stroke-dasharray=\"{}\" d=\"{path}\">\
             <title>{}</title></path>",
            curve.colour,
            curve.dashes,
            escape(&curve.name)
        );
        let colour = curve.colour;
        for ((at, value), (min, max)) in std::iter::zip(&curve.points, &curve.ranges) {
            let (at, value) = (self.x(*at), self.y(*value));
            let (min, max) = (self.y(*min), self.y(*max));
            let _ = write!(
                out,
                "<path stroke=\"{colour}\" d=\"M{at:.1} {min:.1}V{max:.1}\"/>\
                 <circle fill=\"{colour}\" cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"3.2\"/>"
            );
        }
    }
}

impl Axis {
    /// Place of a value between the lowest tick (0) and the highest (1).
    fn place(&self, value: f64) -> f64 {
        let of_ticks = self.ticks.iter().map(|(value, _)| (self.scale)(*value));
        let start = (f64::INFINITY, f64::NEG_INFINITY);
        let (min, max) = of_ticks.fold(start, |(min, max), it| (min.min(it), max.max(it)));
        (((self.scale)(value) - min) / (max - min).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">\
         <title>{title}</title>"
    )
}

/// Tick values 1, 2 and 5 times powers of ten that enclose `min` and `max`, for a logarithmic axis.
pub(super) fn decades(min: f64, max: f64) -> Vec<f64> {
    let steps: Vec<f64> = (-3..10)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power)))
        .collect();
    let from = steps.partition_point(|step| *step <= min).max(1) - 1;
    let to = steps
        .partition_point(|step| *step < max)
        .min(steps.len() - 1);
    let enclosing = &steps[from..=to.max(from)];
    if enclosing.len() <= 10 {
        return enclosing.to_vec();
    }
    // With so many ticks the labels would touch: keep the powers of ten and both ends.
    let last = enclosing.len() - 1;
    let is_power = |step: f64| (step.log10() - step.log10().round()).abs() < 1e-9;
    let kept = enclosing.iter().enumerate();
    kept.filter(|(place, step)| *place == 0 || *place == last || is_power(**step))
        .map(|(_, step)| *step)
        .collect()
}

/// Evenly spaced round tick values from 0 to at least `max`, for a linear axis.
pub(super) fn steps(max: f64) -> Vec<f64> {
    let max = max.max(1e-3);
    let wanted = max / 5.0;
    let power = 10f64.powf(wanted.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= wanted)
        .unwrap_or(10.0 * power);
    (0..=6)
        .map(|count| f64::from(count) * step)
        .take_while(|value| value - step < max)
        .collect()
}

/// Formats a number with commas between thousands.
pub(super) fn grouped(value: f64, digits: usize) -> String {
    // Values from 1,000 on need no decimal places.
    let digits = if value.abs() >= 1000.0 { 0 } else { digits };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(whole) => ("-", whole),
        None => ("", whole),
    };
    let mut out = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// Escapes text for HTML content and attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!(grouped(1_234_567.8, 1), "1,234,568");
        assert_eq!(grouped(999.94, 1), "999.9");
        assert_eq!(grouped(-12_345.0, 0), "-12,345");
        assert_eq!(grouped(0.5, 2), "0.50");
    }

    #[test]
    fn a_place_with_a_range_has_a_dot_and_a_line() {
        let axis = || Axis {
            title: "n".to_owned(),
            scale: |value| value,
            ticks: [0.0, 10.0].map(|value| (value, value.to_string())).into(),
        };
        let curve = |ranges: Vec<(f64, f64)>| Curve {
            name: "relay".to_owned(),
            colour: "#000",
            dashes: "",
            points: vec![(1.0, 5.0), (2.0, 6.0)],
            ranges,
        };
        let drawn = |ranges| curves("t", &[curve(ranges)], &axis(), &axis());
        assert!(!drawn(Vec::new()).contains("<circle"));
        let with = drawn(vec![(4.0, 6.0), (6.0, 6.0)]);
        assert_eq!(with.matches("<circle").count(), 2);
    }

    #[test]
    fn ticks_enclose_the_values_and_are_few() {
        let ticks = decades(18.0, 260.0);
        assert_eq!(ticks, [10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        for (min, max) in [(20.0, 20.0), (0.9, 110_000.0), (5.0, 1e7)] {
            let ticks = decades(min, max);
            assert!(ticks[0] <= min && *ticks.last().unwrap() >= max);
            assert!(ticks.len() <= 10, "{ticks:?}");
        }
        assert_eq!(steps(93.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert!(steps(0.0).len() > 1);
    }

    #[test]
    fn a_whisker_beyond_the_plot_ends_in_an_arrow() {
        let bar = |max| Bar {
            name: "relay & <co>".to_owned(),
            colour: "#000",
            spread: Spread {
                median: 10.0,
                min: 9.0,
                max,
            },
        };
        assert!(!bars("p50", &[bar(11.0)], 1).contains("l4 4"));
        let cut = bars("p50", &[bar(1000.0)], 1);
        assert!(cut.contains("l4 4") && cut.contains("relay &amp; &lt;co&gt;"));
    }
}
