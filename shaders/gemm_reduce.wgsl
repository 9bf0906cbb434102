// The second half of a gemm_gpu whose contraction was split: out[m, n] = epilogue(sum of parts[s][m][n]), four columns a
// thread. Values: out_vec add_vec lora activation. Uniforms: those of gemm_cpu, splits, and vectors, how many groups of
// four columns a row has.
//% include "lib/activation.wgsl"
//% if activation in ["gelu_tanh", "relu"]
//% include "lib/activation_more.wgsl"
//% endif
//% set xyzw = ["x", "y", "z", "w"]
//% set TN = 4
//% set GN = 4
//% set geglu = false
//% set packed_ = true
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let thread = linear_workgroup(w, nw) * 64u + lane;
    let m = thread / p.vectors;
    if m >= p.m { return; }
    let n_first = (thread - m * p.vectors) * 4u;
    let batch = 0u;
    //% for j in range(4)
    let n{{ j }} = min(n_first + {{ j }}u, p.n - 1u);
    var bias{{ j }} = 0.0;
    if p.bias > 0u { bias{{ j }} = bias_at(n{{ j }}); }
    //% endfor
    var c0_0 = vec4<f32>(0.0);
    for (var s = 0u; s < p.splits; s++) {
        let from_ = (s * p.m + m) * p.n;
        //% if out_vec
        c0_0 += parts_at4((from_ + n_first) >> 2u);
        //% else
        c0_0 += vec4<f32>(parts_at(from_ + n0), parts_at(from_ + n1), parts_at(from_ + n2), parts_at(from_ + n3));
        //% endif
    }
    //% if lora
    for (var r = 0u; r < p.rank; r++) {
        c0_0 += p.lora_scale * hidden_at(m * p.rank + r)
            * vec4<f32>(up_at(n0 * p.rank + r), up_at(n1 * p.rank + r), up_at(n2 * p.rank + r), up_at(n3 * p.rank + r));
    }
    //% endif
    //% set i = 0
    //% set added = "(m / p.add_rows)"
    //% include "lib/gemm_row.wgsl"
}
