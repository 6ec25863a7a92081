//! Plots as SVG: in the page, and as files of their own.

use std::fmt::Write as _;

use crate::load::Outcome;

use super::{count, load_text};

/// Size of a plot with axes, and of the margin in which they are named.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 56.0;
/// Size of a plot of bars: where they begin, behind their names, how long they get, and how far apart they are.
const BARS_WIDTH: f64 = 900.0;
const BARS_X: f64 = 360.0;
const BARS_LENGTH: f64 = 420.0;
const BAR_HEIGHT: f64 = 34.0;
/// Height of the title of a plot that is a file of its own.
const TITLE_HEIGHT: f64 = 28.0;
/// Colours, in turns; lines have dashes the second time.
const COLOURS: [&str; 6] = [
    "#1f6fb2", "#c2571a", "#2c8a4b", "#8a3ba8", "#a3271f", "#5c6670",
];

/// A drawing with its title.
#[derive(Debug)]
pub struct Plot {
    /// Of its file, without the ending.
    name: &'static str,
    title: String,
    width: f64,
    height: f64,
    drawn: String,
}

/// A bar: its length, and the least and the most that was measured.
#[derive(Debug)]
pub struct Bar {
    /// What stands before it.
    pub name: String,
    /// In the order median, lowest, highest.
    pub spread: (f64, f64, f64),
}

/// A line of a plot with axes.
#[derive(Debug)]
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// How a plot's axes are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// Evenly, from 0.
    Plain,
    /// By powers of ten: 1 / (1 - q) of each quantile, and what lies there.
    Percentiles,
}

/// All plots of `outcomes`, which have these names in them: rates, rates over time, and latencies by percentile.
/// Those there is nothing for are left out.
#[must_use]
pub fn plots(outcomes: &[(String, &Outcome)]) -> Vec<Plot> {
    let bars = outcomes.iter().map(|(name, outcome)| Bar {
        name: name.clone(),
        spread: outcome.spread(|run| run.messages_per_s),
    });
    let bars: Vec<_> = bars.collect();
    let rates = Plot::of_bars(
        "rates",
        "Messages a second: median, lowest and highest",
        &bars,
    );
    let lines = |points: fn(&Outcome) -> Vec<(f64, f64)>| {
        let lines = outcomes.iter().map(|(name, outcome)| Line {
            name: name.clone(),
            points: points(outcome),
        });
        lines
            .filter(|line| line.points.len() > 1)
            .collect::<Vec<_>>()
    };
    let over_time = Plot::of_lines(
        "over-time",
        "Messages a second over time",
        ("s", "msg/s"),
        &lines(over_time),
        Scale::Plain,
    );
    let latencies = Plot::of_lines(
        "latencies",
        "Latency",
        ("percentile", "µs"),
        &lines(latencies),
        Scale::Percentiles,
    );
    [rates, over_time, latencies]
        .into_iter()
        .flatten()
        .collect()
}

