//! Nets as ONNX: what their files hold, as text, and a graph of what no spec asks for.

use crate::harness::{Tensors, model, random_weights};
use ddnnc_ir::{Mode, Model};
use ddnnc_train::onnx::message::{AttributeType, DataType, Extent, ModelProto, TensorProto, ValueInfoProto};
use ddnnc_train::{OnnxError, Tensor, onnx_model};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The ONNX model of a net, with random weights.
///
/// # Errors
///
/// Those of [`onnx_model`].
pub fn net_as_onnx(model: &Model, net: &str) -> Result<ModelProto, OnnxError> {
    onnx_model(model, net, shaped(model, random_weights(model, 1)), &BTreeMap::new())
}

/// Weights with the shapes that the model has.
pub fn shaped(model: &Model, mut weights: Tensors) -> ddnnc_train::Tensors {
    let parameters = model.parameters.iter().map(|(name, p)| (name, &p.shape));
    let table = parameters.chain(model.states.iter().map(|(name, s)| (name, &s.shape)));
    table
        .map(|(name, shape)| {
            let data = weights.remove(name).expect("a value for each name of the model");
            (name.clone(), Tensor { shape: shape.clone(), data })
        })
        .collect()
}

/// A model as text: a line for each node, then one for each tensor.
pub fn listing(model: &ModelProto) -> String {
    let graph = model.graph.as_ref().expect("a model has a graph");
    let mut text = format!("{}: {}\n", graph.name, model.doc_string);
    for set in &model.opset_import {
        writeln!(text, "format {}, operators {}", model.ir_version(), set.version()).expect("a string grows");
    }
    for (what, values) in [("input", &graph.input), ("output", &graph.output)] {
        for value in values {
            writeln!(text, "{what} {}: {}", value_type(value), value.doc_string).expect("a string grows");
        }
    }
    for node in &graph.node {
        let attributes: String = node
            .attribute
            .iter()
            .map(|a| match a.r#type() {
                AttributeType::Float => format!(" {}={}", a.name, a.f()),
                AttributeType::Int => format!(" {}={}", a.name, a.i()),
                AttributeType::Ints => format!(" {}={:?}", a.name, a.ints),
                AttributeType::Undefined => format!(" {} of no type", a.name),
            })
            .collect();
        let named = if node.output[..] == [node.name.clone()] { "" } else { node.name.as_str() };
        let (out, op, input) = (node.output.join(", "), &node.op_type, node.input.join(", "));
        writeln!(text, "{out} = {op}({input}){attributes} {named}").expect("a string grows");
    }
    graph.initializer.iter().for_each(|tensor| text += &tensor_line(tensor));
    text.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

fn value_type(value: &ValueInfoProto) -> String {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).expect("a tensor");
    let shape = tensor.shape.as_ref().expect("a shape");
    let extents: Vec<String> = shape
        .dim
        .iter()
        .map(|dim| match &dim.value {
            Some(Extent::Value(n)) => n.to_string(),
            Some(Extent::Param(name)) => name.clone(),
            None => "?".to_string(),
        })
        .collect();
    format!("{} {:?}[{}]", value.name, tensor.elem_type(), extents.join(","))
}

/// Whole numbers and scalars with their values, others with their shapes.
fn tensor_line(tensor: &TensorProto) -> String {
    let data = tensor.raw_data();
    let value = match tensor.data_type() {
        DataType::Int64 => {
            let words = data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
            format!("{:?}", words.collect::<Vec<_>>())
        }
        DataType::Float if tensor.dims.is_empty() => {
            f32::from_le_bytes(data.try_into().expect("four bytes")).to_string()
        }
        DataType::Float => format!("f32{:?}", tensor.dims),
        DataType::Undefined => "of no type".to_string(),
    };
    format!("{}: {value}\n", tensor.name)
}

/// A model whose one net, `small`, has this graph; its images are `[4,6,5]`, and there are 7 classes.
pub fn of_graph(text: &str) -> Model {
    let spec = "model forms
        input image : f32[4, 6, 5]
        target label : class[7]
        backbone net { head = flatten |> linear(classes) }
        subnet small = net
        train { data = mnist }";
    let mut model = model(spec, Mode::Eval, 2);
    model.graph = ddnnc_ir::parse_verified(text).unwrap_or_else(|e| panic!("{e}"));
    (model.parameters, model.states) = Default::default();
    for id in model.graph.nodes() {
        let node = model.graph.node(id);
        if let ddnnc_ir::Op::Parameter { name, .. } = &node.op {
            let shape = node.results[0].shape.clone();
            let init = ddnnc_ir::Init::Constant { value: 1.0 };
            model
                .parameters
                .insert(name.clone(), ddnnc_ir::Parameter { shape, init, frozen: false, load: None });
        }
    }
    let names = model.parameters.keys().cloned().collect();
    model.nets[0].parameters = names;
    model
}

/// Forms that no spec leads to: operators of losses and passes that an evaluation graph could have as well, and products, biases
/// and broadcasts other than the language makes them.
pub const FORMS: &str = r#"graph "forms" {
  v0 = input name="image" : f32[2,4,6,5]
  v1 = parameter name="net.shift" frozen=false : f32[4]
  v2 = bias_add(v0, v1) : f32[2,4,6,5] @ "net.shifted"
  v3 = parameter name="net.weight" frozen=false : f32[4,4,1,1]
  v4 = conv2d(v2, v3) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,4,6,5] @ "net.conv"
  v5 = bias_add(v4, v1) : f32[2,4,6,5] @ "net.read_twice"
  v6 = mul(v5, v4) : f32[2,4,6,5] @ "net.mul"
  v7 = square(v6) : f32[2,4,6,5] @ "net.square"
  v8 = log(v7) : f32[2,4,6,5] @ "net.log"
  v9 = scale(v8) factor=0.02 : f32[2,4,6,5] @ "net.scale"
  v10 = convert_layout(v9) layout="nhwc" : f32[2,4,6,5]{nhwc} @ "net.layout"
  v11 = convert_layout(v10) layout="row_major" : f32[2,4,6,5] @ "net.layout"
  v12 = slice(v11) axis=2 start=1 len=4 : f32[2,4,4,5] @ "net.slice"
  v13 = reduce_sum(v12) axes=[3] : f32[2,4,4] @ "net.sum"
  v14 = reduce_mean(v13) axes=[1] : f32[2,4] @ "net.mean"
  v15 = broadcast(v14) shape=[2,4,3] axes=[0,1] layout="row_major" : f32[2,4,3] @ "net.wide"
  v16 = tanh(v15) : f32[2,4,3] @ "net.tanh"
  v17 = broadcast(v1) shape=[2,4,3] axes=[1] layout="row_major" : f32[2,4,3] @ "net.fixed"
  v18 = sub(v17, v16) : f32[2,4,3] @ "net.sub"
  v19 = stop_gradient(v18) : f32[2,4,3] @ "net.stop"
  v20 = reshape(v19) shape=[2,12] : f32[2,12] @ "net.flat"
  v21 = parameter name="net.linear" frozen=false : f32[12,7]
  v22 = matmul(v20, v21) transpose_a=false transpose_b=false : f32[2,7] @ "net.product"
  v23 = parameter name="net.table" frozen=false : f32[7,1]
  v24 = reshape(v23) shape=[7] : f32[7] @ "net.row"
  v25 = bias_add(v22, v24) : f32[2,7] @ "net.biased"
  n26 = output(v25) name="logits.small"
}
"#;
