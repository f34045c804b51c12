//! Writes `forms.onnx`, the ONNX model of `ddnnc_tests::onnx::FORMS`, and `forms.safetensors` with images and the logits that the
//! f64 evaluator has for them: what `tests/onnx/check.py` compares beside specs.

use ddnnc_ir::ValueType;
use ddnnc_ir::reference::{Tensor, evaluate};
use ddnnc_tests::harness::{random_batch, random_weights};
use ddnnc_tests::onnx::{FORMS, of_graph, shaped};
use ddnnc_train::onnx::MAX_BYTES;
use ddnnc_train::{Tensors, atomic_write, onnx_bytes, onnx_model, write_weights};
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("give the folder to write to")?);
    let model = of_graph(FORMS);
    let weights = shaped(&model, random_weights(&model, 1));
    let onnx = onnx_bytes(&onnx_model(&model, "small", weights.clone(), &BTreeMap::new())?, MAX_BYTES)?;
    atomic_write(&folder.join("forms.onnx"), &mut |out| out.write_all(&onnx))?;

    let wide = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect();
    let (image, _) = random_batch(&model, 1);
    let shape = [&[model.batch], model.input.1.dims()].concat();
    let mut feeds: IndexMap<String, Tensor> = weights
        .iter()
        .map(|(name, t)| (name.clone(), Tensor { ty: ValueType::f32(t.shape.clone()), data: wide(&t.data) }))
        .collect();
    feeds.insert("image".into(), Tensor { ty: ValueType::f32(&shape[..]), data: wide(&image) });
    let logits = &evaluate(&model.graph, &feeds)?.outputs["logits.small"];
    let narrow = |dims: &[usize], data: Vec<f32>| ddnnc_train::Tensor { shape: dims.into(), data };
    let results = Tensors::from([
        ("image".to_string(), narrow(&shape, image)),
        ("logits".to_string(), narrow(logits.dims(), logits.data.iter().map(|&x| x as f32).collect())),
    ]);
    Ok(write_weights(&folder.join("forms.safetensors"), &results, &BTreeMap::new())?)
}