/// Name of an outcome in a plot: its target with its durability, and how it differs from others of its scenario.
pub(super) fn name_of(outcome: &Outcome) -> String {
    let (target, extra) = (&outcome.target, &outcome.parameters.extra);
    let load = match extra.is_empty() {
        true => &load_text(outcome),
        false => extra,
    };
    format!("{} {}, {load}", target.name, target.durability)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn over_time(outcome: &Outcome) -> Vec<(f64, f64)> {
    let per_tenth = outcome.middle().map(|run| run.per_tenth.as_slice());
    let tenths = per_tenth.unwrap_or_default().iter().enumerate();
    tenths
        .map(|(tenth, messages)| (tenth as f64 / 10.0, *messages as f64 * 10.0))
        .collect()
}

fn latencies(outcome: &Outcome) -> Vec<(f64, f64)> {
    let curve = outcome.middle().map(|run| run.curve.as_slice());
    let curve = curve.unwrap_or_default().iter();
    curve
        .filter(|(quantile, _)| *quantile < 1e6)
        .map(|(quantile, ns)| (1e6 / (1e6 - quantile), (*ns as f64 / 1e3).max(0.01)))
        .collect()
}

impl Plot {
    /// Name of its file, without the ending.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The same, titled otherwise.
    #[must_use]
    pub fn titled(mut self, title: &str) -> Self {
        title.clone_into(&mut self.title);
        self
    }

    /// As a part of a page.
    pub(super) fn figure(&self) -> String {
        let (width, height) = (self.width, self.height);
        format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\">{}</svg></figure>\n",
            escape(&self.title),
            self.drawn
        )
    }

    /// As a file that needs nothing else.
    #[must_use]
    pub fn file(&self) -> String {
        let (width, height) = (self.width, self.height);
        let whole = height + TITLE_HEIGHT;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 -{TITLE_HEIGHT} {width} {whole}\" width=\"{width}\" height=\"{whole}\" font-family=\"system-ui,sans-serif\" fill=\"#222\">\
             <rect y=\"-{TITLE_HEIGHT}\" width=\"{width}\" height=\"{whole}\" fill=\"#fff\"/><text x=\"2\" y=\"-10\" font-size=\"14\">{}</text>{}</svg>\n",
            escape(&self.title),
            self.drawn
        )
    }

    /// A bar for each: scaling over sizes, topics, connections, or targets side by side. `None` without any.
    #[must_use]
    pub fn of_bars(name: &'static str, title: &str, bars: &[Bar]) -> Option<Self> {
        let most = bars.iter().map(|bar| bar.spread.2).reduce(f64::max)?;
        let x = |value: f64| BARS_X + value / most.max(1e-9) * BARS_LENGTH;
        let mut drawn = String::new();
        for (place, bar) in bars.iter().enumerate() {
            let (median, low, high) = bar.spread;
            let y = BAR_HEIGHT * place as f64 + 6.0;
            // Writing to a string does not fail.
            let _ = write!(
                drawn,
                "<text x=\"0\" y=\"{:.1}\" font-size=\"12\">{}</text><rect x=\"{BARS_X}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"20\" fill=\"{}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#222\" stroke-width=\"2\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\">{}</text>",
                y + 14.0,
                escape(&bar.name),
                x(median) - BARS_X,
                COLOURS[place % COLOURS.len()],
                x(low),
                x(high),
                y + 10.0,
                y + 10.0,
                x(high) + 6.0,
                y + 14.0,
                count(median),
            );
        }
        Some(Self {
            name,
            title: title.to_owned(),
            width: BARS_WIDTH,
            height: BAR_HEIGHT * bars.len() as f64 + 10.0,
            drawn,
        })
    }

    fn of_lines(
        name: &'static str,
        title: &str,
        units: (&str, &str),
        lines: &[Line],
        scale: Scale,
    ) -> Option<Self> {
        let axes = Axes::around(lines, scale)?;
        let mut drawn = String::new();
        axes.draw(units, &mut drawn);
        for (place, line) in lines.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let dashes = match place < COLOURS.len() {
                true => "",
                false => " stroke-dasharray=\"5 3\"",
            };
            let points = line.points.iter();
            let points: Vec<String> = points
                .map(|(at, value)| format!("{:.1},{:.1}", axes.x(*at), axes.y(*value)))
                .collect();
            let under = HEIGHT + 18.0 * place as f64 + 12.0;
            // Writing to a string does not fail.
            let _ = write!(
                drawn,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{dashes} points=\"{}\"/><path d=\"M{MARGIN} {:.1}h20\" stroke=\"{colour}\" stroke-width=\"3\"{dashes}/><text x=\"{:.1}\" y=\"{under:.1}\" font-size=\"11\">{}</text>",
                points.join(" "),
                under - 4.0,
                MARGIN + 26.0,
                escape(&line.name),
            );
        }
        Some(Self {
            name,
            title: title.to_owned(),
            width: WIDTH,
            height: HEIGHT + 18.0 * lines.len() as f64,
            drawn,
        })
    }
}

