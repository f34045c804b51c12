//! Schedules against PyTorch's formulas, step by step.

use ddnnc_ir::{Schedule, ScheduleKind, Weight};

fn close(got: f64, wanted: f64, what: &str) {
    assert!((got - wanted).abs() <= 1e-12, "{what}: {got}, not {wanted}");
}

#[test]
fn multistep_changes_at_the_start_of_its_epoch() {
    let kind = ScheduleKind::Multistep { milestones: vec![2.0, 3.0], gamma: 0.1 };
    let schedule = Schedule { warmup: 0.0, kind };
    for (step, wanted) in [(0, 1.0), (19, 1.0), (20, 0.1), (29, 0.1), (30, 0.01), (49, 0.01)] {
        close(schedule.factor(step, 50, 10), wanted, &format!("step {step}"));
    }
}

#[test]
fn cosine_is_cosine_annealing() {
    // CosineAnnealingLR: eta_min + (base − eta_min) · (1 + cos(π t / T)) / 2.
    let schedule = Schedule { warmup: 0.0, kind: ScheduleKind::Cosine { end: 0.01 } };
    for step in 0..=100u64 {
        let wanted = 0.01 + 0.99 * (1.0 + (std::f64::consts::PI * step as f64 / 100.0).cos()) / 2.0;
        close(schedule.factor(step, 100, 10), wanted, &format!("step {step}"));
    }
}

#[test]
fn one_cycle_is_one_cycle_lr() {
    // OneCycleLR(max_lr = 1, total_steps = 40, pct_start = 0.3, div_factor = 25, final_div_factor = 1e4): cosine from
    // 1/25 to 1 over steps 0 to 0.3·40 − 1 = 11, then to 1/25/1e4 at step 39.
    let schedule =
        Schedule { warmup: 0.0, kind: ScheduleKind::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4 } };
    let anneal = |a: f64, b: f64, t: f64| b + (a - b) / 2.0 * (1.0 + (std::f64::consts::PI * t).cos());
    for step in 0..40u64 {
        let wanted = if step <= 11 {
            anneal(0.04, 1.0, step as f64 / 11.0)
        } else {
            anneal(1.0, 4e-6, (step as f64 - 11.0) / 28.0)
        };
        close(schedule.factor(step, 40, 10), wanted, &format!("step {step}"));
    }
    close(schedule.factor(11, 40, 10), 1.0, "peak");
    close(schedule.factor(39, 40, 10), 4e-6, "end");
}

#[test]
fn warm_up_is_linear_and_ends_at_the_base_rate() {
    let schedule = Schedule { warmup: 2.0, kind: ScheduleKind::Constant };
    for step in 0..30u64 {
        close(schedule.factor(step, 30, 5), ((step + 1) as f64 / 10.0).min(1.0), &format!("step {step}"));
    }
    let cosine = Schedule { warmup: 1.0, kind: ScheduleKind::Cosine { end: 0.0 } };
    close(cosine.factor(10, 50, 10), 1.0, "the cosine begins where the warm-up ends");
    close(cosine.factor(30, 50, 10), 0.5, "half way");
}

#[test]
fn ramps_are_linear() {
    let ramp = Weight::Ramp { from: 0.2, to: 1.0, epochs: 4.0 };
    for (at, wanted) in [(0.0, 0.2), (1.0, 0.4), (2.5, 0.7), (4.0, 1.0), (9.0, 1.0)] {
        close(ramp.at(at), wanted, &format!("epoch {at}"));
    }
}
