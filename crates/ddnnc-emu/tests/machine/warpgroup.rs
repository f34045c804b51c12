//! `wgmma`: when it reads and writes, and who must wait for whom. One product of ones, 64 × 8 × 16, and what is wrong when
//! a part of it is left out or put elsewhere.

use ddnnc_emu::{Fault, FaultKind, Options, Order};

use crate::bench::{Bench, ORDERS, kernel, line_of, strict, with_places};

/// Each of the first 128 threads writes 16 bytes of A, and 16 of them 16 bytes of B. Without a swizzle: the halves of
/// eight rows lie 128 bytes apart, the next eight rows 256 bytes behind.
const BODY: &str = "ld.param.u64 %rd1, [p0];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, s;
    shl.b32 %r3, %r1, 4;
    add.u32 %r4, %r2, %r3;
    setp.lt.u32 %p1, %r1, 16;
    setp.lt.u32 %p2, %r1, 128;
    setp.eq.u32 %p3, %r1, %r1;
    mov.u32 %r5, 0x3f803f80;
    @%p2 st.shared.v4.b32 [%r4], {%r5, %r5, %r5, %r5}; // A
    @%p1 st.shared.v4.b32 [%r4+2048], {%r5, %r5, %r5, %r5}; // B
    fence.proxy.async; // proxy
    bar.sync 0; // before
    mov.b64 %rd2, 0x1000080000;
    mov.b64 %rd3, 0x1000080080;
    mov.f32 %f0, 0f00000000; // clear
    mov.f32 %f1, %f0;
    mov.f32 %f2, %f0;
    mov.f32 %f3, %f0;
    wgmma.fence.sync.aligned; // fence
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd2, %rd3, 1, 1, 1, 0, 0; // product
    wgmma.commit_group.sync.aligned; // commit
    // meanwhile
    wgmma.wait_group.sync.aligned 0; // wait
    // after
    cvt.u64.u32 %rd4, %r3;
    add.u64 %rd5, %rd1, %rd4;
    st.global.v4.f32 [%rd5], {%f0, %f1, %f2, %f3}; // result
    // end";

/// The product with parts of it replaced. Each part stands once.
fn with(changes: &[(&str, &str)]) -> String {
    let mut text =
        kernel(2, ".shared .align 16 .b8 s[2304];", BODY).replace(".target sm_80", ".target sm_90a");
    for (part, new) in changes {
        assert_eq!(text.matches(part).count(), 1, "`{part}`");
        text = text.replace(part, new);
    }
    text
}

/// A whole line, found by the comment at its end, without what it does.
fn without(name: &str) -> String {
    line(name, "")
}

/// A whole line replaced.
fn line(name: &str, new: &str) -> String {
    let text = with(&[]);
    let old = text.lines().find(|l| l.ends_with(&format!("// {name}"))).expect(name);
    text.replace(old, new)
}

fn run_with(text: &str, options: Options, threads: u32) -> Result<Vec<f32>, Fault> {
    with_places(text, |text| {
        let mut bench = Bench::new(text, options.clone());
        let (out, ones) = (bench.words(&[0; 2048]), bench.words(&[0x3f80_3f80; 1024]));
        bench.launch(1, threads, &[out, ones])?;
        Ok(bench.read_floats(out, 4 * threads as usize))
    })
}

/// It gives this number everywhere, in every order.
#[track_caller]
fn expect_all(text: &str, value: f32) {
    for order in ORDERS {
        match run_with(text, strict(order), 128) {
            Ok(found) => assert!(found.iter().all(|v| *v == value), "{order:?}: {found:?}"),
            Err(fault) => panic!("{order:?}: {fault}"),
        }
    }
}

/// It is a fault of one of these kinds in every order; gives that of the forward order.
#[track_caller]
fn expect_one_of(text: &str, threads: u32, kinds: &[FaultKind]) -> Fault {
    let faults = ORDERS.map(|order| match run_with(text, strict(order), threads) {
        Ok(_) => panic!("{order:?}: no fault\n{text}"),
        Err(fault) => {
            assert!(kinds.contains(&fault.kind), "{order:?}: {fault}\n{text}");
            fault
        }
    });
    let [first, ..] = faults;
    first
}

