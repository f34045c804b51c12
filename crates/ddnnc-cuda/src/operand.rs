//! Operands of matrix products as C++: their indices, and the chains that make them of what lies in memory.

use crate::chain::{self, Access, Chain};
use crate::code::{Arguments, c_type};
use crate::tiles::Beside;
use ddnnc_ir::{DType, Group, Local, ValueType};
use std::fmt::Write as _;

/// The largest table over all channels that a block keeps in shared memory, in bytes; constants of more channels are
/// computed where they are used.
const TABLE_BYTES: usize = 32 << 10;

/// How an operand's elements come to be.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// They lie in memory.
    Direct {
        /// The pointer's name.
        pointer: String,
        /// Their type, which is the product's too.
        dtype: DType,
    },
    /// An elementwise chain makes them.
    Made {
        /// The chain.
        chain: Box<Chain>,
        /// For each of its inputs the pointer's name and the type.
        inputs: Vec<(String, ValueType)>,
        /// Channels of a row in memory.
        channels: usize,
        /// Channels that the product reads: of one group.
        group_channels: usize,
    },
}

/// An operand of a product.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    /// Whether its rows are the depth.
    pub outer: bool,
    /// The type of its index.
    pub index: String,
    /// The index's members.
    pub members: String,
    /// The first channel of the group, an expression.
    pub channel: String,
    /// Where its elements come from.
    pub source: Source,
    /// Bytes of the values that it reads.
    pub bytes: u64,
}

impl Source {
    /// The source of a value of a group: an operand as it lies, or its chain.
    ///
    /// # Errors
    ///
    /// What is no chain.
    pub(crate) fn of(
        group: &Group,
        local: Local,
        groups: usize,
        arguments: &mut Arguments,
    ) -> Result<(Source, u64), String> {
        let ty = group.ty(local).ok_or("an operand is missing")?.clone();
        if let Local::Operand(i) = local {
            let pointer = arguments.operand(i as usize, &ty);
            return Ok((Source::Direct { pointer, dtype: ty.dtype }, ty.bytes() as u64));
        }
        let chain = chain::chain(group, &[local], &[])?;
        let (mut inputs, mut bytes) = (Vec::new(), 0);
        for input in &chain.inputs {
            let Local::Operand(i) = input.local else { return Err("a chain of a chain".to_owned()) };
            let ty = group.ty(input.local).ok_or("an operand is missing")?;
            bytes += ty.bytes() as u64;
            inputs.push((arguments.operand(i as usize, ty), ty.clone()));
        }
        let channels = ty.dims().get(1).copied().unwrap_or(1);
        let group_channels = channels / groups;
        Ok((Source::Made { chain: Box::new(chain), inputs, channels, group_channels }, bytes))
    }

    /// Floating-point operations on each element.
    pub(crate) fn flops(&self) -> u64 {
        match self {
            Source::Direct { .. } => 0,
            Source::Made { chain, .. } => chain.flops as u64,
        }
    }
}

/// Where the inputs of a chain lie in a stage: in the operand's own tile, or that many bytes per element on.
struct Places {
    in_place: bool,
    raw: Vec<Option<usize>>,
    bytes: usize,
}

fn places(chain: &Chain, inputs: &[(String, ValueType)], element: usize) -> Places {
    let mut made = Places { in_place: false, raw: Vec::new(), bytes: 0 };
    for (i, input) in chain.inputs.iter().enumerate() {
        let size = inputs[i].1.dtype.size();
        let mut raw = None;
        if input.access == Access::Element {
            if !made.in_place && size == element {
                made.in_place = true;
            } else {
                raw = Some(made.bytes);
                made.bytes += size;
            }
        }
        made.raw.push(raw);
    }
    made
}

impl Operand {
    /// What it takes in shared memory.
    pub(crate) fn beside(&self, element: usize) -> Beside {
        let Source::Made { chain, inputs, group_channels, .. } = &self.source else {
            return Beside::default();
        };
        let values = chain.channel_values;
        let entries = (!self.outer).then_some(*group_channels);
        let fits = self.outer || 4 * values * group_channels <= TABLE_BYTES;
        let table = (values > 0 && fits).then_some((values, entries));
        Beside { raw: places(chain, inputs, element).bytes, table, made: true }
    }

    /// Entries of its table, and floats of the whole table (a multiple of 4), for a tile of that many columns.
    pub(crate) fn table(&self, element: usize, columns: usize) -> (usize, usize) {
        self.beside(element).table.map_or((0, 0), |(values, entries)| {
            let entries = entries.unwrap_or(columns);
            (entries, (values * entries).next_multiple_of(4))
        })
    }

