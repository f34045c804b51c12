//! One net as an ONNX model: its evaluation graph, its tensors, and what it says of itself.
//!
//! The model takes `image` f32 `[N,C,H,W]`, where N is any number of images, and gives `logits` f32 `[N,K]`. Parameters and
//! running statistics are initializers under their public names.

pub mod message;
mod translate;
mod writer;

use crate::{Tensor, Tensors};
use ddnnc_ir::{IrError, Model};
use message::{
    DataType, Dimension, Extent, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use translate::{INPUT, Shown, translate};

/// The version of ONNX's operators that models are made of. Everything here has a form in it, and runtimes and converters take
/// versions older than they are: an old one reaches most of them.
pub const OPSET: i64 = 13;

/// The version of the format that came with [`OPSET`].
pub const IR_VERSION: i64 = 7;

/// What the parser of protobuf takes, in bytes.
pub const MAX_BYTES: usize = i32::MAX as usize;

const OUTPUT: &str = "logits";

/// Why a net cannot be an ONNX model.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// Operators that have no ONNX form.
    #[error("no ONNX form for {}", operators.join(", "))]
    NoForm {
        /// Each with its place.
        operators: Vec<String>,
    },
    /// A model that is larger than a file may be.
    #[error("an ONNX file holds {limit} bytes at most, and this one would have {bytes}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A parameter or running statistic without a value.
    #[error("`{name}` is missing")]
    Missing {
        /// Its public name.
        name: String,
    },
    /// The graph is none.
    #[error(transparent)]
    Graph(#[from] IrError),
}

/// A net of a model in [`ddnnc_ir::Mode::Eval`], with its tensors and texts. The batch of the model does not matter.
///
/// # Errors
///
/// [`OnnxError::NoForm`], which names all such operators; [`OnnxError::Missing`]; a net that is not there has no logits and is
/// [`OnnxError::Missing`] too.
pub fn onnx_model(
    model: &Model,
    net: &str,
    tensors: Tensors,
    metadata: &BTreeMap<String, String>,
) -> Result<ModelProto, OnnxError> {
    let mut alone = model.clone();
    alone.keep_only(net)?;
    onnx_stage(&alone, net, tensors, metadata)
}

/// The same of a model of one net that is a stage of a cascade ([`ddnnc_passes::stages`]): what is handed on to it and from it
/// are further inputs and outputs under their names.
///
/// # Errors
///
/// As [`onnx_model`].
pub fn onnx_stage(
    stage: &Model,
    net: &str,
    mut tensors: Tensors,
    metadata: &BTreeMap<String, String>,
) -> Result<ModelProto, OnnxError> {
    let model = stage;
    let mut done = translate(&model.graph, &model.graph.topological()?, &model.input.0);
    if !done.without_form.is_empty() {
        return Err(OnnxError::NoForm { operators: done.without_form });
    }
    let logits = format!("logits.{net}");
    if !done.outputs.iter().any(|output| output.name == logits) {
        return Err(OnnxError::Missing { name: logits });
    }
    let prepared = if metadata.contains_key("mean") { ", prepared as the metadata says" } else { "" };
    let images = format!("images{prepared}");
    let handed_on = "handed on from an earlier stage";
    let input = done.inputs.iter().map(|input| {
        let doc = if input.name == INPUT { &*images } else { handed_on };
        value(&input.name, &input.sample, doc)
    });
    let input = input.collect();
    let mut output = Vec::with_capacity(done.outputs.len());
    let mut renamed: HashMap<String, String> = HashMap::new();
    for Shown { name, of, sample } in std::mem::take(&mut done.outputs) {
        let (name, doc) = match name == logits {
            true => (OUTPUT.to_string(), "a number for each class"),
            false => (name, "handed on to a later stage"),
        };
        // A value has one name: one that is an input, or is shown already, is shown by a node of its own.
        match renamed.get(&of) {
            None if done.writer.computes(&of) => {
                done.writer.rename(&of, &name);
                renamed.insert(of, name.clone());
            }
            shown => {
                let of = shown.unwrap_or(&of);
                let copy = done.writer.node(&name, "Identity", &[of], Vec::new());
                done.writer.rename(&copy, &name);
            }
        }
        output.push(value(&name, &sample, doc));
    }
    let mut initializer = done
        .weights
        .into_iter()
        // Weights are large: each is let go as soon as its bytes are there.
        .map(|name| match tensors.swap_remove(&name) {
            Some(tensor) => Ok(weight(name, &tensor)),
            None => Err(OnnxError::Missing { name }),
        })
        .collect::<Result<Vec<TensorProto>, OnnxError>>()?;
    let (node, constants) = done.writer.finish();
    initializer.extend(constants);
    let graph = GraphProto { node, name: format!("{}.{net}", model.name), initializer, input, output };
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: "ddnnc".to_string(),
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        doc_string: format!("`{net}` of `{}`, as it evaluates", model.name),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
            .collect(),
    })
}

/// The bytes of a model, where they are no more than `limit`: [`MAX_BYTES`], or less.
///
/// # Errors
///
/// [`OnnxError::TooLarge`].
pub fn onnx_bytes(model: &ModelProto, limit: usize) -> Result<Vec<u8>, OnnxError> {
    match model.encoded_len() {
        bytes if bytes > limit => Err(OnnxError::TooLarge { bytes, limit }),
        _ => Ok(model.encode_to_vec()),
    }
}

/// Whether bytes begin as an ONNX file does: with the version of the format, and the producer's name, the graph or the operators
/// behind it. No text begins so.
pub fn begins_as_onnx(bytes: &[u8]) -> bool {
    // The keys of fields 1, 2, 7 and 8.
    matches!(bytes, [0x08, 1..=0x7f, 0x12 | 0x3a | 0x42, ..])
}

fn weight(name: String, tensor: &Tensor) -> TensorProto {
    let bytes = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    TensorProto { name, ..writer::tensor(tensor.shape.dims(), DataType::Float, bytes) }
}

/// A batch of values of that shape.
fn value(name: &str, sample: &[usize], doc_string: &str) -> ValueInfoProto {
    let batch = Extent::Param("N".to_string());
    let extents = std::iter::once(batch).chain(sample.iter().map(|&d| Extent::Value(d as i64)));
    let dim = extents.map(|extent| Dimension { value: Some(extent) }).collect();
    let tensor_type =
        TensorTypeProto { elem_type: Some(DataType::Float as i32), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.to_string(),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        doc_string: doc_string.to_string(),
    }
}