/// … of this kind, at the line that ends so, with these words.
#[track_caller]
fn expect_fault(text: &str, kind: FaultKind, place: &str, words: &str) {
    let fault = expect_one_of(text, 128, &[kind]);
    assert_eq!(fault.line, line_of(text, place), "{fault}");
    assert!(fault.message.contains(words), "{fault}");
}

#[test]
fn a_product_of_ones() {
    expect_all(&with(&[]), 16.0);
    // With the same memory for two warpgroups.
    for order in ORDERS {
        let found = run_with(&with(&[]), strict(order), 256).expect("no fault");
        assert!(found.iter().all(|v| *v == 16.0), "{found:?}");
    }
    // Where memory is told apart by two bytes.
    expect_all(&with(&[("// end", "ld.shared.u16 %rs1, [%r2];")]), 16.0);
}

#[test]
fn what_is_read_must_be_written_and_met() {
    let early = [FaultKind::Race, FaultKind::Uninitialised];
    expect_one_of(&without("before"), 128, &early);
    expect_fault(&without("B"), FaultKind::Uninitialised, "// product", "wgmma reads 16 bytes at 0x800");
    // A barrier of the warp is none of the block.
    expect_one_of(&line("before", "bar.warp.sync -1;"), 128, &early);
}

#[test]
fn writes_need_a_proxy_fence_of_their_thread() {
    let writer = |text: &str| format!("wrote at PTX line {}", line_of(text, "// A"));
    let rest = "fence.proxy.async behind it";
    let text = without("proxy");
    expect_fault(&text, FaultKind::ProxyFence, "// product", &writer(&text));
    expect_fault(&text, FaultKind::ProxyFence, "// product", rest);
    // Of half of the lanes, of one warp, before the writes, behind the barrier.
    for proxy in ["@%p1 fence.proxy.async;", "@!%p1 fence.proxy.async;"] {
        expect_fault(&line("proxy", proxy), FaultKind::ProxyFence, "// product", rest);
    }
    let half = "mov.u32 %r7, %laneid; setp.lt.u32 %p5, %r7, 16; @%p5 fence.proxy.async;";
    expect_fault(&line("proxy", half), FaultKind::ProxyFence, "// product", "thread (16, 0, 0) wrote");
    let early = without("proxy").replace("mov.u32 %r5", "fence.proxy.async; mov.u32 %r5");
    expect_fault(&early, FaultKind::ProxyFence, "// product", rest);
    let late = without("proxy").replace("// before", "// before\nfence.proxy.async;");
    expect_fault(&late, FaultKind::ProxyFence, "// product", rest);
    // Another fence is none.
    expect_fault(&line("proxy", "fence.acq_rel.cta;"), FaultKind::ProxyFence, "// product", rest);
    // All that is needed: also with others before and behind, and with more barriers.
    for proxy in [
        "fence.proxy.async.shared::cta;",
        "fence.proxy.async; fence.proxy.async;",
        "fence.proxy.async; bar.sync 0;",
        "@%p1 fence.proxy.async; @!%p1 fence.proxy.async;",
        "fence.proxy.async; bar.sync 0; st.shared.v4.b32 [%r4+2304], {%r5, %r5, %r5, %r5}; fence.proxy.async;",
    ] {
        let text = line("proxy", proxy).replace("s[2304]", "s[4352]");
        expect_all(&text, 16.0);
    }
    // A fence behind the barrier, for the next stage, does not hide the one before it.
    expect_all(&with(&[("// before", "// before\nfence.proxy.async;")]), 16.0);
}

