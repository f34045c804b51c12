#[path = "passes/build.rs"]
#[allow(dead_code)]
mod build;
use build::*;
use ddnnc_ir::*;
use ddnnc_passes::*;

#[test]
fn scale() {
    let mut m = model(SGD);
    let mut b = Builder::new();
    let image = b.input("image", ValueType::f32([64, 8, 28, 28]));
    let label = b.input("label", ValueType::i64([64]));
    m.parameters.clear();
    m.states.clear();
    m.input.1 = Shape::from([8, 28, 28]);
    m.batch = 64;
    let mut total = None;
    for (net, depth) in [("full", 50), ("mid", 35), ("small", 20)] {
        b.net(net);
        let mut x = image;
        let mut private = false;
        for stage in 0..4 {
            let d = depth / 4;
            for i in 0..d {
                let y = b.conv(&format!("s{stage}.{i}.conv1"), x, 8);
                let suffix = if private { format!("@{net}") } else { String::new() };
                let y = b.norm(&format!("s{stage}.{i}.bn1{suffix}"), y, private || net == "full");
                let y = b.relu(y);
                x = b.add(x, y);
            }
            if net != "full" { private = true; }
        }
        let x = b.pool(x);
        let x = b.linear(&format!("head@{net}"), x, 10);
        b.output(&format!("logits.{net}"), x);
        let ce = b.op(Op::CrossEntropy { smoothing: 0.0 }, &[x, label]);
        total = Some(match total { None => ce, Some(t) => b.add(t, ce) });
    }
    b.output("loss.total", total.unwrap());
    m.graph = b.graph;
    println!("forward {} nodes", m.graph.len());
    let t = std::time::Instant::now();
    let mut last = t;
    let c = compile(&m, Goal::Train, &mut |n, g| { println!("{n}: {} nodes {:?}", g.len(), last.elapsed()); last = std::time::Instant::now(); }).unwrap();
    println!("plan etc {:?}; total {:?}", last.elapsed(), t.elapsed());
    println!("{:#?}", c.report);
    let t = std::time::Instant::now();
    let order = schedule(&c.graph).unwrap();
    println!("schedule {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let p = plan_memory(&c.graph, &order, Tables::default()).unwrap();
    println!("plan {:?} {}", t.elapsed(), p.arena_bytes);
    let t = std::time::Instant::now();
    p.validate().unwrap();
    println!("validate {:?}", t.elapsed());
    let order = c.graph.topological().unwrap();
    let p = plan_memory(&c.graph, &order, Tables::default()).unwrap();
    println!("topological arena {}", p.arena_bytes);
    let t = std::time::Instant::now();
    let n = p.to_bytes().unwrap().len();
    println!("bytes {n} {:?}", t.elapsed());
    // Lower bound of the schedule: the greatest sum of values alive.
}