/// The axes of a plot, and where on them a value lies.
struct Axes {
    scale: Scale,
    x_most: f64,
    y_least: f64,
    y_most: f64,
}

impl Axes {
    /// Axes on which all points of `lines` have a place; `None` where there is no point.
    fn around(lines: &[Line], scale: Scale) -> Option<Self> {
        let points = || lines.iter().flat_map(|line| &line.points);
        let values = || points().map(|(_, y)| scale.of(*y));
        let x_most = points().map(|(x, _)| scale.of(*x)).reduce(f64::max)?;
        let y_most = values().fold(1e-9, f64::max);
        let (y_least, y_most) = match scale {
            Scale::Plain => (0.0, y_most * 1.05),
            Scale::Percentiles => {
                let least = values().fold(y_most, f64::min).floor();
                (least, y_most.ceil().max(least + 1.0))
            }
        };
        Some(Self {
            scale,
            x_most: x_most.max(1e-9),
            y_least,
            y_most,
        })
    }

    fn x(&self, value: f64) -> f64 {
        MARGIN + self.scale.of(value).max(0.0) / self.x_most * (WIDTH - MARGIN - 10.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (self.scale.of(value) - self.y_least) / (self.y_most - self.y_least);
        HEIGHT - 30.0 - share * (HEIGHT - 50.0)
    }

    fn draw(&self, (x_unit, y_unit): (&str, &str), drawn: &mut String) {
        for value in self.scale.ticks(self.y_least, self.y_most) {
            // Writing to a string does not fail.
            let _ = write!(
                drawn,
                "<line x1=\"{MARGIN}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"{1:.1}\" y=\"{2:.1}\" font-size=\"11\" text-anchor=\"end\">{3}</text>",
                self.y(value),
                MARGIN - 4.0,
                self.y(value) + 4.0,
                count(value),
            );
        }
        for at in self.scale.ticks(0.0, self.x_most) {
            let _ = write!(
                drawn,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"middle\">{}</text>",
                self.x(at),
                HEIGHT - 14.0,
                self.scale.x_label(at),
            );
        }
        let _ = write!(
            drawn,
            "<text x=\"{WIDTH}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\">{x_unit}</text><text x=\"2\" y=\"11\" font-size=\"11\">{y_unit}</text>",
            HEIGHT - 2.0
        );
    }
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Self::Plain => value,
            Self::Percentiles => value.log10(),
        }
    }

    /// Values that are marked between `least` and `most`, which are places on the axis.
    fn ticks(self, least: f64, most: f64) -> Vec<f64> {
        match self {
            Self::Plain => (0..=4)
                .map(|step| least + f64::from(step) / 4.0 * (most - least))
                .collect(),
            Self::Percentiles => (0..20)
                .map(|step| least.ceil() + f64::from(step))
                .take_while(|power| *power <= most)
                .map(|power| 10_f64.powf(power))
                .collect(),
        }
    }

    fn x_label(self, at: f64) -> String {
        match self {
            Self::Plain if at < 10.0 => format!("{at:.1}"),
            Self::Plain => count(at),
            Self::Percentiles => format!("{}", 100.0 - 100.0 / at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median_and_percentiles_are_marked_by_nines() {
        let bar = |rate| Bar {
            name: "one".to_owned(),
            spread: (rate, rate, rate),
        };
        let bars = Plot::of_bars("rates", "two", &[bar(1e6), bar(2e6)]).unwrap();
        let file = bars.file();
        assert!(file.contains("width=\"210.0\"") && file.contains("width=\"420.0\""));
        assert!(Plot::of_bars("rates", "none", &[]).is_none());
        let labels = Scale::Percentiles.ticks(0.0, 3.2);
        let labels: Vec<_> = labels
            .iter()
            .map(|at| Scale::Percentiles.x_label(*at))
            .collect();
        assert_eq!(labels, ["0", "90", "99", "99.9"]);
    }
}
