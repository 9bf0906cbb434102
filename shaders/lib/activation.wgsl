// Activations in f32 and their derivatives (d_*).
fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }
fn silu(x: f32) -> f32 { return x * sigmoid(x); }
fn d_silu(x: f32) -> f32 { let s = sigmoid(x); return s + x * s * (1.0 - s); }
fn quick_gelu(x: f32) -> f32 { return x * sigmoid(1.702 * x); }
fn d_quick_gelu(x: f32) -> f32 { let s = sigmoid(1.702 * x); return s + 1.702 * x * s * (1.0 - s); }
// Abramowitz and Stegun 7.1.26: off by 1.5e-7 at most, an f32's own rounding near one.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let q = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let y = 1.0 - q * exp(-a * a);
    return select(-y, y, x >= 0.0);
}
fn gelu(x: f32) -> f32 { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
fn d_gelu(x: f32) -> f32 { return 0.5 * (1.0 + erf(x * 0.70710678)) + x * 0.39894228 * exp(-0.5 * x * x); }