    /// The type of its source in C++; declares it where it is a chain's.
    pub(crate) fn declare(&self, name: &str, element: usize, text: &mut String) -> String {
        match &self.source {
            Source::Direct { dtype, .. } => format!("Direct<{}>", c_type(*dtype)),
            Source::Made { chain, inputs, channels, .. } => {
                let table = self.beside(element).table.is_some();
                declare_chain(name, chain, inputs, *channels, element, table, text);
                name.to_owned()
            }
        }
    }

    /// Statements that give the source its pointers.
    pub(crate) fn bind(&self, object: &str) -> String {
        match &self.source {
            Source::Direct { pointer, .. } => format!("        {object}.chain.p = {pointer};\n"),
            Source::Made { inputs, .. } => inputs
                .iter()
                .enumerate()
                .map(|(i, (pointer, _))| format!("        {object}.chain.p{i} = {pointer};\n"))
                .collect(),
        }
    }
}

fn declare_chain(
    name: &str,
    chain: &Chain,
    inputs: &[(String, ValueType)],
    channels: usize,
    element: usize,
    table: bool,
    text: &mut String,
) {
    let places = places(chain, inputs, element);
    let (mut members, mut copies, mut constants, mut taken, mut of_element) =
        (String::new(), String::new(), String::new(), String::new(), String::new());
    let (mut lumps, mut loads) = (String::new(), String::new());
    for (i, input) in chain.inputs.iter().enumerate() {
        let ctype = c_type(inputs[i].1.dtype);
        let _ = writeln!(members, "    const {ctype}* p{i};");
        match &input.access {
            Access::Element => {
                let size = inputs[i].1.dtype.size();
                let (to, from) = match places.raw[i] {
                    None => ("to".to_owned(), "to".to_owned()),
                    Some(at) => (
                        format!("({ctype}*)(raw + {at} * elements) + slot"),
                        format!("(const {ctype}*)(raw + {at} * elements) + slot"),
                    ),
                };
                let _ = writeln!(copies, "        copy_async<G * {size}>({to}, p{i} + max(at, 0), at >= 0);");
                let _ = writeln!(lumps, "        Lump<{ctype}, G> r{i};");
                let _ = writeln!(loads, "            r{i} = *(const Lump<{ctype}, G>*)({from});");
                let _ = writeln!(taken, "        float x{i}[G];\n        unpack(raws.r{i}.v, x{i});");
                let _ = writeln!(of_element, "            const float i{i} = x{i}[e];");
            }
            Access::Channel => {
                let _ = writeln!(constants, "        const float i{i} = to_float(p{i}[c]);");
            }
            Access::Scalar => {
                let line = format!("const float i{i} = to_float(p{i}[0]);\n");
                let _ = write!(constants, "        {line}");
                if table {
                    let _ = write!(of_element, "            {line}");
                }
            }
            Access::Repeated(index) => {
                let _ = writeln!(of_element, "            const float i{i} = to_float(p{i}[{index}]);");
            }
            Access::Random => {
                let _ = writeln!(of_element, "            const long long* i{i} = p{i};");
            }
        }
    }
    let code = &chain.channel_code;
    let (mut fill, mut values) = (String::new(), String::new());
    let (mut kept, mut read) = (String::new(), String::new());
    if table {
        let _ = writeln!(fill, "{constants}        {code}");
        for v in 0..chain.channel_values {
            let _ = writeln!(fill, "        table[{v} * stride + j] = k{v};");
            let _ = writeln!(kept, "        float k{v}[G];");
            let _ = writeln!(read, "            unpack(table + {v} * stride + j, k{v});");
            let _ = writeln!(values, "            const float k{v} = constants.k{v}[e];");
        }
    } else {
        let _ = writeln!(values, "{constants}            {code}");
    }
    let raw = places.bytes;
    let _ = write!(
        text,
        "struct {name} {{
    static constexpr int RAW_ELEMENT = {raw};
    static constexpr bool MAKES = true;
{members}    template <int G>
    __device__ __forceinline__ void copy(char* raw, E* to, int slot, int elements, int at) const {{
{copies}    }}
    __device__ __forceinline__ void fill(float* table, int j, int stride, int c) const {{
{fill}    }}
    // Of G channels from the table's entry j on.
    template <int G> struct Constants {{
{kept}        __device__ __forceinline__ Constants(const float* table, int j, int stride) {{
{read}        }}
    }};
    // G elements of every input as they lie in a stage.
    template <int G> struct Raw {{
{lumps}        __device__ __forceinline__ void load(const char* raw, int slot, const E* to, int elements) {{
{loads}        }}
    }};
    template <int G>
    __device__ __forceinline__ void make(const Raw<G>& raws, int at, const Constants<G>& constants, int channel,
                                         float (&y)[G]) const {{
{taken}        const int row = at / {channels};
        #pragma unroll
        for (int e = 0; e < G; e++) {{
            const int c = channel + e;
{of_element}{values}            {chain_code}
            y[e] = o0;
        }}
    }}
}};
",
        chain_code = chain.code
    );
}
