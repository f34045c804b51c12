//! `inspect --graph` and `compile --memory`: pictures that a browser opens and a person can read.

use crate::common::{Place, spec, specs};
use crate::xml::{Element, parse};
use std::fs;

/// The elements of a picture, after what must hold of every one: it is XML with a title, no two texts meet, and none
/// leaves the picture.
pub fn read(place: &Place, name: &str) -> Vec<Element> {
    let document = fs::read_to_string(place.path(name)).expect("the picture was written");
    let elements = parse(&document).unwrap_or_else(|e| panic!("{name}: {e}"));
    let root = elements.last().expect("the root ends last");
    assert_eq!((root.name.as_str(), root.title.is_empty()), ("svg", false));
    let (width, height) = (root.number("width"), root.number("height"));
    assert_eq!(root.attributes["viewBox"], format!("0 0 {width} {height}"));
    let texts: Vec<(&str, [f64; 4])> =
        elements.iter().filter(|e| e.name == "text").map(|e| (e.text.as_str(), text_box(e))).collect();
    assert!(texts.len() > 5, "{name} has hardly any text");
    for (i, (text, [left, top, right, bottom])) in texts.iter().enumerate() {
        assert!(!text.is_empty());
        let inside = *left >= 0.0 && *top >= 0.0 && *right <= width && *bottom <= height;
        assert!(inside, "{name}: `{text}` leaves the picture");
        for (other, theirs) in &texts[..i] {
            assert!(!meet([*left, *top, *right, *bottom], *theirs), "{name}: `{text}` lies on `{other}`");
        }
    }
    elements
}

/// Left, top, right and bottom of a text in a monospaced face, whose characters are 0.61 of its size wide at most.
fn text_box(text: &Element) -> [f64; 4] {
    let (x, y, size) = (text.number("x"), text.number("y"), text.number("font-size"));
    let width = 0.61 * size * text.text.chars().count() as f64;
    let left = match text.attributes["text-anchor"].as_str() {
        "start" => x,
        "middle" => x - width / 2.0,
        _ => x - width,
    };
    [left, y - 0.8 * size, left + width, y + 0.22 * size]
}

fn rect_box(rect: &Element) -> [f64; 4] {
    let [x, y, width, height] = ["x", "y", "width", "height"].map(|name| rect.number(name));
    assert!(width >= 0.0 && height >= 0.0, "{rect:?}");
    [x, y, x + width, y + height]
}

/// Whether two boxes overlap by more than what rounding explains.
fn meet(a: [f64; 4], b: [f64; 4]) -> bool {
    let slack = 1e-6;
    a[0] + slack < b[2] && b[0] + slack < a[2] && a[1] + slack < b[3] && b[1] + slack < a[3]
}

/// A name that promises another format would be found out only where the picture is opened.
#[test]
fn only_svg_is_drawn() {
    let place = Place::new();
    let quick = spec("quickstart");
    for name in ["a.png", "a.PDF", "a.b.jpg"] {
        for command in [
            &["inspect", "--graph"][..],
            &["compile", "--memory"],
            &["bench", "--steps", "1", "--profile-svg"],
        ] {
            let words = ["would be an SVG", "only format", "name it `a", "svg`"];
            place.run(&[&command[..1], &[&quick], &command[1..], &[name]].concat()).fails(2, &words);
            assert!(!place.path(name).exists());
        }
    }
    place.run(&["inspect", &quick, "--graph", "a.xml"]).ok();
    place.run(&["inspect", &quick, "--graph", "png"]).ok();
}

fn texts(elements: &[Element]) -> Vec<&str> {
    elements.iter().filter(|e| e.name == "text").map(|e| e.text.as_str()).collect()
}

/// The boxes of parts and loss terms: the rectangles that explain themselves.
fn boxes(elements: &[Element]) -> Vec<&Element> {
    let explained = elements.iter().filter(|e| e.name == "rect" && !e.title.is_empty());
    explained.filter(|e| !e.has("data-kind")).collect()
}

/// The boxes of launches.
fn launches(elements: &[Element]) -> Vec<&Element> {
    elements.iter().filter(|e| e.has("data-kind")).collect()
}

/// Whether the first box holds the second.
fn holds(outer: [f64; 4], inner: [f64; 4]) -> bool {
    outer[0] <= inner[0] && outer[1] <= inner[1] && inner[2] <= outer[2] && inner[3] <= outer[3]
}

