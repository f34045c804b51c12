//! The launches of a step as bars in the order in which they run.

use crate::output::percent;
use crate::profile::{Profile, Timed, clip, rate, share};
use crate::svg::{COLORS, Face, Style, Svg, text_width};
use ddnnc_passes::WorkKind;

const ROW: f64 = 16.0;
const LABEL: usize = 44;
const SIZE: f64 = 11.0;
const MARGIN: f64 = 20.0;
const BARS: f64 = 560.0;

fn color(kind: WorkKind) -> &'static str {
    COLORS[WorkKind::ALL.iter().position(|&k| k == kind).unwrap_or(0) % COLORS.len()]
}

/// A bar for every launch, coloured by kind, with a mark at the time of the limit.
///
/// Every bar carries `data-launch` and `data-ms`.
pub fn picture(profile: &Profile, about: &str) -> String {
    let title = format!("{}: time of every launch", profile.name);
    let mut svg = Svg::default();
    svg.text(MARGIN, 28.0, Face { bold: true, ..Face::new(18.0) }, &title);
    svg.text(MARGIN, 48.0, Face::new(12.0), about);
    let all = profile.seconds();
    let mut at = MARGIN;
    for kind in WorkKind::ALL {
        let mine = profile.launches.iter().filter(|l| l.work.kind == kind);
        let seconds: f64 = mine.clone().map(|l| l.seconds).sum();
        if mine.count() == 0 {
            continue;
        }
        let label = format!("{} {:.1} ms", kind.as_str(), seconds * 1e3);
        svg.rect([at, 58.0], [12.0, 12.0], Style::fill(color(kind)), "", "");
        svg.text(at + 18.0, 68.0, Face::new(12.0), &label);
        at += 36.0 + text_width(&label, 12.0);
    }
    let marks = profile.launches.iter().any(|l| l.floor.is_some());
    if marks {
        let label = "time at the limit";
        svg.line(&[[at + 6.0, 57.0], [at + 6.0, 71.0]], Style::line("#111111", 2.0), false, "");
        svg.text(at + 18.0, 68.0, Face::new(12.0), label);
        at += 36.0 + text_width(label, 12.0);
    }
    let titles: Vec<String> = profile.launches.iter().map(|l| clip(l.title(), LABEL)).collect();
    let left = MARGIN + titles.iter().map(|t| text_width(t, SIZE)).fold(0.0, f64::max) + 8.0;
    let most = profile.launches.iter().map(|l| l.seconds.max(l.floor.map_or(0.0, |f| f.0)));
    let most = most.fold(0.0, f64::max).max(1e-9);
    let x = |seconds: f64| left + BARS * seconds / most;
    let (top, rows) = (104.0, profile.launches.len() as f64);
    let mut right = at.max(x(most) + text_width("00.00 ms", SIZE));
    for quarter in 0..=4 {
        let seconds = most * f64::from(quarter) / 4.0;
        let place = x(seconds);
        svg.line(&[[place, top], [place, top + ROW * rows]], Style::line("#dddddd", 1.0), false, "");
        let face = Face { anchor: "middle", fill: "#666666", ..Face::new(SIZE) };
        svg.text(place, top - 6.0, face, &format!("{:.2} ms", seconds * 1e3));
    }
    for (i, launch) in profile.launches.iter().enumerate() {
        let y = top + ROW * i as f64;
        let base = y + ROW - 4.5;
        let face = Face { anchor: "end", ..Face::new(SIZE) };
        svg.text(left - 8.0, base, face, &titles[i]);
        let extra = format!(" data-launch=\"{i}\" data-ms=\"{:.6}\"", launch.seconds * 1e3);
        let size = [x(launch.seconds) - left, ROW - 4.0];
        svg.rect(
            [left, y + 2.0],
            size,
            Style::fill(color(launch.work.kind)),
            &extra,
            &tooltip(launch, i, all),
        );
        let mut end = x(launch.seconds);
        if let Some((floor, _)) = launch.floor {
            let mark = x(floor);
            svg.line(&[[mark, y + 1.0], [mark, y + ROW - 1.0]], Style::line("#111111", 2.0), false, "");
            end = end.max(mark);
        }
        let face = Face { fill: "#444444", ..Face::new(SIZE) };
        let text = behind(launch);
        svg.text(end + 6.0, base, face, &text);
        right = right.max(end + 6.0 + text_width(&text, SIZE));
    }
    svg.finish(&title, right + MARGIN, top + ROW * rows + MARGIN)
}

/// What stands behind a bar: `3.21 ms · winograd · 812 GFLOP/s · 1.73 f32`
fn behind(launch: &Timed) -> String {
    let work = &launch.work;
    let mut text = format!("{:.3} ms", launch.seconds * 1e3);
    if !launch.method.is_empty() {
        text.push_str(&format!(" · {}", clip(&launch.method, 9)));
    }
    text.push_str(&format!(" · {}", rate(work.macs, work.bytes_read + work.bytes_written, launch.seconds)));
    if let Some((floor, bound)) = launch.floor {
        text.push_str(&format!(" · {} {}", share(floor, launch.seconds), bound.as_str()));
    }
    text
}

fn tooltip(launch: &Timed, i: usize, all: f64) -> String {
    let mut text = format!("launch {i}: {}", launch.name);
    if !launch.path.is_empty() {
        text.push_str(&format!("\n{}", launch.path));
    }
    let share = if all > 0.0 { launch.seconds / all } else { 0.0 };
    text.push_str(&format!("\n{}\n{} of the step", behind(launch), percent(share)));
    if let Some((floor, bound)) = launch.floor {
        text.push_str(&format!("\n{:.3} ms at the limit of {}", floor * 1e3, bound.as_str()));
    }
    text
}
