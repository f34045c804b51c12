//! `report.html`: curves of losses and accuracies, the nets, the spec; one file without links or scripts.

use crate::error::TrainError;
use crate::weights::atomic_write;
use ddnnc_ir::Model;
use indexmap::IndexMap;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Reads the records of a run's `metrics.jsonl`; an incomplete last line is passed over.
pub fn read_records(run: &Path) -> Result<Vec<Value>, TrainError> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(|e| TrainError::io(&path, e))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Writes `report.html` of a run from its metrics, atomically.
pub fn write_report(run: &Path, model: &Model, spec: &str) -> Result<(), TrainError> {
    let html = report_html(model, spec, &read_records(run)?);
    let path = run.join("report.html");
    atomic_write(&path, &mut |out| out.write_all(html.as_bytes())).map_err(|e| TrainError::writing(&path, e))
}

type Curves = IndexMap<String, Vec<(f64, f64)>>;

/// The page of a model, the spec's text and the records of its metrics.
pub fn report_html(model: &Model, spec: &str, records: &[Value]) -> String {
    let epochs: Vec<&Value> = records.iter().filter(|r| r["kind"] == "epoch").collect();
    let test = records.iter().rev().find(|r| r["kind"] == "test");
    let mut page = String::from(HEAD);
    let name = escape(&model.name);
    add(&mut page, format_args!("<title>{name}</title></head><body><h1>{name}</h1>\n"));
    let last = records.iter().rev().find_map(|r| r["step"].as_u64()).unwrap_or(0);
    add(
        &mut page,
        format_args!(
            "<p>{last} steps, {} of {} epochs, batch {}, seed {}.</p>\n",
            epochs.len(),
            model.epochs(),
            model.recipe.batch,
            model.recipe.seed
        ),
    );
    let mut first = 1;
    let mut ends = Vec::new();
    for phase in &model.phases {
        let last = first + phase.epochs - 1;
        let line = match first == last {
            true => format!("Phase {}: epoch {first}.", escape(&phase.name)),
            false => format!("Phase {}: epochs {first} to {last}.", escape(&phase.name)),
        };
        add(&mut page, format_args!("<p>{line}</p>\n"));
        ends.push(last as f64 + 0.5);
        first = last + 1;
    }
    table(&mut page, model, epochs.last().copied(), test);

    let losses = loss_curves(&epochs, records);
    let axis = if epochs.len() > 1 { "epoch" } else { "step" };
    page.push_str("<h2>Losses</h2>\n");
    for (term, points) in &losses {
        let one: Curves = [(term.clone(), points.clone())].into();
        let ends = if axis == "epoch" { ends.as_slice() } else { &[] };
        chart(&mut page, &format!("loss {term}"), axis, &one, None, ends);
    }
    page.push_str("<h2>Accuracy</h2>\n");
    let train = net_curves(&epochs, |r, net| r["train"][net].as_f64(), model);
    chart(&mut page, "training batches", "epoch", &train, Some((0.0, 1.0)), &ends);
    let validation = net_curves(&epochs, |r, net| r["validation"][net]["accuracy"].as_f64(), model);
    if !validation.is_empty() {
        chart(&mut page, "validation", "epoch", &validation, Some((0.0, 1.0)), &ends);
    }
    add(&mut page, format_args!("<h2>Spec</h2>\n<pre>{}</pre>\n</body></html>\n", escape(spec)));
    page
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<style>\n\
    body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\n\
    table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}\n\
    td:first-child,th:first-child{text-align:left}pre{background:#f6f6f6;padding:1rem;overflow:auto}\n\
    svg{margin:.3rem}svg text{font-size:11px;fill:#444}\n</style>\n";

fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_string(), |x| format!("{:.2} %", x * 100.0))
}

fn table(page: &mut String, model: &Model, epoch: Option<&Value>, test: Option<&Value>) {
    // The test may have come after steps of a further epoch.
    let earlier = epoch.zip(test).filter(|(epoch, test)| epoch["step"] != test["step"]);
    let validation =
        earlier.map_or("validation".to_string(), |(e, _)| format!("validation, epoch {}", e["epoch"]));
    add(
        page,
        format_args!(
            "<table><tr><th>net</th><th>parameters</th><th>multiply-accumulates</th><th>depth</th>\
             <th>{validation}</th><th>test</th><th>test top 5</th></tr>\n"
        ),
    );
    let none = Value::Null;
    for net in &model.nets {
        let validation = epoch.map_or(&none, |e| &e["validation"][&net.name]["accuracy"]);
        let tested = test.map_or(&none, |t| &t["test"][&net.name]);
        add(
            page,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(&net.name),
                net.parameter_count,
                net.macs,
                net.depth,
                percent(validation),
                percent(&tested["accuracy"]),
                percent(&tested["top5"])
            ),
        );
    }
    page.push_str("</table>\n");
}

