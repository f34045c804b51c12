//! How fast convolutions run, beside what the processor can do:
//!
//! ```text
//! cargo run --release -p ddnnc-cpu --example convolution_speed -- [--threads T] [--no-winograd] [--bf16]
//!     [forward|input|weight] [SIDExCHANNELSxOUTPUTSxKERNELxSTRIDExBATCH]…
//! ```
//!
//! Without shapes: those of ResNet-18, ResNet-50 and ResNet-56 on 32×32 images. A share above 1 is an algorithm with
//! fewer operations than the sum over all taps that is counted here.

use ddnnc_cases::Case;
use ddnnc_cpu::{CpuDevice, CpuOptions, Limits};
use ddnnc_ir::{Conv, DType, Layout, Op, ValueType};
use ddnnc_passes::Executable;

/// side, channels, outputs, kernel, stride, batch
type Shape = [usize; 6];

const SHAPES: &[Shape] = &[
    [32, 3, 64, 3, 1, 128],
    [32, 64, 64, 3, 1, 128],
    [32, 64, 128, 3, 2, 128],
    [32, 64, 128, 1, 2, 128],
    [16, 128, 128, 3, 1, 128],
    [16, 128, 256, 3, 2, 128],
    [16, 128, 256, 1, 2, 128],
    [8, 256, 256, 3, 1, 128],
    [8, 256, 512, 3, 2, 128],
    [8, 256, 512, 1, 2, 128],
    [4, 512, 512, 3, 1, 128],
    [32, 64, 64, 1, 1, 32],
    [32, 64, 256, 1, 1, 32],
    [32, 256, 64, 1, 1, 32],
    [32, 256, 128, 1, 1, 32],
    [32, 128, 128, 3, 2, 32],
    [32, 256, 512, 1, 2, 32],
    [16, 128, 512, 1, 1, 32],
    [16, 512, 128, 1, 1, 32],
    [16, 128, 128, 3, 1, 32],
    [16, 512, 256, 1, 1, 32],
    [16, 256, 256, 3, 2, 32],
    [16, 512, 1024, 1, 2, 32],
    [8, 256, 1024, 1, 1, 32],
    [8, 1024, 256, 1, 1, 32],
    [8, 256, 256, 3, 1, 32],
    [8, 1024, 512, 1, 1, 32],
    [8, 512, 512, 3, 2, 32],
    [8, 1024, 2048, 1, 2, 32],
    [4, 512, 2048, 1, 1, 32],
    [4, 2048, 512, 1, 1, 32],
    [4, 512, 512, 3, 1, 32],
    [32, 3, 16, 3, 1, 128],
    [32, 16, 16, 3, 1, 128],
    [32, 16, 32, 3, 2, 128],
    [16, 32, 32, 3, 1, 128],
    [16, 32, 64, 3, 2, 128],
    [8, 64, 64, 3, 1, 128],
];

fn measure(device: &CpuDevice, limits: Limits, direction: &str, shape: Shape, bf16: bool) {
    let [side, channels, outputs, kernel, stride, batch] = shape;
    let pad = kernel / 2;
    let conv = Conv { stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 };
    let output = (side + 2 * pad - kernel) / stride + 1;
    let dtype = if bf16 { DType::Bf16 } else { DType::F32 };
    let rows =
        |c, side| ValueType::f32([batch, c, side, side]).with_layout(Layout::ChannelsLast).with_dtype(dtype);
    let w = ValueType::f32([outputs, channels, kernel, kernel]).with_dtype(dtype);
    let (x, dy) = (rows(channels, side), rows(outputs, output));
    let (op, operands) = match direction {
        "forward" => (Op::Conv2d(conv), vec![x, w]),
        "input" => (Op::Conv2dGradInput { conv, input: [side; 2] }, vec![dy, w]),
        _ => (Op::Conv2dGradWeight { conv, kernel: [kernel; 2] }, vec![x, dy]),
    };
    let case = Case { op, operands };
    let program = case.program(&[]);
    let mut run = device.load_cpu(&program).expect("loads");
    for (i, t) in case.draw(1).iter().enumerate() {
        run.write_f32(&format!("x{i}"), &t.data.iter().map(|&x| x as f32).collect::<Vec<_>>())
            .expect("writes");
    }
    let launch = program.launches.iter().position(|l| l.path == "here").expect("the launch");
    let method = run.methods().nth(launch).expect("a launch").first().map_or("none", |m| m.1.name());
    let mut times: Vec<f64> = (0..11)
        .map(|_| {
            let mut seconds = vec![0.0; program.launches.len()];
            run.run_timed(&mut seconds).expect("runs");
            seconds[launch]
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let time = times[times.len() / 2];
    let flops = 2.0 * (batch * output * output * outputs * channels * kernel * kernel) as f64;
    let limit = if bf16 { limits.bf16_flops } else { limits.f32_flops };
    println!(
        "{:24} {direction:8} {method:9} {:9.3} ms {:8.1} GFLOP/s  {:5.2} of the {} limit",
        format!("{side}x{channels}x{outputs}x{kernel}x{stride}x{batch}"),
        time * 1e3,
        flops / time / 1e9,
        flops / time / limit,
        if bf16 { "bf16" } else { "f32" },
    );
}

fn main() {
    let (mut options, mut bf16) = (CpuOptions::default(), false);
    let (mut directions, mut shapes): (Vec<String>, Vec<Shape>) = (Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => options.threads = args.next().and_then(|n| n.parse().ok()),
            "--no-winograd" => options.winograd = false,
            "--bf16" => bf16 = true,
            "forward" | "input" | "weight" => directions.push(arg),
            _ => {
                let numbers: Vec<usize> = arg.split('x').filter_map(|n| n.parse().ok()).collect();
                shapes.push(numbers.try_into().expect("a shape of six numbers"));
            }
        }
    }
    if directions.is_empty() {
        directions = ["forward", "input", "weight"].map(String::from).to_vec();
    }
    if shapes.is_empty() {
        shapes = SHAPES.to_vec();
    }
    let device = CpuDevice::open(&options).expect("opens");
    let limits = device.limits();
    println!(
        "{device:?}: {:.0} GFLOP/s f32, {:.0} bf16, {:.1} GB/s",
        limits.f32_flops / 1e9,
        limits.bf16_flops / 1e9,
        limits.bytes / 1e9
    );
    for shape in shapes {
        for direction in &directions {
            if direction == "input" && shape[1] == 3 {
                continue;
            }
            measure(&device, limits, direction, shape, bf16);
        }
    }
}
