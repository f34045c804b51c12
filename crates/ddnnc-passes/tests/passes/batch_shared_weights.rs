use crate::build::{check, refused};
use ddnnc_passes::batch_shared_weights;

#[test]
fn nets_that_use_a_weight_on_values_of_their_own_run_in_one_launch() {
    check(
        batch_shared_weights,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = input name="b" : f32[2,3,4,4]
  v2 = parameter name="w" frozen=false : f32[5,3,1,1]
  v3 = conv2d(v0, v2) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1" [full]
  v4 = relu(v3) : f32[2,5,4,4] @ "net.relu1" [full]
  v5 = conv2d(v1, v2) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1" [small]
  v6 = conv2d_grad_weight(v1, v5) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[1,1] : f32[5,3,1,1] @ "net.conv1" [small]
  v7 = conv2d_grad_weight(v0, v4) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[1,1] : f32[5,3,1,1] @ "net.conv1" [full]
  v8 = add(v6, v7) : f32[5,3,1,1] @ "net.conv1" [full]
  n9 = output(v8) name="grad"
  n10 = output(v4) name="y"
}
"#,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = input name="b" : f32[2,3,4,4]
  v2 = parameter name="w" frozen=false : f32[5,3,1,1]
  v3, v4 = fused(v0, v2, v1) kind="convolution" name="conv2d*2" {
    s0 = conv2d(p0, p1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1"
    s1 = conv2d(p2, p1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,5,4,4] @ "net.conv1"
    give s0, s1
  } : f32[2,5,4,4], f32[2,5,4,4] @ "net.conv1" [full, small]
  v5 = relu(v3) : f32[2,5,4,4] @ "net.relu1" [full]
  v6 = fused(v1, v4, v0, v5) kind="convolution" name="conv2d_grad_weight*2+add" {
    s0 = conv2d_grad_weight(p0, p1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[1,1] : f32[5,3,1,1] @ "net.conv1"
    s1 = conv2d_grad_weight(p2, p3) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 kernel=[1,1] : f32[5,3,1,1] @ "net.conv1"
    s2 = add(s0, s1) : f32[5,3,1,1] @ "net.conv1"
    give s2
  } : f32[5,3,1,1] @ "net.conv1" [small, full]
  n7 = output(v6) name="grad"
  n8 = output(v5) name="y"
}
"#,
    );
}

#[test]
fn what_needs_the_other_stays_apart() {
    refused(
        batch_shared_weights,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = parameter name="w" frozen=false : f32[3,3,1,1]
  v2 = conv2d(v0, v1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv1" [full]
  v3 = relu(v2) : f32[2,3,4,4] @ "net.relu1" [full]
  v4 = conv2d(v3, v1) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv1" [small]
  n5 = output(v4) name="y"
}
"#,
    );
}

#[test]
fn weights_that_nets_use_in_another_order_stay_apart() {
    // Either pair could run together, but not both.
    refused(
        batch_shared_weights,
        r#"graph "g" {
  v0 = input name="a" : f32[2,3,4,4]
  v1 = input name="b" : f32[2,3,4,4]
  v2 = parameter name="w1" frozen=false : f32[3,3,1,1]
  v3 = parameter name="w2" frozen=false : f32[3,3,1,1]
  v4 = conv2d(v0, v2) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv" [full]
  v5 = conv2d(v4, v3) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv" [full]
  v6 = conv2d(v1, v3) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv" [small]
  v7 = conv2d(v6, v2) stride=[1,1] pad=[0,0] dilation=[1,1] groups=1 : f32[2,3,4,4] @ "net.conv" [small]
  n8 = output(v5) name="x"
  n9 = output(v7) name="y"
}
"#,
    );
}