/// Each loss term over the epochs, or over the steps while there are fewer than two epochs.
fn loss_curves(epochs: &[&Value], records: &[Value]) -> Curves {
    let (chosen, axis): (Vec<&Value>, &str) = if epochs.len() > 1 {
        (epochs.to_vec(), "epoch")
    } else {
        (records.iter().filter(|r| r["kind"] == "step").collect(), "step")
    };
    let mut curves = Curves::new();
    for record in chosen {
        let Some(x) = record[axis].as_f64() else { continue };
        for (term, value) in record["loss"].as_object().into_iter().flatten() {
            if let Some(y) = value.as_f64() {
                curves.entry(term.clone()).or_default().push((x, y));
            }
        }
    }
    curves.sort_keys();
    curves
}

fn net_curves(epochs: &[&Value], get: impl Fn(&Value, &str) -> Option<f64>, model: &Model) -> Curves {
    let mut curves = Curves::new();
    for net in &model.nets {
        let points: Vec<_> =
            epochs.iter().filter_map(|r| Some((r["epoch"].as_f64()?, get(r, &net.name)?))).collect();
        if !points.is_empty() {
            curves.insert(net.name.clone(), points);
        }
    }
    curves
}

const COLOURS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"];

/// A line chart as inline SVG, 420×220 with its legend; a dashed line where a phase ends.
fn chart(
    page: &mut String,
    title: &str,
    axis: &str,
    curves: &Curves,
    range: Option<(f64, f64)>,
    ends: &[f64],
) {
    let (left, top, width, height) = (52.0, 24.0, 350.0, 150.0);
    let all = || curves.values().flatten();
    let bound = |pick: &dyn Fn(&(f64, f64)) -> f64| {
        let low = all().map(pick).fold(f64::INFINITY, f64::min);
        let high = all().map(pick).fold(f64::NEG_INFINITY, f64::max);
        if low < high { (low, high) } else { (low - 0.5, low + 0.5) }
    };
    if all().next().is_none() {
        return;
    }
    let (x0, x1) = bound(&|p| p.0);
    let (y0, y1) = range.unwrap_or_else(|| bound(&|p| p.1));
    let legend = 18.0 * (curves.len() as f64 / 3.0).ceil();
    add(
        page,
        format_args!(
            "<svg width=\"420\" height=\"{:.0}\" role=\"img\"><text x=\"{left}\" y=\"15\">{}</text>\
             <path d=\"M{left} {top}V{:.1}H{:.1}\" fill=\"none\" stroke=\"#999\"/>",
            205.0 + legend,
            escape(title),
            top + height,
            left + width
        ),
    );
    let label = |page: &mut String, x: f64, y: f64, anchor: &str, text: &str| {
        add(page, format_args!("<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>"));
    };
    label(page, left - 4.0, top + 8.0, "end", &format!("{y1:.3}"));
    label(page, left - 4.0, top + height, "end", &format!("{y0:.3}"));
    label(page, left, top + height + 14.0, "start", &format!("{x0}"));
    label(page, left + width, top + height + 14.0, "end", &format!("{axis} {x1}"));
    for end in ends.iter().filter(|&&end| x0 < end && end < x1) {
        let x = left + (end - x0) / (x1 - x0) * width;
        add(
            page,
            format_args!("<path d=\"M{x:.1} {top}v{height}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>"),
        );
    }
    for (i, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let place = |&(x, y): &(f64, f64)| {
            let px = left + (x - x0) / (x1 - x0) * width;
            let py = top + height - (y - y0) / (y1 - y0) * height;
            format!("{px:.1},{py:.1}")
        };
        let line: Vec<String> = points.iter().map(place).collect();
        add(
            page,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                line.join(" ")
            ),
        );
        if let [point] = points.as_slice() {
            let at = place(point);
            let (x, y) = at.split_once(',').unwrap_or(("0", "0"));
            add(page, format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"2.5\" fill=\"{colour}\"/>"));
        }
        if curves.len() > 1 {
            let (x, y) = (left + 120.0 * (i % 3) as f64, 205.0 + 18.0 * (i / 3) as f64);
            add(
                page,
                format_args!(
                    "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                    y - 9.0
                ),
            );
            label(page, x + 14.0, y, "start", &escape(name));
        }
    }
    page.push_str("</svg>\n");
}
