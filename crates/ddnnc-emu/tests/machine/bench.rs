//! A machine with one module, and buffers of 32-bit words.

use ddnnc_emu::{Fault, FaultKind, LaunchReport, Machine, ModuleId, Options, Order, Properties, SourcePlace};

/// The orders that every kernel of these tests runs in.
pub const ORDERS: [Order; 5] =
    [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2), Order::Random(3)];

/// A module with one kernel `k`, of parameters `p0`, `p1` … (each `.u64`), with `declarations` (`.shared` and the like)
/// before the body.
pub fn kernel(params: usize, declarations: &str, body: &str) -> String {
    let params: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({})\n{{\n.reg .pred %p<9>;\n.reg .b16 \
         %rs<9>;\n.reg .b32 %r<40>;\n.reg .f32 %f<20>;\n.reg .b64 %rd<20>;\n{declarations}\n{body}\nret;\n}}\n",
        params.join(", ")
    )
}

/// The number of the only line that holds `part`.
pub fn line_of(text: &str, part: &str) -> u32 {
    let mut found = text.lines().enumerate().filter(|(_, l)| l.contains(part)).map(|(i, _)| i as u32 + 1);
    let line = found.next().unwrap_or_else(|| panic!("no line holds `{part}`:\n{text}"));
    assert_eq!(found.next(), None, "several lines hold `{part}`");
    line
}

/// Options that look for everything.
pub fn strict(order: Order) -> Options {
    Options { order, races: true, uninitialised: true, threads: 1, fuel: 1 << 20 }
}

/// A machine and a module on it.
pub struct Bench {
    pub machine: Machine,
    pub module: ModuleId,
    pub kernel: String,
}

impl Bench {
    pub fn new(text: &str, options: Options) -> Bench {
        let mut machine = Machine::new(Properties { memory: 1 << 24, ..Properties::default() }, options);
        let module = ddnnc_emu::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let kernel = module.kernels[0].name.clone();
        let module = machine.load(module).expect("the module loads");
        Bench { machine, module, kernel }
    }

    /// A buffer of these words.
    pub fn words(&mut self, words: &[u32]) -> u64 {
        let address = self.machine.alloc(4 * words.len() as u64).expect("memory");
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.machine.write(address, &bytes).expect("the buffer is allocated");
        address
    }

    /// A buffer of these numbers.
    pub fn floats(&mut self, values: &[f32]) -> u64 {
        self.words(&values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    }

    /// A buffer that nothing has written.
    pub fn raw(&mut self, words: usize) -> u64 {
        self.machine.alloc(4 * words as u64).expect("memory")
    }

    pub fn read(&self, address: u64, words: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * words];
        self.machine.read(address, &mut bytes).expect("the buffer is allocated");
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }

    pub fn read_floats(&self, address: u64, n: usize) -> Vec<f32> {
        self.read(address, n).into_iter().map(f32::from_bits).collect()
    }

    /// Launches with the given blocks and threads in one direction and parameters of 8 bytes.
    pub fn launch(&mut self, blocks: u32, threads: u32, params: &[u64]) -> Result<LaunchReport, Fault> {
        let params: Vec<u8> = params.iter().flat_map(|p| p.to_le_bytes()).collect();
        self.launch_shaped([blocks, 1, 1], [threads, 1, 1], 0, &params)
    }

    pub fn launch_shaped(
        &mut self,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &[u8],
    ) -> Result<LaunchReport, Fault> {
        self.machine.launch(self.module, &self.kernel, grid, block, shared, params)
    }
}

/// Runs a kernel whose only parameter is a buffer of `words` words, written as zeros, and gives what it holds.
pub fn run(text: &str, order: Order, threads: u32, words: usize) -> Result<Vec<u32>, Fault> {
    with_places(text, |text| {
        let mut bench = Bench::new(text, strict(order));
        let out = bench.words(&vec![0; words]);
        bench.launch(1, threads, &[out])?;
        Ok(bench.read(out, words))
    })
}

/// Most places that a report shows.
const PLACES: usize = 5;

/// Runs a text, and where that is a fault the same text with its own lines as those of the source: the fault must be the
/// same, and have the place of every line that it names. A text that has `.loc` is not changed.
pub fn with_places<T>(text: &str, run: impl Fn(&str) -> Result<T, Fault>) -> Result<T, Fault> {
    if text.contains(".loc") {
        return run(text);
    }
    run(text).inspect_err(|fault| {
        let Err(mut again) = run(&with_own_lines(text)) else { panic!("no fault with `.loc`: {fault}") };
        let places = std::mem::take(&mut again.places);
        assert_eq!(again, *fault);
        let numbers = fault.message.split("line ").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse::<u32>().ok()
        });
        let mut named: Vec<u32> = vec![fault.line];
        named.extend(numbers);
        named.dedup();
        for line in named.iter().take(PLACES) {
            let has =
                |place: &SourcePlace| place.ptx_lines == [*line] && place.at == format!("file 9:{line}");
            assert!(places.iter().any(has), "{fault}\n{places:?}");
        }
        assert!(places.len() <= PLACES, "{places:?}");
    })
}

/// The text with `.loc 9 LINE 0` before what begins in each line.
fn with_own_lines(text: &str) -> String {
    let (mut found, mut fresh, mut inside) = (String::new(), false, false);
    for (i, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim();
        if inside && fresh && !code.is_empty() && !code.starts_with(['.', '{', '}']) {
            found.push_str(&format!(".loc 9 {} 0 ", i + 1));
        }
        if !code.is_empty() {
            fresh = code.ends_with([';', ':', '{', '}']);
            inside |= code == "{";
        }
        found.push_str(line);
        found.push('\n');
    }
    found
}

/// Runs such a kernel in every order, and wants the same words from each.
#[track_caller]
pub fn expect_words(text: &str, threads: u32, words: &[u32]) {
    for order in ORDERS {
        match run(text, order, threads, words.len()) {
            Ok(found) => assert_eq!(found, words, "{order:?}"),
            Err(fault) => panic!("{order:?}: {fault}"),
        }
    }
}

/// Runs such a kernel in every order, and wants this kind of fault from each; gives the one of the forward order.
#[track_caller]
pub fn expect_fault(text: &str, threads: u32, kind: FaultKind) -> Fault {
    let mut first = None;
    for order in ORDERS {
        match run(text, order, threads, 1024) {
            Ok(_) => panic!("{order:?}: no fault"),
            Err(fault) => {
                assert_eq!(fault.kind, kind, "{order:?}: {fault}");
                first.get_or_insert(fault);
            }
        }
    }
    first.expect("there are orders")
}
