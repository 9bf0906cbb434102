// Activations that vision models alone have: apart, so that no other kernel's text grows.
// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as a sigmoid: tanh overflows on some drivers.
fn gelu_tanh(x: f32) -> f32 { return x * sigmoid(1.5957691 * (x + 0.044715 * x * x * x)); }
fn d_gelu_tanh(x: f32) -> f32 {
    let s = sigmoid(1.5957691 * (x + 0.044715 * x * x * x));
    return s + x * s * (1.0 - s) * 1.5957691 * (1.0 + 0.134145 * x * x);
}
fn relu(x: f32) -> f32 { return max(x, 0.0); }
fn d_relu(x: f32) -> f32 { return select(0.0, 1.0, x > 0.0); }
