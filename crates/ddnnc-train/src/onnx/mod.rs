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
use std::collections::BTreeMap;
use translate::{INPUT, translate};

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
    mut tensors: Tensors,
    metadata: &BTreeMap<String, String>,
) -> Result<ModelProto, OnnxError> {
    let mut alone = model.clone();
    alone.keep_only(net)?;
    let mut done = translate(&alone.graph, &alone.graph.topological()?, &model.input.0);
    if !done.without_form.is_empty() {
        return Err(OnnxError::NoForm { operators: done.without_form });
    }
    let Some((_, mut logits)) = done.outputs.pop() else {
        return Err(OnnxError::Missing { name: format!("logits.{net}") });
    };
    if !done.writer.computes(&logits) {
        logits = done.writer.node(OUTPUT, "Identity", &[&logits], Vec::new());
    }
    done.writer.rename(&logits, OUTPUT);
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
    let prepared = if metadata.contains_key("mean") { ", prepared as the metadata says" } else { "" };
    let graph = GraphProto {
        node,
        name: format!("{}.{net}", model.name),
        initializer,
        input: vec![value(INPUT, model.input.1.dims(), &format!("images{prepared}"))],
        output: vec![value(OUTPUT, &[model.target.1], "a number for each class")],
    };
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
