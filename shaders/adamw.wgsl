// One AdamW update, four elements a thread, in place. hyper: lr / bias1, beta1, beta2, eps, 1 - lr * decay, 1 / sqrt(bias2),
// 1 - beta1, 1 - beta2.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    if i >= p.vectors { return; }
    let g = grad_at4(i) * clip_at(0u);
    let m = hyper_at(1u) * m_at4(i) + hyper_at(6u) * g;
    let v = hyper_at(2u) * v_at4(i) + hyper_at(7u) * g * g;
    m_put4(i, m);
    v_put4(i, v);
    param_put4(i, param_at4(i) * hyper_at(4u) - hyper_at(0u) * m / (sqrt(v) * hyper_at(5u) + hyper_at(3u)));
}