/// Asserts that every launch lies within one box, beside all other launches and texts, and holds its name alone.
fn launches_nest(path: &str, elements: &[Element]) {
    let (boxes, launches) = (boxes(elements), launches(elements));
    for (i, launch) in launches.iter().enumerate() {
        let (here, title) = (rect_box(launch), &launch.title);
        let around = boxes.iter().filter(|b| holds(rect_box(b), here)).count();
        assert_eq!(around, 1, "{path}: {title}");
        for other in &launches[..i] {
            assert!(!meet(here, rect_box(other)), "{path}: {title} lies on {}", other.title);
        }
        let touching: Vec<&Element> =
            elements.iter().filter(|e| e.name == "text" && meet(text_box(e), here)).collect();
        assert!(touching.len() == 1 && holds(here, text_box(touching[0])), "{path}: {title}: {touching:?}");
        let name = title.lines().next().expect("a name");
        let shown = touching[0].text.split([' ', '…']).next().expect("a name");
        assert!(!shown.is_empty() && name.starts_with(shown), "{path}: {shown} for {title}");
    }
}

#[test]
fn the_graph_of_every_spec_names_nets_stages_terms_and_pairings() {
    let place = Place::new();
    for path in specs() {
        assert_eq!(place.run(&["inspect", &path, "--graph", "g.svg"]).ok(), "");
        let elements = read(&place, "g.svg");
        let first = fs::read(place.path("g.svg")).expect("written");
        place.run(&["inspect", &path, "--graph", "again.svg"]).ok();
        assert!(first == fs::read(place.path("again.svg")).expect("written"), "{path}: other bytes");

        let texts = texts(&elements);
        let declared = place.run(&["inspect", &path, "--json"]).json();
        let name = |value: &serde_json::Value| value.as_str().expect("a name").to_string();
        for net in declared["nets"].as_array().expect("nets") {
            assert!(texts.contains(&&*name(&net["name"])), "{path}: {net}");
            for stage in net["stages"].as_array().expect("stages") {
                let label = format!("{} · ", name(&stage["stage"]));
                assert!(texts.iter().any(|text| text.starts_with(&label)), "{path}: {label}");
            }
        }
        for term in declared["terms"].as_array().expect("terms") {
            // Once where it acts, once in the table.
            let count = texts.iter().filter(|text| **text == name(&term["name"])).count();
            assert_eq!(count, 2, "{path}: {term}");
        }
        for pairing in declared["pairings"].as_array().expect("pairings") {
            let title = format!("{}\nweight ", name(&pairing["term"]));
            let arrows = elements.iter().filter(|e| e.name == "polyline" && e.title.starts_with(&title));
            let dashed: Vec<&Element> = arrows.filter(|e| e.has("stroke-dasharray")).collect();
            assert_eq!(dashed.len(), 1, "{path}: {pairing}");
        }
        launches_nest(&path, &elements);
        let fused = |e: &&Element| e.title.lines().next().is_some_and(|name| name.contains('+'));
        assert!(launches(&elements).iter().any(fused), "{path} has no fused group");
        let boxes = boxes(&elements);
        for (i, one) in boxes.iter().enumerate() {
            for other in &boxes[..i] {
                let apart = !meet(rect_box(one), rect_box(other));
                assert!(apart, "{path}: {} lies on {}", one.title, other.title);
            }
        }
    }
}

/// The words of a set of teachers, with how often each term's name stands in the picture: at each teacher's arrow, or once
/// where it is no pairing, and in the table.
#[test]
fn a_set_of_teachers_has_an_arrow_for_each() {
    let place = Place::new();
    let quick = fs::read_to_string(spec("quickstart")).expect("a spec");
    let (nets, _) = quick.split_once("\ndistill ").expect("it distils");
    let (_, train) = quick.split_once("\ntrain ").expect("it says how to train");
    let sets = "network other = resnet
        distill adaptive(full, other) -> small { kl }
        distill gated(full, small, other) -> [full, small] { kl }";
    fs::write(place.path("sets.ddnn"), format!("{nets}\n{sets}\ntrain {train}")).expect("written");
    place.run(&["inspect", "sets.ddnn", "--graph", "g.svg"]).ok();
    let elements = read(&place, "g.svg");
    let texts = texts(&elements);
    for (term, arrows) in [
        ("kl.adaptive.full.other.small", 2),
        ("penalty.adaptive.full.other.small", 0),
        ("ce.gated.full.small.other", 0),
        ("kl.gated.full.small.other.full", 2),
        ("kl.gated.full.small.other.small", 2),
    ] {
        let named = texts.iter().filter(|text| **text == term).count();
        assert_eq!(named, arrows.max(1) + 1, "{term}");
        let title = format!("{term}\nweight ");
        let drawn = elements.iter().filter(|e| e.name == "polyline" && e.title.starts_with(&title));
        assert_eq!(drawn.filter(|e| e.has("stroke-dasharray")).count(), arrows, "{term}");
    }
    launches_nest("sets", &elements);
}