#[test]
fn copies_count_as_written_when_they_are_waited_for() {
    let copy = |then: &str| {
        let copy = "ld.param.u64 %rd6, [p1];\n@%p2 cp.async.cg.shared.global [%r4], [%rd6], 16; // copy\n";
        let text = line("A", &format!("{copy}cp.async.commit_group;"));
        let old = text.lines().find(|l| l.ends_with("// proxy")).expect("it").to_owned();
        text.replace(&old, then)
    };
    expect_all(&copy("cp.async.wait_group 0; fence.proxy.async;"), 16.0);
    let text = copy("fence.proxy.async;");
    let fault = expect_one_of(&text, 128, &[FaultKind::AsyncCopy]);
    assert!(
        fault.message.contains(&format!("the cp.async of PTX line {}", line_of(&text, "// copy"))),
        "{fault}"
    );
    let text = copy("fence.proxy.async; cp.async.wait_group 0;");
    let writer = format!("wrote at PTX line {}", line_of(&text, "// copy"));
    expect_fault(&text, FaultKind::ProxyFence, "// product", &writer);
}

#[test]
fn results_are_there_after_the_wait_only() {
    for text in [
        line("wait", "wgmma.wait_group.sync.aligned 1;"),
        without("wait"),
        without("commit"),
        line("wait", "bar.sync 0;"),
    ] {
        let words = "must be committed and waited for first";
        expect_fault(&text, FaultKind::AsyncProduct, "// result", words);
    }
    for touch in ["add.f32 %f9, %f1, %f1;", "mov.f32 %f2, 0f00000000;", "mov.b32 %r9, %f3;"] {
        let text = with(&[("// meanwhile", &format!("{touch} // touch"))]);
        let product = line_of(&text, "// product");
        expect_fault(&text, FaultKind::AsyncProduct, "// touch", &format!("the wgmma of PTX line {product}"));
        // Lanes that do not execute it do not access it.
        let guarded = format!("@!%p3 {touch}");
        expect_all(&with(&[("// meanwhile", &guarded)]), 16.0);
    }
    // A second, empty group makes 1 enough.
    let two = "wgmma.commit_group.sync.aligned; wgmma.commit_group.sync.aligned;";
    let text = line("commit", two).replace("aligned 0; // wait", "aligned 1; // wait");
    expect_all(&text, 16.0);
}

#[test]
fn factors_stay_until_the_wait() {
    let zeros = "mov.u32 %r6, 0;\n@%p1 st.shared.v4.b32 [%r4+2048], {%r6, %r6, %r6, %r6}; // again\n";
    // Before the wait, whatever barriers there are.
    for (between, threads) in [("", 128), ("bar.sync 0;", 128), ("bar.warp.sync -1;", 128)] {
        let text = with(&[("// meanwhile", &format!("{between} {zeros} bar.sync 0;"))]);
        let kinds: &[FaultKind] = match between {
            "bar.sync 0;" => &[FaultKind::AsyncProduct],
            // Other warps may not have issued theirs yet.
            _ => &[FaultKind::AsyncProduct, FaultKind::Race],
        };
        let fault = expect_one_of(&text, threads, kinds);
        assert!(
            fault.message.contains(&format!("writes at PTX line {}", line_of(&text, "// again"))),
            "{fault}"
        );
    }
    let text = with(&[("// meanwhile", &format!("bar.sync 0; {zeros} bar.sync 0;"))]);
    let product = line_of(&text, "// product");
    expect_fault(
        &text,
        FaultKind::AsyncProduct,
        "// wait",
        &format!("the wgmma of PTX line {product} reads"),
    );
    // Without the report the product has what is there at the wait: in every run another result.
    for order in ORDERS {
        let options = Options { races: false, ..strict(order) };
        let found = run_with(&text, options, 128).expect("nothing is looked for");
        assert!(found.iter().all(|v| *v == 0.0), "{found:?}");
    }
    // Copies likewise, from their issue on.
    let copy = "ld.param.u64 %rd6, [p1]; @%p1 cp.async.cg.shared.global [%r4+2048], [%rd6], 16; // again\n";
    for then in ["", "cp.async.wait_all;"] {
        let text = with(&[("// meanwhile", &format!("bar.sync 0; {copy} {then} bar.sync 0;"))]);
        expect_one_of(&text, 128, &[FaultKind::AsyncProduct]);
    }
    // After the wait, with a barrier for what other warps read, and without for the own rows of A.
    expect_all(&with(&[("// after", &format!("bar.sync 0; {zeros}"))]), 16.0);
    let own = "mov.u32 %r6, 0; st.shared.v4.b32 [%r4], {%r6, %r6, %r6, %r6};";
    expect_all(&with(&[("// after", own)]), 16.0);
    let text = with(&[("// after", zeros)]);
    expect_one_of(&text, 128, &[FaultKind::Race]);
}

