//! `bench --profile`: the launches of a step, as JSON, as a table and as a picture. Times are not tested.

use crate::common::{Place, Ran, spec};
use crate::pictures::read;
use serde_json::Value;
use std::fs;

fn bench<'a>(more: &[&'a str], spec: &'a str) -> Vec<&'a str> {
    let quick = ["bench", spec, "--batch", "4", "--steps", "1", "--threads", "2", "--device", "cpu"];
    [&quick[..], more].concat()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

#[test]
fn a_profile_names_every_launch() {
    let place = Place::new();
    let quick = spec("quickstart");
    let plain = place.run(&bench(&["--json"], &quick)).json();
    assert!(plain.get("profile").is_none());
    let compiled = place.run(&["compile", &quick, "--batch", "4", "--json"]).json();
    let json = place.run(&bench(&["--json", "--profile"], &quick)).json();
    assert_eq!(json["threads"], 2);
    let profile = &json["profile"];
    for limit in ["f32_gflops", "bf16_gflops", "memory_gbs"] {
        assert!(number(&profile["limits"][limit]) > 0.0, "{limit}");
    }
    let launches = profile["launches"].as_array().expect("launches");
    assert_eq!(launches.len() as u64, compiled["launches"].as_u64().expect("a count"));
    let macs: u64 = launches.iter().map(|l| l["macs"].as_u64().expect("a count")).sum();
    assert_eq!(macs, compiled["step_macs"].as_u64().expect("a count"));
    for (i, launch) in launches.iter().enumerate() {
        assert_eq!(launch["launch"], i);
        let convolves =
            ["forward", "input grad", "weight grad"].contains(&launch["kind"].as_str().expect("a kind"));
        assert_eq!(convolves, launch["method"].is_string(), "{launch}");
        assert!(!convolves || number(&launch["gflops"]) > 0.0, "{launch}");
        assert!(number(&launch["ms"]) >= 0.0 && number(&launch["limit_ms"]) > 0.0, "{launch}");
        let bound = if launch["bf16"] == true { "bf16" } else { "f32" };
        assert!([bound, "memory"].contains(&launch["limit"].as_str().expect("a limit")), "{launch}");
    }
    let (mut counted, mut ms) = (0, 0.0);
    for (kind, sum) in profile["kinds"].as_object().expect("kinds") {
        let mine: Vec<&Value> = launches.iter().filter(|l| l["kind"] == kind.as_str()).collect();
        assert_eq!(mine.len() as u64, sum["launches"].as_u64().expect("a count"), "{kind}");
        counted += mine.len();
        ms += number(&sum["ms"]);
    }
    assert_eq!(counted, launches.len());
    assert!((ms - number(&profile["ms"])).abs() < 1e-6 * ms, "{ms}");
    let methods = profile["methods"].as_object().expect("methods");
    let convolutions: u64 = methods.values().map(|m| m["launches"].as_u64().expect("a count")).sum();
    assert_eq!(convolutions, compiled["convolution_launches"].as_u64().expect("a count"));
}

#[test]
fn the_table_fits_and_lists_as_many_as_asked() {
    let place = Place::new();
    let resnet = spec("cifar10_resnet20_ekd");
    let text = place.run(&bench(&["--profile", "--top", "3"], &resnet)).ok();
    let table = text.split_once("\n\n").expect("a line about the step, then the profile").1;
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{text}");
    let listed = table.lines().skip_while(|line| !line.trim_start().starts_with("launch "));
    assert_eq!(listed.count(), 1 + 3 + 1, "{text}");
    let places = ["limits", "kind ", "method ", "launch ", "more: `--top N`"].map(|word| text.find(word));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[test]
fn the_picture_has_a_bar_for_every_launch() {
    let place = Place::new();
    let quick = spec("quickstart");
    let ran = place.run(&bench(&["--json", "--profile-svg", "p.svg"], &quick));
    assert!(ran.stderr.contains("p.svg"), "{}", ran.stderr);
    let json = ran.json();
    let launches = json["profile"]["launches"].as_array().expect("launches");
    let elements = read(&place, "p.svg");
    let bars: Vec<_> = elements.iter().filter(|e| e.has("data-launch")).collect();
    assert_eq!(bars.len(), launches.len());
    for (i, (bar, launch)) in bars.iter().zip(launches).enumerate() {
        assert_eq!(bar.number("data-launch"), i as f64);
        assert!((bar.number("data-ms") - number(&launch["ms"])).abs() < 1e-5);
        assert!(bar.title.contains(launch["path"].as_str().expect("a path")), "{}", bar.title);
    }
    // A mark for each limit, and one in the legend.
    let marks = elements.iter().filter(|e| e.name == "polyline" && e.attributes["stroke"] == "#111111");
    assert_eq!(marks.count(), launches.len() + 1);
    assert_eq!(place.names("."), ["p.svg"], "nothing half-written stays");
}

#[test]
fn a_device_that_cannot_tell_launches_apart_says_so() {
    let place = Place::new();
    let quick = spec("quickstart");
    let args = ["bench", &quick, "--batch", "1", "--steps", "1", "--device", "reference", "--profile"];
    place.run(&args).fails(2, &["the reference device does not tell", "--device cpu"]);
}

#[test]
fn instructions_can_be_forced() {
    let place = Place::new();
    let quick = spec("quickstart");
    let force = |more: &[&str]| {
        let args = ["bench", &quick, "--batch", "2", "--steps", "1", "--json"];
        place.run(&[&args[..], more].concat())
    };
    // An option of the cpu device chooses it.
    let json = force(&["--instructions", "portable", "--no-winograd", "--profile"]).json();
    let found = ["device", "instructions", "winograd"].map(|name| json[name].as_str().expect("a word"));
    assert_eq!(found, ["cpu", "portable", "off"]);
    assert!(json["profile"]["methods"].get("winograd").is_none());
    let plain = force(&["--device", "cpu"]).json();
    assert!(plain.get("winograd").is_none() && plain.get("tune").is_none());
    force(&["--instructions", "mmx"]).fails(2, &["mmx", "possible values", "portable"]);
    for (device, option) in [("reference", &["--instructions", "portable"][..]), ("cuda", &["--no-winograd"])]
    {
        let words = [option[0], "is for the cpu device", device];
        force(&[&["--device", device], option].concat()).fails(2, &words);
    }
    force(&["--emulate", "--no-winograd"]).fails(2, &["--no-winograd", "is for the cpu device"]);
}

#[test]
fn tuned_choices_are_kept_and_measured_anew_where_they_are_damaged() {
    let place = Place::new();
    let quick = spec("quickstart");
    let cache = place.path("cache");
    let run = |cache: &std::path::Path| {
        let args = ["bench", &quick, "--batch", "2", "--steps", "1", "--tune", "--json", "--profile"];
        let mut command = place.command(&args);
        Ran::new(command.env("DDNNC_CACHE", cache).output().expect("the binary runs"))
    };
    let methods = |ran: Ran| -> Vec<Value> {
        let json = ran.json();
        assert_eq!(json["tune"], "on");
        json["profile"]["launches"]
            .as_array()
            .expect("launches")
            .iter()
            .map(|l| l["method"].clone())
            .collect()
    };
    let first = run(&cache);
    assert!(first.stderr.contains("tuned ") && first.stderr.lines().count() == 1, "{}", first.stderr);
    let first = methods(first);
    let names = place.names("cache");
    assert!(names.len() == 1 && names[0].ends_with(".json"), "{names:?}");
    let file = cache.join(&names[0]);
    let kept = fs::read_to_string(&file).expect("the choices");
    let again = run(&cache);
    assert_eq!(again.stderr, "");
    assert_eq!(methods(again), first);
    assert_eq!(fs::read_to_string(&file).expect("the choices"), kept);
    // What the file says is what runs.
    let choices: Value = serde_json::from_str(&kept).expect("JSON");
    let all = choices["choices"].as_object().expect("choices");
    assert!(!all.is_empty());
    let turned: serde_json::Map<String, Value> =
        all.keys().map(|key| (key.clone(), Value::from("direct"))).collect();
    let mut other = choices.clone();
    other["choices"] = Value::Object(turned);
    fs::write(&file, other.to_string()).expect("a writable folder");
    let direct = run(&cache);
    assert_eq!(direct.stderr, "");
    assert!(methods(direct).iter().all(|m| m.is_null() || m == "direct"));
    fs::write(&file, &kept[..kept.len() / 2]).expect("a writable folder");
    let anew = run(&cache);
    assert!(anew.stderr.contains("damaged") && anew.stderr.lines().count() == 2, "{}", anew.stderr);
    anew.ok();
    serde_json::from_str::<Value>(&fs::read_to_string(&file).expect("the choices")).expect("JSON again");
    // A folder that cannot be one.
    let ran = run(&file);
    assert!(ran.stderr.contains("not kept"), "{}", ran.stderr);
    ran.ok();
}