#[test]
fn what_sub_nets_share_is_one_box() {
    let place = Place::new();
    place.run(&["inspect", &spec("resnet50_ekd"), "--graph", "g.svg"]).ok();
    let elements = read(&place, "g.svg");
    let boxes = boxes(&elements);
    let nets_of = |path: &str| -> Vec<&str> {
        let here = boxes.iter().filter(|b| b.title.lines().next() == Some(path));
        here.filter_map(|b| b.title.lines().nth(1)).collect()
    };
    assert_eq!(nets_of("resnet.stem"), ["computed once for full, medium, small"]);
    assert_eq!(nets_of("resnet.s1.1"), ["computed once for full, medium, small"]);
    assert_eq!(nets_of("resnet.s1.2"), ["of full"]);
    assert_eq!(nets_of("resnet.s2.0"), ["of full", "computed once for medium, small"]);
    assert_eq!(nets_of("resnet.head"), ["of full", "of medium", "of small"]);
    let stem = boxes.iter().find(|b| b.title.starts_with("resnet.stem\n")).expect("a stem");
    let lines: Vec<&str> = stem.title.lines().skip(2).collect();
    let operators = "operators: 1 conv2d, 1 channel_stats, 1 normalize, 1 relu, 1 max_pool";
    assert_eq!(lines, [operators, "parameters: 9,536", "3×224×224 to 64×56×56"]);
}

#[test]
fn launches_stand_in_the_blocks_of_the_nets_that_they_serve() {
    let place = Place::new();
    place.run(&["inspect", &spec("resnet50_ekd"), "--graph", "g.svg"]).ok();
    let elements = read(&place, "g.svg");
    let boxes = boxes(&elements);
    let launches = launches(&elements);
    let of = |path: &str, nets: &str| -> Vec<&str> {
        let here = boxes.iter().find(|b| b.title.starts_with(&format!("{path}\n{nets}\n")));
        let here = rect_box(here.unwrap_or_else(|| panic!("no {path} {nets}")));
        launches.iter().filter(|l| holds(here, rect_box(l))).map(|l| l.title.as_str()).collect()
    };
    let everyone = "for full, medium, small";
    let merged = of("resnet.s1.1", "computed once for full, medium, small");
    assert_eq!(merged[0], format!("conv2d+channel_stats\nconvolution, {everyone}"), "{merged:?}");
    // One launch for three sub-nets with a weight in common stands in the box of each.
    for net in ["full", "medium", "small"] {
        let private = of("resnet.s3.0", &format!("of {net}"));
        let expected = format!("conv2d*3+channel_stats*3\nconvolution, {everyone}\n2 launches");
        assert_eq!(private[0], expected, "{private:?}");
        assert!(private.iter().any(|l| l.contains("add*3+relu*3\npointwise")), "{private:?}");
    }
    let alone = of("resnet.s2.3", "of full");
    assert!(alone.len() >= 3 && alone.iter().all(|l| l.contains(", for full")), "{alone:?}");
    assert!(alone.iter().all(|l| !l.contains("medium")), "{alone:?}");
}

#[test]
fn the_legend_counts_the_launches_of_the_step() {
    let place = Place::new();
    for name in ["quickstart", "kd_two_networks"] {
        place.run(&["inspect", &spec(name), "--graph", "g.svg"]).ok();
        let elements = read(&place, "g.svg");
        let texts = texts(&elements);
        let figures = place.run(&["compile", &spec(name), "--json"]).json();
        let line = |kind: &str| {
            let found = texts.iter().find_map(|text| text.strip_prefix(&format!("{kind}: ")));
            found.unwrap_or_else(|| panic!("{name}: no {kind} in {texts:?}"))
        };
        let split =
            |kind: &str| -> Vec<u64> { line(kind).split(' ').filter_map(|word| word.parse().ok()).collect() };
        assert_eq!(split("convolution").iter().sum::<u64>(), figures["convolution_launches"], "{name}");
        for kind in ["pointwise", "sequence"] {
            assert_eq!(split(kind).iter().sum::<u64>(), figures["groups"][kind], "{name}: {kind}");
        }
        let inference = place.run(&["compile", &spec(name), "--json", "--mode", "eval"]).json();
        assert_eq!(split("convolution")[0], inference["convolution_launches"], "{name}: forward");
        assert!(line("update").starts_with("1 (") && line("update").contains("_update"), "{name}");
    }
}

#[test]
fn rows_of_equal_blocks_are_folded() {
    let place = Place::new();
    place.run(&["inspect", &spec("kd_two_networks"), "--graph", "g.svg"]).ok();
    let elements = read(&place, "g.svg");
    let texts = texts(&elements);
    assert!(texts.contains(&"s1 · 3–8 (×6)"), "{texts:?}");
    let folded = boxes(&elements).into_iter().find(|b| b.title.starts_with("teacher.s1.3 to teacher.s1.8"));
    assert!(folded.is_some_and(|b| b.title.contains("6 equal blocks\nof teacher\noperators each: 2 conv2d")));
}