#[test]
fn registers_need_a_fence_before_a_product() {
    let first = "no wgmma.fence stands before the first";
    expect_fault(&without("fence"), FaultKind::AsyncProduct, "// product", first);
    // Behind the fence.
    let text = without("clear").replace("// fence", "// fence\nmov.f32 %f0, 0f00000000; // clear");
    let words =
        format!("is accessed at PTX line {}, with no wgmma.fence between", line_of(&text, "// clear"));
    expect_fault(&text, FaultKind::AsyncProduct, "// product", &words);
    // Again after the results were looked at.
    let product = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd2, %rd3, 1, 1, 1, 0, 0;";
    let rest = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;";
    let again = |between: &str| with(&[("// after", &format!("{between}\n{product} // again\n{rest}"))]);
    let words = "with no wgmma.fence between";
    expect_fault(&again("mov.f32 %f9, %f0;"), FaultKind::AsyncProduct, "// again", words);
    expect_all(&again("mov.f32 %f9, %f0; wgmma.fence.sync.aligned;"), 32.0);
    expect_all(&again("mov.f32 %f9, %f8;"), 32.0);
    // Products of one shape follow each other without a fence; of another shape they do not.
    let next = |product: &str| {
        with(&[("// meanwhile", &format!("{product} // next\nwgmma.commit_group.sync.aligned;"))])
    };
    expect_all(&next(product), 32.0);
    // One that begins anew.
    expect_all(&next(&product.replace("%rd3, 1, 1, 1", "%rd3, 0, 1, 1")), 16.0);
    let half = product.replace("bf16.bf16", "f16.f16");
    let fault = expect_one_of(&next(&half), 128, &[FaultKind::AsyncProduct]);
    assert!(fault.message.contains("is a result of another shape at PTX line"), "{fault}");
    run_with(&next(&format!("wgmma.fence.sync.aligned; {half}")), strict(Order::Forward), 128)
        .expect("a fence is there");
}

#[test]
fn the_first_factor_in_registers() {
    let set = "mov.u32 %r20, %r5; mov.u32 %r21, %r5; mov.u32 %r22, %r5; mov.u32 %r23, %r5;";
    let product = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, \
                   {%r20, %r21, %r22, %r23}, %rd3, 1, 1, 1, 0;";
    let base = || {
        line("product", &format!("{product} // product")).replace("// before", &format!("// before\n{set}"))
    };
    expect_all(&base(), 16.0);
    // Two products that read the same registers.
    let twice = base().replace("// product", &format!("// product\n{product}"));
    expect_all(&twice, 32.0);
    for touch in ["mov.u32 %r21, 0;", "mov.u32 %r9, %r23;"] {
        let text = base().replace("// meanwhile", &format!("{touch} // touch"));
        let words = "must be committed and waited for first";
        expect_fault(&text, FaultKind::AsyncProduct, "// touch", words);
    }
    let text = base().replace("// fence", "// fence\nmov.u32 %r22, %r5;");
    expect_fault(&text, FaultKind::AsyncProduct, "// product", "is accessed at PTX line");
    // A result is no factor without a fence.
    let mixed = product
        .replace("%r20, %r21", "%f0, %f1")
        .replace("{%f0, %f1, %f2", "{%f4, %f5, %f2")
        .replace("%f2, %f3}", "%f6, %f7}");
    let text = base().replace("// product", &format!("// product\n{mixed} // mixed"));
    expect_fault(&text, FaultKind::AsyncProduct, "// mixed", "is a result at PTX line");
}

