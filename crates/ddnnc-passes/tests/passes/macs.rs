use ddnnc_ir::{Graph, parse};
use ddnnc_passes::macs_until;

fn until(graph: &Graph, outputs: &[&str]) -> Vec<u64> {
    let outputs: Vec<String> = outputs.iter().map(|&name| name.to_owned()).collect();
    macs_until(graph, &outputs).expect("an acyclic graph")
}

#[test]
fn what_outputs_have_in_common_counts_once() {
    // Two samples. The convolution stands there twice: 8·9·3·36 = 7776 for a sample; the products are 288·5 and 288·7.
    let graph = parse(
        r#"graph "g" {
  v0 = input name="image" : f32[2,3,6,6]
  v1 = parameter name="conv" frozen=false : f32[8,3,3,3]
  v2 = conv2d(v0, v1) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,8,6,6]
  v3 = conv2d(v0, v1) stride=[1,1] pad=[1,1] dilation=[1,1] groups=1 : f32[2,8,6,6]
  v4 = reshape(v2) shape=[2,288] : f32[2,288]
  v5 = relu(v3) : f32[2,8,6,6]
  v6 = reshape(v5) shape=[2,288] : f32[2,288]
  v7 = parameter name="small" frozen=false : f32[5,288]
  v8 = parameter name="full" frozen=false : f32[7,288]
  v9 = matmul(v4, v7) transpose_a=false transpose_b=true : f32[2,5]
  v10 = matmul(v6, v8) transpose_a=false transpose_b=true : f32[2,7]
  n11 = output(v9) name="small"
  n12 = output(v10) name="full"
}
"#,
    )
    .expect("a graph");
    let (conv, small, full) = (8 * 9 * 3 * 36, 288 * 5, 288 * 7);
    assert_eq!(until(&graph, &["small", "full"]), [conv + small, conv + small + full]);
    assert_eq!(until(&graph, &["full", "small"]), [conv + full, conv + full + small]);
    assert_eq!(until(&graph, &["full"]), [conv + full]);
}