/// A rectangle of the memory picture: first and last half launch, first byte and end.
fn life(rect: &Element) -> [u64; 4] {
    let [start, end, offset, bytes] =
        ["data-start", "data-end", "data-offset", "data-bytes"].map(|name| rect.number(name) as u64);
    [start, end, offset, offset + bytes]
}

#[test]
fn the_memory_picture_shows_a_plan_that_holds() {
    let place = Place::new();
    for name in ["quickstart", "branchynet_alexnet", "kd_two_networks", "byot_resnet18"] {
        let table = place.run(&["compile", &spec(name), "--memory", "m.svg"]).ok();
        let elements = read(&place, "m.svg");
        let first = fs::read(place.path("m.svg")).expect("written");
        assert_eq!(place.run(&["compile", &spec(name), "--memory", "again.svg"]).ok(), table);
        assert!(first == fs::read(place.path("again.svg")).expect("written"), "{name}: other bytes");

        let figures = place.run(&["compile", &spec(name), "--json"]).json();
        let figure = |key: &str| figures[key].as_u64().expect("a number");
        let rects: Vec<&Element> = elements.iter().filter(|e| e.has("data-start")).collect();
        assert!(rects.len() as u64 > figure("launches") / 2, "{name}: {} rectangles", rects.len());
        assert!(rects.iter().all(|r| !r.title.is_empty()));
        let places: Vec<([u64; 4], [f64; 4])> = rects.iter().map(|r| (life(r), rect_box(r))).collect();
        for (i, (a, drawn)) in places.iter().enumerate() {
            assert!(a[0] <= a[1] && a[1] <= 2 * figure("launches") && a[3] <= figure("arena_bytes"));
            for (b, other) in &places[..i] {
                let live_together = a[0] <= b[1] && b[0] <= a[1];
                let share = a[2] < b[3] && b[2] < a[3];
                assert!(!(live_together && share), "{name}: {a:?} and {b:?}");
                assert!(!meet(*drawn, *other), "{name}: {a:?} is drawn on {b:?}");
            }
        }
        assert_eq!(places.iter().map(|(a, _)| a[3].div_ceil(64) * 64).max(), Some(figure("arena_bytes")));
        let colors: std::collections::BTreeSet<&str> =
            rects.iter().map(|r| r.attributes["fill"].as_str()).collect();
        assert_eq!(colors.len(), 3, "{name}: {colors:?}");
    }
}

#[test]
fn the_memory_table_gives_sizes_and_the_largest_values() {
    let place = Place::new();
    let table = place.run(&["compile", &spec("quickstart"), "--memory"]).ok();
    let figures = place.run(&["compile", &spec("quickstart"), "--json"]).json();
    let lines: Vec<&str> = table.lines().collect();
    for (line, key) in lines.iter().zip(["peak_bytes", "arena_bytes", "persistent_bytes"]) {
        let digits: String =
            line.rsplit("  ").next().expect("a cell").chars().filter(char::is_ascii_digit).collect();
        assert_eq!(digits, figures[key].to_string(), "{line}");
    }
    assert!(lines[3].starts_with("  workspace ") && lines[3].contains(" on the CPU with "), "{table}");
    let rows = &lines[6..];
    assert_eq!(rows.len(), ddnnc_passes::LARGEST, "{table}");
    assert!(rows[0].contains("conv2d") && rows[0].contains("resnet.stem.conv1"), "{table}");
    // The stem's convolution is read by the backward pass, nearly at the end of the step.
    let (start, end) = rows[0].rsplit(' ').next().and_then(|s| s.split_once('–')).expect("an interval");
    let end: u64 = end.parse().expect("a launch");
    let launches = figures["launches"].as_u64().expect("a number");
    let share = (64 * 16 * 14 * 14 * 4) as f64 / figures["peak_bytes"].as_f64().expect("a number");
    assert!(rows[0].contains(&format!("  {:.2} %  ", 100.0 * share)), "{table}");
    let start: u64 = start.parse().expect("a launch");
    assert!(start <= 1 && end < launches && 4 * end > 3 * launches, "{table}");
    assert_eq!(place.names(""), ["stdin"; 0], "without a file name nothing is written");
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error() {
    let place = Place::new();
    place.run(&["inspect", &spec("quickstart"), "--graph", "no/such/g.svg"]).fails(3, &["no/such/g.svg"]);
    place.run(&["compile", &spec("quickstart"), "--memory", "no/such/m.svg"]).fails(3, &["no/such/m.svg"]);
    assert_eq!(place.run(&["compile", &spec("quickstart"), "--memory", "--json"]).status, 2);
    assert_eq!(place.names("").len(), 0);
}