#[test]
fn four_warps_do_the_same() {
    let four = "an instruction of four whole warps";
    for threads in [32, 96, 127, 160, 224] {
        let fault = expect_one_of(&with(&[]), threads, &[FaultKind::Divergence]);
        let lacking = fault.message.contains(four) || fault.message.contains("an instruction of 32 lanes");
        assert!(lacking, "{threads}: {fault}");
    }
    // One warp leaves before the product, or takes another one.
    let last = "setp.ge.u32 %p4, %r1, 96;";
    let text = with(&[("// before", &format!("// before\n{last} @%p4 exit;"))]);
    let fault = expect_one_of(&text, 128, &[FaultKind::Divergence]);
    assert!(fault.message.contains("warp 3 has exited without it"), "{fault}");
    let text = with(&[("// meanwhile", &format!("{last} @%p4 bra L; wgmma.commit_group.sync.aligned;\nL:"))]);
    let fault = expect_one_of(&text, 128, &[FaultKind::Divergence]);
    assert!(fault.message.contains("instead"), "{fault}");
    // Warps whose descriptors differ, and lanes of a warp; and what only some lanes execute.
    let other = format!("// before\n{last} @%p4 mov.b64 %rd3, 0x1000080070;");
    let text = with(&[("// clear", &other.replace("// before", "// clear"))]);
    let fault = expect_one_of(&text, 128, &[FaultKind::Divergence]);
    assert!(fault.message.contains("warps of one warpgroup give the descriptors"), "{fault}");
    let text = with(&[("// clear", "// clear\n@%p1 mov.b64 %rd3, 0x1000080070;")]);
    expect_fault(&text, FaultKind::Divergence, "// product", "lanes of one warp give the descriptors");
    // Warps without such lanes lack it altogether.
    let lacking = [FaultKind::Divergence, FaultKind::AsyncProduct];
    for name in ["fence", "commit", "wait"] {
        let text = with(&[]);
        let old = text.lines().find(|l| l.ends_with(&format!("// {name}"))).expect("it").trim().to_owned();
        expect_one_of(&line(name, &format!("@%p1 {old}")), 128, &lacking);
    }
    let text = with(&[("%rd3, 1, 1, 1", "%rd3, %p1, 1, 1")]);
    let fault = expect_one_of(&text, 128, &[FaultKind::Divergence]);
    assert!(fault.message.contains("scale-d holds in lanes"), "{fault}");
}

#[test]
fn descriptors() {
    for (descriptor, kind, words) in [
        // B begins 128 bytes before the end.
        ("0x1000080088", FaultKind::OutOfBounds, "wgmma reads 16 bytes at 0x900 of 2304 bytes"),
        ("0x13fff0080", FaultKind::OutOfBounds, "of 2304 bytes of shared memory"),
        ("0x2001000080080", FaultKind::Descriptor, "has a base offset, which is not executed"),
        ("0x1000084080", FaultKind::Descriptor, "sets bits outside its fields"),
        ("0x100001000080080", FaultKind::Descriptor, "sets bits outside its fields"),
    ] {
        let text = with(&[("0x1000080080", descriptor)]);
        expect_fault(&text, kind, "// product", words);
    }
}

#[test]
fn a_product_that_nobody_waits_for_changes_nothing() {
    let text =
        without("wait").replace("st.global.v4.f32 [%rd5], {%f0, %f1, %f2, %f3}", "st.global.f32 [%rd5], %f5");
    for order in ORDERS {
        run_with(&text, strict(order), 128).expect("no fault");
    }
}

#[test]
fn modules_for_one_target() {
    use ddnnc_emu::{Machine, Properties, parse};
    let load = |text: &str, arch: u32| {
        let mut machine =
            Machine::new(Properties { arch, memory: 1 << 20, ..Properties::default() }, Options::default());
        machine.load(parse(text).expect("PTX")).map(|_| ())
    };
    let text = with(&[]);
    assert_eq!(load(&text, 90), Ok(()));
    for arch in [80, 89, 100, 120] {
        assert_eq!(load(&text, arch), Err(format!("a module for sm_90a on a device of sm_{arch}")));
    }
    let plain = ".version 8.0\n.target sm_90\n.entry k() { ret; }";
    assert_eq!(load(plain, 100), Ok(()));
}
